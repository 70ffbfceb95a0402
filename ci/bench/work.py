"""The protocol of a worker of the bench: one line when ready, one for each round.

A worker is a separate process, so that peers with other packages take part, and waits
between its rounds, so that rounds alternate and the machine's noise meets all alike.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lib.hardware.device import Device

CHATTER = os.dup(1)
if Path(sys.argv[0]).resolve().parent == Path(__file__).resolve().parent:  # a worker
    os.dup2(2, 1)  # whatever libraries print goes where errors go
MODES = {  # precision of a row -> precision_mode of select_device
    "float32": "must_keep_origin_dtype",
    "bfloat16": "mixed_bfloat16",
    "float16": "allow_mix_precision",  # on an NPU
}


def open_device(
    device: str, precision: str, threads: int = 0, loss_scale: bool = True
) -> Device:
    """Selects the device as the notebooks do."""
    from lib.hardware.device import select_device  # not where the peers run

    return select_device(device, MODES[precision], threads, loss_scale=loss_scale)


def say(**message: object) -> None:
    """Writes a line of JSON to the process that measures."""
    os.write(CHATTER, (json.dumps(message) + "\n").encode())


def timed(work: Callable, units: int) -> tuple[int, float]:
    """Calls ``work()`` and waits for the tensor that it returns, if it returns one.

    Returns:
        ``(units, seconds)``.
    """
    started = time.perf_counter()
    last = work()
    if last is not None:
        last.numpy()  # a card computes on after a call has returned
    return units, time.perf_counter() - started


def serve(prepare: Callable) -> None:
    """Prepares once, then does a round for every line on standard input.

    Args:
        prepare: ``prepare(**options) -> round``; the options are the JSON of the
            command line. ``round()`` returns ``(units done, seconds)``, or these and a
            dict of what else was measured. It is called once to warm up, then once a
            line; with the option ``"warm": false`` only the latter.
    """
    options = json.loads(sys.argv[1])
    warm = options.pop("warm", True)
    one_round = prepare(**options)
    if warm:
        one_round()
    say(ready=True)
    for _ in sys.stdin:
        done, seconds, *more = one_round()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        more = more[0] if more else {}
        say(done=done, seconds=seconds, peak_mb=round(peak), **more)
