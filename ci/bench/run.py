"""Measures the plan of a model: rounds alternate between workers, medians count.

Called by bench.sh: ``run.py PYTHON_OF_THE_PEERS stamp|mf|peers``; "none" for the
peers' Python measures the rows that need no peer.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import plans

from lib import device, provenance, results, sources

HERE = Path(__file__).resolve().parent


class Worker:
    """A process that does one round whenever it is asked."""

    def __init__(self, row, peers):
        self.row, self.rounds = row, []
        python = peers if row.get("peer") else sys.executable
        command = [python, str(HERE / row["script"]), json.dumps(row["options"])]
        environment = {**os.environ, "PYTHONPATH": str(sources.ROOT)}
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (as long as self)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment,
        )
        self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            last = (self.errors.read().strip() or "without a word").splitlines()[-1]
            raise SystemExit(f"{self.row['label']} failed: {last}")
        return json.loads(line)

    def round(self):
        self.process.stdin.write("round\n")
        self.process.stdin.flush()
        self.rounds.append(self.answer())

    def close(self):
        self.process.stdin.close()
        self.process.wait()

    def measured(self):
        """The row with its outcome: the median round, and the slowest and fastest."""
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


def measure(group, peers, rounds):
    """The rows of one group, measured round by round in turn."""
    workers = [Worker(row, peers) for row in group]  # prepared one after the other
    for _ in range(rounds):
        for worker in workers:
            if len(worker.rounds) < worker.row.get("rounds", rounds):
                worker.round()
    for worker in workers:
        worker.close()
    return [worker.measured() for worker in workers]


def stolen(before=(0, 0)):
    """Jiffies that a virtual machine's host kept for itself, and those of all.

    Args:
        before: what an earlier call returned; subtracted.

    Returns:
        A pair; zeros where the system does not count them (outside of Linux).
    """
    counts = Path("/proc/stat")
    if not counts.exists():
        return 0, 0
    all_cores = [int(n) for n in counts.read_text().split("\n")[0].split()[1:9]]
    return all_cores[7] - before[0], sum(all_cores) - before[1]


def table(rows, compare):
    """Rows as text; beside each rate its ratios to rows of its group, by label."""
    with_rmse = any("rmse" in row for row in rows)
    head = f"{'':<42}{'batch':>6}{'per second':>13}{'slowest':>11}{'fastest':>11}"
    head += f"{'MB':>7}{'stolen %':>10}" + with_rmse * f"{'RMSE':>8}"
    lines = [head + "".join(f"{'/ ' + name:>18}" for name in compare)]
    for row in rows:
        alone = row["label"] in row["group"]  # then the group says more than the label
        line = f"{row['group' if alone else 'label']:<42}"
        line += f"{row['batch_size']:>6}{row['per_second']:>13,.0f}"
        line += f"{row['slowest']:>11,.0f}{row['fastest']:>11,.0f}{row['peak_mb']:>7,}"
        line += f"{row['stolen_percent']:>10}"
        line += with_rmse * (f"{row['rmse']:>8.4f}" if "rmse" in row else " " * 8)
        for name in compare:
            same = [
                other["per_second"]
                for other in rows
                if other["label"] == name and other["group"] == row["group"]
            ]
            line += f"{row['per_second'] / same[0]:>18.2f}" if same else f"{'':>18}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(prog="bash ci/bench.sh")
    parser.add_argument("peers", help=argparse.SUPPRESS)
    parser.add_argument("model", choices=sorted(plans.PLANS))
    parser.add_argument("--rounds", type=int, default=5, help="of every worker")
    parser.add_argument(
        "--only", help="measure the groups whose name contains this alone"
    )
    parser.add_argument("--data", help="folder of the ratings, where not fetched")
    options = parser.parse_args()
    if options.data and options.model == "stamp":
        parser.error("--data: stamp is measured on made-up clicks and reads no file")
    plan = plans.PLANS[options.model]
    alone = options.peers == "none"
    groups = {
        name: [row for row in group if not (alone and row.get("peer"))]
        for name, group in plan["groups"].items()
        if (options.only or "") in name
    }
    groups = {name: group for name, group in groups.items() if group}
    path = sources.ROOT / "output" / "bench"
    path.mkdir(parents=True, exist_ok=True)
    path /= f"{options.model}{'-ascend' * alone}.json"
    about = {
        "bench": options.model,
        "device": device.open("cpu").record(),
        "cores": os.cpu_count(),
        "versions": provenance.versions(),
        "git_commit": provenance.git_commit(),
    }
    rows = []
    if options.data:
        for row in (row for group in groups.values() for row in group):
            row["options"]["data_path"] = options.data
    for number, (name, group) in enumerate(groups.items(), 1):
        print(f"[{number}/{len(groups)}] {name}: {len(group)} workers", flush=True)
        before = stolen()
        measured = measure(group, options.peers, options.rounds)
        taken, of = stolen(before)
        percent = round(100 * taken / max(of, 1), 1)
        rows += [{"group": name, **row, "stolen_percent": percent} for row in measured]
        text = table(rows, plan["compare"])
        bench = {**about, "rounds": options.rounds, "rows": rows}
        results.write_text(path, json.dumps(bench, indent=1) + "\n")
        results.write_text(path.with_suffix(".txt"), text + "\n")
    print(text)
    print(results.relative(path))


if __name__ == "__main__":
    main()
