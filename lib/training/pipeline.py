"""The input pipeline: batches cut from arrays, in an order of its own each epoch."""

import math

import numpy as np

from lib.errors import InputError
from lib.hardware import workers
from lib.hardware.tensorflow import tf


def count_steps(n_examples, batch_size, steps_per_epoch=0, static=True):
    """How many steps an epoch has.

    Args:
        n_examples: how many there are.
        batch_size: examples a step.
        steps_per_epoch: batches an epoch; 0 for all.
        static: True drops the last partial batch, so that every step has one shape.

    Raises:
        InputError: an epoch does not hold that many batches, or none.
    """
    whole = n_examples // batch_size if static else math.ceil(n_examples / batch_size)
    if whole < max(steps_per_epoch, 1):
        raise InputError(
            f"batch_size={batch_size}, steps_per_epoch={steps_per_epoch}: {n_examples} "
            f"examples make {whole} batches an epoch; give a smaller batch_size or "
            "steps_per_epoch."
        )
    return steps_per_epoch or whole


def batches(
    take, n_examples, batch_size, epochs, seed, steps, static=True, reshuffle=True
):
    """A dataset of batches; no example is ever touched on its own.

    With several workers, the dataset holds this one's share of every batch: example
    ``i`` of an order goes to worker ``i`` modulo their number, so together they see
    the batches that one worker alone would have seen.

    Each epoch has an order of its own that depends on ``(seed, epoch)`` alone, so a run
    that resumes at epoch ``k`` sees what an unbroken one would have seen.

    Args:
        take: ``take(index) -> (inputs, targets)`` in TensorFlow operations, with
            ``index`` int32 ``(batch,)``.
        n_examples, batch_size, static: see ``count_steps``.
        epochs: a range of epoch numbers.
        seed: of the orders.
        steps: batches an epoch, as ``count_steps`` returns it.
        reshuffle: False gives every epoch the order of epoch 0: the same batches, one
            after the other as before.
    """

    team = workers.current()
    if team.size > 1 and not static:
        raise InputError(
            f"static=False: {team.size} workers cannot share the last partial batch; "
            "set static=True."
        )
    share = team.share(batch_size)
    n_own = len(range(team.rank, n_examples, team.size))

    def orders():
        for number in epochs:
            order = np.arange(n_examples, dtype=np.int32)  # half of a permutation(n)
            drawn = number if reshuffle else 0
            np.random.default_rng([seed, drawn]).shuffle(order)
            yield order[team.rank :: team.size]

    def epoch(order):
        def batch(step):
            first = tf.cast(step, tf.int32) * share
            if static:
                return take(tf.slice(order, [first], [share]))
            return take(order[first : first + share])

        return tf.data.Dataset.range(steps).map(batch)

    shuffled = tf.data.Dataset.from_generator(orders, tf.int32, [n_own])
    return shuffled.flat_map(epoch).prefetch(4)
