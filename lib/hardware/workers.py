"""Who trains this model together with this process.

Data parallelism: every worker holds the whole model and takes its share of each batch.
``ci/run_distributed.sh`` starts them, one process a device, and tells them of each
other by environment variables; ``lib.hardware.device.open`` joins them. How they
average gradients is in ``lib.hardware.collectives``.
"""

import json
import math
import os
from dataclasses import dataclass

from lib.errors import InputError

RATE_SCALINGS = {"none": lambda n: 1.0, "sqrt": math.sqrt, "linear": float}


@dataclass(frozen=True)
class Workers:
    """This process among those that train together.

    Attributes:
        size: how many there are.
        rank: which one this is, from 0.
        engine: ``"hccl"``, ``"tensorflow"``, or empty where it is alone.
    """

    size: int = 1
    rank: int = 0
    engine: str = ""

    def share(self, batch_size):
        """This worker's part of a batch.

        Raises:
            InputError: the batch cannot be cut into equal parts.
        """
        if batch_size % self.size:
            raise InputError(
                f"batch_size={batch_size}: it is shared by {self.size} workers; give a "
                "multiple of that."
            )
        return batch_size // self.size


_joined = Workers()


def current():
    """The ``Workers`` that this process has joined; alone where it has joined none."""
    return _joined


def announced():
    """The ``Workers`` that the environment names, joined or not.

    ``$RANK_SIZE`` and ``$RANK_ID`` (or ``$CM_WORKER_SIZE``, which leaves the rank to
    the cards) speak of NPUs, ``$TF_CONFIG`` of TensorFlow's own engine.

    Raises:
        InputError: what they say is not usable.
    """
    env = os.environ
    for name in ("RANK_SIZE", "CM_WORKER_SIZE", "RANK_ID"):
        if not env.get(name, "0").isdecimal():
            raise InputError(f"{name}={env[name]}: give a whole number.")
    size = int(env.get("RANK_SIZE", env.get("CM_WORKER_SIZE", "1")))
    if size > 1:
        return Workers(size, int(env.get("RANK_ID", "0")), "hccl")
    text = env.get("TF_CONFIG", "{}")
    try:
        config = json.loads(text)
        size = len(config.get("cluster", {}).get("worker", []))
        rank = config["task"]["index"] if size > 1 else 0
    except (ValueError, AttributeError, KeyError, TypeError):
        raise InputError(
            f"TF_CONFIG={text}: give JSON with cluster.worker, a list of host:port, "
            "and task.type and task.index of this process."
        ) from None
    return Workers(size, rank, "tensorflow") if size > 1 else Workers()


def join(size, rank, engine):
    """Makes this process one of ``size`` workers, for as long as it lives."""
    global _joined
    _joined = Workers(size, rank, engine)


def scaled_rate(learning_rate, scaling):
    """A learning rate for the larger batch of several workers.

    Args:
        learning_rate: for one worker.
        scaling: ``"none"``, ``"linear"`` (times their number, Goyal et al. 2017) or
            ``"sqrt"``.
    """
    return learning_rate * RATE_SCALINGS[scaling](_joined.size)
