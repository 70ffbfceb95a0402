"""Executes notebooks with papermill; called by run.sh in the environment it makes."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import modelzoo_summary
import nbformat
import papermill
import plan
import processes
import psutil  # comes with ipykernel
from papermill.exceptions import PapermillExecutionError
from plan import NOTEBOOKS, ROOT

from lib import progress


@dataclass(frozen=True)
class Job:
    """A run of a notebook.

    Attributes:
        name: of the run.
        notebook: its path.
        parameters: that papermill sets.
        copy: path of the executed copy.
        listed: it is one of several of a params file. Such a run is left out if it has
            a record already,
        again: unless this is True.
        title: what is printed when it starts.
        prefix: of its lines, where several run at once.
    """

    name: str
    notebook: Path
    parameters: dict
    copy: Path
    listed: bool
    again: bool
    title: str
    prefix: str


SEED = re.compile(r"-seed=\d+(?=-|$)")  # in the name of a run


def main() -> int:
    """Runs what the command line asks for; returns the exit status."""
    options = parse_options(sys.argv[1:])
    runs = plan.list_runs(options)
    os.chdir(ROOT)  # papermill writes the paths it is given into the executed copies
    os.environ.pop("JPY_SESSION_NAME", None)  # of a kernel that called this command
    executed = Path(options.executed)
    executed.mkdir(parents=True, exist_ok=True)
    jobs = [
        Job(
            name,
            notebook,
            parameters,
            executed / f"{name}.ipynb",
            listed,
            options.again,
            f"[{number} of {len(runs)}] {name}",
            f"[{name}] " if options.jobs > 1 else "",
        )
        for number, (name, notebook, parameters, listed) in enumerate(runs, 1)
    ]
    rows = {}
    for row in execute_all(jobs, options.jobs):
        rows[row["name"]] = row
        if options.record and row["record"]:
            keep_record(row)
        if row["seconds"]:
            modelzoo_summary.write(row["name"], row["record"], row["seconds"])
    ordered = [rows[job.name] for job in jobs]
    print_table(ordered)
    failures = [row for row in ordered if row["failure"]]
    for row in failures:
        print(f"\nFAILED {row['name']}: {row['failure']}\n  see {row['copy']}")
    return 1 if failures else 0


def execute_all(jobs: list[Job], at_once: int) -> Iterator[dict]:
    """Yields the result of ``execute_notebook`` for each job as soon as it ends.

    Each run is in a worker process, out of Ctrl-C's reach: this process ends them all,
    with their kernels, and starts nothing more.
    """
    if at_once > 1:
        share = str(max((os.cpu_count() or 1) // at_once, 1))
        os.environ["TF_NUM_INTRAOP_THREADS"] = share
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    pool = ProcessPoolExecutor(at_once, get_context("spawn"), ignore_interrupts)
    try:
        waiting = [pool.submit(execute_notebook, job) for job in jobs]
        seconds = []
        for number, done in enumerate(as_completed(waiting), 1):
            row = done.result()
            yield row
            seconds += [row["seconds"]] if row["seconds"] else []
            left = len(jobs) - number
            if seconds and left:
                mean = sum(seconds) / len(seconds)
                time_left = timedelta(seconds=round(mean * left / at_once))
                print(
                    f"{number} of {len(jobs)} done, about {time_left} left", flush=True
                )
    except BaseException:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C
        pool.shutdown(wait=False, cancel_futures=True)
        processes.end(child.pid for child in psutil.Process().children())
        raise
    pool.shutdown()


def ignore_interrupts() -> None:
    """Leaves Ctrl-C, which reaches every process of a terminal, to ``execute_all``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def parse_options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bash ci/run.sh",
        description="Executes notebooks 01 to 05 on the embedded sample, or one "
        "notebook with a params file. --stack ascend, as the first words, takes Python "
        "3.9 and TensorFlow 2.6.5.",
    )
    parser.add_argument(
        "--params",
        metavar="FILE",
        help="a YAML file of ci/params/: names its notebook and sets its parameters",
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="set one parameter; may be repeated",
    )
    parser.add_argument("--only", metavar="03,04", help="run these notebooks alone")
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=int,
        default=1,
        help="run N notebooks at once, each on its share of the cores",
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="repeat the runs of a params file with lists that have a record already",
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help="keep the records and the executed notebooks in results/ too",
    )
    parser.add_argument("--executed", default="output/executed", help=argparse.SUPPRESS)
    parser.add_argument("--called-from", default=".", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.params and options.only:
        parser.error("--only does not go with --params, which names its notebook")
    if options.jobs < 1:
        parser.error("--jobs: must be 1 or more")
    on_cpu = "device=cpu" in options.set
    if options.jobs > 1 and find_spec("npu_device") and not on_cpu:
        parser.error(
            "--jobs: an NPU takes one process; leave it out, or add --set device=cpu"
        )
    return options


def execute_notebook(job: Job) -> dict:
    """Executes one notebook; its executed copy stays even after a failure.

    Returns:
        A row of the final table: ``name``, ``copy``, ``failure`` (a sentence or None),
        ``record`` (path of ``result.json``, None on a worker that is not the first and
        after a failure) and ``seconds``, 0 for a run that was left out.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    os.environ[progress.PREFIX] = job.prefix
    started = time.time()
    row: dict = {"name": job.name, "copy": job.copy, "failure": None, "record": None}
    inputs = plan.hash_inputs(job.parameters) if job.listed else ""
    record = find_finished(job, inputs) if job.listed and not job.again else None
    if record:
        print(f"\n{job.title}: has a record already", flush=True)
        return {**row, "record": record, "seconds": 0}
    print(f"\n{job.title}", flush=True)
    try:
        done = papermill.execute_notebook(
            str(job.notebook.relative_to(ROOT)),
            str(job.copy),
            parameters=job.parameters,
            kernel_name="python3",
            cwd=str(NOTEBOOKS),
            progress_bar=not job.listed and not job.prefix,
            extra_arguments=["--log-level=ERROR"],  # no notes on the transport
            stdout_file=Prefixed(job.prefix)
            if job.parameters.get("data_path")
            else None,
            stderr_file=Prefixed(job.prefix),
        )
        row["record"] = find_record(done)
    except PapermillExecutionError as error:
        row["failure"] = f"cell [{error.exec_count}]: {error.ename}: {error.evalue}"
    except Exception as error:  # a kernel that died, for one
        row["failure"] = f"{type(error).__name__}: {error}"
    row["seconds"] = time.time() - started
    if row["record"]:
        shutil.copy2(job.copy, row["record"].parent / "notebook.ipynb")
        if job.listed:
            (row["record"].parent / "inputs.sha256").write_text(inputs)
    return row


class Prefixed:
    """Standard output, with a prefix before each line of one of several runs."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def write(self, text: str) -> None:
        lines = text.splitlines(keepends=True)
        sys.stdout.write("".join(self.prefix + line for line in lines))

    def flush(self) -> None:
        sys.stdout.flush()


def find_finished(job: Job, inputs: str) -> Path | None:
    """Returns the record of an earlier run with the same parameters and input files."""
    if not job.copy.is_file():
        return None
    record = find_record(nbformat.read(job.copy, as_version=4))
    if not record or not record.is_file():
        return None
    hashed = record.with_name("inputs.sha256")
    recorded = json.loads(record.read_text(encoding="utf-8"))["parameters"]
    asked = plan.flatten_groups(job.notebook, job.parameters)
    recorded = {**recorded, **recorded.get("ascend", {})}
    same = all(recorded.get(key) == value for key, value in asked.items())
    same = same and hashed.is_file() and hashed.read_text() == inputs
    return record if same else None


def find_record(notebook: nbformat.NotebookNode) -> Path | None:
    """Returns the last path that ``lib.records.run.Run.write`` has noted."""
    paths = [
        output.metadata.record
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "record" in output.get("metadata", {})
    ]
    return Path(paths[-1]) if paths else None


def keep_record(row: dict) -> None:
    """Copies the record and the notebook of a run to its folder in ``results/``."""
    seed = json.loads(row["record"].read_text(encoding="utf-8"))["seed"]
    folder = ROOT / "results" / results_folder(row["name"], seed)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy2(row["record"], folder / "result.json")
    notebook = nbformat.read(row["copy"], as_version=4)
    leave_out_rows(notebook)
    nbformat.write(notebook, folder / "notebook.ipynb")


def leave_out_rows(notebook: nbformat.NotebookNode) -> None:
    """Replaces what cells tagged ``shows-data`` print: data have their own terms."""
    said = "left out: rows of the data\n"
    for cell in notebook.cells:
        if "shows-data" in cell.metadata.get("tags", []):
            cell.outputs = [nbformat.v4.new_output("stream", text=said)]


def results_folder(name: str, seed: int | None) -> Path:
    """``<experiment>/<setting>/seed-<n>`` of a run, from its name in ``plan``.

    Args:
        name: the params file's name, then the setting and the seed if it has several:
            ``"stamp_audit-mask-seed=0"``.
        seed: the seed of the run; None, where the notebook has none, counts as 0.
    """
    experiment, _, setting = SEED.sub("", name).partition("-")
    return Path(experiment, setting or "default", f"seed-{seed or 0}")


def print_table(rows: list[dict]) -> None:
    """Prints the table that ends the job, then warnings of runs without their NPU."""
    print(
        f"\n{'notebook':<34} {'seconds':>7} {'examples/s':>11} {'ms/step':>9}  "
        f"headline metrics\n{'-' * 110}"
    )
    unused = []
    for row in rows:
        text = row["record"].read_text(encoding="utf-8") if row["record"] else "{}"
        record = json.loads(text)
        metrics = [
            f"{key} {value:,}" if isinstance(value, int) else f"{key} {value:.4f}"
            for key, value in record.get("metrics", {}).items()
        ]
        state = "FAILED" if row["failure"] else ", ".join(metrics[:4])
        start = f"{row['name']:<34} {row['seconds']:>7.1f} {format_speed(record)}  "
        print(start + state)
        if row["record"]:
            print(f"{'':<{len(start)}}{row['record']}")
        device = record.get("device") or {}
        if device.get("fallback"):
            unused.append((row["name"], device["kind"].upper(), device["fallback"]))
    for name, kind, reason in unused:
        print(f"\n!!! {name} WAS COMPUTED ON THE {kind}, NOT ON AN NPU: {reason}")


def format_speed(record: dict) -> str:
    """Returns two columns of the table: examples a second and milliseconds a step."""
    timing = record.get("timing", {})
    rate, pace = (timing.get(key) for key in ("examples_per_second", "ms_per_step"))
    rate, pace = f"{rate:,.0f}" if rate else "", f"{pace:.3f}" if pace else ""
    return f"{rate:>11} {pace:>9}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(
            "\ninterrupted: the same command leaves out the runs that have a record, "
            "and the training that was at work resumes from its last checkpoint"
        )
