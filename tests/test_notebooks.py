"""Notebooks keep the house rules, run headless, and refuse what they do not know."""

import ast
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import execute
import make_sample
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import papermill
import plan
import pytest
import yaml
from matplotlib.figure import Figure
from test_own_tables import TEXTS, write_clicks, write_ratings

from lib.data import ratings
from lib.files import ROOT
from lib.models import mf
from lib.records import comparison, parameters, plots
from lib.records.run import load as load_records

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
RECORDED = sorted((ROOT / "results").rglob("*.ipynb"))
PARAMS = sorted((ROOT / "ci" / "params").glob("*.yaml"))
MACHINE_PATH = re.compile(r"(?<![\w.])/(root|home|work|tmp|usr|opt|Users|mnt)/")


def names(paths):
    return [path.stem for path in paths]


def code_cells(path):
    cells = nbformat.read(path, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def texts(cell):
    for output in cell.outputs:
        yield output.get("text", "")
        yield from (str(value) for value in output.get("data", {}).values())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=names(NOTEBOOKS))
class TestHouseRules:
    def test_it_was_executed_from_top_to_bottom(self, path):
        counts = [cell.execution_count for cell in code_cells(path)]
        assert counts == list(range(1, len(counts) + 1))

    def test_one_short_cell_holds_the_parameters_and_each_has_a_comment(self, path):
        tagged = [
            c for c in code_cells(path) if "parameters" in c.metadata.get("tags", [])
        ]
        assert len(tagged) == 1
        assert len(tagged[0].source.splitlines()) <= 22
        known = papermill.inspect_notebook(str(path))
        assigned = [line.target.id for line in ast.parse(tagged[0].source).body]
        assert list(known) == assigned, "papermill cannot read a line"
        for name, about in known.items():
            kinds = ("str", "int", "float", "bool", "dict")
            assert about["inferred_type_name"] in kinds, name
            assert about["help"], f"{name} has no comment"

    def test_its_imports_are_one_short_cell(self, path):
        lines = code_cells(path)[0].source.splitlines()
        assert all(re.match("import |from |plots.use_style|$", line) for line in lines)
        assert len(lines) <= 12

    def test_it_prints_numbers_rather_than_truth_values(self, path):
        printed = (text for cell in code_cells(path) for text in texts(cell))
        bare = (re.search(r"(?m)(^|[:=] )(True|False)$", text) for text in printed)
        assert not any(bare)

    def test_its_figures_have_titles(self, path):
        drawing = [c.source for c in code_cells(path) if "plt.show()" in c.source]
        assert all("title" in source for source in drawing)

    def test_its_figures_are_described_for_those_who_do_not_see_them(self, path):
        """The book reads the sentence from the cell's metadata, see CONTRIBUTING.md."""
        texts = [
            cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            for cell in code_cells(path)
            if any("image/png" in output.get("data", {}) for output in cell.outputs)
        ]
        for text in texts:
            assert re.fullmatch(r"[A-Z].{40,}\.", text), texts

    def test_its_kernel_is_python3(self, path):
        notebook = nbformat.read(path, as_version=4)
        assert notebook.metadata.get("kernelspec", {}).get("name") == "python3"

    def test_its_outputs_are_clean(self, path):
        for cell in code_cells(path):
            for output in cell.outputs:
                assert output.output_type != "error"
                assert output.get("name") != "stderr", output.get("text")
                assert len(json.dumps(output)) < 200_000
            assert not any(MACHINE_PATH.search(text) for text in texts(cell))

    def test_it_starts_with_a_title_and_ends_with_exercises(self, path):
        cells = nbformat.read(path, as_version=4).cells
        assert re.match(r"# [A-Z]\w+ ", cells[0].source)
        for promise in ("What you'll do", "What you'll learn", "What you'll need"):
            assert promise in cells[0].source
        assert "## On your own" in cells[-1].source

    def test_its_cells_are_short(self, path):
        lengths = sorted(len(c.source.splitlines()) for c in code_cells(path))
        assert lengths[len(lengths) // 2] <= 8
        assert lengths[-1] <= 45


def test_widgets_get_figures_that_pyplot_does_not_know():
    """Otherwise the thread that runs the cells draws them too, at the same time."""
    before, fig = plt.get_fignums(), Figure()
    _, ax = plots.ranking({"b": -1.0, "a": 1.0}, "{:.0f}", ax=fig.subplots())
    assert plt.get_fignums() == before
    assert [bar.get_width() for bar in ax.patches] == [1, -1]


def printed_numbers(number, pattern):
    """The groups of a pattern in the printed lines of a notebook, as numbers."""
    (path,) = (path for path in NOTEBOOKS if path.stem.startswith(number))
    shown = "".join(text for cell in code_cells(path) for text in texts(cell))
    return [float(text.replace(",", "")) for text in re.search(pattern, shown).groups()]


def test_the_readings_of_07_hold_for_its_outputs():
    pop, untrained, best, late, early = printed_numbers(
        "07",
        r"(?s)POP: HR@20 (\S+)\n.*before any training: HR@20 (\S+)\n"
        r".*from scratch: (\S+), after (\S+) .*from the checkpoint: after (\S+) ex",
    )
    assert untrained > best > 2 * pop
    assert early <= late / 2
    six = "categories" + 6 * r" (\S+)" + r"\n"
    near = printed_numbers("07", f"(?s){six}.*{six}")
    assert len(set(near[:6])) == 4
    assert len(set(near[6:])) == 1


def test_the_readings_of_14_hold_for_its_outputs():
    unknown, one, five, folded_in, trained = printed_numbers(
        "14", r"(?s)unknown users +RMSE (\S+)\n" + 4 * r".*?RMSE (\S+)\n"
    )
    assert folded_in < five < unknown < one
    assert folded_in < trained + 0.02


def test_the_equations_of_14_are_those_of_lib():
    (source,) = (
        cell.source
        for cell in code_cells(ROOT / "notebooks/14_fold_in_new_users.ipynb")
        if cell.source.startswith("def fold_in(")
    )
    space = {"np": np}
    exec(source, space)
    rng = np.random.default_rng(0)
    model = mf.MF(1, 9, 3.5, 4, regularization=0.08)
    model.build(None)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    items, stars = np.arange(6, dtype="i4"), rng.uniform(1, 5, 6).astype("f4")
    mf.fold_in(model, ratings.Part(np.zeros(6, "i4"), items, stars, items))
    surprise = stars - 3.5 - np.asarray(model.item_bias)[items, 0]
    p, b = space["fold_in"](np.asarray(model.q)[items], surprise, 0.08)
    np.testing.assert_allclose(p, np.asarray(model.p)[0], rtol=1e-4)
    np.testing.assert_allclose(b, np.asarray(model.user_bias)[0, 0], rtol=1e-4)


def test_the_readings_of_08_hold_for_its_outputs():
    clicked = (
        "session: " + 3 * r"item \d+ \(category (\d+)\), " + r".*category (\d+)\)\n"
    )
    listed = 8 * r" +\S+  item \d+ \(category (\d+)\)\n"
    kinds = printed_numbers("08", clicked + listed)
    assert kinds[0] == kinds[1] == kinds[3] != kinds[2]
    assert kinds[4:].count(kinds[0]) == 7
    assert kinds[2] not in kinds[4:]
    assert printed_numbers("08", r"at rank (\d+) of 801\nat 20: a hit") == [1]


def test_the_readings_of_09_hold_for_its_outputs():
    pattern = r"workers: 1  loss of epoch 1: (\S+)\nworkers: 2  .*: (\S+)\n"
    alone, together = printed_numbers("09", pattern)
    assert together == pytest.approx(alone, abs=0.01)
    pattern = r"largest gradient (\S+), largest difference (\S+)\n"
    size, gap = printed_numbers("09", pattern)
    assert gap < 1e-6 * size
    (speed,) = printed_numbers("09", r"workers are (\S+) times as fast")
    assert speed < 1


def test_the_readings_of_12_hold_for_its_outputs():
    lines = (rf"{name} +RMSE (\S+) .*?" for name in ("adam", "als", "gibbs"))
    adam, als, gibbs = printed_numbers("12", "(?s)" + "".join(lines))
    assert gibbs < adam < als
    shares = printed_numbers("12", 3 * r"(?s:.*?) % intervals hold (\S+)%")
    assert all(abs(a - b) < 1 for a, b in zip(shares, (50, 80, 95)))
    names = ("none", "sets", "times", "both")
    lines = (rf"{name} +RMSE (\S+)\s+" for name in names)
    none, sets, times, _ = printed_numbers("12", "".join(lines))
    assert abs(sets - none) < 0.002
    assert 0.004 < times - none < 0.008


def test_the_readings_of_11_hold_for_its_outputs():
    last, best = printed_numbers(
        "11", r"last epoch +(\S+).*\nbest epochs on test +(\S+)"
    )
    assert best - last == pytest.approx(0.011, abs=0.001)
    seeds = printed_numbers("11", r"of seed *" + 3 * r"\n\d +(\d) +(\d)")
    assert all(hr != mrr for hr, mrr in zip(seeds[::2], seeds[1::2]))
    ways = (
        rf"{way} +\S+ +\S+ +([\d.-]+)" for way in ("examples", "sessions", "last week")
    )
    examples, sessions, week = printed_numbers("11", r"\n".join(ways))
    assert 0 < examples < sessions < week
    validation, test = printed_numbers("11", r"\nvalidation +(\S+)\ntest +([\d.]+)")
    assert test == pytest.approx(validation, abs=0.003)


@pytest.mark.parametrize(
    "path",
    RECORDED,
    ids=[p.parent.as_posix().partition("results/")[2] for p in RECORDED],
)
def test_recorded_notebooks_name_no_machine(path):
    assert not MACHINE_PATH.search(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", PARAMS, ids=names(PARAMS))
def test_a_params_file_fits_its_notebook(path):
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    notebook = ROOT / "notebooks" / f"{values.pop('notebook')}.ipynb"
    (cell,) = (
        cell.source
        for cell in code_cells(notebook)
        if "parameters" in cell.metadata.get("tags", [])
    )
    for changes in values.pop("vary", {"": {}}).values():
        varied = {**values, **changes}
        choices = [v if isinstance(v, list) else [v] for v in varied.values()]
        for chosen in itertools.product(*choices):
            one_run = dict(zip(varied, chosen))
            injected = "\n".join(["# Parameters", *(f"{name} = 0" for name in one_run)])
            space = {**plan.read_defaults(notebook), **one_run, "In": [cell, injected]}
            checked = dict(parameters.check(space))
            assert one_run.items() <= checked.items()


# Every notebook once more, with parameters other than its defaults. Its record must
# hold them, and these metrics within these bounds. After a comma: a remark.
RERUNS = {
    "01_explore_data": (
        {"diginetica_path": "other/diginetica", "movielens_path": "other/movielens"},
        {"clicks": (1e4, 1e6), "repeats": (0, 1)},
    ),
    "02_preprocess": (
        {"protocol": "modelzoo", "test_share": 0.1, "seed": 3},
        {"train_examples": (1e4, 1e6), "bias_rmse_random": (0.8, 1.1)},
    ),
    "03_stamp": (
        {"variant": "stmp", "evaluate_on": "validation", "embed_dim": 32, "epochs": 2}
        | {"batch_size": 256, "learning_rate": 0.01, "maxlen": 5, "static": False}
        | {"precision_mode": "must_keep_origin_dtype", "top_k": 10, "seed": 1},
        {"hr_at_10": (0.2, 0.9), "mrr_at_10": (0.05, 0.6)},
    ),
    "04_mf": (
        {"split": "per_user_last", "use_bias": False, "latent_dim": 4, "epochs": 3}
        | {"evaluate_on": "validation", "static": False, "test_share": 0.3, "seed": 1},
        {"rmse": (0.7, 1.1), "mae": (0.5, 0.9)},
    ),
    "03_stamp, the port": (
        {"variant": "modelzoo", "protocol": "modelzoo", "order": "file", "maxlen": 8}
        | {"epochs": 2, "steps_per_epoch": 50, "learning_rate": 0.005},
        {"hr_at_20": (0.1, 0.5), "mrr_at_20": (0.03, 0.3)},
    ),
    "04_mf, the port with biases": (
        {"variant": "modelzoo", "split": "modelzoo", "fixes": "biases means"}
        | {"epochs": 3, "batch_size": 512, "learning_rate": 0.001, "reshuffle": False},
        {"rmse": (0.9, 1.1), "mae": (0.6, 0.9)},
    ),
    "06_audit_the_published_stamp": (
        {"seed": 1},
        {"hr_at_20, STAMP as published": (0.2, 0.25), "hr_at_20, + mask": (0.2, 0.3)},
    ),
    "07_transfer_learning": (
        {"epochs": 1, "steps_per_epoch": 10_000, "batch_size": 4096, "seed": 1}
        | {"frozen": "attention", "min_item_clicks": 6, "top_k": 10},
        {"hr_at_10": (0.2, 0.9), "hr_at_10_from_nothing": (0, 0.5)},
    ),
    "08_recommend": (
        {"top_k": 3, "seed": 1, "interactive": "no"},
        {"sessions": (100, 1e4)},
    ),
    "10_neighbours_and_positions": (
        {"neighbours": 2, "epochs": 1, "embed_dim": 16, "batch_size": 512, "seed": 1},
        {"hr_at_20, both": (0.03, 0.7), "attention, both, inequality": (0, 10)},
    ),
    "14_fold_in_new_users": (
        {"seed": 1},
        {"rmse_new_users": (0.7, 1), "rmse_trained": (0.7, 1)},
    ),
    "11_audit_the_leaderboard": (
        {"seeds": 1, "epochs": 2, "batch_size": 512},
        {"hr_at_20, last epoch": (0.05, 0.7), "hr_at_20, sessions": (0.05, 0.8)},
    ),
    "12_solve_mf_exactly": (
        {
            "latent_dim": 2,
            "sweeps": 5,
            "epochs": 2,
            "split": "per_user_last",
            "seed": 1,
        },
        {"rmse, als": (0.8, 1), "rmse, both": (0.8, 1), "coverage_80": (0.7, 0.9)},
    ),
    "13_audit_the_published_mf": (
        {"seed": 1},
        {"rmse, MF as published": (2, 2.5), "rmse, + biases": (0.9, 1)},
    ),
    "16_combine_stamp_with_a_knn": (
        {"neighbours": 2, "epochs": 1, "embed_dim": 16, "batch_size": 512, "seed": 1},
        {"hr_at_20, STAMP": (0.03, 0.7), "weight": (0, 1.01)},
    ),
    "17_export_a_model": (
        {"seed": 1},
        {"same_in_saved_model": (0.99, 1.01), "same_in_onnx": (0.99, 1.01)},
    ),
    "18_take_mf_apart": (
        {"split": "per_user_last", "latent_dim": 4, "epochs": 3, "seed": 1},
        {"rmse": (0.7, 1.1), "spread": (0, 0.05)},
    ),
    "15_make_the_softmax_cheap": (
        {"n_items": 500, "embed_dim": 8, "batch_size": 32, "k": 5, "seed": 1},
        {"same_items": (0.99, 1.01)},
    ),
}


# Notebooks without such a rerun, and where they run with other parameters instead.
RERUN_ELSEWHERE = {
    "05_accuracy_and_throughput": "test_05_reads_one_record_and_many, below",
    "09_scale_out": "starts processes; tests/test_workers.py trains with two workers",
}


def test_every_notebook_has_a_rerun_or_a_reason():
    again = {case.split(",")[0] for case in RERUNS}
    assert again | RERUN_ELSEWHERE.keys() == set(names(NOTEBOOKS))
    assert not again & RERUN_ELSEWHERE.keys(), "a rerun needs no reason"


def run_notebook(notebook, folder, values, clone=ROOT):
    folder.mkdir(exist_ok=True)
    papermill.execute_notebook(
        str(clone / "notebooks" / f"{notebook}.ipynb"),
        str(folder / f"{notebook}.ipynb"),
        parameters={**values, "output_dir": str(folder)},
        cwd=str(clone / "notebooks"),
        kernel_name="python3",
        progress_bar=False,
    )
    return next(r for r in load_records(folder) if r["notebook"] == notebook)


@pytest.mark.parametrize("case", RERUNS)
def test_a_notebook_runs_headless_with_other_parameters(case, tmp_path):
    values, bounds = RERUNS[case]
    notebook = case.split(",")[0]
    if notebook == "01_explore_data":  # a sample from another seed, given as folders
        make_sample.write(tmp_path / "other", seed=7)
        values = {name: str(tmp_path / path) for name, path in values.items()}
    record = run_notebook(notebook, tmp_path, values)
    assert values.items() <= record["parameters"].items()
    for metric, (low, high) in bounds.items():
        assert low < record["metrics"][metric] < high
    if record["model"]:
        assert len(record["history"]) == values["epochs"]
        assert record["timing"]["examples_per_second"] > 0
        assert record["baselines"]


def test_tiny_tables_go_through_every_notebook_that_takes_them(tmp_path):
    """Sessions of 9 items and 60 ratings of 5 users, everything left on."""
    names, users = TEXTS, TEXTS[:5]
    clicks = write_clicks(tmp_path / "clicks.csv", names)
    stars = write_ratings(tmp_path / "stars.csv", users, [*names, 1, 2, 3], (0.5, 5))
    of_clicks = {"columns": "session=visit, item=sku, time=when"}
    of_stars = {"rating_columns": "user=reader, item=book, rating=mark"}
    small, folders = {"batch_size": 8, "epochs": 1}, {}
    for parameter, notebook, values in (
        (
            "checkpoint",
            "03_stamp",
            {"data_path": str(clicks), **of_clicks, "neighbours": 2},
        ),
        (
            "mf_checkpoint",
            "04_mf",
            {"data_path": str(stars), "columns": of_stars["rating_columns"]},
        ),
    ):
        record = run_notebook(notebook, tmp_path, {**small, **values})
        assert np.isfinite([*record["metrics"].values()]).all()
        assert record["baselines"]
        folders[parameter] = str(tmp_path / "0" / record["run"])
    values = {"data_path": str(clicks), **of_clicks, **small}
    values["checkpoint"] = folders["checkpoint"]
    run_notebook("07_transfer_learning", tmp_path, values)
    more = write_ratings(tmp_path / "more.csv", TEXTS[:6], [*names, 1], (0.5, 5))
    values = {"columns": of_stars["rating_columns"]}
    values["checkpoint"] = folders["mf_checkpoint"]
    for path, measured in ((stars, set()), (more, {"rmse_new_users", "rmse_trained"})):
        values["data_path"] = str(path)
        record = run_notebook("14_fold_in_new_users", tmp_path / path.stem, values)
        assert measured == record["metrics"].keys()
        assert np.isfinite([*record["metrics"].values()]).all()
    both = {**folders, **of_clicks, **of_stars, "movielens_path": str(stars)}
    values = {"diginetica_path": str(clicks), "interactive": "no"}
    run_notebook("08_recommend", tmp_path, {**both, **values})
    shown = " ".join(
        text
        for cell in code_cells(tmp_path / "08_recommend.ipynb")
        for text in texts(cell)
    )
    assert "small" not in shown
    assert "two words" in shown
    values.pop("interactive")
    record = run_notebook("17_export_a_model", tmp_path, {**both, **values})
    assert record["metrics"]["same_in_saved_model"] == 1
    assert record["metrics"]["same_in_onnx"] == 1
    values = {"data_path": str(clicks), **of_clicks, "neighbours": 2, **small}
    run_notebook("10_neighbours_and_positions", tmp_path, values)
    run_notebook("16_combine_stamp_with_a_knn", tmp_path, values)
    swapped = {"checkpoint": folders["mf_checkpoint"]}
    with pytest.raises(papermill.PapermillExecutionError, match="not STAMP"):
        run_notebook("07_transfer_learning", tmp_path, swapped)


def test_05_reads_one_record_and_many(tmp_path):
    steps = {
        step for m in ("stamp", "mf") for step in comparison.audit_steps(m)
    }  # of 06 and 13
    trained = [record for record in load_records("results") if record["model"]]
    trained = [one for one in trained if one["parameters"].get("label") not in steps]
    for number in range(50):
        record = dict(trained[number % len(trained)], run=f"run-{number}")
        folder = tmp_path / "many" / record["run"]
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(record))
    many = run_notebook(
        "05_accuracy_and_throughput", tmp_path, {"records": str(tmp_path / "many")}
    )
    assert many["metrics"] == {"runs": 50}
    one = tmp_path / "many" / "run-0"
    again = run_notebook(
        "05_accuracy_and_throughput", tmp_path / "one", {"records": str(one)}
    )
    assert again["metrics"] == {"runs": 1}
    for folder in (tmp_path, tmp_path / "one"):
        path = folder / "05_accuracy_and_throughput.ipynb"
        assert path.stat().st_size < 500_000
        for cell in code_cells(path):
            kinds = [kind for o in cell.outputs for kind in o.get("data", {})]
            assert kinds.count("image/png") <= 1, "one figure a cell has a description"
            assert not any(o.get("name") == "stderr" for o in cell.outputs)


def test_an_audit_says_which_runs_it_needs(tmp_path):
    records = {"records": str(ROOT / "results/mf_full_static_1p")}
    with pytest.raises(papermill.PapermillExecutionError, match='label "STAMP as pub'):
        run_notebook("06_audit_the_published_stamp", tmp_path, records)


def run_job(*arguments):
    command = [sys.executable, str(ROOT / "ci" / "execute.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--only", "03", "--set", "epoch=3"],
            'unknown parameter "epoch"; known to 03_stamp: ',
        ),
        (
            ["--set", "nosuch=1"],
            'unknown parameter "nosuch"; known to 01_explore_data, 02_',
        ),
        (["--only", "99"], "--only 99: no such notebook; there are 01_explore"),
        (["--params", "none.yaml"], "--params none.yaml: no such file; ci/params has"),
        (["--set", "epochs"], "--set epochs: write it as key=value"),
    ],
)
def test_the_main_job_refuses_what_it_does_not_know(arguments, sentence):
    done = run_job(*arguments)
    assert done.returncode != 0
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("order=random", 'InputError: order="random": allowed are "timeframe"'),
        ("data_path=no/such/folder", 'InputError: "no/such/folder" is not a folder'),
    ],
)
def test_a_failing_cell_is_named_and_its_notebook_kept(setting, sentence):
    done = run_job("--only", "03", "--set", setting)
    assert done.returncode == 1
    failed = r"FAILED 03_stamp: cell \[\d+\]: " + re.escape(sentence)
    assert re.search(failed, done.stdout)
    kept = Path(ROOT, re.search(r"see (\S+)", done.stdout).group(1))
    shown = [o for cell in code_cells(kept) for o in cell.outputs]
    assert any(o.output_type == "error" and "InputError" in o.ename for o in shown)


