"""Batches cover the data once an epoch, in an order that the seed decides."""

import numpy as np
import pytest

from lib.errors import InputError
from lib.training import pipeline


def orders(
    n=23, batch_size=5, epochs=range(2), seed=0, steps=0, static=False, **options
):
    steps = pipeline.count_steps(n, batch_size, steps, static)
    dataset = pipeline.batches(
        lambda index: index, n, batch_size, epochs, seed, steps, static, **options
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


@pytest.mark.parametrize("static", [True, False])
def test_without_reshuffling_each_epoch_has_the_batches_of_the_first(static):
    reshuffled, _ = orders(static=static)
    for epoch in orders(epochs=range(3), static=static, reshuffle=False):
        for batch, first in zip(epoch, reshuffled):
            np.testing.assert_array_equal(batch, first)
    resumed = orders(epochs=range(1, 2), static=static, reshuffle=False)[0]
    np.testing.assert_array_equal(resumed[0], reshuffled[0])


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
