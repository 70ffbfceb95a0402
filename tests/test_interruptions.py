"""No run is lost: killed at any moment, alone in its folder, out of space, diverged."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from shared import no_space, refusal

from lib import files
from lib.data import ratings, sessions
from lib.hardware import collectives
from lib.hardware.device import select_device
from lib.hardware.tensorflow import tf
from lib.models import mf, stamp
from lib.records.run import KEYS, Run, describe
from lib.records.run import load as load_records
from lib.training import checkpoints
from lib.training.checkpoints import Checkpoints
from lib.training.fit import LossCheck, Schedule, fit, set_seed

ROOT = Path(__file__).resolve().parents[1]
CPU = select_device("cpu", "must_keep_origin_dtype")
pytestmark = pytest.mark.filterwarnings("ignore:Even though the .tf.config:UserWarning")

# --- kill -9 -------------------------------------------------------------------------

# Starts a training again and again in processes that die, by their own hand or another,
# at moments drawn from a seed. They are forked from a process that has imported
# TensorFlow and not used it, so that none has to import it again.
KILLED_AGAIN_AND_AGAIN = """
import json, os, random, signal, sys, threading, time, traceback
from functools import partial
from glob import glob
from pathlib import Path

from lib.data import ratings
from lib.hardware.device import Device
from lib.models import mf
from lib.records.run import Run, describe
from lib.training.fit import Schedule, fit, set_seed
from lib.hardware.tensorflow import tf

OUTPUT, EPOCHS = Path(sys.argv[1]), 40
DATA, CHANCE = ratings.load("sample"), random.Random(7)
MANAGER = tf.train.CheckpointManager


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(owner, name, call, when):
    # Dies before or after the n-th call of a function from now on.
    function, calls = getattr(owner, name), []

    def dying(*args, **kwargs):
        calls.append(1)
        if when == "before" and len(calls) == call:
            die()
        answer = function(*args, **kwargs)
        if when == "after" and len(calls) == call:
            die()
        return answer

    setattr(owner, name, dying)


def die_soon(seconds):
    threading.Thread(target=lambda: (time.sleep(seconds), die()), daemon=True).start()


def die_when_written(ending):
    # As soon as a file of a checkpoint comes up that was not there.
    def names():
        return {name for name in glob(f"{OUTPUT}/*/*/ckpt/*") if ".json" not in name}

    there = names()

    def watch():
        while not any(name.endswith(ending) for name in names() - there):
            pass
        die()

    threading.Thread(target=watch, daemon=True).start()


def train(output, early=None, late=None):
    if early:
        early()
    set_seed(0)
    device = Device("cpu", "", "must_keep_origin_dtype", "float32", "")
    run = Run("killed", {"output_dir": str(output)}, describe(DATA), device)
    model = mf.MF(DATA.n_users, DATA.n_items, DATA.global_mean, 4)
    evaluations = []

    def evaluate():
        evaluations.append(mf.evaluate(model, DATA.test))
        if late and len(evaluations) == 1:
            late()  # the first epoch of this attempt is about to be saved
        if early and len(evaluations) == 3:
            time.sleep(60)  # a quick machine, too, is killed before it is through
        return evaluations[-1]

    schedule = Schedule(1024, EPOCHS, 0.02, "cosine", steps_per_epoch=3)
    history, timing = fit(model, DATA.train, schedule, device, run, evaluate)
    run.write(history[-1], model="mf", history=history, timing=timing)


def moments():
    # Of twenty attempts: the calls at their start, and after their first epoch.
    saving = [(os, "replace", call) for call in (1, 2)]
    saving += [(MANAGER, name, 1) for name in ("save", "_record_state", "_sweep")]
    saving += [(MANAGER, "_record_state", 2)]
    saving = [(*place, when) for place in saving for when in ("before", "after")]
    drawn = [
        *(partial(die_at, *place) for place in CHANCE.sample(saving, 9)),
        *(partial(die_when_written, ending) for ending in ("", ".index")),
        *(partial(die_soon, CHANCE.uniform(0, 0.03)) for _ in range(2)),
    ]
    drawn = [(None, moment) for moment in drawn]
    early = [partial(die_soon, CHANCE.uniform(0, 1.5)) for _ in range(7)]
    drawn += [(moment, None) for moment in early]
    CHANCE.shuffle(drawn)
    return drawn


