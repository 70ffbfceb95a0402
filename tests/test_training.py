"""An interrupted run ends like an unbroken one, and each records its speed."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from lib.data import ratings, sessions
from lib.errors import InputError
from lib.hardware.device import select_device
from lib.hardware.tensorflow import tf
from lib.models import mf, stamp
from lib.records.run import Run, describe
from lib.training import fit as training
from lib.training.checkpoints import Progress
from lib.training.fit import Monitor, Schedule, _summarise_timing, fit, set_seed

CPU = select_device("cpu", "must_keep_origin_dtype")


class Cut(Exception):
    """Stands for the power cable."""


def train(
    folder,
    cut_after=None,
    epochs=3,
    precision_mode="must_keep_origin_dtype",
    evaluate_every=1,
):
    """Trains STAMP on the sample; returns its history, or None where it was cut."""
    data = sessions.load("sample")
    device = select_device("cpu", precision_mode)
    set_seed(0)
    run = Run("test", {"output_dir": str(folder)}, describe(data), device)
    model = stamp.STAMP(
        data.n_items, 16, 10, scale=8.0, dropout=0.1, matmul_dtype=device.cast_dtype
    )
    schedule = Schedule(512, epochs, 0.01, "cosine", evaluate_every=evaluate_every)
    evaluations = []

    def evaluate():
        evaluations.append(stamp.evaluate(model, data.test))
        if len(evaluations) == cut_after:
            raise Cut
        return evaluations[-1]

    try:
        history, timing = fit(model, data.train, schedule, device, run, evaluate)
    except Cut:
        return run, None, None
    return run, history, timing


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return train(tmp_path_factory.mktemp("unbroken"))


def test_training_learns_and_says_how_fast(unbroken):
    run, history, timing = unbroken
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history[-1]["loss"] < history[0]["loss"] - 0.5
    assert history[-1]["hr_at_20"] > history[0]["hr_at_20"]
    assert timing["examples_per_second"] > 0
    assert timing["first_step_s"] > 0
    assert (run.folder / "train_0.log").read_text().count("\n") >= 3
    assert list((run.folder / "ckpt").glob("ckpt-3.index"))


@pytest.mark.parametrize(("every", "judged"), [(2, [2, 3]), (3, [3]), (50, [3])])
def test_epochs_without_evaluation_change_no_number(unbroken, tmp_path, every, judged):
    _, history, _ = train(tmp_path, evaluate_every=every)
    assert [row["epoch"] for row in history if "hr_at_20" in row] == judged
    for row, of_all in zip(history, unbroken[1]):
        assert row == {name: of_all[name] for name in row}


# --- how fast ------------------------------------------------------------------------


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def time(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds


def drive(monkeypatch, schedule, n_examples=25, first=10.0, step=0.5):
    """Calls the monitor as Keras does; evaluation takes 100 s, a checkpoint 1,000 s.

    Returns the lines of the log and the timing that ``fit`` returns.
    """
    clock, lines, shown, progress = Clock(), [], [], Progress()
    monkeypatch.setattr(training, "time", clock)
    plan = schedule.plan(n_examples)

    def evaluate():
        clock.wait(100)
        return {"hr_at_20": 0.25}

    def report(line, on_screen=True):
        lines.append(line)
        shown.extend([line] if on_screen else [])

    def save(progress):
        clock.wait(1000)

    monitor = Monitor(plan, CPU, progress, report, save, evaluate)
    monitor.set_model(SimpleNamespace(trainable_variables=[]))
    for epoch in range(schedule.epochs):
        monitor.on_epoch_begin(epoch)
        for last in range(plan.steps_per_call, plan.steps + 1, plan.steps_per_call):
            is_first = not epoch and last == plan.steps_per_call
            clock.wait(first if is_first else plan.steps_per_call * step)
            monitor.on_train_batch_end(last - 1, {"loss": 7.0 - epoch})
        monitor.on_epoch_end(epoch, {"loss": 7.0 - epoch})
    assert shown == [line for line in lines if line.startswith("epoch ")]
    return lines, _summarise_timing(progress, plan, 1)


# Three steps of 10 examples, the third of 5; the first call takes 10 s, a step 0.5.
LOGGED = {
    1: [
        "epoch 1/2  loss 7.0000  hr_at_20 0.2500  examples/s 15  ms/step 500.000  "
        "first_step_s 10.000  epoch_s 11.000",
        "epoch 2/2  loss 6.0000  hr_at_20 0.2500  examples/s 17  ms/step 500.000  "
        "epoch_s 1.500",
    ],
    3: [
        "epoch 1/2  loss 7.0000  hr_at_20 0.2500  examples/s NA  ms/step NA  "
        "first_step_s 10.000  epoch_s 10.000",
        "epoch 2/2  loss 6.0000  hr_at_20 0.2500  examples/s 17  ms/step 500.000  "
        "epoch_s 1.500",
    ],
}


TWO_EPOCHS = Schedule(10, 2, static=False)


@pytest.mark.parametrize("call", LOGGED)
def test_an_epoch_is_one_line_with_its_speed(monkeypatch, call):
    lines, _ = drive(monkeypatch, replace(TWO_EPOCHS, steps_per_execution=call))
    assert lines == LOGGED[call]


def test_the_speed_of_a_run_is_that_of_all_calls_but_the_first(monkeypatch):
    _, timing = drive(monkeypatch, TWO_EPOCHS)
    assert timing["examples_per_second"] == (10 + 5 + 25) / (5 * 0.5)
    assert timing["ms_per_step"] == 500.0
    assert timing["first_step_s"] == 10.0
    assert timing["epoch_s"] == [11.0, 1.5]
    one_call = replace(TWO_EPOCHS, epochs=1, steps_per_execution=0)
    _, timing = drive(monkeypatch, one_call)
    assert timing["examples_per_second"] == 25 / 10.0  # there is no other call
    assert timing["ms_per_step"] == pytest.approx(10_000 / 3, abs=0.001)


@pytest.mark.parametrize("call", [1, 4])
def test_a_real_training_logs_the_speed_of_every_epoch(tmp_path, capsys, call):
    train_mf(tmp_path, 3, steps_per_execution=call, steps_per_epoch=4)
    log = (tmp_path / "0" / "latest" / "train_0.log").read_text().splitlines()
    assert [line for line in log if line.startswith("epoch ")] == log
    assert set(log) <= set(capsys.readouterr().out.splitlines())
    for number, line in enumerate(log, 1):
        fields = dict(field.split(" ") for field in line.split("  "))
        assert fields["epoch"] == f"{number}/3"
        alone = number == 1 and call == 4
        assert (fields["examples/s"] == "NA") == (fields["ms/step"] == "NA") == alone
        assert ("first_step_s" in fields) == (number == 1)
        if not alone:  # batches of 1,000
            product = float(fields["examples/s"]) * float(fields["ms/step"])
            assert product == pytest.approx(1e6, rel=0.01)


def test_cheap_metrics_are_found_every_epoch(tmp_path):
    found = iter(range(9))
    rows, _, _ = train_mf(
        tmp_path, 3, lambda: {"rmse": 1.0}, lambda: {"val_loss": next(found)},
        steps_per_epoch=1, evaluate_every=2,
    )  # fmt: skip
    assert [row["val_loss"] for row in rows] == [0, 1, 2]
    assert ["rmse" in row for row in rows] == [False, True, True]


# --- grouping, resuming, losses ------------------------------------------------------


class Traced(mf.MF):
    """An MF that counts how often its training step is traced to a graph."""

    traces = 0

    def training_loss(self, targets, predicted):
        self.traces += 1
        return tf.reduce_mean(tf.square(targets - predicted), axis=-1)


def train_mf(folder, epochs, evaluate=None, validate=None, model_class=mf.MF, **values):
    """Trains MF on the sample; returns its history, its timing and the model."""
    data, run = ratings.load("sample"), None
    if folder:
        run = Run("test", {"output_dir": str(folder)}, describe(data), CPU)
    model = model_class(data.n_users, data.n_items, data.global_mean)
    schedule = Schedule(1000, epochs, 0.01, **values)
    rows, timing = fit(model, data.train, schedule, CPU, run, evaluate, validate)
    return rows, timing, model


def test_a_single_step_has_a_rate_too(tmp_path):
    _, timing, _ = train_mf(tmp_path, 1, steps_per_epoch=1)
    assert timing["examples_per_second"] > 0


def test_many_steps_a_call_give_the_weights_of_single_steps(tmp_path):
    _, _, single = train_mf(tmp_path / "1", 2, steps_per_epoch=12)
    history, _, grouped = train_mf(
        tmp_path / "6", 2, steps_per_execution=6, steps_per_epoch=14
    )
    assert len(history) == 2  # of 12 steps: two groups of six, the rest left out
    for one, other in zip(single.get_weights(), grouped.get_weights()):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_group_longer_than_an_epoch_is_refused(tmp_path):
    with pytest.raises(InputError, match="steps_per_execution=9: an epoch has 4 steps"):
        train_mf(tmp_path, 1, steps_per_execution=9, steps_per_epoch=4)
    assert not list(tmp_path.rglob("ckpt"))


def test_zero_steps_a_call_are_a_whole_epoch(tmp_path):
    _, _, single = train_mf(tmp_path / "1", 2, steps_per_epoch=4)
    rows, timing, whole = train_mf(
        tmp_path / "0", 2, steps_per_execution=0, steps_per_epoch=4
    )
    assert len(rows) == len(timing["epoch_s"]) == 2
    for one, other in zip(single.get_weights(), whole.get_weights()):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("static", [True, False])
def test_more_epochs_trace_no_more_graphs_whatever_the_last_batch(tmp_path, static):
    options = {"model_class": Traced, "static": static}
    _, _, one_epoch = train_mf(tmp_path / "1", 1, **options)
    _, _, four_epochs = train_mf(tmp_path / "4", 4, **options)
    assert four_epochs.traces == one_epoch.traces
    assert 1 <= one_epoch.traces <= 2  # Keras 2.6 traces again for its slots


def test_training_without_a_run_writes_nothing_and_gives_the_same(
    tmp_path, monkeypatch, capsys
):
    rows, _, recorded = train_mf(tmp_path / "run", 2, steps_per_epoch=3)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    alone, timing, model = train_mf(None, 2, steps_per_epoch=3)
    assert sorted(tmp_path.rglob("*")) == before
    assert alone == rows
    assert len(timing["epoch_s"]) == 2
    assert len(capsys.readouterr().out.splitlines()) == 2
    for one, other in zip(recorded.get_weights(), model.get_weights()):
        # On a busy machine a weight once differed in its last bit.
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-7)


def test_training_can_be_silent(capsys):
    data = ratings.load("sample")
    model = mf.MF(data.n_users, data.n_items, data.global_mean)
    schedule = Schedule(1000, steps_per_epoch=1)
    fit(model, data.train, schedule, CPU, verbose=False)
    assert capsys.readouterr().out == ""


def test_the_same_run_twice_gives_the_same_history(unbroken, tmp_path):
    assert train(tmp_path)[1] == unbroken[1]


def test_a_run_interrupted_in_an_epoch_resumes_and_ends_as_an_unbroken_one(
    unbroken, tmp_path, capsys
):
    assert train(tmp_path, cut_after=3)[1] is None
    history = train(tmp_path)[1]
    assert "resumed after epoch 2 of 3" in capsys.readouterr().out
    assert history == unbroken[1]


def test_a_finished_run_starts_from_scratch(tmp_path, capsys):
    run, history, _ = train(tmp_path, epochs=1)
    run.write(history[-1])
    train(tmp_path, epochs=1)
    assert "resumed" not in capsys.readouterr().out


def test_a_repeated_run_that_was_interrupted_resumes_too(unbroken, tmp_path, capsys):
    run, history, _ = train(tmp_path)
    run.write(history[-1])
    train(tmp_path, cut_after=3)
    assert train(tmp_path)[1] == unbroken[1]
    assert "resumed after epoch 2 of 3" in capsys.readouterr().out


def test_float16_products_with_a_scaled_loss_train_like_float32(unbroken, tmp_path):
    rows = train(tmp_path, precision_mode="force_fp16")[1]
    for row, in_float32 in zip(rows, unbroken[1]):
        assert row["loss"] == pytest.approx(in_float32["loss"], abs=0.05)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    data = ratings.load("sample")
    run = Run("test", {"output_dir": str(tmp_path)}, describe(data), CPU)
    model = mf.MF(data.n_users, data.n_items, float("nan"))
    sentence = "the loss is nan at step 1 of epoch 1, with learning rate 0.001 .* none"
    for kept in (run, None):
        with pytest.raises(InputError, match=sentence):
            fit(model, data.train, Schedule(4096), CPU, kept)


# --- TensorBoard ---------------------------------------------------------------------


def read_scalars(folder):
    """``{(tag, step): value}`` of event files, as TensorBoard finds its scalars."""
    found = {}
    for path in folder.glob("events.out.tfevents.*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name == "scalars"
                found[value.tag, event.step] = float(tf.make_ndarray(value.tensor))
    return found


def test_profiling_writes_what_tensorboard_opens(tmp_path):
    data, profiles = ratings.load("sample"), tmp_path / "profiles"
    options = {"profiling": True, "profiling_dump_path": str(profiles)}
    schedule = Schedule(1000, 2, 0.01, steps_per_epoch=30)
    histories = []
    for ascend in (options, {}):
        parameters = {"output_dir": str(tmp_path), "ascend": ascend}
        run = Run("test", parameters, describe(data), CPU)
        model = mf.MF(data.n_users, data.n_items, data.global_mean)
        histories.append(fit(model, data.train, schedule, CPU, run, verbose=False)[0])
    with_profile, without = histories
    assert with_profile == without
    (folder,) = profiles.iterdir()
    scalars = read_scalars(folder)
    assert scalars == {
        ("loss", row["epoch"]): pytest.approx(row["loss"]) for row in without
    }
    (profile,) = folder.glob("plugins/profile/*/*.xplane.pb")
    assert profile.stat().st_size > 1000
