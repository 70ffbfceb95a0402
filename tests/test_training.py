"""A run that was cut off ends as an unbroken one, and each says how fast it was."""

from types import SimpleNamespace

import numpy as np
import pytest

from lib.data import ratings, sessions
from lib.errors import InputError
from lib.hardware.device import open as open_device
from lib.models import mf, optimizers, stamp
from lib.records.run import Run, describe
from lib.training import checkpoints, pipeline
from lib.training import fit as bookkeeper
from lib.training.fit import Bookkeeper, Schedule, _timing, fit, set_seed


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
    device = open_device("cpu", precision_mode)
    set_seed(0)
    run = Run("test", {"output_dir": str(folder)}, describe(data))
    model = stamp.STAMP(
        data.n_items, 16, 10, scale=8.0, dropout=0.1, matmul_dtype=device.cast_dtype
    )
    steps = pipeline.count_steps(len(data.train), 512)
    model.compile(
        optimizer=device.scaled(optimizers.make_adam(0.01, 3 * steps, "cosine")),
        loss=model.training_loss,
    )
    evaluations = []

    def evaluate():
        evaluations.append(stamp.evaluate(model, data.test))
        if len(evaluations) == cut_after:
            raise Cut
        return evaluations[-1]

    take = model.example_reader(data.train)
    try:
        history, timing = fit(
            model,
            take,
            len(data.train),
            run,
            512,
            epochs,
            evaluate=evaluate,
            evaluate_every=evaluate_every,
        )
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
def test_epochs_left_unjudged_change_no_number(unbroken, tmp_path, every, judged):
    _, history, _ = train(tmp_path, evaluate_every=every)
    assert [row["epoch"] for row in history if "hr_at_20" in row] == judged
    for row, of_all in zip(history, unbroken[1]):
        assert row == {name: of_all[name] for name in row}


# --- how fast ------------------------------------------------------------------------


