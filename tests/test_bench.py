"""Every worker of the bench does a round, on a small catalogue and on the sample."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from lib import files
from lib.hardware.tensorflow import tf

BENCH = files.ROOT / "ci" / "bench"
STAND_IN = Path(__file__).parent / "stand_in"
NO_STEPS = ("floor", "evaluate", "recommend", "product")
FEW = {"N_ITEMS": 60, "TRAIN_SESSIONS": 30, "TEST_SESSIONS": 9}


@pytest.mark.parametrize(
    "kind",
    ["fit", "cosine", "neighbours", "published", "raw", "floor"]
    + ["evaluate", "recommend", "product"],
)
def test_every_worker_of_stamp_measures_what_it_is_asked(kind, worker, monkeypatch):
    for name, few in FEW.items():
        monkeypatch.setattr(worker("clicks"), name, few)
    steps = {"steps": 2} if kind not in NO_STEPS else {}
    one_round = worker("stamp_ours").prepare(kind, 16, device="cpu", **steps)
    done, seconds = one_round()
    assert done > 0
    assert seconds > 0


@pytest.mark.parametrize(
    "kind",
    ["published", "naive", "best", "als", "steps", "repeated", "floor"]
    + ["sweep als", "sweep gibbs"],
)
def test_every_worker_of_mf_measures_what_it_is_asked(kind, worker):
    options = {name: {"batch_size": 64} for name in ("steps", "repeated")}
    options["floor"] = {"batch_size": 64, "steps": 2}
    options["best"] = {"latent_dim": 2, "batch_size": 64, "epochs": 1}
    options["best"].update(learning_rate=0.01, regularization=0.1)
    options["als"] = {"latent_dim": 2, "epochs": 2, "regularization": 0.1}
    of_this_kind = {"device": "cpu", "threads": 0, **options.get(kind, {})}
    one_round = worker("mf_ours").prepare(kind, "sample", **of_this_kind)
    done, seconds, *found = one_round()
    assert done > 0
    assert seconds > 0
    json.dumps(found)


def test_the_published_way_computes_what_the_ported_network_computes(
    worker, monkeypatch
):
    """Scores and losses, padding and penalty included: only the graph differs."""
    for name, few in FEW.items():
        monkeypatch.setattr(worker("clicks"), name, few)
    naive, modelzoo = worker("stamp_naive").Naive(61, 4), worker("lib.models.published")
    same = modelzoo.STAMP(61, 4)
    windows = np.array([[0, 0, 5, 60], [1, 2, 3, 4]], np.int32)
    empty = np.zeros(2), np.zeros(2, np.int64)
    scores = naive([*empty, windows[:, None]])
    np.testing.assert_allclose(scores, same(windows), rtol=1e-5)
    assert len(naive.losses) == len(same.losses) > 0
    np.testing.assert_allclose(sum(naive.losses), sum(same.losses), rtol=1e-5)


def test_both_ways_of_the_naive_group_train_on_windows_of_8(worker):
    for kind in ("cpu", "npu"):
        groups = worker("cases").list_groups("stamp", kind)
        rows = [row for name in groups if "naive" in name for row in groups[name]]
        assert {row["shown"]["window"] for row in rows} == {8}
        assert {row["script"] for row in rows} == {"stamp_naive.py", "stamp_ours.py"}
    windows_of = worker("inspect").signature(worker("stamp_naive").prepare).parameters
    assert windows_of["maxlen"].default == 8


def test_peers_get_the_windows_that_ours_gets_padded_on_the_other_side(worker):
    clicks = worker("clicks")
    data = worker("lib.data.sessions").load("sample")
    index = np.arange(200)
    windows, lengths, targets = clicks.cut_windows(data.train, index, 5)
    model = worker("lib.models.stamp").STAMP(data.n_items, 4, maxlen=5)
    ours, columns = model.example_reader(data.train)(index)
    np.testing.assert_array_equal(targets - 1, columns)
    for window, length, own in zip(windows, lengths, ours):
        assert window[length:].tolist() == [0] * (5 - length)
        np.testing.assert_array_equal(window[:length], own[5 - length :])


def test_peers_are_judged_by_our_metrics(worker):
    clicks = worker("clicks")
    data = worker("lib.data.sessions").load("sample")
    markov = worker("lib.evaluation.session_baselines").Markov()
    markov.fit(data.train, data.n_items)

    def score(windows, lengths):
        last = windows[np.arange(len(lengths)), lengths - 1]
        return markov.scores(last[:, None])

    evaluate = worker("lib.evaluation.session_baselines").evaluate
    found = clicks.evaluate(score, data.test, batch_size=100)
    assert found == pytest.approx(evaluate(markov, data.test, (5, 10, 20)))


@pytest.mark.parametrize("bench", ["stamp", "mf", "peers", "sessions"])
@pytest.mark.parametrize("kind", ["cpu", "gpu", "npu"])
def test_a_plan_names_workers_that_there_are_and_the_rows_it_compares_with(
    bench, kind, worker
):
    cases = worker("cases")
    rows = [row for group in cases.list_groups(bench, kind).values() for row in group]
    for row in rows:
        assert (BENCH / row["script"]).is_file()
        if kind == "npu":  # it has no bfloat16
            assert row["shown"]["precision"] in ("float32", "float16")
    assert set(cases.COMPARE[bench]) <= {row["label"] for row in rows}


TURN = """
import atexit, os, sys
sys.path.insert(0, BENCH)
import work

