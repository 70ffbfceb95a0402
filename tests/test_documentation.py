"""The README and the pages of docs/ stay short, complete in both languages, and true.

Links lead somewhere, commands are ones that the repository has, and figures are those
of the records that the tables name.
"""

import base64
import csv
import functools
import importlib
import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from statistics import mean

import plan
import pytest

from lib.files import ROOT
from lib.hardware import launch_options
from lib.records.parameters import groups

CURRENT_STACK = sys.version_info >= (3, 10)
PAGES = [
    ("README.md", "README.zh-CN.md"),
    ("docs/ascend.md", "docs/ascend.zh-CN.md"),
    ("docs/running.md", "docs/running.zh-CN.md"),
]
TEXTS = ["CONTRIBUTING.md", "README.md", "README.zh-CN.md", "results/README.md"]
TEXTS += sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md"))
RESULTS = ROOT / "results"
# The program behind bash ci/run.sh.
PROGRAM = re.search(r"ci/(\w+)\.py", (ROOT / "ci/run.sh").read_text("utf-8")).group(1)


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_a_readme_is_one_page(name):
    assert len(read(name).splitlines()) <= 100


def test_the_index_lists_every_page():
    for path in (ROOT / "docs").glob("*.md"):
        listed = f"({path.name})" in read("docs/README.md")
        assert listed or path.name == "README.md", path.name


# Links


def anchors(path):
    """The anchors that a page offers: its headings as GitHub writes them in links."""
    headings = re.findall(r"(?m)^#+ (.+)$", path.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings}


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_to_a_file_and_to_a_heading_in_it(name):
    page = ROOT / name
    prose = re.sub(r"(?ms)^```.*?^```$", "", read(name))
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", prose)
    assert links or name.startswith("results")
    for path, anchor in links:
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), anchor


def test_the_figure_of_the_readmes_is_the_notebooks():
    notebook = json.loads(read("notebooks/03_stamp.ipynb"))
    drawn = [
        base64.b64decode(output["data"]["image/png"])
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert (ROOT / "docs/stamp_sample.png").read_bytes() in drawn


# Commands


def commands(text):
    """The shell commands of a Markdown text as lists of words, without comments."""
    blocks = re.findall(r"(?ms)^```bash\n(.*?)^```", text)
    lines = "\n".join(blocks).replace("\\\n", "").replace("&&", "\n").splitlines()
    lines += re.findall(r"`((?:bash|\.venv)[^`\n]* [^`\n]+)`", text)
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@functools.cache
def refusal(words):
    """The sentence with which ``bash ci/run.sh`` refuses these words, or None."""
    words = words[2:] if words[:1] == ("--stack",) else words
    try:
        parse = importlib.import_module(PROGRAM).parse_options
        plan.list_runs(parse([*words, "--called-from", str(ROOT)]))
    except SystemExit as error:
        return str(error)
    return None


@functools.cache
def parameters(notebook):
    """Names that papermill's ``-p`` may set: of parameters, and of entries of groups.

    Launch options are entries of ``ascend``, which ``-p`` cannot set.
    """
    defaults = plan.read_defaults(ROOT / notebook)
    entries = groups(defaults).items()
    return {*defaults, *(name for name, group in entries if group != "ascend")}


def missing(text):
    """Words of the commands of a text that name something that does not exist here."""
    paths = [p for end in ("sh", "py") for p in (ROOT / "ci").rglob(f"*.{end}")]
    scripts = "".join(path.read_text("utf-8") for path in paths)
    found = []
    for program, *words in commands(text):
        name = Path(program).name
        if program.startswith(".venv/bin/") and CURRENT_STACK:
            there = shutil.which(name, path=Path(sys.executable).parent)
            found += [] if there else [name]
        for word in words:
            if re.match(r"(ci|tests|notebooks)/", word) and "NN_" not in word:
                found += [] if list(ROOT.glob(word)) else [word]
        if program == "bash" and words[0] == "ci/run.sh" and "FILE" not in words:
            found += filter(None, [refusal(tuple(words[1:]))])
        elif program == "bash":
            options = [word for word in words if word.startswith("--")]
            found += [word for word in options if not re.search(rf"{word}\b", scripts)]
        if name == "papermill" and "-p" in words:
            given = [words[i + 1] for i, word in enumerate(words) if word == "-p"]
            found += sorted(set(given) - parameters(words[0]))
        if "-k" in words:
            file, name = words[words.index("-k") - 1], words[words.index("-k") + 1]
            named = re.search(rf"(?:def test|class )\w*{name}", read(file))
            found += [] if named else [name]
    return found


@pytest.mark.parametrize("name", TEXTS)
def test_commands_exist_and_take_their_options(name):
    assert missing(read(name)) == []


def test_commands_are_found_in_the_texts():
    assert len(commands(read("CONTRIBUTING.md"))) > 12
    assert len(commands(read("docs/running.md"))) > 12


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("bash ci/tests.sh", "ci/tests.sh"),
        ("bash ci/bench.sh stamp --keep-all", "--keep-all"),
        (".venv/bin/python -m pytest tests/test_mf.py -k no_such", "no_such"),
        ("cp -n notebooks/*.html output/", "notebooks/*.html"),
        (".venv/bin/papermill notebooks/04_mf.ipynb a.ipynb -p depth 3", "depth"),
        (
            ".venv/bin/papermill notebooks/04_mf.ipynb a.ipynb -p profiling true",
            "profiling",
        ),
    ],
)
def test_a_command_that_does_not_exist_is_found(command, fault):
    assert missing(f"```bash\n{command}\n```\n") == [fault]


