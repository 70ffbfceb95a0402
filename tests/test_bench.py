"""Every worker of the bench does a round, on a catalogue of its own and the sample."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from lib import sources

BENCH = sources.ROOT / "ci" / "bench"
STAND_IN = Path(__file__).parent / "stand_in"
FEW = {"N_ITEMS": 60, "TRAIN_SESSIONS": 30, "TEST_SESSIONS": 9}


@pytest.fixture
def worker(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module


@pytest.mark.parametrize(
    "kind", ["fit", "published", "raw", "floor", "evaluate", "recommend", "product"]
)
def test_every_worker_of_stamp_measures_what_it_is_asked(kind, worker, monkeypatch):
    for name, few in FEW.items():
        monkeypatch.setattr(worker("clicks"), name, few)
    steps = {"steps": 2} if kind in ("fit", "published", "raw") else {}
    one_round = worker("stamp_ours").prepare(kind, 16, device="cpu", **steps)
    done, seconds = one_round()
    assert done > 0
    assert seconds > 0


@pytest.mark.parametrize("kind", ["published", "naive", "best", "steps", "floor"])
def test_every_worker_of_mf_measures_what_it_is_asked(kind, worker):
    options = {"steps": {"batch_size": 64}}
    options["floor"] = {"batch_size": 64, "steps": 2}
    options["best"] = {"latent_dim": 2, "batch_size": 64, "epochs": 1}
    options["best"].update(learning_rate=0.01, regularization=0.1, parts=2)
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
    naive, modelzoo = worker("stamp_naive").Naive(61, 4), worker("lib.modelzoo")
    same = modelzoo.STAMP(61, 4)
    windows = np.array([[0, 0, 5, 60], [1, 2, 3, 4]], np.int32)
    empty = np.zeros(2), np.zeros(2, np.int64)
    scores = naive([*empty, windows[:, None]])
    np.testing.assert_allclose(scores, same(windows), rtol=1e-5)
    assert len(naive.losses) == len(same.losses) > 0
    np.testing.assert_allclose(sum(naive.losses), sum(same.losses), rtol=1e-5)


def test_both_ways_of_the_naive_group_train_on_windows_of_8(worker):
    for kind in ("cpu", "npu"):
        groups = worker("plans").groups("stamp", kind)
        rows = [row for name in groups if "naive" in name for row in groups[name]]
        assert {row["shown"]["window"] for row in rows} == {8}
        assert {row["script"] for row in rows} == {"stamp_naive.py", "stamp_ours.py"}
    windows_of = worker("inspect").signature(worker("stamp_naive").prepare).parameters
    assert windows_of["maxlen"].default == 8


@pytest.mark.parametrize("bench", ["stamp", "mf", "peers"])
@pytest.mark.parametrize("kind", ["cpu", "gpu", "npu"])
def test_a_plan_names_workers_that_there_are_and_the_rows_it_compares_with(
    bench, kind, worker
):
    plans = worker("plans")
    rows = [row for group in plans.groups(bench, kind).values() for row in group]
    for row in rows:
        assert (BENCH / row["script"]).is_file()
        if kind == "npu":  # it has no bfloat16
            assert row["shown"]["precision"] in ("float32", "float16")
    assert set(plans.COMPARE[bench]) <= {row["label"] for row in rows}