def test_an_unknown_parameter_ends_plain_papermill_too(tmp_path):
    with pytest.raises(
        papermill.PapermillExecutionError, match='unknown parameter "epoch"'
    ):
        run_notebook("04_mf", tmp_path, {"epoch": 3})


def test_lists_in_a_params_file_are_runs_and_none_is_done_twice(tmp_path):
    values = {"notebook": "02_preprocess", "seed": [0, 1], "output_dir": str(tmp_path)}
    path = tmp_path / "grid_of_two.yaml"
    path.write_text(yaml.safe_dump(values))
    command = ("--params", str(path), "--jobs", "2")
    first = run_job(*command)
    assert first.returncode == 0, first.stderr
    records = load_records(tmp_path)
    assert [record["seed"] for record in records] in ([0, 1], [1, 0])
    assert run_job(*command).stdout.count("has a record already") == 2
    other = run_job(*command, "--set", "test_share=0.3")
    assert "has a record already" not in other.stdout
    assert len(load_records(tmp_path)) == 4


def test_a_record_is_found_by_its_note_not_by_printed_text():
    cell = nbformat.v4.new_code_cell(
        outputs=[
            nbformat.v4.new_output("stream", text="output/0/another/result.json\n"),
            nbformat.v4.new_output(
                "display_data", metadata={"record": "a/result.json"}
            ),
            nbformat.v4.new_output("stream", text="output/0/another/result.json\n"),
        ]
    )
    cells = [cell, nbformat.v4.new_markdown_cell("result.json")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    assert execute.find_record(notebook) == Path("a/result.json")
    cell.outputs.pop(1)
    assert execute.find_record(notebook) is None


@pytest.mark.parametrize(
    ("name", "seed", "folder"),
    [
        ("stamp_audit-mask-seed=0", 0, "stamp_audit/mask/seed-0"),
        ("mf_full_static_1p-seed=2", 2, "mf_full_static_1p/default/seed-2"),
        ("mf_parts", 3, "mf_parts/default/seed-3"),
        ("a-seed=1-static=False", 1, "a/static=False/seed-1"),
        ("explore_full", None, "explore_full/default/seed-0"),
    ],
)
def test_a_kept_run_is_its_record_and_its_notebook(
    name, seed, folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(execute, "ROOT", tmp_path)
    record, copy = tmp_path / "result.json", tmp_path / "copy.ipynb"
    record.write_text(json.dumps({"seed": seed}))
    printed = [nbformat.v4.new_output("stream", text="clicked item 7\n")]
    cells = [nbformat.v4.new_code_cell(outputs=printed) for _ in range(2)]
    cells[0].metadata["tags"] = ["shows-data"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), copy)
    execute.keep_record({"name": name, "record": record, "copy": copy})
    kept = tmp_path / "results" / folder
    assert (kept / "result.json").read_text() == record.read_text()
    notebook = nbformat.read(kept / "notebook.ipynb", as_version=4)
    shown = [cell.outputs[0].text for cell in notebook.cells]
    assert shown == ["left out: rows of the data\n", "clicked item 7\n"]
    assert len([*(tmp_path / "results").rglob("*.*")]) == 2


@pytest.fixture
def read_only_clone(tmp_path):
    """A copy of the repository's files on a file system that refuses to write."""
    folder = tmp_path / "clone"
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    mount = ["mount", "--bind", str(folder), str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root mounts a folder")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        with pytest.raises(OSError, match="Read-only"):
            (folder / "new").touch()
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_notebooks_run_from_a_clone_that_cannot_be_written(
    read_only_clone, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(read_only_clone))
    output = tmp_path / "output"
    for notebook, values in (
        ("02_preprocess", {}),
        ("03_stamp", {"epochs": 1, "steps_per_epoch": 2, "with_baselines": False}),
        ("05_accuracy_and_throughput", {"records": str(output)}),
    ):
        record = run_notebook(notebook, output, values, read_only_clone)
        assert str(read_only_clone) not in json.dumps(record["parameters"])
    assert record["metrics"] == {"runs": 1}


def test_jobs_are_refused_where_they_would_share_an_npu(monkeypatch, capsys):
    monkeypatch.setattr(execute, "find_spec", lambda name: name == "npu_device")
    with pytest.raises(SystemExit):
        execute.parse_options(["--jobs", "2"])
    assert "an NPU takes one process" in capsys.readouterr().err
    assert execute.parse_options(["--jobs", "2", "--set", "device=cpu"]).jobs == 2
