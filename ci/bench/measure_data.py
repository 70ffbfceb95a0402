"""Measures how preparing data, and training on it, grows with the size of the log.

Called by ``bash ci/bench.sh data``. Logs of 1, 10 and 100 million rows are made up; the
engines take turns on each, every turn in a process of its own, whose seconds, CPU
seconds and peak memory count (with those of its children, such as Spark's JVM). Every
turn is kept as soon as it ends, so an interrupted measurement resumes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import made_up
import measure
import numpy as np
import psutil  # comes with ipykernel

from lib import files
from lib.records.run import describe_origin

HERE = Path(__file__).resolve().parent
MILLION = 1_000_000
SIZES = (MILLION, 10 * MILLION, 100 * MILLION)
WAYS = {  # label: engine, format of the log
    "DuckDB": ("duckdb", "parquet"),
    "DuckDB, CSV": ("duckdb", "csv"),
    "Spark local": ("spark", "parquet"),
    "pandas": ("pandas", "parquet"),
}
RULES = {
    "sessions": [],
    "ratings": ["--columns", "rating=rating, time=time", "--set", "split=global_time"],
}
TRAINING = "training from memory maps"
MEMORY = "1GB"  # --memory of the engines
PANDAS_SHARE = 0.75  # of the machine's memory: what pandas may take
INTERVAL = 0.1  # seconds between two looks at a process


def watch(command: list[str], log: Path) -> dict:
    """Runs a command and watches its process and their children.

    Returns:
        ``seconds``, ``cpu_seconds``, ``peak_mb`` (resident memory), ``private_mb``
        (resident memory that is no page of a file), ``stolen_percent``,
        ``others_percent``, ``output``, the last line of standard output, and
        ``failed``, the last line of errors of a command that failed, else None.
    """
    before, started = measure.processor_time(), time.perf_counter()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    path = os.pathsep.join([str(files.ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path}
    with open(log, "w+") as output, open(log.with_suffix(".err"), "w+") as errors:
        process = subprocess.Popen(command, stdout=output, stderr=errors, env=env)
        cpu, peaks = _sample(process)
        lines = {}
        for name, file in (("output", output), ("failed", errors)):
            file.seek(0)
            lines[name] = (file.read().strip() or "nothing said").splitlines()[-1]
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    waited = sum(ended[:2]) - sum(children[:2])
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "cpu_seconds": round(max(cpu, waited), 2),
        **peaks,
        **measure.compute_shares(before, max(cpu - waited, 0)),
        **lines,
        "failed": lines["failed"] if process.returncode else None,
    }


def _sample(process: subprocess.Popen) -> tuple[float, dict[str, int]]:
    """Waits for a process; returns CPU seconds and the peaks of memory, in MB.

    Memory is the sum over the process and its children, looked at ten times a second.
    """
    parent, cpu, peaks = psutil.Process(process.pid), {}, {"peak_mb": 0.0}
    peaks["private_mb"] = 0.0
    while process.poll() is None:
        resident = private = 0
        try:
            for one in [parent, *parent.children(recursive=True)]:
                memory, times = one.memory_info(), one.cpu_times()
                resident += memory.rss
                private += memory.rss - getattr(memory, "shared", 0)
                cpu[one.pid] = times.user + times.system
        except psutil.NoSuchProcess:
            pass  # it ended meanwhile
        peaks["peak_mb"] = max(peaks["peak_mb"], resident / 1e6)
        peaks["private_mb"] = max(peaks["private_mb"], private / 1e6)
        time.sleep(INTERVAL)
    return sum(cpu.values()), {name: round(mb) for name, mb in peaks.items()}


class Bench:
    """A measurement: the turns so far, kept in a file, and the folder that it may fill.

    Turns of another commit, machine or software are measured again.

    Args:
        path: of the JSON file.
        folder: for logs and prepared data.
        about: the machine and the software.
        rounds: of every engine; the largest log has one.
    """

    def __init__(self, path: Path, folder: Path, about: dict, rounds: int) -> None:
        self.path, self.folder, self.about, self.rounds = path, folder, about, rounds
        folder.mkdir(parents=True, exist_ok=True)
        earlier = files.read_json(path) if path.exists() else {}
        same = all(earlier.get(key) == value for key, value in about.items())
        self.turns = earlier["turns"] if same and earlier else []

    def measure(self, key: dict, command: list[str], out: Path | None = None) -> None:
        """Measures a turn and keeps it; ``out`` is the folder that it writes."""
        for left in (out, out and out.with_name(f"{out.name}.unfinished")):
            if left:  # by a measurement that was interrupted
                shutil.rmtree(left, ignore_errors=True)
        print(" ".join(str(value) for value in key.values()), end=" ", flush=True)
        turn = {**key, **watch(command, self.folder / "turn.log")}
        if out and out.is_dir():
            turn["arrays"] = hash_arrays(out)
        self.turns.append(turn)
        self.write()
        shown = f"{turn['seconds']:.1f} s, {turn['peak_mb']:,} MB"
        print(f"failed: {turn['failed']}" if turn["failed"] else shown, flush=True)

    def is_measured(self, key: dict) -> bool:
        """Tells whether the turn was measured before."""
        return any(key.items() <= turn.items() for turn in self.turns)

    def write(self) -> None:
        """Writes the turns as JSON and their tables as text."""
        text = json.dumps({**self.about, "turns": self.turns}, indent=1) + "\n"
        files.write_text(self.path, text)
        files.write_text(self.path.with_suffix(".txt"), self.format() + "\n")

    def log(self, kind: str, size: int, suffix: str) -> Path:
        """Returns a made-up log, written the first time."""
        path = self.folder / f"{kind}-{size}.{suffix}"
        if not path.exists():
            made_up.write(kind, size, path)
        return path

    def prepare(self, kind: str, size: int) -> None:
        """Has every engine prepare a log, in turn."""
        for number in range(1 if size > 10 * MILLION else self.rounds):
            for label, (engine, suffix) in WAYS.items():
                key = {"kind": kind, "size": size, "label": label, "round": number}
                out = self.folder / "prepared"
                if not self.is_measured(key):
                    log = self.log(kind, size, suffix)
                    self.measure(key, command_of(engine, kind, log, out), out)
                    shutil.rmtree(out, ignore_errors=True)

    def train(self, kind: str, size: int) -> None:
        """Trains on a log that DuckDB prepared; see ``train_from_disk.py``."""
        key = {"kind": kind, "size": size, "label": TRAINING, "round": 0}
        out = self.folder / f"{kind}-{size}"
        if not self.is_measured(key):
            if not out.exists():
                log = self.log(kind, size, "parquet")
                command = command_of("duckdb", kind, log, out)
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            program = str(HERE / "train_from_disk.py")
            self.measure(key, [sys.executable, program, str(out)])
        shutil.rmtree(out, ignore_errors=True)

    def format(self) -> str:
        """Returns the machine and a table for each kind of log as text."""
        about = self.about
        lines = [
            f"{about['device']}, {about['cores']} cores, {about['memory_gb']} GB",
            ", ".join(f"{name} {v}" for name, v in about["versions"].items()),
            f"all turns took {sum(t['seconds'] for t in self.turns) / 60:.0f} minutes",
        ]
        for kind in RULES:
            turns = [turn for turn in self.turns if turn["kind"] == kind]
            lines += ["", *format_preparing(kind, turns), *format_training(turns)]
        return "\n".join(lines)


def command_of(engine: str, kind: str, log: Path, out: Path) -> list[str]:
    """Returns the command with which an engine prepares a log."""
    if engine == "pandas":
        limit = f"{psutil.virtual_memory().total * PANDAS_SHARE / 1e9:.1f}"
        return [sys.executable, str(HERE / "data_pandas.py"), kind, log, out, limit]
    program = [sys.executable, str(files.ROOT / "ci" / "prepare.py")]
    more = ["--engine", engine, "--memory", MEMORY, *RULES[kind]]
    return [*program, "--data", str(log), "--out", str(out), *more]


def hash_arrays(folder: Path) -> str:
    """Returns a hash of all arrays in a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.npy")):
        digest.update(path.name.encode())
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        digest.update(f"{array.dtype} {array.shape}".encode())
        for start in range(0, len(array), MILLION):
            digest.update(array[start : start + MILLION].tobytes())
    return digest.hexdigest()


