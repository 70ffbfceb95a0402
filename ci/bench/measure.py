"""Measures the plan of a model: rounds alternate between workers, medians count.

Called by bench.sh: ``measure.py PYTHON_OF_THE_PEERS stamp|mf|peers|sessions``; "none"
for the peers' Python measures the rows that need no peer.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cases

from lib import files
from lib.errors import InputError
from lib.hardware.device import DEVICES, select_device
from lib.records.run import describe_origin

HERE = Path(__file__).resolve().parent
METRICS = {"rmse": "RMSE", "hr_at_20": "HR@20", "mrr_at_20": "MRR@20"}
LEVELS = (0.865, 0.850)  # RMSE whose first seconds a table shows
TURNS = {  # by whether a worker must be the only process
    False: "the workers of a group are all ready and do a round each in turn",
    True: "one process at a time, as a card takes one: workers do a round each in "
    "turn, and each round starts its worker again and warms it up",
}


class Worker:
    """A process that does one round whenever it is asked."""

    def __init__(self, row: dict, peers: str) -> None:
        self.row, self.rounds, self.process = row, [], None
        self.python = peers if row.get("peer") else sys.executable

    def start(self) -> None:
        """Starts the process and waits until it is ready."""
        command = [
            self.python,
            str(HERE / self.row["script"]),
            json.dumps(self.row["options"]),
        ]
        paths = [str(files.ROOT)]
        if not self.row.get("peer"):  # npu_device lies on the caller's path
            paths += filter(None, [os.environ.get("PYTHONPATH")])
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (as long as self)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        self.answer()

    def answer(self) -> dict:
        """Reads a line of JSON; exits with the worker's last error if it died."""
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            last = (self.errors.read().strip() or "no error text").splitlines()[-1]
            raise SystemExit(f"{self.row['label']} failed: {last}")
        return json.loads(line)

    def round(self) -> None:
        """Has the worker do a round and keeps its answer."""
        self.process.stdin.write("round\n")
        self.process.stdin.flush()
        self.rounds.append(self.answer())

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()

    def summarize(self) -> dict:
        """Returns the row with its result: the median, slowest and fastest round."""
        rates = sorted(one["done"] / one["seconds"] for one in self.rounds)
        by_time = sorted(self.rounds, key=lambda one: one["seconds"])
        median = by_time[len(by_time) // 2]
        more = {k: v for k, v in median.items() if k not in ("done", "seconds")}
        return {
            "label": self.row["label"],
            **self.row["shown"],
            **more,
            "seconds": round(median["seconds"], 3),
            "per_second": round(statistics.median(rates), 1),
            "slowest": round(rates[0], 1),
            "fastest": round(rates[-1], 1),
            "peak_mb": self.rounds[-1]["peak_mb"],
        }


def measure(
    group: list[dict], peers: str, rounds: int, one_at_a_time: bool = False
) -> list[dict]:
    """Measures the rows of one group, round by round in turn; see ``TURNS``."""
    workers = [Worker(row, peers) for row in group]
    if not one_at_a_time:
        for worker in workers:  # prepared one after the other
            worker.start()
    for _ in range(rounds):
        for worker in workers:
            if len(worker.rounds) == worker.row.get("rounds", rounds):
                continue
            if one_at_a_time:
                worker.start()
            worker.round()
            if one_at_a_time:
                worker.close()
    if not one_at_a_time:
        for worker in workers:
            worker.close()
    return [worker.summarize() for worker in workers]


def processor_time() -> tuple[float, float, float]:
    """Reads the jiffies of all cores since the start of the system.

    Returns:
        ``(stolen, others, all)``: those that a virtual machine's host kept for itself,
        those of processes that are not this one or ended children of it, and all; zeros
        where the system does not count them (outside of Linux).
    """
    counts = Path("/proc/stat")
    if not counts.exists():
        return 0, 0, 0
    cores = [int(n) for n in counts.read_text().split("\n")[0].split()[1:9]]
    user, nice, system, _, _, interrupts, soft_interrupts, stolen = cores
    own = sum(os.times()[:4]) * os.sysconf("SC_CLK_TCK")
    busy = user + nice + system + interrupts + soft_interrupts
    return stolen, busy - own, sum(cores)


def compute_shares(
    before: tuple[float, float, float], orphaned: float = 0.0
) -> dict[str, float]:
    """Returns percents of ``processor_time`` since ``before``, as columns of a row.

    ``orphaned`` are CPU seconds of children that nobody waited for, such as a JVM:
    they count as ours.
    """
    stolen, others, of = (now - then for now, then in zip(processor_time(), before))
    others -= orphaned * os.sysconf("SC_CLK_TCK")
    return {
        "stolen_percent": round(100 * stolen / max(of, 1), 1),
        "others_percent": round(100 * max(others, 0) / max(of, 1), 1),
    }


def describe_device(wish: str) -> dict:
    """Returns the record of the device that workers open for ``--device wish``.

    It is opened in a process that ends: this one keeps no card from the workers.

    Raises:
        InputError: there is no such device.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_record, wish).result()


def _record(wish: str) -> dict:
    return select_device(wish).record()


def read_peers(python: str) -> dict[str, str]:
    """Returns the versions of the peers that are installed for a Python."""
    names = re.findall(r"(?m)^([\w.-]+)==", (HERE / "requirements.txt").read_text())
    code = (
        "import json; from importlib.metadata import distributions as all\n"
        "print(json.dumps({d.metadata['Name']: d.version for d in all()}))"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    installed = json.loads(done.stdout or "{}")
    return {name: installed[name] for name in names if name in installed}


def format_heading(bench: dict) -> str:
    """Returns device, versions and method of a measurement as a few lines."""
    opened, versions = bench["device"], bench["versions"]
    n = bench["rounds"]
    rounds = "one round" if n == 1 else f"medians of {n} rounds"
    return (
        f"{opened['kind']}: {opened['name']}, {bench['machine']['cores']} cores, "
        f"TensorFlow {versions['tensorflow']}, {rounds}\n"
        f"{bench['turns']}\n"
    )


def format_table(rows: list[dict], compare: Sequence[str]) -> str:
    """Returns rows as text; each rate is also divided by those of ``compare``."""
    found = {k: v for k, v in METRICS.items() if any(k in row for row in rows)}
    with_window = any("window" in row for row in rows)
    with_curve = any("curve" in row for row in rows)
    head = f"{'':<42}{'batch':>6}" + with_window * f"{'window':>8}"
    head += f"{'per second':>13}{'slowest':>11}{'fastest':>11}"
    with_private = any("private_mb" in row for row in rows)
    head += f"{'MB':>7}" + with_private * f"{'private':>9}"
    head += f"{'stolen %':>10}{'others %':>10}"
    head += "".join(f"{title:>8}" for title in found.values())
    head += with_curve * "".join(f"{f's to {level}':>11}" for level in LEVELS)
    head += with_curve * f"{'tracing s':>11}"
    lines = [head + "".join(f"{'/ ' + name:>18}" for name in compare)]
    for row in rows:
        alone = row["label"] in row["group"]  # then the group says more than the label
        line = f"{row['group' if alone else 'label']:<42}"
        line += f"{row['batch_size']:>6}"
        line += with_window * f"{row.get('window', ''):>8}"
        line += f"{row['per_second']:>13,.0f}"
        line += f"{row['slowest']:>11,.0f}{row['fastest']:>11,.0f}{row['peak_mb']:>7,}"
        line += with_private * f"{row.get('private_mb', ''):>9}"
        line += f"{row['stolen_percent']:>10}{row['others_percent']:>10}"
        for name in found:
            line += f"{row[name]:>8.4f}" if name in row else " " * 8
        line += with_curve * format_times(row)
        for name in compare:
            same = [
                other["per_second"]
                for other in rows
                if other["label"] == name and other["group"] == row["group"]
            ]
            line += f"{row['per_second'] / same[0]:>18.2f}" if same else f"{'':>18}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def format_times(row: dict) -> str:
    """Returns the seconds until a row first reached each RMSE, and those of tracing."""
    cells = []
    for level in LEVELS:
        seconds = [s for s, rmse in row.get("curve", []) if rmse <= level]
        cells.append(f"{min(seconds):.2f}" if seconds else "")
    cells.append(f"{row['tracing_s']:.2f}" if "tracing_s" in row else "")
    return "".join(f"{cell:>11}" for cell in cells)


def parse_options(
    arguments: list[str] | None = None,
) -> tuple[argparse.Namespace, dict[str, list[dict]], dict]:
    """Returns the options, the groups of rows to measure, and the device's record."""
    parser = argparse.ArgumentParser(prog="bash ci/bench.sh")
    parser.add_argument("peers", help=argparse.SUPPRESS)
    parser.add_argument("--with-peers", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("model", choices=sorted(cases.COMPARE))
    parser.add_argument("--rounds", type=int, default=5, help="of every worker")
    parser.add_argument("--only", help="measure only groups whose name contains this")
    parser.add_argument("--data", help="folder of the ratings, where not fetched")
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="auto",
        help="that workers open; auto takes an NPU, else a GPU, else the CPU. Peers "
        "compute on the CPU and are measured beside it alone",
    )
    options = parser.parse_args(arguments)
    if options.data and options.model == "stamp":
        parser.error("--data: stamp is measured on made-up clicks and reads no file")
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: must be 1 or more")
    try:
        opened = describe_device(options.device)
    except InputError as error:
        parser.error(f"--device {options.device}: {error}")
    no_peers = options.peers == "none" or opened["kind"] != "cpu"
    every = cases.list_groups(options.model, opened["kind"])
    groups = {
        name: [row for row in rows if not (no_peers and row.get("peer"))]
        for name, rows in every.items()
        if (options.only or "") in name
    }
    groups = {name: rows for name, rows in groups.items() if rows}
    if not groups and options.only and not any(options.only in name for name in every):
        parser.error(f"--only {options.only}: the groups are {', '.join(every)}")
    if not groups:
        parser.error(
            f"{options.model}: only peers take part, and they need the CPU and the "
            "current stack; leave out --stack, and add --device cpu"
        )
    for row in (row for rows in groups.values() for row in rows):
        if not row.get("peer"):
            row["options"]["device"] = opened["kind"]
        if options.data:
            row["options"]["data_path"] = options.data
    return options, groups, opened


def main() -> None:
    """Measures and prints the table; writes it to ``output/bench``."""
    options, groups, opened = parse_options()
    if options.with_peers:  # bench.sh asks whether it must set them up
        peers = any(row.get("peer") for rows in groups.values() for row in rows)
        print("peers" if peers else "no peers")
        return
    path = files.ROOT / "output" / "bench"
    one_at_a_time = opened["kind"] != "cpu"
    parts = [options.model, *re.findall(r"\w+", options.only or "")]
    about = {
        "bench": "-".join(parts),
        "device": opened,
        **describe_origin(),
        "peer_versions": {} if options.peers == "none" else read_peers(options.peers),
        "rounds": max(
            row.get("rounds", options.rounds)
            for rows in groups.values()
            for row in rows
        ),
        "turns": TURNS[one_at_a_time],
    }
    path /= "-".join(parts + ["ascend"] * (options.peers == "none")) + ".json"
    for line in (f"{opened['kind']}: {opened['name']}", *opened["notes"]):
        print(line, flush=True)
    rows = []
    for number, (name, group) in enumerate(groups.items(), 1):
        print(f"[{number}/{len(groups)}] {name}: {len(group)} workers", flush=True)
        before = processor_time()
        measured = measure(group, options.peers, options.rounds, one_at_a_time)
        percents = compute_shares(before)
        rows += [{"group": name, **row, **percents} for row in measured]
        bench = {**about, "rows": rows}
        text = format_heading(bench) + format_table(rows, cases.COMPARE[options.model])
        files.write_text(path, json.dumps(bench, indent=1) + "\n")
        files.write_text(path.with_suffix(".txt"), text + "\n")
    print(text)
    print(files.relative(path))


if __name__ == "__main__":
    main()
