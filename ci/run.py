"""Executes notebooks with papermill; called by run.sh in the environment it makes."""

import argparse
import itertools
import json
import logging
import os
import re
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import modelzoo_summary
import nbformat
import papermill
import plan
from papermill.exceptions import PapermillExecutionError
from plan import NOTEBOOKS, ROOT

from lib.hardware import workers

SEED = re.compile(r"-seed=\d+(?=-|$)")  # in the name of a run


def main():
    """Runs what the command line asks for; returns the exit status."""
    options = parse(sys.argv[1:])
    runs = plan.runs(options)
    os.chdir(ROOT)  # papermill writes the paths it is given into the executed copies
    executed = Path(options.executed)
    executed.mkdir(parents=True, exist_ok=True)
    jobs = [
        (name, notebook, parameters, executed / f"{name}.ipynb", listed, options.again)
        for name, notebook, parameters, listed in runs
    ]
    rows = []
    for row in outcomes(jobs, options.jobs):
        rows.append(row)
        if options.record and row["record"]:
            keep(row)
        if row["seconds"]:
            modelzoo_summary.write(row["name"], row["record"], row["seconds"])
    show(rows)
    failures = [row for row in rows if row["failure"]]
    for row in failures:
        print(f"\nFAILED {row['name']}: {row['failure']}\n  see {row['copy']}")
    return 1 if failures else 0


def outcomes(jobs, at_once):
    """Yields what ``execute`` returns for each job, in their order."""
    if at_once == 1:
        yield from itertools.starmap(execute, jobs)
    else:
        share = str(max(os.cpu_count() // at_once, 1))
        os.environ["TF_NUM_INTRAOP_THREADS"] = share
        with ProcessPoolExecutor(at_once, get_context("spawn")) as pool:
            yield from pool.map(execute, *zip(*jobs))


def parse(arguments):
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
        parser.error("--jobs: give 1 or more")
    return options


def execute(name, notebook, parameters, copy, listed=False, again=True):
    """Executes one notebook; the copy is kept whatever happens.

    One of many runs of a params file is left out when it has a record already.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    started = time.time()
    row = {"name": name, "copy": copy, "failure": None, "record": None}
    if listed and not again and (record := finished(copy, notebook, parameters)):
        print(f"\n{name}: has a record already", flush=True)
        return {**row, "record": record, "seconds": 0}
    print(f"\n{name}", flush=True)
    try:
        done = papermill.execute_notebook(
            str(notebook.relative_to(ROOT)),
            str(copy),
            parameters=parameters,
            kernel_name="python3",
            cwd=str(NOTEBOOKS),
            progress_bar=not listed,
            extra_arguments=[
                "--log-level=ERROR"
            ],  # the kernel's notes on its transport
            stdout_file=sys.stdout if parameters.get("data_path") else None,
        )
        row["record"] = record_of(done)
    except PapermillExecutionError as error:
        row["failure"] = f"cell [{error.exec_count}]: {error.ename}: {error.evalue}"
    except Exception as error:  # a kernel that died, for one
        row["failure"] = f"{type(error).__name__}: {error}"
    row["seconds"] = time.time() - started
    if workers.announced().rank:
        row["record"] = None  # the first worker's, and perhaps not there yet
    if row["record"]:
        shutil.copy2(copy, row["record"].parent / "notebook.ipynb")
    return row


def finished(copy, notebook, parameters):
    """The record that an earlier run with the same parameters left, or None."""
    if not copy.is_file():
        return None
    record = record_of(nbformat.read(copy, as_version=4))
    if not record or not record.is_file():
        return None
    found = json.loads(record.read_text(encoding="utf-8"))["parameters"]
    asked = plan.ungrouped(notebook, parameters)
    found = {**found, **found.get("ascend", {})}
    same = all(found.get(key) == value for key, value in asked.items())
    return record if same else None


def record_of(notebook):
    """The path of the record, which the last cell with an output prints."""
    printed = [
        line
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        for line in output.get("text", "").splitlines()
        if line.endswith("result.json")
    ]
    return Path(printed[-1]) if printed else None


def keep(row):
    """Copies the record and the notebook of a run to its folder in ``results/``."""
    seed = json.loads(row["record"].read_text(encoding="utf-8"))["seed"]
    folder = ROOT / "results" / results_folder(row["name"], seed)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy2(row["record"], folder / "result.json")
    shutil.copy2(row["copy"], folder / "notebook.ipynb")


def results_folder(name, seed):
    """``<experiment>/<setting>/seed-<n>`` of a run, from its name in ``plan``.

    Args:
        name: the params file's name, then the setting and the seed if it has several:
            ``"stamp_audit-mask-seed=0"``.
        seed: the seed of the run; None, where the notebook has none, counts as 0.
    """
    experiment, _, setting = SEED.sub("", name).partition("-")
    return Path(experiment, setting or "default", f"seed-{seed or 0}")


def show(rows):
    """Prints the table that ends the job; cards that were not used stand below it."""
    print(
        f"\n{'notebook':<34} {'seconds':>7} {'examples/s':>11} {'ms/step':>9}  "
        f"headline metrics\n{'-' * 110}"
    )
    unused = []
    for row in rows:
        text = row["record"].read_text(encoding="utf-8") if row["record"] else "{}"
        record = json.loads(text)
        shown = [
            f"{key} {value:,}" if isinstance(value, int) else f"{key} {value:.4f}"
            for key, value in record.get("metrics", {}).items()
        ]
        state = "FAILED" if row["failure"] else ", ".join(shown[:4])
        start = f"{row['name']:<34} {row['seconds']:>7.1f} {speed_of(record)}  "
        print(start + state)
        if row["record"]:
            print(f"{'':<{len(start)}}{row['record']}")
        device = record.get("device") or {}
        if device.get("fallback"):
            unused.append((row["name"], device["kind"].upper(), device["fallback"]))
    for name, kind, reason in unused:
        print(f"\n!!! {name} WAS COMPUTED ON THE {kind}, NOT ON AN NPU: {reason}")


def speed_of(record):
    """Examples a second and milliseconds a step of a record, as the table has them."""
    timing = record.get("timing", {})
    rate, pace = (timing.get(key) for key in ("examples_per_second", "ms_per_step"))
    rate, pace = f"{rate:,.0f}" if rate else "", f"{pace:.3f}" if pace else ""
    return f"{rate:>11} {pace:>9}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; the same command goes on from the last checkpoint")