def attempt(output, *moments):
    # Trains in a separate process; True if it was killed.
    child = os.fork()
    if not child:
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            train(output, *moments)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit("an attempt failed")
    return os.WIFSIGNALED(status)


def saved():
    # Epochs and seconds of the checkpoint that counts: the one that is named.
    for path in OUTPUT.glob("*/*/ckpt/checkpoint"):
        name = path.read_text().split('"')[1]
        state = json.loads(path.with_name(f"{name}.json").read_text())
        return len(state["history"]), state["wall_s"]
    return 0, 0.0


kills, states = 0, []
for early, late in moments():
    kills += attempt(OUTPUT, early, late)
    states.append(saved())
finished = not attempt(OUTPUT) and not attempt(OUTPUT.with_name("unbroken"))
print(json.dumps([kills, finished, states]))
"""


def record_of(folder):
    (record,) = load_records(folder)
    return record


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows does not fork")
def test_a_training_killed_twenty_times_ends_as_an_unbroken_one(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AGAIN_AND_AGAIN, str(tmp_path / "killed")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    kills, finished, states = json.loads(done.stdout.splitlines()[-1])
    assert kills == 20
    assert finished
    assert states == sorted(states)  # neither epochs nor seconds are ever lost
    assert states[-1][0] > 0
    killed, unbroken = (record_of(tmp_path / name) for name in ("killed", "unbroken"))
    assert [row["epoch"] for row in killed["history"]] == list(range(1, 41))
    for row, expected in zip(killed["history"], unbroken["history"]):
        assert row == pytest.approx(expected, abs=1e-6)
    assert killed["metrics"] == pytest.approx(unbroken["metrics"], abs=1e-6)
    for key in set(KEYS) - {"parameters", "history", "metrics", "timing"}:
        assert killed[key] == unbroken[key]
    assert len(killed["timing"]["epoch_s"]) == 40
    assert killed["timing"]["wall_time_s"] > states[-1][1] > 0
    (folder,) = (tmp_path / "killed" / "0").glob("killed-*")
    left = {path.name.partition(".")[0] for path in (folder / "ckpt").iterdir()}
    assert left == {"checkpoint", "ckpt-40"}


# --- a small training in this process ------------------------------------------------


class Cut(Exception):
    """Stands for the power cable."""


@pytest.fixture(autouse=True)
def eager(request):
    """Small trainings build no graph; those of a loop with many steps a call do."""
    tf.config.run_functions_eagerly("inside_an_epoch" not in request.node.name)
    yield
    tf.config.run_functions_eagerly(False)


def train(
    folder,
    cut_after=None,
    epochs=3,
    steps=2,
    rate=0.01,
    mean=None,
    loss="mse",
    run=None,
    device=CPU,
):
    """Trains MF on the sample; returns its run."""
    data = ratings.load("sample")
    set_seed(0)
    run = run or run_in(folder)
    mean = mean or data.global_mean
    model = mf.MF(data.n_users, data.n_items, mean, 4, regularization=0.0)
    model.training_loss = loss
    rows = []

    def evaluate():
        rows.append(mf.evaluate(model, data.test))
        if len(rows) == cut_after:
            raise Cut
        return rows[-1]

    schedule = Schedule(4096, epochs, rate, steps_per_epoch=steps)
    history, timing = fit(model, data.train, schedule, device, run, evaluate)
    run.history = history
    run.write(rows[-1] if rows else {}, model="mf", history=history, timing=timing)
    return run


def run_in(folder):
    data = ratings.load("sample")
    parameters = {"output_dir": str(folder), "epochs": 3}
    return Run("small", parameters, describe(data), CPU)


def cut(folder, after=3):
    with pytest.raises(Cut):
        train(folder, cut_after=after)
    return run_in(folder)


def content(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def state_of(run):
    (path,) = run.folder.glob("ckpt/ckpt-*.json")
    return path, json.loads(path.read_text())


def test_the_wall_time_is_the_sum_over_all_attempts(tmp_path):
    run = cut(tmp_path)
    path, state = state_of(run)
    path.write_text(json.dumps({**state, "wall_s": 1000.0}))
    timing = json.loads(train(tmp_path).write({}).read_text())["timing"]
    assert timing["wall_time_s"] > 1000
    assert timing["started_at"] == state["started_at"] < timing["finished_at"]


def test_the_cell_of_an_interrupted_training_run_again_counts_no_second_twice(tmp_path):
    run = run_in(tmp_path)
    run.continue_clock("2020-01-01", 1000.0)
    for _ in range(3):
        run.continue_clock("2020-01-01", 5000.0)
    assert run.wall_s() < 2000


def test_a_run_that_died_before_its_record_is_not_trained_again(tmp_path):
    train(tmp_path)
    repeated = run_in(tmp_path)  # over an older record
    repeated.write = lambda *args, **options: None
    train(tmp_path, run=repeated)
    said = train(tmp_path)
    assert "resumed after epoch 3 of 3" in (said.folder / "train_0.log").read_text()
    assert said.recorded_at() == repeated.started_at


def test_a_finished_cell_run_again_trains_from_scratch_and_restarts_its_clock(tmp_path):
    run = train(tmp_path)
    first = run.started_at
    train(tmp_path, run=run)
    assert run.started_at > first
    assert "resumed" not in (run.folder / "train_0.log").read_text()


# --- inside an epoch -----------------------------------------------------------------

LONG_EPOCHS = {  # model, examples and steps a call
    "MF": (lambda data: mf.MF(data.n_users, data.n_items, 3.5, 4), ratings.load, 1),
    "MF, calls of 4": (
        lambda data: mf.MF(data.n_users, data.n_items, 3.5, 4),
        ratings.load,
        4,
    ),
    "STAMP": (lambda d: stamp.STAMP(d.n_items, 8, 5, dropout=0.2), sessions.load, 2),
}


def train_long_epochs(folder, name, shuffle="blocks", cut_at=None, device=CPU):
    """Two epochs of 24 steps with a checkpoint every 6; cut after one of them."""
    make, load, call = LONG_EPOCHS[name]
    data = load("sample")
    set_seed(0)
    model = make(data)
    parameters = {"output_dir": str(folder), "shuffle": shuffle}
    run = Run("long", parameters, describe(data), device)
    options = {"checkpoint_every": 6, "shuffle": shuffle, "static": True}
    schedule = Schedule(64, 2, 0.01, "cosine", "none", 24, call, **options)
    with pytest.MonkeyPatch.context() as patch:
        if cut_at:
            save, saved = Checkpoints.save, []

            def save_and_cut(store, progress):
                save(store, progress)
                saved.append(1)
                if len(saved) == cut_at:
                    raise Cut

            patch.setattr(Checkpoints, "save", save_and_cut)
        history, timing = fit(model, data.train, schedule, device, run, verbose=False)
    return history, [np.asarray(weight) for weight in model.trainable_variables], run


@pytest.mark.parametrize(
    ("name", "shuffle", "cuts"),
    [
        ("MF", "blocks", (2, 1, 3)),  # after steps 12 and 18 of epoch 1, 12 of epoch 2
        ("MF, calls of 4", "all", (3,)),
        ("STAMP", "blocks", (1, 5)),
    ],
)
def test_a_run_cut_inside_an_epoch_ends_as_an_unbroken_one(
    tmp_path, name, shuffle, cuts
):
    history, weights, _ = train_long_epochs(tmp_path / "unbroken", name, shuffle)
    for cut_at in cuts:
        with pytest.raises(Cut):
            train_long_epochs(tmp_path / "cut", name, shuffle, cut_at)
    found, resumed, run = train_long_epochs(tmp_path / "cut", name, shuffle)
    assert found == history
    for weight, expected in zip(resumed, weights):
        np.testing.assert_array_equal(weight, expected)
    log = (run.folder / "train_0.log").read_text()
    assert len(re.findall(r"resumed after step \d+ of epoch", log)) == len(cuts)
    left = {path.name.partition(".")[0] for path in (run.folder / "ckpt").iterdir()}
    assert len(left) == 2  # "checkpoint", and one of them


def test_the_first_of_two_workers_resumes_inside_an_epoch_too(tmp_path, monkeypatch):
    """By the loop for several TensorFlow workers, without the others."""
    monkeypatch.setattr(collectives, "mean", lambda _, value: value)
    device = replace(CPU, workers=2)
    history, weights, _ = train_long_epochs(tmp_path / "a", "MF", device=device)
    with pytest.raises(Cut):
        train_long_epochs(tmp_path / "b", "MF", cut_at=2, device=device)
    found, resumed, _ = train_long_epochs(tmp_path / "b", "MF", device=device)
    for row, expected in zip(found, history):
        assert row == pytest.approx(expected, rel=1e-6)
    for weight, expected in zip(resumed, weights):
        np.testing.assert_array_equal(weight, expected)


def test_a_state_inside_an_epoch_that_the_run_cannot_have_is_refused(tmp_path):
    with pytest.raises(Cut):
        train_long_epochs(tmp_path, "MF, calls of 4", cut_at=1)
    (path,) = tmp_path.rglob("ckpt/ckpt-1.json")
    state = json.loads(path.read_text())
    for partial in ([7, 1.0, 9.0, 6], [24, 1.0, 9.0, 6], [1], [-4] * 4):
        path.write_text(json.dumps({**state, "partial": partial}))
        message = refusal(train_long_epochs, tmp_path, "MF, calls of 4")
        assert "ckpt-1.json does not belong to it" in message


# --- whose folder it is --------------------------------------------------------------


def test_a_second_training_in_the_same_folder_is_refused_and_changes_nothing(tmp_path):
    run = cut(tmp_path)
    before = content(tmp_path)
    with files.open_log(run.folder / "train_0.log"):
        assert "another training is at work in this folder" in refusal(train, tmp_path)
    assert content(tmp_path) == before
    assert len(train(tmp_path).history) == 3  # the lock went with its holder


def test_workers_that_would_resume_after_different_epochs_end_and_change_nothing(
    tmp_path, monkeypatch
):
    """Two workers whose folders are not shared: 2 epochs are done here, none there."""
    monkeypatch.setattr(checkpoints, "FAREWELL_S", 0)
    cut(tmp_path)
    before = content(tmp_path)
    others = iter([0.0, 1.0])  # of the other worker: its epoch, its distance
    monkeypatch.setattr(
        collectives, "mean", lambda _, value: (value + next(others)) / 2
    )
    sentence = "resume from checkpoint 2, others from another one: .* all of them share"
    assert re.search(sentence, refusal(train, tmp_path))
    assert content(tmp_path) == before


def test_a_worker_that_stands_at_the_mean_of_the_others_ends_with_them(monkeypatch):
    """Three workers are at checkpoints 0, 2 and 4; each must end."""
    monkeypatch.setattr(checkpoints, "FAREWELL_S", 0)
    means = iter([2.0, 4 / 3])
    monkeypatch.setattr(collectives, "mean", lambda *_: next(means))
    model = tf.keras.Sequential([tf.keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.build((None, 1))
    run = SimpleNamespace(chief_folder=Path("job"), name="job-1")
    worker = Checkpoints(run, model, replace(CPU, workers=3, rank=1))
    assert "from checkpoint 2, others" in refusal(worker._agree_on, 2)


def test_the_loss_of_an_epoch_is_the_mean_over_the_workers(tmp_path, monkeypatch):
    alone = [row["loss"] for row in train(tmp_path / "alone").history]
    monkeypatch.setattr(collectives, "mean", lambda _, value: (value + 5.0) / 2)
    monkeypatch.setattr(Checkpoints, "_agree_on", lambda *_: None)
    two = [row["loss"] for row in train(tmp_path / "two").history]
    assert two == pytest.approx([(loss + 5.0) / 2 for loss in alone])


def change_state(folder, **values):
    path, state = state_of(run_in(folder))
    path.write_text(json.dumps({**state, **values}))


def change_record(folder, **values):
    path = next(folder.rglob("result.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def point_outside(folder):
    for path in folder.rglob("ckpt/checkpoint"):
        path.write_text(
            'model_checkpoint_path: "ckpt-2"\n'
            f'all_model_checkpoint_paths: "{folder}/precious/ckpt-1"\n'
            'all_model_checkpoint_paths: "ckpt-2"\n'
        )


def spoil(folder, pattern, content=b"\xff\x00 nothing"):
    for path in folder.rglob(f"ckpt/{pattern}"):
        path.write_bytes(content)


def remove(folder, pattern):
    for path in folder.rglob(f"ckpt/{pattern}"):
        path.unlink()


FOREIGN = {
    "of another run": (lambda f: change_state(f, run="other-123"), "of the run other"),
    "of another epoch": (
        lambda f: change_state(
            f, history=[{"epoch": 1, "loss": 1.0}], epoch_s=[1.0], steady=[1, 1.0]
        ),
        "ckpt-2.json does not belong to it",
    ),
    "no state": (lambda f: remove(f, "*.json"), "ckpt-2.json does not belong"),
    "no JSON": (lambda f: spoil(f, "*.json"), "ckpt-2.json does not belong"),
    "nested": (lambda f: spoil(f, "*.json", b"[" * 10**5), "does not belong"),
    "empty": (lambda f: spoil(f, "*.json", b"{}"), "does not belong"),
    "no tensors": (lambda f: remove(f, "*.data*"), "does not fit the model"),
    "no index": (lambda f: remove(f, "*.index"), "does not hold the checkpoint"),
    "no names": (lambda f: spoil(f, "checkpoint"), "does not hold the checkpoint"),
    "outside": (point_outside, "does not hold the checkpoint that it names"),
    "damaged index": (lambda f: spoil(f, "*.index"), "does not fit the model"),
    "cut tensors": (lambda f: spoil(f, "*.data*"), "does not fit the model"),
}


@pytest.fixture(scope="module")
def cut_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut")
    cut(folder)
    return folder


@pytest.mark.parametrize(("break_it", "sentence"), FOREIGN.values(), ids=FOREIGN)
def test_a_checkpoint_that_is_not_this_run_s_is_refused_and_kept(
    cut_run, tmp_path, break_it, sentence
):
    shutil.copytree(cut_run, tmp_path / "copy")
    break_it(tmp_path / "copy")
    before = content(tmp_path)
    assert sentence in refusal(train, tmp_path / "copy")
    assert content(tmp_path) == before


def test_fewer_epochs_than_there_are_is_refused(cut_run):
    assert "already has 2 epochs, and epochs=1" in refusal(train, cut_run, epochs=1)


@pytest.mark.parametrize(
    "change",
    [
        {"run": "other"},
        {"notebook": "other"},
        {"parameters": {"epochs": 4}},
        {"data": {"name": "sample", "sha256": "0", "counts": {}}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_record_of_another_run_is_refused_before_anything_is_trained(
    tmp_path, change
):
    run_in(tmp_path).write({})
    change_record(tmp_path, **change)
    before = content(tmp_path)
    assert "is the record of another run" in refusal(run_in, tmp_path)
    assert content(tmp_path) == before


# --- nowhere to write ----------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A disk of a few kB; what mounts it can also make it read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        try:
            return subprocess.run(command, capture_output=True).returncode == 0
        except OSError:
            return False

    if not mount("size=200k"):
        pytest.skip("only root mounts a small disk")
    yield folder, mount
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_the_training_in_one_sentence_and_keeps_its_checkpoint(
    small_disk,
):
    folder, _ = small_disk
    run = cut(folder)
    free = os.statvfs(folder)
    fill = folder / "fill"
    fill.write_bytes(b"x" * (free.f_bavail * free.f_bsize - 8192))
    message = refusal(train, folder)
    assert "cannot be written (" in message
    assert "free some space" in message
    left = {path.name for path in (run.folder / "ckpt").iterdir()}
    assert {name.partition(".")[0] for name in left} == {"checkpoint", "ckpt-2"}
    fill.unlink()
    train(folder)
    assert "resumed after epoch 2 of 3" in (run.folder / "train_0.log").read_text()


def test_a_read_only_disk_is_reported_in_one_sentence(small_disk):
    folder, mount = small_disk
    cut(folder)
    assert mount("remount,ro,size=200k")
    assert "cannot be written (Read-only file system)" in refusal(train, folder)
    assert "cannot be made (Read-only" in refusal(run_in, folder / "new")


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch, function):
    path = tmp_path / "result.json"
    files.write_text(path, "old")
    monkeypatch.setattr(files.os, function, no_space)
    message = refusal(files.write_text, path, "new")
    assert message.startswith(f"{path} cannot be written (No space left on device)")
    assert content(tmp_path) == {Path("result.json"): b"old"}


def test_a_log_that_cannot_be_written_ends_the_training(tmp_path):
    log = cut(tmp_path).folder / "train_0.log"
    log.unlink()
    log.symlink_to("/dev/full")
    sentence = f"{log} cannot be written (No space left on device)"
    assert refusal(train, tmp_path).startswith(sentence)
    log.unlink()
    log.mkdir()
    assert f"{log} cannot be written (Is a directory)" in refusal(train, tmp_path)


# --- a loss that is lost -------------------------------------------------------------


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_checkpoint(tmp_path):
    run = cut(tmp_path)
    before = content(run.folder / "ckpt")
    message = refusal(train, tmp_path, mean=float("nan"))
    assert message == (
        "the loss is nan at step 1 of epoch 3, with learning rate 0.01 and matrix "
        "products in float32: lower learning_rate, or use "
        'precision_mode="must_keep_origin_dtype" (last checkpoint: epoch 2).'
    )
    assert content(run.folder / "ckpt") == before
    assert message in (run.folder / "train_0.log").read_text()


def saturated(targets, predicted):
    """A squared error in arithmetic that ends at 65504, as float16's on an NPU."""
    error = tf.reduce_mean(tf.square(targets - predicted))
    return tf.minimum(error, 65504.0) + tf.zeros_like(targets[:, 0])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_loss_stuck_where_arithmetic_ends_is_found_within_a_step_group(
    tmp_path, workers
):
    """By Keras and by the loop for several workers, of which this is the first."""
    device = replace(CPU, workers=workers)
    options = {"epochs": 300, "rate": 1e3, "loss": saturated, "device": device}
    message = refusal(train, tmp_path, **options)
    assert message.startswith("the loss is stuck at 65504 for 100 steps at step ")
    assert "with learning rate 1e+03 and matrix products in float32" in message