class Clock:
    """Time that passes when a test says so."""

    now = 0.0

    def time(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds


def drive(monkeypatch, schedule, first=10.0, step=0.5):
    """Calls the callback as Keras does; evaluation takes 100 s, a checkpoint 1,000.

    Returns the lines of the log and what ``fit`` would return of the time.
    """
    clock, lines = Clock(), []
    progress = {
        "history": [], "epoch_s": [], "first_step_s": None, "steady": [0, 0, 0.0],
        "traced_graphs": 1,
    }  # fmt: skip
    monkeypatch.setattr(bookkeeper, "time", clock)
    monkeypatch.setattr(checkpoints, "save", lambda *_: clock.wait(1000))

    def evaluate(epoch):
        clock.wait(100)
        return {"hr_at_20": 0.25}

    log = SimpleNamespace(write=lines.append)
    callback = Bookkeeper(None, progress, None, evaluate, log, schedule)
    callback.set_model(SimpleNamespace(trainable_variables=[]))
    for epoch in range(schedule.epochs):
        callback.on_epoch_begin(epoch)
        for last in range(schedule.group, schedule.steps + 1, schedule.group):
            is_first = not epoch and last == schedule.group
            clock.wait(first if is_first else schedule.group * step)
            callback.on_train_batch_end(last - 1, {"loss": 7.0 - epoch})
        callback.on_epoch_end(epoch, {"loss": 7.0 - epoch})
    return lines, _timing(progress, schedule, 1)


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


@pytest.mark.parametrize("group", LOGGED)
def test_an_epoch_is_one_line_with_its_speed(monkeypatch, capsys, group):
    lines, _ = drive(monkeypatch, Schedule(2, 3, group, 10, 25))
    assert lines == LOGGED[group]
    assert capsys.readouterr().out.splitlines() == lines  # on the screen too


def test_the_speed_of_a_run_is_that_of_all_calls_but_the_first(monkeypatch):
    _, timing = drive(monkeypatch, Schedule(2, 3, 1, 10, 25))
    assert timing["examples_per_second"] == (10 + 5 + 25) / (5 * 0.5)
    assert timing["ms_per_step"] == 500.0
    assert timing["first_step_s"] == 10.0
    assert timing["epoch_s"] == [11.0, 1.5]
    _, timing = drive(monkeypatch, Schedule(1, 3, 3, 10, 25))
    assert timing["examples_per_second"] == 25 / 10.0  # there is no other call
    assert timing["ms_per_step"] == pytest.approx(10_000 / 3, abs=0.001)


def test_a_long_epoch_has_lines_inside_it(monkeypatch):
    lines, _ = drive(monkeypatch, Schedule(1, 200, 1, 10, 2000))
    assert lines[0] == (
        "step 100 of epoch 1/1  loss 7.000000  examples/s 20  ms/step 500.000"
    )
    assert [line.partition(" ")[0] for line in lines] == ["step", "epoch"]


@pytest.mark.parametrize("group", [1, 4])
def test_a_real_training_logs_the_speed_of_every_epoch(tmp_path, capsys, group):
    train_mf(tmp_path, 3, group=group, steps_per_epoch=4)
    log = (tmp_path / "0" / "latest" / "train_0.log").read_text().splitlines()
    assert [line for line in log if line.startswith("epoch ")] == log
    assert set(log) <= set(capsys.readouterr().out.splitlines())
    for number, line in enumerate(log, 1):
        fields = dict(field.split(" ") for field in line.split("  "))
        assert fields["epoch"] == f"{number}/3"
        alone = number == 1 and group == 4
        assert (fields["examples/s"] == "NA") == (fields["ms/step"] == "NA") == alone
        assert ("first_step_s" in fields) == (number == 1)
        if not alone:  # batches of 1,000
            product = float(fields["examples/s"]) * float(fields["ms/step"])
            assert product == pytest.approx(1e6, rel=0.01)


def test_cheap_metrics_are_found_every_epoch(tmp_path):
    found = iter(range(9))
    rows, _, _ = train_mf(
        tmp_path, 3, steps_per_epoch=1, evaluate_every=2,
        validate=lambda: {"val_loss": next(found)}, evaluate=lambda: {"rmse": 1.0},
    )  # fmt: skip
    assert [row["val_loss"] for row in rows] == [0, 1, 2]
    assert ["rmse" in row for row in rows] == [False, True, True]


# --- grouping, resuming, losses ------------------------------------------------------


def train_mf(folder, epochs, group=1, static=True, **options):
    """Trains MF on the sample; returns its history, its timing and its weights."""
    data = ratings.load("sample")
    run = Run("test", {"output_dir": str(folder)}, describe(data))
    model = mf.MF(data.n_users, data.n_items, data.global_mean)
    model.compile(
        optimizer=optimizers.make_adam(0.01, 1), loss="mse", steps_per_execution=group
    )
    take, n = model.example_reader(data.train), len(data.train)
    options = {"batch_size": 1000, "epochs": epochs, "static": static, **options}
    history, timing = fit(model, take, n, run, **options)
    return history, timing, model.get_weights()


def test_a_single_step_has_a_rate_too(tmp_path):
    _, timing, _ = train_mf(tmp_path, 1, steps_per_epoch=1)
    assert timing["examples_per_second"] > 0


def test_many_steps_a_call_give_the_weights_of_single_steps(tmp_path):
    _, timing, single = train_mf(tmp_path / "1", 2, steps_per_epoch=12)
    history, _, grouped = train_mf(tmp_path / "6", 2, group=6, steps_per_epoch=14)
    assert len(history) == 2  # of 12 steps: two groups of six, the rest left out
    for one, other in zip(single, grouped):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_group_longer_than_an_epoch_is_refused(tmp_path):
    with pytest.raises(InputError, match="steps_per_execution=9: an epoch has 4 steps"):
        train_mf(tmp_path, 1, group=9, steps_per_epoch=4)


@pytest.mark.parametrize("static", [True, False])
def test_more_epochs_trace_no_more_graphs_whatever_the_last_batch(tmp_path, static):
    _, timing, _ = train_mf(tmp_path / "1", 1, static=static)
    _, longer, _ = train_mf(tmp_path / "4", 4, static=static)
    assert longer["traced_graphs"] == timing["traced_graphs"]
    assert timing["traced_graphs"] <= 2  # Keras 2.6 traces anew for its slots


def test_the_same_run_twice_gives_the_same_history(unbroken, tmp_path):
    assert train(tmp_path)[1] == unbroken[1]


def test_a_run_cut_in_an_epoch_resumes_and_ends_as_the_unbroken_one(
    unbroken, tmp_path, capsys
):
    assert train(tmp_path, cut_after=3)[1] is None
    history = train(tmp_path)[1]
    assert "resumed after epoch 2 of 3" in capsys.readouterr().out
    assert history == unbroken[1]


def test_a_finished_run_starts_anew(tmp_path, capsys):
    run, history, _ = train(tmp_path, epochs=1)
    run.write(history[-1])
    train(tmp_path, epochs=1)
    assert "resumed" not in capsys.readouterr().out


def test_a_repeated_run_that_was_cut_resumes_too(unbroken, tmp_path, capsys):
    run, history, _ = train(tmp_path)
    run.write(history[-1])
    train(tmp_path, cut_after=3)
    assert train(tmp_path)[1] == unbroken[1]
    assert "resumed after epoch 2 of 3" in capsys.readouterr().out


def test_float16_products_with_a_scaled_loss_train_like_float32(unbroken, tmp_path):
    (row,) = train(tmp_path, precision_mode="force_fp16", epochs=1)[1]
    assert row["loss"] == pytest.approx(unbroken[1][0]["loss"], abs=0.05)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    data = ratings.load("sample")
    run = Run("test", {"output_dir": str(tmp_path)}, describe(data))
    model = mf.MF(data.n_users, data.n_items, float("nan"))
    model.compile(optimizer="adam", loss="mse")
    take, n = model.example_reader(data.train), len(data.train)
    with pytest.raises(
        InputError, match="the loss is nan at step 1 of epoch 1, with learning rate"
    ):
        fit(model, take, n, run, 4096, 1)
