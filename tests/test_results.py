"""Records are whole, comparable, and honest about what is no record."""

import json
import os
import pathlib
import re
import subprocess
from dataclasses import dataclass

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from lib.errors import InputError
from lib.files import ROOT
from lib.records import comparison, plots
from lib.records.run import KEYS, Run, describe_origin
from lib.records.run import load as load_records

DATA = {"name": "toy", "sha256": "0" * 64, "counts": {"clicks": 3}}


def written(folder, notebook="03_stamp", metrics=None, **parameters):
    parameters = {"output_dir": str(folder), "seed": 0, "batch_size": 8, **parameters}
    run = Run(notebook, parameters, DATA)
    path = run.write(
        metrics or {"hr_at_20": 0.5},
        model="stamp",
        variant="paper",
        history=[{"epoch": 1, "loss": 2.0}],
        timing={"examples_per_second": 10.0},
        variations={"no penalty": {"rmse": 1.5}},
    )
    return run, path


def test_a_record_comes_back_as_it_was_written(tmp_path):
    run, path = written(tmp_path)
    (record,) = load_records(tmp_path)
    assert set(record) == {*KEYS, "label"}
    assert record["run"] == record["label"] == run.name == path.parent.name
    assert record["metrics"] == {"hr_at_20": 0.5}
    assert record["timing"]["examples_per_second"] == 10.0
    assert record["timing"]["peak_memory_mb"] > 1
    assert record["variations"] == {"no penalty": {"rmse": 1.5}}
    assert record["versions"]["numpy"]


def test_a_repeated_run_differs_in_its_timing_only(tmp_path):
    _, path = written(tmp_path)
    first = json.loads(path.read_text())
    written(tmp_path)
    (second,) = load_records(tmp_path)
    first.pop("timing"), second.pop("timing"), second.pop("label")
    assert first == second


def test_the_newest_run_and_its_log_are_found_without_its_name(tmp_path):
    latest, known = tmp_path / "0" / "latest", tmp_path / "0" / "train_0.log"
    for seed in (1, 2, 1):
        run = Run("03_stamp", {"output_dir": str(tmp_path), "seed": seed}, DATA)
        (run.folder / "train_0.log").write_text(f"of seed {seed}")
        assert latest.resolve() == run.folder
        assert known.read_text() == f"of seed {seed}"
        run.write({"hr_at_20": 0.5})
    assert not os.path.isabs(os.readlink(latest))  # the folder may be moved
    assert len(load_records(tmp_path)) == 2  # no record is found twice
    assert {path.name for path in (tmp_path / "0").iterdir() if path.is_symlink()} == {
        "latest", "train_0.log",
    }  # fmt: skip


def test_a_link_never_replaces_a_file_or_a_folder(tmp_path):
    (tmp_path / "0" / "latest").mkdir(parents=True)
    (tmp_path / "0" / "train_0.log").write_text("mine")
    written(tmp_path)
    assert not (tmp_path / "0" / "latest").is_symlink()
    assert (tmp_path / "0" / "train_0.log").read_text() == "mine"


def test_a_file_system_without_links_is_no_error(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "symlink", refused)
    monkeypatch.setattr(pathlib.Path, "symlink_to", refused)
    _, path = written(tmp_path)
    assert {entry.name for entry in (tmp_path / "0").iterdir()} == {path.parent.name}


def test_a_link_left_by_a_process_that_died_is_no_obstacle(tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "latest.unfinished").symlink_to("nowhere")
    run, _ = written(tmp_path)
    assert (tmp_path / "0" / "latest").resolve() == run.folder
    assert not os.path.lexists(tmp_path / "0" / "latest.unfinished")


def test_other_parameters_or_data_get_another_folder(tmp_path):
    names = {written(tmp_path, seed=seed)[0].name for seed in (0, 1)}
    names.add(Run("03_stamp", {"output_dir": str(tmp_path)}, DATA).name)
    assert len(names) == 3


def test_the_output_folder_is_no_part_of_what_was_run(tmp_path):
    assert written(tmp_path / "a")[0].name == written(tmp_path / "b")[0].name


