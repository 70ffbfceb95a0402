"""A saved model is the same model when it is loaded, and names its run."""

import json
import shutil

import numpy as np
import pytest

from lib.data import ratings, sessions
from lib.errors import InputError
from lib.hardware.device import select_device
from lib.models import mf, optimizers, stamp
from lib.records.run import Run, describe
from lib.serving import trained
from lib.training.fit import fit, set_seed
from lib.training.schedule import Schedule


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A STAMP and an MF, trained for a few steps: ``{name: (model, data, folder)}``."""
    folder, made = tmp_path_factory.mktemp("runs"), {}
    device = select_device("cpu")
    clicks, stars = sessions.load("sample"), ratings.load("sample")
    for model, data, ids in (
        (
            stamp.STAMP(clicks.n_items, 8, 7, scale=9.0, dropout=0.2),
            clicks,
            {"item_ids": clicks.item_ids},
        ),
        (
            mf.MF(stars.n_users, stars.n_items, stars.global_mean, 4, scale=(1, 5)),
            stars,
            {"item_ids": stars.item_ids, "user_ids": stars.user_ids},
        ),
    ):
        set_seed(0)
        name = type(model).__name__
        run = Run(name, {"output_dir": str(folder)}, describe(data), device)
        trained.keep(run, model, **ids)
        schedule = Schedule(64, learning_rate=0.02, steps_per_epoch=3)
        fit(model, data.train, schedule, device, run, verbose=False)
        made[name] = model, data, run.folder
    return made


def test_a_loaded_stamp_ranks_as_the_trained_one(runs):
    model, data, folder = runs["STAMP"]
    loaded = trained.load(folder)
    windows, _ = model.example_reader(data.test)(np.arange(50))
    np.testing.assert_array_equal(loaded.model(windows), model(windows))
    np.testing.assert_array_equal(loaded.item_ids, data.item_ids)
    assert loaded.model.maxlen == 7


def test_a_loaded_mf_predicts_as_the_trained_one(runs):
    model, data, folder = runs["MF"]
    loaded = trained.load(folder)
    assert mf.evaluate(loaded.model, data.test) == mf.evaluate(model, data.test)
    np.testing.assert_array_equal(loaded.user_ids, data.user_ids)
    np.testing.assert_array_equal(loaded.item_ids, data.item_ids)


def test_a_model_of_another_kind_is_refused(runs):
    with pytest.raises(
        InputError, match="contains the model MF, not STAMP.*notebook 03"
    ):
        trained.load(runs["MF"][2], "STAMP")


def test_frozen_parts_do_not_move():
    clicks = sessions.load("sample")
    model = stamp.STAMP(clicks.n_items, 8, 7, frozen=("items", "attention"))
    model.compile(optimizers.make_adam(0.02, 3), loss=model.training_loss)
    windows, targets = model.example_reader(clicks.train)(np.arange(64))
    model(windows)
    before = [weight.numpy() for weight in model.weights]
    model.fit(windows, targets, verbose=0)
    moved = {
        weight.name.split("/")[-1].split(":")[0]: not np.array_equal(old, weight)
        for old, weight in zip(before, model.weights)
    }
    still = {*stamp.PARTS["items"], *stamp.PARTS["attention"]} & {*model.named_weights}
    assert {name for name, it_moved in moved.items() if not it_moved} == still
    with pytest.raises(
        InputError, match='frozen="head": allowed are "items", "attention"'
    ):
        stamp.STAMP(10, frozen=("head",))


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (
            lambda folder: shutil.rmtree(folder),
            "contains no model.json: choose the whole folder",
        ),
        (lambda folder: shutil.rmtree(folder / "ckpt"), "contains no checkpoint"),
        (
            lambda folder: rewrite(folder, "{"),
            "does not describe the model of its checkpoint",
        ),
        (
            lambda folder: change(folder, arguments={"n_items": 3, "maxlen": "7"}),
            "does not describe the model of its checkpoint",
        ),
        (
            lambda folder: change(folder, arguments={"n_items": 3, "maxlen": 0}),
            "does not describe the model of its checkpoint",
        ),
        (
            lambda folder: change(folder, item_ids=[1]),
            "does not describe the model of its checkpoint",
        ),
        (
            lambda folder: change(folder, **{"class": "os"}),
            "does not describe the model of its checkpoint",
        ),
        (lambda folder: widen(folder), "does not describe the model of its checkpoint"),
    ],
)
def test_a_folder_without_a_model_is_refused_in_one_sentence(
    runs, tmp_path, break_it, sentence
):
    folder = tmp_path / "run"
    shutil.copytree(runs["STAMP"][2], folder)
    break_it(folder)
    with pytest.raises(InputError, match=sentence):
        trained.load(folder)


def rewrite(folder, text):
    (folder / "model.json").write_text(text)


def change(folder, **values):
    kept = json.loads((folder / "model.json").read_text())
    rewrite(folder, json.dumps({**kept, **values}))


def widen(folder):
    """As if the file came from another run, with longer vectors."""
    kept = json.loads((folder / "model.json").read_text())
    kept["arguments"]["embed_dim"] += 1
    rewrite(folder, json.dumps(kept))
