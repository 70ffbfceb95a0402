"""The input pipeline: slices batches from arrays and reshuffles them every epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from lib.hardware.device import Device
from lib.hardware.tensorflow import tf
from lib.hardware.workers import share_batch
from lib.training.schedule import Plan


def batches(
    read: Callable[[Any], Any],
    plan: Plan,
    epochs: Iterable[int],
    device: Device | None = None,
) -> tf.data.Dataset:
    """Returns a dataset of batches; examples are never handled one by one.

    Each epoch has its own order, which depends on the seed and the epoch's number only,
    so a run that resumes at epoch ``k`` sees the same batches as an unbroken one.
    Several workers split every batch: example ``i`` of an order goes to worker ``i``
    modulo their number, so together they see the batches of a single worker.

    Args:
        read: ``read(index) -> (inputs, targets)`` in TensorFlow operations, with
            ``index`` int32 ``(batch,)``; a model's ``example_reader`` makes it.
        plan: batch size, steps, seed and number of examples.
        epochs: the numbers of the epochs, from 0.
        device: its workers share each batch; None for one worker.
    """
    schedule = plan.schedule
    workers, rank = (device.workers, device.rank) if device else (1, 0)
    share = share_batch(schedule.batch_size, workers)
    n_own = -(-(plan.n_examples - rank) // workers)  # rounded up

    def draw_orders() -> Iterator[np.ndarray]:
        for epoch in epochs:
            order = np.arange(plan.n_examples, dtype=np.int32)  # int32 halves memory
            drawn = epoch if schedule.reshuffle else 0
            np.random.default_rng([schedule.seed, drawn]).shuffle(order)
            yield order[rank::workers]

    def slice_epoch(order: tf.Tensor) -> tf.data.Dataset:
        def slice_batch(step: tf.Tensor) -> Any:
            first = tf.cast(step, tf.int32) * share
            if schedule.static:
                return read(tf.slice(order, [first], [share]))
            return read(order[first : first + share])

        return tf.data.Dataset.range(plan.steps).map(slice_batch)

    orders = tf.data.Dataset.from_generator(draw_orders, tf.int32, [n_own])
    return orders.flat_map(slice_epoch).prefetch(4)
