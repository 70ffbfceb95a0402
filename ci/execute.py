"""Executes notebooks with papermill; called by run.sh in the environment it makes."""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import modelzoo_summary
import nbformat
import papermill
import plan
from papermill.exceptions import PapermillExecutionError
from plan import NOTEBOOKS, ROOT

SEED = re.compile(r"-seed=\d+(?=-|$)")  # in the name of a run


def main() -> int:
    """Runs what the command line asks for; returns the exit status."""
    options = parse_options(sys.argv[1:])
    runs = plan.list_runs(options)
    os.chdir(ROOT)  # papermill writes the paths it is given into the executed copies
    executed = Path(options.executed)
    executed.mkdir(parents=True, exist_ok=True)
    jobs = [
        (name, notebook, parameters, executed / f"{name}.ipynb", listed, options.again)
        for name, notebook, parameters, listed in runs
    ]
    rows = []
    for row in execute_all(jobs, options.jobs):
        rows.append(row)
        if options.record and row["record"]:
            keep_record(row)
        if row["seconds"]:
            modelzoo_summary.write(row["name"], row["record"], row["seconds"])
    print_table(rows)
    failures = [row for row in rows if row["failure"]]
    for row in failures:
        print(f"\nFAILED {row['name']}: {row['failure']}\n  see {row['copy']}")
    return 1 if failures else 0


def execute_all(jobs: list[tuple], at_once: int) -> Iterator[dict]:
    """Yields the result of ``execute_notebook`` for each job, in their order."""
    if at_once == 1:
        yield from itertools.starmap(execute_notebook, jobs)
    else:
        share = str(max((os.cpu_count() or 1) // at_once, 1))
        os.environ["TF_NUM_INTRAOP_THREADS"] = share
        with ProcessPoolExecutor(at_once, get_context("spawn")) as pool:
            yield from pool.map(execute_notebook, *zip(*jobs))


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
    return options


def execute_notebook(
    name: str,
    notebook: Path,
    parameters: dict,
    copy: Path,
    listed: bool = False,
    again: bool = True,
) -> dict:
    """Executes one notebook; its executed copy stays even after a failure.

    Args:
        name: of the run.
        notebook: its path.
        parameters: that papermill sets.
        copy: path of the executed copy.
        listed: the run is one of several of a params file. Such a run is left out if it
            has a record already.
        again: repeat it nevertheless.

    Returns:
        A row of the final table: ``name``, ``copy``, ``failure`` (a sentence or None),
        ``record`` (path of ``result.json``, None on a worker that is not the first and
        after a failure) and ``seconds``, 0 for a run that was left out.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    started = time.time()
    row: dict = {"name": name, "copy": copy, "failure": None, "record": None}
    if listed and not again and (record := find_finished(copy, notebook, parameters)):
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
            extra_arguments=["--log-level=ERROR"],  # no notes on the transport
            stdout_file=sys.stdout if parameters.get("data_path") else None,
        )
        row["record"] = find_record(done)
    except PapermillExecutionError as error:
        row["failure"] = f"cell [{error.exec_count}]: {error.ename}: {error.evalue}"
    except Exception as error:  # a kernel that died, for one
        row["failure"] = f"{type(error).__name__}: {error}"
    row["seconds"] = time.time() - started
    if row["record"]:
        shutil.copy2(copy, row["record"].parent / "notebook.ipynb")
    return row


def find_finished(copy: Path, notebook: Path, parameters: dict) -> Path | None:
    """Returns the record of an earlier run with the same parameters, or None."""
    if not copy.is_file():
        return None
    record = find_record(nbformat.read(copy, as_version=4))
    if not record or not record.is_file():
        return None
    recorded = json.loads(record.read_text(encoding="utf-8"))["parameters"]
    asked = plan.ungrouped(notebook, parameters)
    recorded = {**recorded, **recorded.get("ascend", {})}
    same = all(recorded.get(key) == value for key, value in asked.items())
    return record if same else None


def find_record(notebook: nbformat.NotebookNode) -> Path | None:
    """Returns the last path that ``lib.records.run.publish_record`` has noted."""
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
    shutil.copy2(row["copy"], folder / "notebook.ipynb")


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
        sys.exit("\ninterrupted; the same command resumes from the last checkpoint")
