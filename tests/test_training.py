"""Batches cover the data, and a run that was cut off ends as an unbroken one."""

import numpy as np
import pytest

from lib import mf, ratings, results, sessions, softmax, stamp, training
from lib.device import open as open_device
from lib.errors import InputError
from lib.quiet import tf


def orders(n=23, batch_size=5, epochs=range(2), seed=0, steps=0, static=False):
    dataset, steps = training.batches(
        lambda index: index, n, batch_size, epochs, seed, steps, static
    )
    found = [batch.numpy() for batch in dataset]
    return [found[k : k + steps] for k in range(0, len(found), steps)]


def test_an_epoch_holds_every_example_once():
    for epoch in orders():
        assert sorted(np.concatenate(epoch)) == list(range(23))


def test_static_batches_have_one_shape_and_no_example_twice():
    for epoch in orders(static=True):
        assert [len(batch) for batch in epoch] == [5] * 4
        assert len(set(np.concatenate(epoch))) == 20


def test_every_epoch_has_its_own_order_and_the_seed_decides_it():
    first, second = (np.concatenate(epoch).tolist() for epoch in orders())
    assert first != second
    assert [np.concatenate(e).tolist() for e in orders()] == [first, second]
    assert np.concatenate(orders(seed=1)[0]).tolist() != first


def test_an_epoch_looks_the_same_when_training_starts_there():
    later = orders(epochs=range(1, 2))[0]
    for unbroken, resumed in zip(orders()[1], later):
        np.testing.assert_array_equal(unbroken, resumed)


def test_steps_cut_an_epoch_short():
    assert [len(epoch) for epoch in orders(steps=2)] == [2, 2]


@pytest.mark.parametrize(("batch_size", "steps"), [(24, 0), (5, 6)])
def test_too_few_examples_are_refused_in_one_sentence(batch_size, steps):
    with pytest.raises(InputError, match=f"batch_size={batch_size}.*23 examples"):
        orders(batch_size=batch_size, steps=steps, static=True)


class Cut(Exception):
    """Stands for the power cable."""


def train(folder, cut_after=None, epochs=3, precision_mode="must_keep_origin_dtype"):
    """Trains STAMP on the sample; returns its history, or None where it was cut."""
    data = sessions.load("sample")
    device = open_device("cpu", precision_mode)
    training.set_seed(0)
    run = results.Run("test", {"output_dir": str(folder)}, results.describe(data))
    model = stamp.STAMP(data.n_items, embed_dim=16, matmul_dtype=device.matmul_dtype)
    model.compile(
        optimizer=device.scaled(tf.keras.optimizers.Adam(learning_rate=0.01)),
        loss=softmax.cross_entropy,
    )
    evaluations = []

    def evaluate():
        evaluations.append(stamp.evaluate(model, data.test, 10))
        if len(evaluations) == cut_after:
            raise Cut
        return evaluations[-1]

    take = stamp.batch_of(data.train, 10)
    try:
        history, timing = training.fit(
            model, take, len(data.train), run, 512, epochs, evaluate=evaluate
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


def test_a_single_step_has_a_rate_too(tmp_path):
    data = ratings.load("sample")
    run = results.Run("test", {"output_dir": str(tmp_path)}, results.describe(data))
    model = mf.MF(data.n_users, data.n_items, data.global_mean)
    model.compile(optimizer="adam", loss="mse")
    take, n = mf.batch_of(data.train), len(data.train)
    _, timing = training.fit(model, take, n, run, 1024, 1, steps_per_epoch=1)
    assert timing["examples_per_second"] > 0


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
    history = train(tmp_path, precision_mode="force_fp16")[1]
    assert history[-1]["loss"] == pytest.approx(unbroken[1][-1]["loss"], abs=0.05)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    data = ratings.load("sample")
    run = results.Run("test", {"output_dir": str(tmp_path)}, results.describe(data))
    model = mf.MF(data.n_users, data.n_items, float("nan"))
    model.compile(optimizer="adam", loss="mse")
    take, n = mf.batch_of(data.train), len(data.train)
    with pytest.raises(
        InputError, match="the loss is nan in epoch 1: lower learning_rate"
    ):
        training.fit(model, take, n, run, 4096, 1)