def median_of(turns: list[dict]) -> dict:
    """Returns the turn of the median duration."""
    return sorted(turns, key=lambda turn: turn["seconds"])[len(turns) // 2]


def format_preparing(kind: str, turns: list[dict]) -> list[str]:
    """Returns the table of preparing as lines: medians of the rounds."""
    lines = [
        f"preparing {kind}{'':<14}{'rows':>13}{'seconds':>9}{'CPU s':>9}{'CPU s/M':>9}"
        f"{'peak MB':>9}{'private':>9}{'stolen %':>10}{'others %':>10}  arrays"
    ]
    slopes = []
    for label in WAYS:
        medians = {}
        for size in sorted({turn["size"] for turn in turns}):
            same = [t for t in turns if (t["label"], t["size"]) == (label, size)]
            if not same:
                continue
            turn = medians[size] = median_of(same)
            start = f"{label:<{len(kind) + 24}}{size:>13,}"
            if turn["failed"]:
                lines.append(f"{start}  {turn['failed']}")
                del medians[size]
                continue
            cpu = turn["cpu_seconds"]
            lines.append(
                f"{start}{turn['seconds']:>9.1f}{cpu:>9.1f}{cpu / size * MILLION:>9.2f}"
                f"{turn['peak_mb']:>9,}{turn['private_mb']:>9,}"
                f"{turn['stolen_percent']:>10}{turn['others_percent']:>10}"
                f"  {compare_arrays(same, turns)}"
            )
        slopes += format_slope(label, medians)
    return lines + slopes


def compare_arrays(same: list[dict], turns: list[dict]) -> str:
    """Tells whether all rounds wrote the arrays that every engine writes."""
    size = same[0]["size"]
    found = {t["arrays"] for t in turns if t["size"] == size and "arrays" in t}
    return "equal" if len(found) == 1 else "DIFFERENT"


def format_slope(label: str, medians: dict[int, dict]) -> list[str]:
    """Returns the CPU seconds of each further million rows, from size to size."""
    sizes = list(medians)
    slopes = [
        (medians[b]["cpu_seconds"] - medians[a]["cpu_seconds"]) / (b - a) * MILLION
        for a, b in zip(sizes, sizes[1:])
    ]
    if not slopes:
        return []
    numbers = ", ".join(
        f"{slope:.2f} up to {size:,}" for slope, size in zip(slopes, sizes[1:])
    )
    return [f"{label}: CPU seconds of each further million rows: {numbers}"]


def format_training(turns: list[dict]) -> list[str]:
    """Returns the results of training as lines."""
    lines = []
    for turn in (turn for turn in turns if turn["label"] == TRAINING):
        start = f"{TRAINING}, {turn['size']:,} rows"
        if turn["failed"]:
            lines.append(f"{start}: {turn['failed']}")
            continue
        said = json.loads(turn["output"])
        lines.append(
            f"{start}: {said['steps']} steps of {said['batch_size']} at "
            f"{said['ms_per_step']:.2f} ms, {said['slower']:.2f} times those on a "
            f"small log in memory; {said['private_mb']:,} MB private"
        )
    return lines


def describe() -> dict:
    """Returns the machine and the versions of the software that takes part."""
    origin = describe_origin()
    versions = origin["versions"]
    for package in ("duckdb", "pyspark"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "bench": "data",
        "device": measure.describe_device("cpu")["name"],
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "memory_limit": MEMORY,
        "versions": versions,
        "git_commit": origin["git_commit"],
    }


def parse_options(arguments: list[str]) -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(prog="bash ci/bench.sh data")
    parser.add_argument("--sizes", help="rows of the logs, as in 1000000,10000000")
    parser.add_argument("--kinds", help="sessions, ratings (default: both)")
    parser.add_argument("--rounds", type=int, default=3, help="up to 10 million rows")
    folder = files.ROOT / "output" / "bench" / "data"
    parser.add_argument("--folder", default=folder, help="of logs and prepared data")
    return parser.parse_args(arguments)


def main() -> None:
    """Measures, prints the tables, and writes them to ``output/bench``."""
    options = parse_options(sys.argv[1:])
    sizes = [int(size) for size in (options.sizes or "").split(",") if size]
    sizes = sizes or list(SIZES)
    path = files.ROOT / "output" / "bench" / "data.json"
    bench = Bench(path, Path(options.folder), describe(), options.rounds)
    for kind in options.kinds.split(",") if options.kinds else RULES:
        for size in sizes:
            bench.prepare(kind, size)
        bench.train(kind, max(sizes))
        for path in bench.folder.glob(f"{kind}-*.*"):
            path.unlink()
    print(bench.format())
    print(files.relative(path))


if __name__ == "__main__":
    main()
