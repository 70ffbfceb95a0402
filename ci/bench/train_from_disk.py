"""Trains on prepared data as memory maps: speed beside a small log, private memory.

``train_from_disk.py FOLDER`` prints one line of JSON. The same model takes ``STEPS``
steps on the training part of the folder, mapped into memory, and on a small part of it
that is in memory, in turn, so that both have the same catalogue and the same noise.
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from pathlib import Path

import numpy as np

from lib.data.examples import Examples
from lib.data.ratings import Part
from lib.hardware.device import select_device
from lib.models import mf, stamp
from lib.training.fit import fit, set_seed
from lib.training.schedule import Schedule

STEPS, ROUNDS = 200, 3
SMALL = 2**18, 2**21  # sessions and ratings of the small log


class MemoryWatch(threading.Thread):
    """Records the peaks of private and mapped memory, in MB, until ended (Linux)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peaks, self.ended = {"RssAnon": 0, "RssFile": 0}, threading.Event()
        self.start()

    def run(self) -> None:
        while not self.ended.wait(0.05):
            lines = Path("/proc/self/status").read_text().splitlines()
            sizes = dict(line.split(":", 1) for line in lines)
            for name, peak in self.peaks.items():
                mb = int(sizes[name].split()[0]) * 1024 / 1e6
                self.peaks[name] = max(peak, round(mb))


def load_sessions(array):
    """The mapped examples and the small ones, and a model of the catalogue."""
    whole = Examples(*(array(f"train_{name}") for name in ("items", "offsets", "days")))
    end = min(SMALL[0], whole.n_sessions)
    offsets = np.array(whole.offsets[: end + 1])
    small = Examples(np.array(whole.items[: offsets[-1]]), offsets, whole.days[:end])
    return whole, small, stamp.STAMP(len(array("item_ids")), 100, 19)


def load_ratings(array):
    """The mapped ratings and the small ones, and a model of the catalogue."""
    columns = [array(f"train_{name}") for name in ("users", "items", "ratings")]
    whole = Part(*columns, np.empty(0, np.int64))
    chosen = np.random.default_rng(0).integers(0, len(whole), SMALL[1])
    small = Part(*(column[chosen] for column in columns), whole.timestamp)
    sizes = len(array("user_ids")), len(array("item_ids"))
    mean = float(small.rating.mean(dtype=np.float64))
    return whole, small, mf.MF(*sizes, mean)


KINDS = {  # how to load, batch size, steps of a call, threads
    "sessions": (load_sessions, 128, 1, 0),
    "ratings": (load_ratings, 8192, 10, 1),
}


def measure(folder: Path) -> dict:
    """Trains on both in turn; returns what the line of JSON says."""
    kind = json.loads((folder / "prepared.json").read_text())["kind"]
    load, batch_size, call, threads = KINDS[kind]
    device = select_device("cpu", "must_keep_origin_dtype", threads)
    set_seed(0)

    def array(name):
        return np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)

    whole, small, model = load(array)
    options = {"steps_per_epoch": STEPS, "steps_per_execution": call}
    paces: dict[str, list[float]] = {"whole": [], "small": []}
    cpu: dict[str, list[float]] = {"whole": [], "small": []}
    watch = MemoryWatch()
    for number in range(ROUNDS):
        schedule = Schedule(batch_size, seed=number, shuffle="blocks", **options)
        for name, part in (("whole", whole), ("small", small)):
            started = time.process_time()
            _, timing = fit(model, part, schedule, device, verbose=False)
            cpu[name].append(round(time.process_time() - started, 2))
            watch.ended.set()  # after the first fit, of the whole
            paces[name].append(timing["ms_per_step"])
    medians = {name: statistics.median(each) for name, each in paces.items()}
    return {
        "kind": kind,
        "examples": len(whole),
        "batch_size": batch_size,
        "steps": STEPS,
        "ms_per_step": medians["whole"],
        "ms_per_step_of_small": medians["small"],
        "slower": round(medians["whole"] / medians["small"], 3),
        "private_mb": watch.peaks["RssAnon"],
        "mapped_mb": watch.peaks["RssFile"],
        "rounds": {"ms_per_step": paces, "cpu_s": cpu},
        "processor": device.name,
    }


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
