"""Data-parallel workers: which processes train one model together.

Each worker holds the whole model and takes its share of every batch.
``ci/run_distributed.sh`` starts one process a device and describes the others in
environment variables; ``lib.hardware.device.select_device`` joins them and keeps their
number and this process's rank in the ``Device``.
"""

from __future__ import annotations

import json
import math
import os
from typing import NamedTuple

from lib.errors import InputError, check_choice, check_whole

RATE_SCALINGS = {"none": lambda n: 1.0, "sqrt": math.sqrt, "linear": float}


class Workers(NamedTuple):
    """The workers that an environment describes.

    Attributes:
        size: their number.
        rank: the position of this process, from 0.
        engine: ``"hccl"``, ``"tensorflow"``, or empty for a process that is alone.
    """

    size: int = 1
    rank: int = 0
    engine: str = ""


def read_environment() -> Workers:
    """Reads which workers the environment describes, joined or not.

    ``$RANK_SIZE`` and ``$RANK_ID`` (or ``$CM_WORKER_SIZE``, where the cards assign the
    rank) describe NPUs, ``$TF_CONFIG`` describes TensorFlow's own engine.

    Raises:
        InputError: a variable is not usable.
    """
    env = os.environ
    for name in ("RANK_SIZE", "CM_WORKER_SIZE", "RANK_ID"):
        if not env.get(name, "0").isdecimal():
            raise InputError(f"{name}={env[name]}: set it to a whole number.")
    size = int(env.get("RANK_SIZE", env.get("CM_WORKER_SIZE", "1")))
    if size > 1:
        return Workers(size, int(env.get("RANK_ID", "0")), "hccl")
    text = env.get("TF_CONFIG", "{}")
    try:
        config = json.loads(text)
        size = len(config.get("cluster", {}).get("worker", []))
        rank = config["task"]["index"] if size > 1 else 0
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"TF_CONFIG={text}: set it to JSON with cluster.worker, a list of "
            "host:port, and task.type and task.index of this process."
        ) from error
    return Workers(size, rank, "tensorflow") if size > 1 else Workers()


def share_batch(batch_size: int, n_workers: int) -> int:
    """Returns the number of examples of a batch that each worker takes.

    Raises:
        InputError: the batch cannot be split into equal parts, or there is no worker.
    """
    check_whole("workers", n_workers)
    if batch_size % n_workers:
        raise InputError(
            f"batch_size={batch_size}: {n_workers} workers share each batch; choose a "
            f"multiple of {n_workers}."
        )
    return batch_size // n_workers


def scale_rate(learning_rate: float, scaling: str, n_workers: int) -> float:
    """Scales a learning rate to the larger batch of several workers.

    Args:
        learning_rate: for one worker.
        scaling: ``"none"``, ``"linear"`` (times the number of workers; Goyal et al.
            2017) or ``"sqrt"``.
        n_workers: the number of workers.
    """
    check_choice("rate_scaling", scaling, RATE_SCALINGS)
    return learning_rate * RATE_SCALINGS[scaling](n_workers)