@pytest.mark.parametrize(
    "arguments", ["--all", "--set depth=3", "--only 03 --set split=random"]
)
def test_a_run_with_an_option_or_parameter_that_does_not_exist_is_found(arguments):
    assert missing(f"```bash\nbash ci/run.sh {arguments}\n```\n")


def test_the_parameters_of_the_table_are_those_of_the_notebooks():
    rows = re.findall(r"(?m)^\| (\d\d_\w+) \| (.*) \|$", read("docs/running.md"))
    notebooks = sorted(path.stem for path in ROOT.glob("notebooks/*.ipynb"))
    assert [name for name, _ in rows] == notebooks
    for name, listed in rows:
        named = set(re.findall(r"`(\w+)`", listed))
        assert named
        assert named <= parameters(f"notebooks/{name}.ipynb"), name


def told_seconds(path):
    """The seconds that the first cell of a notebook says it takes on the sample."""
    words = {"half a minute": 30, "a minute": 60}
    first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
    (told,) = re.findall(
        r"About (\d+ second|half a minute|a minute)", " ".join(first.split())
    )
    return words.get(told) or int(told.split()[0])


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_a_readme_lists_every_notebook_with_the_time_that_it_says(name):
    rows = re.findall(r"(?m)^\| \[(\w+)\]\((.+?)\) \| .* \| (\d+) s \|$", read(name))
    notebooks = sorted(ROOT.glob("notebooks/*.ipynb"))
    assert [(stem, target) for stem, target, _ in rows] == [
        (path.stem, f"notebooks/{path.name}") for path in notebooks
    ], f"{name}: its table of notebooks is not that of the folder"
    listed = {stem: int(seconds) for stem, _, seconds in rows}
    assert listed == {path.stem: told_seconds(path) for path in notebooks}, (
        f"{name}: the times of its table are not those of the notebooks' first cells"
    )


# Two languages


def tables(text):
    """The tables of a Markdown text, each as a list of rows of cells, header first."""
    prose = re.sub(r"(?ms)^```.*?^```$", "", text)
    for block in re.findall(r"(?m)(?:^\|.*\|\n?)+", prose):
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]
        rows = [[cell.strip() for cell in row] for row in rows]
        yield [rows[0], *rows[2:]]


