"""The exchange between the ranks of one job: a folder to which each writes its part.

Everything that ranks do together has a number, a kind and shapes. A card would hang
where they disagree; here they fail.
"""

import os
import pickle
import time
from pathlib import Path

from npu_device.contract import fail

TIMEOUT_S = float(os.environ.get("STAND_IN_TIMEOUT", "60"))
_number = 0  # of the next meeting


def launch(graph):
    """Meets before a graph runs: all ranks must run it."""
    from npu_device import npu_device as session

    if session.handle is not None and session.handle.is_cluster_worker():
        exchange(f"graph {_plain(graph)}", [])


def exchange(kind, arrays):
    """Gives to all what each rank brings.

    Args:
        kind: name of the operation.
        arrays: this rank's, a list.

    Returns:
        The lists of all ranks, in order.
    """
    global _number
    from npu_device import npu_device as session

    if "STAND_IN_FABRIC" not in os.environ:
        fail("several ranks meet in the folder of STAND_IN_FABRIC: it is not set")
    rank, size = session.handle.worker_id, session.handle.workers_num
    what = kind, [(array.dtype.name, array.shape) for array in arrays]
    number, _number = _number, _number + 1
    _place(number, rank, "new").write_bytes(pickle.dumps((what, list(arrays))))
    _place(number, rank, "new").rename(_place(number, rank))
    brought = []
    for other in range(size):
        its, values = _wait(number, other, f"rank {rank} is at {_text(number, what)}")
        if its != what:
            fail(
                f"ranks disagree: rank {rank} is at {_text(number, what)}, rank "
                f"{other} at {_text(number, its)}"
            )
        brought.append(values)
    if number:  # all ranks are here, so all have read the last one
        _place(number - 1, rank).unlink()
    return brought


def _wait(number, rank, where):
    until = time.monotonic() + TIMEOUT_S
    while not _place(number, rank).exists():
        if time.monotonic() > until:
            fail(f"{where}, and rank {rank} has not come in {TIMEOUT_S:g} s")
        time.sleep(0.001)
    return pickle.loads(_place(number, rank).read_bytes())


def _place(number, rank, kind="here"):
    return Path(os.environ["STAND_IN_FABRIC"]) / f"{number}-{rank}.{kind}"


def _text(number, what):
    return f"number {number}, {what[0]} of {what[1]}"


def _plain(name):
    """The name of a graph without the numbers that TensorFlow gives it."""
    name = name.decode() if isinstance(name, bytes) else name
    return "_".join(part for part in name.split("_") if not part.isdigit()).strip("_")