@tf.custom_gradient
def overflowing(targets, predicted):
    """A squared error whose gradient overflows."""
    loss = tf.reduce_mean(tf.square(targets - predicted), axis=-1)
    return loss, lambda _: (None, tf.fill(tf.shape(predicted), float("inf")))


def test_weights_that_are_lost_in_the_last_step_are_not_saved(tmp_path):
    run = run_in(tmp_path)
    message = refusal(train, tmp_path, loss=overflowing, epochs=1, steps=1)
    assert message.startswith("weights are not finite at the end of epoch 1")
    assert not (run.folder / "ckpt").exists()


def faults(step_losses, epoch_steps, dtype="float32", first=None):
    """The faults that a check finds in these losses, from means as Keras makes them."""
    check, found = LossCheck(first), []
    for start in range(0, len(step_losses), epoch_steps):
        check.start_epoch()
        total = np.zeros((), dtype)
        for n, loss in enumerate(step_losses[start : start + epoch_steps], 1):
            total = total + np.asarray(loss, dtype)
            found.append(check.find_fault(float(total / np.asarray(n, dtype))))
    return found


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_is_found_at_its_step(bad):
    said = faults([8.0, 7.0, bad], 10)
    assert said == [None, None, f"is {bad}"]


@pytest.mark.parametrize("epoch_steps", [1, 7, 150, 3000])
@pytest.mark.parametrize("level", [65504.0, 3e30, 8.7])
def test_a_stuck_loss_is_found_after_a_step_group(epoch_steps, level):
    before = [8.0 + (n * 7919 % 13) / 50 - n / 500 for n in range(200)]
    said = faults([*before, *[level] * 101], epoch_steps)
    assert said[:-1] == [None] * 300
    words = said[-1].split()
    assert " ".join(words[:3] + words[4:]) == "is stuck at for 100 steps"
    assert float(words[3]) == pytest.approx(level, rel=1e-3)


LEGITIMATE = {
    "frozen, the same batch again": [8.0] * 500,
    "finished": [8.0, 4.0, *[1e-7] * 500],
    "exactly zero": [8.0, *[0.0] * 500],
    "worse, and moving": [1.0 + n / 100 + (n * 7919 % 13) / 500 for n in range(500)],
    "a spike": [*[1.0] * 5, 1e9, *[1.2 + (n * 7919 % 13) / 99 for n in range(500)]],
    "stuck for less than a group": [8.0, *[9.0] * 99, 8.9, *[9.0] * 99],
    "negative": [-1.0, *[-2.0] * 500],
}


@pytest.mark.parametrize("epoch_steps", [1, 7, 10_000])
@pytest.mark.parametrize("step_losses", LEGITIMATE.values(), ids=LEGITIMATE)
def test_a_loss_that_is_not_stuck_raises_no_alarm(step_losses, epoch_steps):
    assert set(faults(step_losses, epoch_steps)) == {None}


def test_a_long_epoch_of_small_changes_raises_no_alarm():
    step_losses = [1.0] + [2.0 + (n * 7919 % 13) / 1e3 for n in range(60_000)]
    assert set(faults(step_losses, 60_001)) == {None}