def facts(name):
    """What must be the same in both languages of a page.

    Headings by their depth, links, commands without their comments, the cells of every
    table by their number, and the code and decimal figures of every row.
    """
    text = read(name)
    prose = re.sub(r"(?ms)^```.*?^```$", "", text)
    rows = re.findall(r"(?m)^\|.*\|$", prose)
    blocks = re.findall(r"(?ms)^```\w+$.*?^```$", text)
    links = re.findall(r"\]\(([^)]+)\)", text)
    return {
        "headings": re.findall(r"(?m)^#+ ", prose),
        "links": sorted(
            link.replace(".zh-CN", "").partition("#")[0]
            for link in links
            if not re.search(r"README[^/]*$|^(ascend|running)[.]", link)  # each other
        ),
        "commands": [re.sub(r" +#.*", "", block) for block in blocks],
        "cells": [len(re.findall(r"(?<!\\)\|", row)) for row in rows],
        "code": [sorted(set(re.findall(r"`([^`]+)`", row))) for row in rows],
        "figures": [sorted(re.findall(r"\d+\.\d+", row)) for row in rows],
    }


@pytest.mark.parametrize(("english", "chinese"), PAGES)
def test_both_languages_tell_the_same(english, chinese):
    expected, translated = facts(english), facts(chinese)
    for subject, values in expected.items():
        assert translated[subject] == values, subject


def test_every_launch_option_and_published_params_file_is_documented():
    text = read("docs/ascend.md")
    for name in launch_options.NAMES:
        assert f"`--{name}=" in text, name
        assert f"--set {name}=" in text, name
    for path in (ROOT / "ci/params").glob("*_1p.yaml"):
        assert f"ci/params/{path.name}" in text, path


# Figures

METRICS = {"HR@20": "hr_at_20", "MRR@20": "mrr_at_20", "RMSE": "rmse"}
BASELINES = {
    "user + item bias": "User + item bias",
    "item-kNN": "Item-kNN",
    "global mean": "Global mean",
}
PEERS = {
    "SVD": "Surprise SVD, defaults",
    "SVD, tuned": "Surprise SVD, tuned",
    "SVD++": "Surprise SVD++, defaults",
}


@functools.cache
def all_records():
    """``{folder without its seed: [record, ...]}`` of results/."""
    grouped = {}
    for path in sorted(RESULTS.rglob("result.json")):
        folder = path.parent.relative_to(RESULTS).as_posix()
        name = re.sub(r"[-/]seed[=-]\d+$", "", folder)
        grouped.setdefault(name, []).append(json.loads(path.read_text("utf-8")))
    return grouped


def records(words):
    """The records that a cell names: an experiment, then its setting or parameters.

    The rows of a bench are one record, as baselines.
    """
    experiment, *details = words
    if experiment.startswith("bench/"):
        rows = json.loads((RESULTS / f"{experiment}.json").read_text("utf-8"))["rows"]
        return [{"metrics": {}, "baselines": {row["label"]: row for row in rows}}]
    pairs = dict(word.split("=") for word in details if "=" in word)
    setting = "".join(word for word in details if "=" not in word) or ".*"
    chosen = [
        record
        for name, group in all_records().items()
        if name == experiment or re.fullmatch(f"{experiment}[-/]{setting}", name)
        for record in group
        if all(str(record["parameters"][key]) == pairs[key] for key in pairs)
    ]
    assert chosen, words
    return chosen


def value(record, metric, row):
    """A metric of a record, or of the baseline in it that the row is about."""
    baselines, name = record["baselines"], re.split("[,，]", row)[0]
    metrics = baselines.get(row, baselines.get(name, record["metrics"]))
    if metric not in metrics:  # notebook 16 has one of each of its models
        metric = f"{metric}, blend"
    return metrics[metric] * (1 if metric == "rmse" else 100)


def rounded(number, text):
    return f"{number:.{len(text.partition('.')[2])}f}"


