"""The input pipeline: reads batches from arrays and reshuffles them every epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from lib.hardware.device import Device
from lib.hardware.tensorflow import tf
from lib.hardware.workers import share_batch
from lib.training.schedule import Plan

CHUNK = 2**16  # examples read at once, so that Python runs rarely
BLOCK = 2**12  # consecutive examples that stay together: 16 kB of an array
BUFFER = 2**20  # examples shuffled together: 8 MB of numbers


def batches(
    read: Callable[[np.ndarray], tuple[np.ndarray, ...]],
    plan: Plan,
    epochs: Iterable[int],
    device: Device | None = None,
    first: int = 0,
) -> tf.data.Dataset:
    """Returns a dataset of batches; examples are never handled one by one.

    NumPy reads ``CHUNK`` examples at once, whether the arrays are in memory or memory
    maps, and TensorFlow cuts them into batches; both run on the host.

    Each epoch has its own order, which depends on the seed and the epoch's number only,
    so a run that resumes at epoch ``k`` sees the same batches as an unbroken one.
    Several workers split every batch: example ``i`` of an order goes to worker ``i``
    modulo their number, so together they see the batches of a single worker.

    Args:
        read: ``read(index) -> (inputs, targets)``, arrays, with ``index`` int32 or
            int64 ``(n,)``; a model's ``example_reader`` makes it.
        plan: batch size, steps, order, seed and number of examples.
        epochs: the numbers of the epochs, from 0.
        device: its workers share each batch; None for one worker.
        first: steps at the start of each epoch that are left out.
    """
    workers, rank = (device.workers, device.rank) if device else (1, 0)
    share = share_batch(plan.schedule.batch_size, workers)
    chunk = share * max(CHUNK // share, 1)

    def read_chunks() -> Iterator[tuple[np.ndarray, ...]]:
        for epoch in epochs:
            for order in draw_order(plan, epoch, first):
                own = order[rank::workers]
                whole = len(own) // share * share  # the rest is a partial batch
                for index in np.split(own, [*range(chunk, whole, chunk), whole]):
                    shape = -1, min(share, len(index))
                    if len(index):
                        parts = read(index)
                        yield tuple(p.reshape(*shape, *p.shape[1:]) for p in parts)

    size = share if plan.schedule.static else None
    signature = tuple(
        tf.TensorSpec([None, size, *p.shape[1:]], p.dtype)
        for p in read(np.zeros(1, np.int64))
    )
    chunks = tf.data.Dataset.from_generator(read_chunks, output_signature=signature)
    return chunks.prefetch(2).unbatch().prefetch(4)


def draw_order(plan: Plan, epoch: int, first: int = 0) -> Iterator[np.ndarray]:
    """Yields the numbers of an epoch's examples, in parts of whole batches.

    With ``shuffle="all"``, every order is equally likely; the part is the epoch, and 4
    bytes an example are held.

    With ``shuffle="blocks"``, the data are cut into blocks of ``BLOCK`` consecutive
    examples from a random place on, the blocks are put in random order, and ``BUFFER``
    examples at a time, rounded to whole batches, are shuffled: a batch mixes some 256
    places of the data. Some 30 MB are held, and 8 bytes a block.

    Args:
        plan: order, seed, batch size and number of examples.
        epoch: its number, from 0.
        first: steps at its start that are left out.
    """
    schedule, n = plan.schedule, plan.n_examples
    seed = [schedule.seed, epoch if schedule.reshuffle else 0]
    rng, batch = np.random.default_rng(seed), schedule.batch_size
    begin, end = first * batch, min(plan.steps * batch, n)
    if schedule.shuffle == "all":
        order = np.arange(n, dtype=np.int32 if n < 2**31 else np.int64)
        rng.shuffle(order)
        yield order[begin:end]
        return
    blocks = np.append(rng.permutation(n // BLOCK), n // BLOCK)  # a partial one last
    shift, size = rng.integers(n), batch * max(BUFFER // batch, 1)
    for start in range(begin // size * size, end, size):
        place = np.arange(start, min(start + size, n))
        part = (blocks[place // BLOCK] * BLOCK + place % BLOCK + shift) % n
        np.random.default_rng([*seed, start]).shuffle(part)
        yield part[max(begin - start, 0) : end - start]
