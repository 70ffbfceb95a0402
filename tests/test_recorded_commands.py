"""results/README.md names each record's command, and the figures that come from it."""

import json
import re
from datetime import datetime
from pathlib import Path

import execute
import plan
import pytest

from lib.files import ROOT

RESULTS = ROOT / "results"
TEXT = (RESULTS / "README.md").read_text(encoding="utf-8")
ROW = re.compile(r"(?m)^\| `([\w./-]+)` \| `bash ci/run\.sh ([^`]+)` \|$")
ROWS = ROW.findall(TEXT)
FOLDERS = [path.parent for path in RESULTS.rglob("result.json")]


def planned(arguments):
    """``{name: all parameters}`` of the runs that a command makes, and its options."""
    options = execute.parse_options([*arguments.split(), "--called-from", str(ROOT)])
    found = {}
    for name, notebook, parameters, _ in plan.list_runs(options):
        defaults = plan.flatten_groups(notebook, plan.read_defaults(notebook))
        found[name] = {**defaults, **plan.flatten_groups(notebook, parameters)}
    return found, options


def folder_of(name, parameters):
    """The folder that ``--record`` puts a run in."""
    return RESULTS / execute.results_folder(name, parameters.get("seed"))


def records(runs):
    """``{name: record}`` of planned runs."""
    paths = {name: folder_of(name, runs[name]) / "result.json" for name in runs}
    return {name: json.loads(path.read_text()) for name, path in paths.items()}


def test_every_record_belongs_to_one_row_and_every_row_to_its_records():
    made = []
    for experiment, arguments in ROWS:
        runs, _ = planned(arguments)
        folders = [folder_of(name, runs[name]) for name in runs]
        assert {folder.parents[1].name for folder in folders} == {experiment}
        made += folders
    assert sorted(made) == sorted(FOLDERS)


def test_every_folder_of_results_has_a_row_with_its_command():
    """A folder without a record too, and every record of the bench."""
    made_by = re.findall(r"(?m)^\| `([\w./-]+)` \| `bash ci/(\w+)\.sh [^`]+`", TEXT)
    expected = {p.name: "run" for p in RESULTS.iterdir() if p.is_dir()}
    expected.pop("bench")
    expected.update({f"bench/{p.stem}": "bench" for p in RESULTS.glob("bench/*.json")})
    assert dict(made_by) == expected, "results/README.md: the first table"


def index():
    """``(text, figures, paths)`` of each row of the index of figures."""
    table = TEXT.partition("## Where each figure comes from")[2].partition("\n## ")[0]
    rows = re.findall(r"(?m)^\| \[.+?\]\((.+?)\) \| (.+?) \| (`.+`) \|$", table)
    assert len(rows) == table.count("\n| [")
    return [(text, told, re.findall(r"`([^`]+)`", paths)) for text, told, paths in rows]


def decimals(text):
    return set(re.findall(r"\d+\.\d+", text))


def test_every_path_of_the_index_exists_and_every_record_is_in_it():
    listed = {RESULTS / path for *_, paths in index() for path in paths}
    assert listed
    assert not [path for path in listed if not path.exists()]
    for folder in FOLDERS:
        assert listed & {folder, *folder.parents}, folder


def test_every_text_of_the_index_has_the_figures_that_its_rows_quote():
    names = {name for name, *_ in index()}
    pages = ("README.md", "docs/results.md", "docs/benchmarks.md")
    assert {f"../{page}" for page in pages} <= names
    for name in names:
        text = (RESULTS / name).read_text(encoding="utf-8")
        quoted = set().union(
            *(decimals(told) for text, told, _ in index() if text == name)
        )
        assert quoted <= decimals(text), name


def test_every_measured_figure_of_the_readme_is_in_the_index():
    told = " ".join(told for name, told, _ in index() if name == "../README.md")
    for name in ("README.md", "README.zh-CN.md"):
        rows = [
            line.split(" | ")
            for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
            if line.startswith("|") and line.count(" | ") == 4
        ]
        measured = decimals(" ".join(row[3] for row in rows))
        assert len(measured) > 10
        assert measured == decimals(told), name


@pytest.mark.parametrize(("folder", "arguments"), ROWS, ids=[row[0] for row in ROWS])
def test_the_command_of_a_row_makes_its_records(folder, arguments):
    """Its parameters are theirs; only the folder of the same data may be another."""
    runs, _ = planned(arguments)
    for name, record in records(runs).items():
        asked, used = runs[name], record["parameters"]
        for key in asked.keys() & used.keys():
            wanted, found = asked[key], used[key]
            if key.endswith("data_path"):
                wanted, found = Path(wanted).name, Path(found).name
            assert found == wanted, f"{name}: {key}"
        chosen = plan.parse_yaml(
            (ROOT / arguments.split()[1]).read_text(encoding="utf-8"), folder
        )
        new = {"label"} if "label" not in used else set()  # older than the parameter
        missing = set(chosen) - set(used) - {"notebook", "vary"} - new
        assert not missing, f"{name} does not record {missing}"


def test_records_of_one_data_set_read_the_same_content():
    """So a copy under another path makes the same record."""
    sums = {}
    for path in RESULTS.rglob("result.json"):
        data = json.loads(path.read_text())["data"]
        names = [data["name"]]
        if " " in data["sha256"]:  # notebooks 01 and 02 read both
            names = ["diginetica", "ml-1m"]
        for name, content in zip(names, data["sha256"].split()):
            sums.setdefault(name, set()).add(content)
    assert sorted(sums) == ["diginetica", "ml-1m"]
    assert all(len(found) == 1 for found in sums.values()), sums


@pytest.mark.parametrize(("folder", "arguments"), ROWS, ids=[row[0] for row in ROWS])
def test_jobs_are_as_the_times_of_the_records_say(folder, arguments):
    """Runs that overlap were made by --jobs, runs that do not were made without."""
    runs, options = planned(arguments)
    times = [record["timing"] for record in records(runs).values()]
    if len(times) == 1 or not all("started_at" in time for time in times):
        return  # one run has no neighbour; older records have only the end
    spans = sorted(
        [datetime.fromisoformat(time[f"{end}_at"]) for end in ("started", "finished")]
        for time in times
    )
    overlap = any(b[0] < a[1] for a, b in zip(spans, spans[1:]))
    assert overlap == (options.jobs > 1)