def figures_of_readme(rows):
    """``(text, expected text)`` of a table with the columns metric, published, here.

    Published is the figure of the paper's STAMP, or the lowest RMSE at the same share.
    """
    with (RESULTS / "published.csv").open(encoding="utf-8") as lines:
        published = list(csv.DictReader(lines))
    for name, metrics, others, ours, record in rows:
        chosen = records(re.findall("`([^`]+)`", record))
        assert len(chosen) == 3, name
        for metric, text in zip(metrics.split(" / "), ours.split(" / ")):
            found = mean(value(one, METRICS[metric], name) for one in chosen)
            yield text, rounded(found, text)
        for metric, text in zip(metrics.split(" / "), others.split(" / ")):
            scale = 1 if metric == "RMSE" else 100
            shares = {str(one["parameters"].get("test_share", "")) for one in chosen}
            quoted = [
                float(line["value"]) * scale
                for line in published
                if line["metric"] == METRICS[metric]
                and (metric == "RMSE" or line["model"] == "STAMP (published)")
                and (metric != "RMSE" or line["test_share"] in shares)
            ]
            yield text, text if text == "-" else rounded(min(quoted), text)


def figures_of_results(header, rows):
    """``(text, expected text)`` of a table with a column for each metric."""
    with (RESULTS / "published.csv").open(encoding="utf-8") as lines:
        published = {
            (d["model"], d["metric"]): d["value"] for d in csv.DictReader(lines)
        }
    peers = json.loads((RESULTS / "bench/peers.json").read_text("utf-8"))["rows"]
    for name, *cells in rows:
        words = re.findall("`([^`]+)`", cells[-1])
        chosen = records(words) if words else []
        values = []
        for column, text in zip(header[1:-1], cells):
            if column in METRICS and chosen:
                values = [value(one, METRICS[column], name) for one in chosen]
                yield text, rounded(mean(values), text)
            elif column in METRICS:
                model = f"{name.replace('published ', '')} (published)"
                quoted = float(published[model, METRICS[column]]) * 100
                yield text, rounded(quoted, text)
            elif column == "seeds" and text:
                low, high = text.split("-")
                yield low, rounded(min(values), low)
                yield high, rounded(max(values), high)
            elif column in BASELINES:
                of_seeds = [r["baselines"][BASELINES[column]]["rmse"] for r in chosen]
                yield text, rounded(mean(of_seeds), text)
            elif column in PEERS and text != "-":
                used = chosen[0]["parameters"]
                row = next(
                    row
                    for row in peers
                    if row["label"] == PEERS[column]
                    and row["split"] == used["split"]
                    and row["test_share"] == used["test_share"]
                )
                yield text, rounded(row["rmse"], text)


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_figures_of_a_readme_are_those_of_the_records(name):
    (header, *rows) = next(
        t for t in tables(read(name)) if t[0][-1] in ("record", "记录")
    )
    figures = list(figures_of_readme(rows))
    assert len(figures) > 15
    assert [text for text, _ in figures] == [expected for _, expected in figures]


def test_figures_of_the_results_are_those_of_the_records():
    figures = [
        figure
        for header, *rows in tables(read("docs/results.md"))
        for figure in figures_of_results(header, rows)
    ]
    assert len(figures) > 120
    assert [text for text, _ in figures] == [expected for _, expected in figures]


def test_a_wrong_figure_is_found():
    header = ["model", "HR@20", "seeds", "record"]
    row = ["STAMP", "49.72", "49.57-49.80", "`stamp_paper`"]
    wrong = list(figures_of_results(header, [row]))
    assert wrong == [("49.72", "49.71"), ("49.57", "49.57"), ("49.80", "49.79")]


def test_a_published_figure_of_another_model_is_found():
    row = ["STAMP", "HR@20 / MRR@20", "50.73 / 17.59", "49.71 / 17.15", "`stamp_paper`"]
    wrong = [(text, right) for text, right in figures_of_readme([row]) if text != right]
    assert wrong == [("50.73", "45.64"), ("17.59", "14.32")]
    row = ["MF", "RMSE", "0.8534", "0.8468", "`mf_movielens` `test_share=0.2`"]
    wrong = [(text, right) for text, right in figures_of_readme([row]) if text != right]
    assert wrong == [("0.8534", "0.8519")]