def test_a_metric_that_is_no_number_leaves_the_old_record_alone(tmp_path):
    _, path = written(tmp_path)
    before = path.read_text()
    with pytest.raises(ValueError, match="JSON"):
        written(tmp_path, metrics={"hr_at_20": float("nan")})
    assert path.read_text() == before
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', '{"schema": 99}'])
def test_a_file_that_is_no_record_is_named(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(InputError, match=r"result\.json: not a record of schema 1"):
        load_records(tmp_path)


def test_a_folder_without_records_says_how_to_make_some(tmp_path):
    with pytest.raises(InputError, match="run notebooks 03 and 04"):
        load_records(tmp_path)


def test_own_records_stand_beside_others_and_a_missing_folder_is_named(tmp_path):
    for name in ("mine", "others"):
        written(tmp_path / name, label=name)
    both = load_records(f"{tmp_path}/mine, {tmp_path}/others")
    assert sorted(r["parameters"]["label"] for r in both) == ["mine", "others"]
    assert len(load_records(f"{tmp_path},{tmp_path}/mine")) == 2  # each file once
    with pytest.raises(InputError, match="nowhere.*no result.json"):
        load_records(f"{tmp_path}/mine, {tmp_path}/nowhere")


def test_a_record_says_which_files_differ_from_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr("lib.files.ROOT", tmp_path)
    assert describe_origin()["git_commit"] is None
    kept, code = tmp_path / "results" / "result.json", tmp_path / "a b.py"
    for path in (kept, code):
        path.parent.mkdir(exist_ok=True)
        path.write_text("1")
    name = ("-c", "user.name=a", "-c", "user.email=a@b")
    for words in (["init", "-q"], ["add", "."], [*name, "commit", "-qm", "all"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)

    def state():
        origin = describe_origin()
        return origin["git_commit"], origin["changed_files"]

    commit, changed = state()
    assert len(commit) == 40
    assert changed == []
    kept.write_text("2")  # a record kept in results/ makes no later run dirty
    assert state() == (commit, [])
    code.write_text("2")
    (tmp_path / "new.py").write_text("")
    assert state() == (f"{commit}-dirty", ["a b.py", "new.py"])


def test_a_record_states_the_machine_and_an_older_one_need_not(tmp_path):
    _, path = written(tmp_path)
    (record,) = load_records(tmp_path)
    machine = record["machine"]
    assert machine["cores"] >= 1
    assert machine["memory_gb"] > 0.1
    assert machine["system"]
    assert machine["cpu"]
    assert machine["cpu_flags"] == sorted(machine["cpu_flags"])
    older = json.loads(path.read_text())
    del older["machine"], older["changed_files"], older["variations"]
    path.write_text(json.dumps(older))
    (read,) = load_records(tmp_path)
    assert read["machine"] == {}
    assert read["changed_files"] == []


# Records of a working copy that was not committed, by their commit: to be made again.
DIRTY = {
    "mf_movielens_splits/split=global_time": "80c3396",
    "mf_movielens_splits/split=per_user_last": "80c3396",
    "mf_movielens_wide/default": "80c3396",
    "scale_out/default": "3d495ae",
    "stamp_search_normalized/dropout=0.5-epochs=7": "f39d75a",
    "bench/data.json": "0165bc5",
    "bench/mf.json": "71dd3e0",  # a link .venv was new
}


def test_no_kept_record_is_of_uncommitted_changes():
    """A figure that nobody can make again is no result."""
    found = {}
    results = ROOT / "results"
    for path in [*results.rglob("result.json"), *results.glob("bench/*.json")]:
        commit = str(json.loads(path.read_text(encoding="utf-8"))["git_commit"])
        place = path if path.parent.name == "bench" else path.parents[1]
        if not re.fullmatch("[0-9a-f]{40}", commit):
            name = place.relative_to(results).as_posix()
            found.setdefault(name, set()).add(commit)
    for name, commits in found.items():
        known = {f"{DIRTY.get(name, 'none')}{commit[7:]}" for commit in commits}
        assert commits == known, f"results/{name} is of {commits}: commit, record again"
    assert found.keys() == DIRTY.keys(), "a record was made again: take it off the list"


@pytest.mark.parametrize("text", ["", " ", "a,", ",a", "a, ,b"])
def test_an_empty_name_of_a_folder_is_not_the_whole_repository(text):
    with pytest.raises(InputError, match="a folder has no name"):
        load_records(text)


@pytest.mark.parametrize("text", ["", " "])
def test_an_output_folder_without_a_name_is_refused(text):
    with pytest.raises(InputError, match="output_dir is empty: name a folder"):
        Run("x", {"output_dir": text}, DATA)


@dataclass
class Worker:
    """As much of a ``lib.hardware.device.Device`` as a run needs."""

    workers: int
    rank: int

    def record(self):
        return {"kind": "npu", "workers": self.workers}


def test_the_first_of_several_workers_writes_the_record_of_all(tmp_path, monkeypatch):
    monkeypatch.setenv("CHIEF_FOLDER", "4")
    where = {"output_dir": str(tmp_path)}
    runs = []
    for rank in (0, 1):
        monkeypatch.setenv("ASCEND_DEVICE_ID", str(4 + rank))
        run = Run("03_stamp", where, DATA, Worker(2, rank))
        assert run.folder == tmp_path / str(4 + rank) / run.name
        assert run.chief_folder == tmp_path / "4" / run.name
        runs.append(run)
    first, second = runs
    assert second.write({"hr_at_20": 0.1}) == first.chief_folder / "result.json"
    assert not first.chief_folder.joinpath("result.json").exists()
    first.write({"hr_at_20": 0.5})
    (record,) = load_records(tmp_path)
    assert record["device"]["workers"] == 2
    assert record["metrics"] == {"hr_at_20": 0.5}
    assert second.recorded_at() == first.started_at
    assert Run("03_stamp", where, DATA).name != first.name  # alone: another run


def test_the_clock_of_a_run_counts_every_attempt_once(tmp_path):
    run = Run("x", {"output_dir": str(tmp_path)}, DATA)
    run.continue_clock("2020-01-01", 1000.0)
    assert 1000 <= run.wall_s() < 1100
    run.continue_clock("2020-01-01", 5000.0)  # this attempt, called again
    assert run.wall_s() < 1100
    run.start_clock()
    assert run.wall_s() < 100


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="output_dir: .*file.* cannot be made"):
        Run("x", {"output_dir": str(tmp_path / "file")}, DATA)


def results(group, metric, published=None):
    """The values of each name, and the names of our own, as notebook 05 draws them."""
    if published is None:
        published = pd.DataFrame(columns=["model", "data", "split", "test_share"])
        published = published.assign(metric=[], value=[])
    rows = comparison.compare(group, published).dropna(subset=[metric])
    values = rows.groupby("name", sort=False)[metric].apply(list).to_dict()
    return values, set(rows.loc[rows["kind"] == "ours", "name"])


def test_only_runs_that_differ_in_the_seed_alone_are_averaged(tmp_path):
    for seed, dim, hit_rate in ((0, 8, 0.2), (1, 8, 0.4), (0, 32, 0.9)):
        metrics = {"hr_at_20": hit_rate}
        own = {"seed": seed, "embed_dim": dim, "label": f"width {dim}"}
        written(tmp_path, metrics=metrics, epochs=1, **own)
    ((_, group),) = comparison.by_question(load_records(tmp_path), "stamp").items()
    values, ours = results(group, "hr_at_20")
    assert values == {"width 8": [0.2, 0.4], "width 32": [0.9]}
    assert set(ours) == set(values)


def test_a_label_names_a_setting_and_never_hides_another(tmp_path):
    for dim in (8, 32):
        written(tmp_path, label="mine", latent_dim=dim, epochs=1)
    names = ["mine, latent dim 32", "mine, latent dim 8"]
    assert list(comparison.settings(load_records(tmp_path))) == names
    written(tmp_path, label="yours", latent_dim=8, epochs=2)
    assert list(comparison.settings(load_records(tmp_path))) == [*names, "yours"]


def test_a_setting_keeps_its_label_beside_one_that_is_called_so_without(tmp_path):
    written(tmp_path, label="STAMP", epochs=5)
    written(tmp_path, epochs=1)
    settings = comparison.settings(load_records(tmp_path))
    assert list(settings) == ["STAMP", "STAMP, epochs 1"]
    assert settings["STAMP"][0]["parameters"]["epochs"] == 5


def test_without_a_label_model_and_parameters_name_the_setting(tmp_path):
    _, path = written(tmp_path)
    for setting in ("wide", "default"):
        for seed in (0, 1):
            kept = tmp_path / "results" / "search" / setting / f"seed-{seed}"
            kept.mkdir(parents=True)
            record = json.loads(path.read_text())
            record["parameters"].update(seed=seed, embed_dim=len(setting))
            (kept / "result.json").write_text(json.dumps(record))
    settings = comparison.settings(load_records(tmp_path / "results"))
    assert {label: len(same) for label, same in settings.items()} == {
        "STAMP, embed dim 4": 2,
        "STAMP, embed dim 7": 2,
    }


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_seed_of_two_machines_counts_once_and_keeps_both_speeds(order, tmp_path):
    """Asked for the same; one computes in bfloat16, the other in float32, later."""
    machines = [
        {"kind": "cpu", "name": "with AMX", "matmul_dtype": "bfloat16", "notes": []},
        {"kind": "cpu", "name": "older", "matmul_dtype": "float32", "notes": ["slow"]},
    ]
    for n, device in enumerate(machines):
        folder = tmp_path / f"machine {n}"
        _, path = written(folder, metrics={"hr_at_20": 0.4 + n / 10}, label="ours")
        record = {**json.loads(path.read_text()), "device": device}
        record["timing"].update(examples_per_second=10.0 + n, finished_at=f"202{n}")
        path.write_text(json.dumps(record))
    records = load_records(", ".join(f"{tmp_path}/machine {n}" for n in order))
    ((_, group),) = comparison.by_question(records, "stamp").items()
    settings = comparison.settings(group)
    assert [r["metrics"]["hr_at_20"] for r in settings["ours"]] == [0.5]
    table = comparison.table(records)
    speeds = dict(zip(table["processor"], table["examples_per_second"]))
    assert speeds == {"with AMX": 10.0, "older": 11.0}


def test_data_of_one_name_and_another_content_are_another_question(tmp_path):
    for month, rate in (("may", 0.9), ("june", 0.1)):
        data = {"name": "clicks.csv", "sha256": month * 16, "counts": {}}
        run = Run("03_stamp", {"output_dir": str(tmp_path), "seed": 0}, data)
        baselines = {"S-POP": {"hr_at_20": rate}}
        run.write({"hr_at_20": rate}, "stamp", "paper", baselines=baselines)
    questions = comparison.by_question(load_records(tmp_path), "stamp")
    assert sorted(questions) == [
        "clicks.csv, SR-GNN's rules (junejune)",
        "clicks.csv, SR-GNN's rules (maymayma)",
    ]
    pooled = [results(group, "hr_at_20")[0]["S-POP"] for group in questions.values()]
    assert sorted(pooled) == [[0.1], [0.9]]


def test_launch_options_of_older_records_are_the_same_settings_as_ascend(tmp_path):
    older = {"profiling": False, "use_mixlist": False, "data_dump_step": "10"}
    written(tmp_path / "a", epochs=1, seed=0, **older)
    written(tmp_path / "b", epochs=1, seed=1, ascend={})
    written(tmp_path / "c", epochs=1, seed=2, ascend={"profiling": False})
    written(tmp_path / "d", epochs=1, seed=0, ascend={"use_mixlist": True})
    settings = comparison.settings(load_records(tmp_path))
    assert sorted(len(same) for same in settings.values()) == [1, 3]


def test_a_parameter_that_came_later_leaves_older_records_in_their_setting(tmp_path):
    written(tmp_path / "a", epochs=1, seed=0)
    written(tmp_path / "b", epochs=1, seed=1, solver="adam", shuffle="all")
    written(tmp_path / "c", epochs=1, seed=0, shuffle="blocks")
    settings = comparison.settings(load_records(tmp_path))
    assert sorted(len(same) for same in settings.values()) == [1, 2]


def test_the_steps_of_an_audit_stand_in_its_order_as_far_as_recorded(tmp_path):
    rates = ((0, "+ b", 0.4), (0, "+ a", 0.1), (1, "+ a", 0.3), (0, "b alone", 0.5))
    for seed, label, rate in rates:
        metrics = {"hr_at_20": rate}
        written(tmp_path, metrics=metrics, seed=seed, label=label, fixes=label)
    records, steps = load_records(tmp_path), ["+ a", "+ never", "+ b", "b alone"]
    of = comparison.costs(records, steps, "hr_at_20")
    assert list(of.index) == ["+ a", "+ b", "b alone"]
    assert of.loc["+ a", ["runs", "lowest", "highest"]].tolist() == [2, 0.1, 0.3]
    assert of.loc["+ a", "mean"] == pytest.approx(0.2)
    assert of["change"].tolist()[1:] == pytest.approx([0.2, 0.3])
    with pytest.raises(InputError, match='no run with the label "first"'):
        comparison.costs(records, ["first", *steps], "hr_at_20")


@pytest.mark.parametrize(
    "labels", [["first"], ["first", "+ a"], ["first", "+ a", "a alone"]]
)
def test_an_audit_is_drawn_as_far_as_it_was_recorded(labels):
    rows = {"mean": 0.2, "lowest": 0.1, "highest": 0.3}
    fig, axs = plots.audit(pd.DataFrame([rows] * len(labels), labels), "hr_at_20")
    drawn = [text.get_text() for ax in axs for text in ax.get_yticklabels()]
    plt.close(fig)
    assert drawn == ["first", *labels[1:2], "first", *labels[2:]]


def test_a_step_of_an_audit_is_one_setting_on_any_machine(tmp_path):
    for seed, rate in enumerate((0.1, 0.3)):
        written(tmp_path, metrics={"hr_at_20": rate}, seed=seed, label="+ a")
    here, there = load_records(tmp_path)
    here["device"] = {"name": "one", "matmul_dtype": "float32"}
    there["device"] = {"name": "another", "matmul_dtype": "bfloat16"}
    assert comparison.costs([here, there], ["+ a"], "hr_at_20").loc["+ a", "runs"] == 2


@pytest.mark.parametrize("told", ["precision_mode", "embed_dim"])
def test_a_step_of_an_audit_is_not_two_settings(told, tmp_path):
    for seed in (0, 1):
        written(tmp_path, seed=seed, label="+ a")
    one, other = load_records(tmp_path)
    other["parameters"][told] = 7
    with pytest.raises(InputError, match=rf'"\+ a": its runs differ in {told};'):
        comparison.costs([one, other], ["+ a"], "hr_at_20")


def test_a_label_is_no_part_of_what_was_run(tmp_path):
    assert written(tmp_path, label="a")[0].name == written(tmp_path)[0].name


def test_the_table_has_one_row_a_record(tmp_path):
    for seed in range(3):
        written(tmp_path, seed=seed)
    table = comparison.table(load_records(tmp_path))
    assert sorted(table["seed"]) == [0, 1, 2]
    assert table["hr_at_20"].tolist() == [0.5] * 3
    assert table["batch_size"].tolist() == [8] * 3


def test_published_figures_stand_beside_runs_on_the_test_part_alone(tmp_path):
    published = pd.DataFrame(
        [["SR-GNN", "toy", None, None, "hr_at_20", 0.5]],
        columns=["model", "data", "split", "test_share", "metric", "value"],
    )
    for part in ("test", "validation"):
        written(tmp_path, epochs=1, evaluate_on=part)
    questions = comparison.by_question(load_records(tmp_path), "stamp")
    beside = {
        question: "SR-GNN" in results(group, "hr_at_20", published)[0]
        for question, group in questions.items()
    }
    assert beside == {
        "toy, SR-GNN's rules": True,
        "toy, SR-GNN's rules, validation part": False,
    }


def test_models_that_are_told_the_times_answer_a_question_of_their_own(tmp_path):
    published = pd.DataFrame(
        [["SVD++", "toy", None, None, "hr_at_20", 0.5]],
        columns=["model", "data", "split", "test_share", "metric", "value"],
    )
    for extension in ("none", "sets", "both"):
        written(tmp_path, epochs=1, extension=extension)
    questions = comparison.by_question(load_records(tmp_path), "stamp")
    found = {
        question: (len(group), "SVD++" in results(group, "hr_at_20", published)[0])
        for question, group in questions.items()
    }
    assert found == {
        "toy, SR-GNN's rules": (2, True),
        "toy, SR-GNN's rules, told the times": (1, False),
    }


def test_published_figures_stand_beside_runs_on_their_own_rules_alone(tmp_path):
    published = pd.DataFrame(
        [["SR-GNN", "toy", "srgnn", None, "hr_at_20", 0.5]],
        columns=["model", "data", "split", "test_share", "metric", "value"],
    )
    for rules in ({}, {"protocol": "srgnn"}, {"protocol": "modelzoo"}):
        written(tmp_path, epochs=1, **rules)  # an old record does not state the default
    questions = comparison.by_question(load_records(tmp_path), "stamp")
    beside = {
        question: ("SR-GNN" in results(group, "hr_at_20", published)[0], len(group))
        for question, group in questions.items()
    }
    assert beside == {
        "toy, SR-GNN's rules": (True, 2),
        "toy, the port's split": (False, 1),
    }


def test_a_published_figure_that_does_not_stand_is_marked(tmp_path):
    rows = [[name, "toy", "hr_at_20", 0.5, name] for name in ("no", "unclear")]
    published = pd.DataFrame(
        rows, columns=["model", "data", "metric", "value", "stands"]
    )
    written(tmp_path)
    peer = pd.DataFrame(
        [["peer", "toy", "hr_at_20", 0.4]], columns=published.columns[:4]
    )
    published = pd.concat([published, peer]).assign(split=None, test_share=None)
    values, _ = results(load_records(tmp_path), "hr_at_20", published)
    assert {"no †", "unclear", "peer"} <= values.keys()


def test_a_metric_that_older_records_lack_is_compared_among_those_that_have_it(
    tmp_path,
):
    written(tmp_path, epochs=1, metrics={"hr_at_20": 0.4})
    written(tmp_path, epochs=2, metrics={"hr_at_20": 0.5, "hr_at_5": 0.3})
    published = pd.read_csv(ROOT / "results" / "published.csv")
    values, ours = results(load_records(tmp_path), "hr_at_5", published)
    assert list(values.values()) == [[0.3]]
    assert len(ours) == 1


def test_a_seed_counts_once_wherever_its_data_lay(tmp_path):
    for path in ("ml-1m", "data/ml-1m"):
        written(tmp_path, data_path=path, epochs=1, metrics={"hr_at_20": 0.4})
    ((_, group),) = comparison.by_question(load_records(tmp_path), "stamp").items()
    (same,) = comparison.settings(group).values()
    assert len(group) == 2
    assert len(same) == 1


def test_types_of_products_compare_within_a_setting_and_a_machine(tmp_path):
    runs = [  # machine, type, embed_dim, examples/s
        ("old", "float32", 8, 100.0),
        ("new", "float32", 8, 200.0),
        ("new", "bfloat16", 8, 300.0),
        ("new", "bfloat16", 32, 900.0),
    ]
    for machine, dtype, dim, rate in runs:
        modes = {"precision_mode": dtype, "embed_dim": dim}
        _, path = written(tmp_path / machine, **modes)
        record = json.loads(path.read_text())
        record["device"] = {"name": machine, "matmul_dtype": dtype}
        record["timing"]["examples_per_second"] = rate
        path.write_text(json.dumps(record))
    table = comparison.precisions(load_records(tmp_path), "hr_at_20")
    speed = {("STAMP", "float32"): 1.0, ("STAMP", "bfloat16"): 1.5}
    assert table["speed"].to_dict() == speed
    assert comparison.precisions([], "hr_at_20").empty


def test_rows_of_a_bench_stand_beside_runs_on_their_split_with_their_seconds(tmp_path):
    row = {"batch_size": 1, "per_second": 9.0, "kind": "peer", "seconds": 7.0}
    rows = [{**row, "label": "GRU4Rec", "hr_at_20": 0.5}]
    (tmp_path / "bench").mkdir()
    bench = {"bench": "sessions", "device": {"name": "cpu"}, "rows": rows}
    (tmp_path / "bench" / "sessions.json").write_text(json.dumps(bench))
    turn = {"label": "DuckDB", "size": 10, "seconds": 2.0, "peak_mb": 3}
    prepared = {"bench": "data", "device": "cpu", "turns": [turn]}
    (tmp_path / "bench" / "data.json").write_text(json.dumps(prepared))
    benches = comparison.benches(str(tmp_path))
    assert benches["data"]["rows"].to_dict("records") == [turn]
    peers = comparison.peers(benches)
    for name, protocol, beside in (
        ("diginetica", "srgnn", True),
        ("diginetica", "modelzoo", False),
        ("toy", "srgnn", False),
    ):
        run = Run(
            "03_stamp", {"output_dir": str(tmp_path), "protocol": protocol},
            {**DATA, "name": name},
        )  # fmt: skip
        run.write({"hr_at_20": 0.4}, "stamp", "paper")
        group = [r for r in load_records(tmp_path) if r["run"] == run.name]
        table = comparison.compare(group, peers).set_index("name")
        assert ("GRU4Rec" in table.index) == beside
        if beside:
            assert table.loc["GRU4Rec", ["hr_at_20", "train_s"]].tolist() == [0.5, 7.0]
    assert comparison.peers({}).empty
