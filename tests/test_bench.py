"""Every worker of the bench does a round, on a catalogue of its own and the sample."""

import importlib
import json

import pytest

from lib import sources


@pytest.fixture
def worker(monkeypatch):
    monkeypatch.syspath_prepend(str(sources.ROOT / "ci" / "bench"))
    return importlib.import_module


@pytest.mark.parametrize(
    "kind", ["fit", "raw", "floor", "evaluate", "recommend", "product"]
)
def test_every_worker_of_stamp_measures_what_it_is_asked(kind, worker, monkeypatch):
    for name, few in (("N_ITEMS", 60), ("TRAIN_SESSIONS", 30), ("TEST_SESSIONS", 9)):
        monkeypatch.setattr(worker("clicks"), name, few)
    steps = {"steps": 2} if kind in ("fit", "raw") else {}
    one_round = worker("stamp_ours").prepare(kind, 16, **steps)
    done, seconds = one_round()
    assert done > 0
    assert seconds > 0


@pytest.mark.parametrize("kind", ["published", "naive", "best", "steps", "floor"])
def test_every_worker_of_mf_measures_what_it_is_asked(kind, worker, monkeypatch):
    ours = worker("mf_ours")
    monkeypatch.setattr(ours, "open_device", lambda *_, **__: None)  # it sets threads
    options = {"steps": {"batch_size": 64, "matmul_dtype": "float32"}}
    options["floor"] = {"batch_size": 64, "steps": 2}
    options["best"] = {"latent_dim": 2, "batch_size": 64, "epochs": 1}
    options["best"].update(learning_rate=0.01, regularization=0.1, parts=2)
    one_round = ours.prepare(kind, "sample", **options.get(kind, {}))
    done, seconds, *found = one_round()
    assert done > 0
    assert seconds > 0
    json.dumps(found)


def test_a_plan_names_workers_that_there_are_and_the_rows_it_compares_with(worker):
    for plan in worker("plans").PLANS.values():
        rows = [row for group in plan["groups"].values() for row in group]
        for row in rows:
            assert (sources.ROOT / "ci" / "bench" / row["script"]).is_file()
        assert set(plan["compare"]) <= {row["label"] for row in rows}