def test_figures_of_preparing_are_those_of_the_record():
    turns = json.loads((RESULTS / "bench/data.json").read_text("utf-8"))["turns"]
    kinds = {"clicks": "sessions", "ratings": "ratings"}
    checked = 0
    for header, *rows in tables(read("docs/data.md")):
        if header[1:] != ["engine", "seconds", "CPU s", "peak MB"]:
            continue
        for size, engine, *cells in rows:
            key = kinds[header[0]], int(size.replace(",", "")), engine
            same = [t for t in turns if (t["kind"], t["size"], t["label"]) == key]
            turn = sorted(same, key=lambda t: t["seconds"])[len(same) // 2]
            found = turn["seconds"], turn["cpu_seconds"], turn["peak_mb"]
            expected = ["-"] * 3
            if not turn["failed"]:
                expected = [f"{n:{x}}" for n, x in zip(found, (".1f", ".1f", ","))]
            assert cells == expected, key
            checked += 1
    assert checked == len({(t["kind"], t["size"], t["label"]) for t in turns}) - 2


def test_figures_of_the_benchmarks_are_those_of_the_records():
    """A row is found by its batch (STAMP) or its program (MF)."""
    load = {
        name: json.loads((RESULTS / f"bench/{name}.json").read_text("utf-8"))["rows"]
        for name in ("stamp", "mf", "stamp-naive", "stamp-naive-ascend")
    }
    stacks = {
        "TensorFlow 2.21": "stamp-naive",
        "TensorFlow 2.6.5": "stamp-naive-ascend",
    }
    fields = {
        "ratings/s": ("per_second", "{:,.0f}"),
        "slowest": ("slowest", "{:,.0f}"),
        "fastest": ("fastest", "{:,.0f}"),
        "seconds in total": ("seconds", "{:.2f}"),
        "final RMSE": ("rmse", "{:.4f}"),
        "MB": ("peak_mb", "{:,}"),
        "private MB": ("private_mb", "{:,}"),
    }
    checked = 0
    for header, *rows in tables(read("docs/benchmarks.md")):
        for name, *cells in rows:
            group = {
                r["label"]: r for r in load["stamp"] if r["group"] == f"batch {name}"
            }
            if header[0] == "MF, batch":
                same = [r for r in load["mf"] if r["group"] == f"batch {name}"]
                group = {r["label"]: r for r in same}
            group.update({r["label"]: r for r in load["mf"] if r["label"] == name})
            for column, text in zip(header[1:], cells):
                stack, _, beside = column.partition(" / ")
                if stack in stacks:
                    rates = {r["label"]: r["per_second"] for r in load[stacks[stack]]}
                    rate = rates[name] / (rates[beside] if beside else 1)
                    expected = f"{rate:,.0f}"
                elif column.startswith("s to "):
                    curve, level = group[name].get("curve", []), float(column[5:])
                    reached = [s for s, rmse in curve if rmse <= level]
                    expected = f"{min(reached):.2f}" if reached else "-"
                elif column in fields:
                    key, form = fields[column]
                    expected = form.format(group[name][key])
                elif column == "batch":
                    expected = str(group[name]["batch_size"])
                elif column == "RecBole's range":
                    row = group["RecBole"]
                    expected = f"{row['slowest']:,.0f}-{row['fastest']:,.0f}"
                elif header[0] == "MF, batch" and " / " in column:
                    ours, floor = (group[x]["per_second"] for x in column.split(" / "))
                    expected = f"{ours / floor:.2f}"
                elif " / " in column:
                    ours = group[f"ours, {column.partition(' / ')[0]}"]["per_second"]
                    expected = f"{ours / group['RecBole']['per_second']:.1f}"
                else:
                    expected = f"{group[column]['per_second']:,.0f}"
                assert text == expected, (name, column)
                checked += 1
    assert checked > 50
