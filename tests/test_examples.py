"""Examples are found in flat sessions of any length, in memory or in memory maps."""

import tracemalloc

import numpy as np
import pytest

from lib.data.examples import Examples
from lib.data.ratings import Part
from lib.hardware.device import Device
from lib.hardware.tensorflow import tf
from lib.models import mf, stamp
from lib.training import pipeline
from lib.training.fit import fit, set_seed
from lib.training.schedule import Schedule

CPU = Device("cpu", "", "must_keep_origin_dtype", "float32", "")
N_ITEMS, N_USERS = 50, 40


def sessions_of(lengths, seed=0):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = rng.integers(1, N_ITEMS + 1, offsets[-1])
    days = np.zeros(len(lengths), "datetime64[D]")
    return Examples.from_sessions(items, offsets, days)


@pytest.mark.parametrize(
    "lengths", [[2], [3, 2], [2, 2, 9, 3], [1, 2, 1, 1, 4, 1], [5] * 64, [2] * 65]
)
def test_each_click_but_the_first_of_its_session_is_an_example(lengths):
    examples = sessions_of(lengths)
    sessions = np.split(examples.items, examples.offsets[1:-1])
    expected = [(one[:k], one[k]) for one in sessions for k in range(1, len(one))]
    assert len(examples) == len(expected) == len(examples.prefixes())
    for k, (prefix, target) in enumerate(expected):
        np.testing.assert_array_equal(examples.prefix(k), prefix)
        assert examples.targets[k] == target
        assert examples.last_clicks[k] == prefix[-1]
    windows, targets = examples.windows(range(len(examples)), 3)
    assert windows.dtype == targets.dtype == np.int32
    np.testing.assert_array_equal(targets, examples.targets)
    for window, (prefix, _) in zip(windows, expected):
        np.testing.assert_array_equal(window[window > 0], prefix[-3:])
        assert (window[: max(3 - len(prefix), 0)] == 0).all()


class Clicks:
    """A flat array of 6 billion clicks: the item at position ``p`` is ``p % 997``."""

    def __len__(self):
        return 6 * 10**9

    def __getitem__(self, places):
        if isinstance(places, slice):
            places = np.arange(places.start, places.stop)
        assert places.dtype == np.int64
        assert (places >= 0).all()
        return (places % 997).astype(np.int32)


def test_positions_beyond_32_bits_come_out_right():
    first, second = 2**31 + 10, 2**32 + 7
    offsets = np.array([0, 5, first, first + 4, second, second + 3, len(Clicks())])
    examples = Examples(Clicks(), offsets, np.zeros(6, "datetime64[D]"))
    assert len(examples) == len(Clicks()) - 6
    k = np.array([first - 2, first + 1 - 2, second - 4, len(examples) - 1])
    start, target = examples.bounds(k)
    assert start.tolist() == [first, first, second, second + 3]
    assert target.tolist() == [first + 1, first + 2, second + 1, len(Clicks()) - 1]
    windows, targets = examples.windows(k, 2)
    assert windows[:3].tolist() == [
        [0, first % 997],
        [first % 997, (first + 1) % 997],
        [0, second % 997],
    ]
    assert targets.tolist() == [place % 997 for place in target.tolist()]
    assert examples.prefix(first - 1).tolist() == [first % 997, (first + 1) % 997]


def test_reading_examples_takes_no_memory_of_the_size_of_the_data():
    lengths = np.full(500_000, 4)
    examples = sessions_of(lengths)
    tracemalloc.start()
    try:
        examples.windows(np.arange(0, 1_500_000, 15_000), 19)
        len(examples)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


# --- training ------------------------------------------------------------------------


def mapped(folder, **arrays):
    """The arrays as read-only memory maps."""
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return [np.load(folder / f"{name}.npy", mmap_mode="r") for name in arrays]


def clicks_in(folder):
    rng = np.random.default_rng(1)
    memory = sessions_of(rng.integers(2, 9, 300))
    names = "items", "offsets", "days"
    return memory, Examples(
        *mapped(folder, **{name: getattr(memory, name) for name in names})
    )


def ratings_in(folder):
    rng = np.random.default_rng(1)
    user, item = rng.integers(0, (N_USERS, N_ITEMS), (900, 2)).T.astype(np.int32)
    rating = rng.integers(1, 6, 900).astype(np.float32)
    arrays = mapped(folder, user=user, item=item, rating=rating)
    none = np.empty(0, np.int64)
    return Part(user, item, rating, none), Part(*arrays, none)


MODELS = {
    "all": (clicks_in, lambda: stamp.STAMP(N_ITEMS, 8, 5, dropout=0.1), stamp),
    "blocks": (ratings_in, lambda: mf.MF(N_USERS, N_ITEMS, 3.0, 4), mf),
}


@pytest.mark.parametrize("shuffle", MODELS)
def test_memory_maps_train_and_measure_like_arrays_in_memory(tmp_path, shuffle):
    make_parts, make_model, module = MODELS[shuffle]
    found = []
    for part in make_parts(tmp_path):
        set_seed(0)
        model = make_model()
        schedule = Schedule(32, 2, 0.01, static=False, shuffle=shuffle)
        history, _ = fit(model, part, schedule, CPU, verbose=False)
        weights = [np.asarray(weight) for weight in model.trainable_variables]
        found.append((history, weights, module.evaluate(model, part)))
    (history, weights, measured), (other, *others) = found
    assert other == history
    assert others[1] == measured
    for one, two in zip(weights, others[0]):
        np.testing.assert_array_equal(one, two)
    assert history[1]["loss"] < history[0]["loss"]


def test_batches_of_the_pipeline_are_the_examples_of_the_reader(tmp_path):
    examples, _ = clicks_in(tmp_path)
    read = stamp.STAMP(N_ITEMS, 8, 5).example_reader(examples)
    plan = Schedule(7, static=False).plan(len(examples))
    order = np.concatenate(list(pipeline.draw_order(plan, 0)))
    batches = list(pipeline.batches(read, plan, range(1)))
    assert [len(targets) for _, targets in batches[:-1]] == [7] * (plan.steps - 1)
    for column, expected in enumerate(read(order)):
        rows = tf.concat([batch[column] for batch in batches], 0)
        np.testing.assert_array_equal(rows, expected)