def log(*words):
    with open(os.path.join(FOLDER, "log"), "a") as file:
        print(*words, file=file)

def prepare(name):
    log("start", name)
    atexit.register(log, "end", name)
    return lambda: (log("round", name), (1, 0.5))[1]

work.serve(prepare)
"""


@pytest.mark.parametrize("one_at_a_time", [True, False])
def test_rounds_alternate_and_a_card_never_has_two_workers(
    one_at_a_time, worker, tmp_path
):
    script = tmp_path / "turn.py"
    script.write_text(f"BENCH, FOLDER = {str(BENCH)!r}, {str(tmp_path)!r}\n{TURN}")
    group = [
        {"label": name, "script": str(script), "options": {"name": name}, "shown": {}}
        for name in "ab"
    ]
    group[1]["rounds"] = 1
    rows = worker("measure").measure(group, None, 2, one_at_a_time)
    assert [row["per_second"] for row in rows] == [2, 2]
    events = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    alive, most = set(), 0
    for what, name in events:
        alive = alive | {name} if what == "start" else alive
        most = max(most, len(alive))
        alive = alive - {name} if what == "end" else alive
    assert most == (1 if one_at_a_time else 2)
    in_turn = [name for what, name in events if what == "round"]
    warm = list("ab") if not one_at_a_time else []
    timed = list("aba") if not one_at_a_time else list("aabbaa")  # warm, timed
    assert in_turn == warm + timed


ON_A_FEW_CLICKS = """
import importlib, sys
sys.path.insert(0, BENCH)
sys.argv[0] = BENCH + "/worker.py"  # a worker: libraries print where errors go
import clicks, work
for name, few in FEW.items():
    setattr(clicks, name, few)
work.serve(importlib.import_module(MODULE).prepare)
"""


@pytest.mark.skipif(
    not tf.__version__.startswith("2.6."), reason="npu_device needs TensorFlow 2.6"
)
def test_the_published_way_and_ours_run_on_a_card_in_turn(
    worker, monkeypatch, tmp_path
):
    """Workers reach the caller's ``npu_device``, open it once each, break no rule."""
    monkeypatch.setenv("PYTHONPATH", str(STAND_IN))
    monkeypatch.setenv("STAND_IN_CALLS", str(tmp_path / "calls"))
    groups = worker("cases").list_groups("stamp", "npu")
    rows = groups["naive, float16"]
    for row in rows:
        script = tmp_path / row["script"]
        names = {"BENCH": str(BENCH), "FEW": FEW, "MODULE": script.stem}
        setting = "".join(f"{name} = {value!r}\n" for name, value in names.items())
        script.write_text(setting + ON_A_FEW_CLICKS)
        row["script"] = str(script)
        row["options"].update(batch_size=8, steps=2, device="npu")
    for row in rows[1:]:
        row["rounds"] = 1  # the first is opened again after the others: four processes
    measured = worker("measure").measure(rows, None, 2, one_at_a_time=True)
    assert [row["kind"] for row in measured] == ["naive", "published", "fit"]
    assert all(row["per_second"] > 0 for row in measured)
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert all(isinstance(call, list) for call in calls)  # a broken rule is a sentence
    assert [call for call in calls if call[0] == "opened"] == 4 * [["opened", 0]]
    modes = [call[2] for call in calls if call[:2] == ["option", "precision_mode"]]
    assert modes == 4 * ["allow_mix_precision"]
    # The ports train with plain Adam; ours in float16 with the loss scale of the card:
    # in its one process, to warm up and in the round.
    assert [call[0] for call in calls].count("NpuLossScaleOptimizer") == 2


def test_a_table_shows_when_each_rmse_was_reached_first(worker):
    curve = [[0.5, 0.87], [0.75, 0.8649], [1.25, 0.8512]]
    row = {"curve": curve, "tracing_s": 0.2}
    assert worker("measure").format_times(row).split() == ["0.75", "0.20"]
    curve.append([2.0, 0.85])
    assert worker("measure").format_times({"curve": curve}).split() == ["0.75", "2.00"]


@pytest.fixture(scope="module")
def cpu():
    """The record of the CPU, once from another process, as the bench asks for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        return importlib.import_module("measure").describe_device("cpu")


@pytest.fixture
def parse(worker, cpu, monkeypatch):
    """Reads the options of a bench, with the record of the CPU from the fixture."""
    measure = worker("measure")
    monkeypatch.setattr(measure, "describe_device", {"cpu": cpu}.__getitem__)
    return lambda *words: measure.parse_options([*words, "--device", "cpu"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["none", "stamp", "--only", "naif"], "--only naif: the groups are "),
        (["none", "peers"], "leave out --stack"),
        (["none", "stamp", "--rounds", "0"], "must be 1 or more"),
        (["none", "stamp", "--data", "x"], "reads no file"),
    ],
)
def test_a_bench_that_cannot_be_measured_says_why(words, sentence, parse, capsys):
    with pytest.raises(SystemExit):
        parse(*words)
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(("only", "some"), [("naive", False), ("batch 128", True)])
def test_peers_are_set_up_only_for_groups_that_have_some(only, some, parse, cpu):
    _, groups, opened = parse("x", "stamp", "--only", only)
    rows = [row for group in groups.values() for row in group]
    assert any(row.get("peer") for row in rows) == some
    own = [row for row in rows if not row.get("peer")]
    assert {row["options"]["device"] for row in own} == {opened["kind"]} == {"cpu"}
    assert opened == cpu
