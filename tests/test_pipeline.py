"""Batches cover the data once an epoch, in an order that the seed decides."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from lib.errors import InputError
from lib.hardware.device import Device
from lib.training import pipeline
from lib.training.schedule import Schedule

BLOCKS = {"shuffle": "blocks"}
CPU = Device("cpu", "", "must_keep_origin_dtype", "float32", "")


def orders(n=23, epochs=range(2), device=None, static=False, **options):
    plan = Schedule(**{"batch_size": 5, "static": static, **options}).plan(n)
    dataset = pipeline.batches(lambda index: (index,), plan, epochs, device)
    found = [batch.numpy() for (batch,) in dataset]
    return [found[k : k + plan.steps] for k in range(0, len(found), plan.steps)]


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
    whole = orders()
    for epoch, first in zip(orders(steps_per_epoch=2), whole):
        assert len(epoch) == 2
        np.testing.assert_array_equal(epoch, first[:2])


@pytest.mark.parametrize(
    "options",
    [*({"n": n, "epochs": range(3)} for n in (20, 22, 23)), {"n": 103, **BLOCKS}],
)
def test_the_shares_of_several_workers_are_the_batches_of_one(options, small_blocks):
    options = {"batch_size": 6, "static": True, **options}
    alone = orders(**options)
    shares = [
        orders(device=replace(CPU, workers=3, rank=r), **options) for r in (0, 1, 2)
    ]
    for epoch, parts in zip(alone, zip(*shares)):
        for batch, pieces in zip(epoch, zip(*parts)):
            np.testing.assert_array_equal(batch, np.stack(pieces, axis=1).ravel())


def test_a_batch_that_workers_cannot_share_is_refused():
    with pytest.raises(InputError, match="batch_size=5: 2 workers share each batch"):
        orders(static=True, device=replace(CPU, workers=2))


@pytest.mark.parametrize(("batch_size", "steps"), [(24, 0), (5, 6)])
def test_too_few_examples_are_refused_in_one_sentence(batch_size, steps):
    with pytest.raises(InputError, match=f"batch_size={batch_size}.*23 examples"):
        orders(batch_size=batch_size, steps_per_epoch=steps, static=True)


# --- blocks --------------------------------------------------------------------------


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(pipeline, "BLOCK", 4)
    monkeypatch.setattr(pipeline, "BUFFER", 20)
    monkeypatch.setattr(pipeline, "CHUNK", 10)


@pytest.mark.parametrize("n", [5, 20, 23, 40, 101])
def test_an_epoch_of_blocks_holds_every_example_once(small_blocks, n):
    for epoch in orders(n, **BLOCKS):
        assert sorted(np.concatenate(epoch)) == list(range(n))


def test_blocks_have_an_order_an_epoch_that_the_seed_decides(small_blocks):
    first, second = (np.concatenate(epoch).tolist() for epoch in orders(101, **BLOCKS))
    assert first != second
    found = [np.concatenate(e).tolist() for e in orders(101, **BLOCKS)]
    assert found == [first, second]
    assert np.concatenate(orders(101, seed=1, **BLOCKS)[0]).tolist() != first
    fixed, again = orders(101, reshuffle=False, **BLOCKS)
    np.testing.assert_array_equal(np.concatenate(fixed), first)
    np.testing.assert_array_equal(np.concatenate(again), first)


def test_examples_of_one_block_part_and_those_of_other_epochs_meet(small_blocks):
    """Example 0 meets others in its batches than its neighbours, in the long run."""
    met = set()
    for epoch in orders(101, epochs=range(40), **BLOCKS):
        met |= next(set(batch.tolist()) for batch in epoch if 0 in batch)
    assert len(met) > 60


@pytest.mark.parametrize("options", [{}, BLOCKS])
@pytest.mark.parametrize("first", [1, 3, 4, 7])
def test_an_epoch_can_be_entered_at_any_step(small_blocks, first, options):
    plan = Schedule(5, static=False, **options).plan(43)
    whole = orders(43, epochs=range(2), **options)[1]
    read = pipeline.batches(lambda index: (index,), plan, range(1, 2), first=first)
    entered = [batch.numpy() for (batch,) in read]
    assert len(entered) == plan.steps - first
    for batch, expected in zip(entered, whole[first:]):
        np.testing.assert_array_equal(batch, expected)


def test_blocks_of_ten_billion_examples_take_little_memory_and_no_time():
    plan = Schedule(128, shuffle="blocks").plan(10**10)
    tracemalloc.start()
    try:
        part = next(pipeline.draw_order(plan, 3, first=70_000_000))
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert part.max() > 2**32
    assert len(set((part // 10**8).tolist())) > 80  # of 100 places: from everywhere
