"""Prepare data on disk: logs of any size become a folder of arrays, on any engine.

``prepare`` runs the SQL of ``session_steps`` or ``rating_steps`` and writes the folder
that ``lib.data.prepared`` describes. Each step is stored as Parquet in
``OUT.unfinished``, so that an interrupted preparation resumes after its last step.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from lib import files, progress
from lib.data import prepared, rating_steps, ratings, readers, session_steps
from lib.data.engines import DuckDB, Spark, escape_glob
from lib.data.session_steps import Rules
from lib.data.sources import MOVIELENS, PathLike
from lib.errors import InputError, check_choice, check_seed

ENGINES = ("duckdb", "spark")
RULES: dict[str, dict[str, Any]] = {  # of a kind of data, with their defaults
    "sessions": {n: v for n, v in asdict(Rules()).items() if n != "filters"},
    "ratings": {"split": "by_pair", "test_share": 0.2, "seed": 0},
}
_BYTES = {".parquet": 150}  # of disk, for a row; of a text 225
_STATE, _LOCK = "state.json", "lock"
_VECTORS = 128  # of 2,048 rows each: a piece of an array
_UNITS = {"MB": 1, "GB": 1000, "TB": 1_000_000}


class Steps:
    """An engine that remembers its steps, so that none is taken twice.

    Has the methods of ``Engine`` and passes them on to one. ``state.json`` holds the
    rows of the tables that are complete; if the file of one is gone, no later step
    reads it.

    Args:
        folder: of the unfinished preparation.
        source: what the steps start from, as text: the files, the rules and the
            engine. Steps from another source are removed.
        show: is called with a line for each step.
    """

    engine: DuckDB | Spark

    def __init__(
        self, folder: Path, source: str, show: Callable[[str], object]
    ) -> None:
        self.folder, self.show = folder, show
        self.state: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            self.state = files.read_json(folder / _STATE)
        if self.state.get("source") != source:
            self.state = {"source": source, "rows": {}, "answers": {}}
        for path in folder.iterdir():  # what an interrupted step left
            if path.name not in (_STATE, _LOCK) and path.stem not in self.state["rows"]:
                _remove(path)
        self._write()

    def table(self, name: str, query: str) -> int:
        """See ``Engine.table``."""
        rows = self.state["rows"]
        if name not in rows:
            self.take(name, lambda: self.engine.table(name, query))
        elif (self.folder / f"{name}.parquet").exists():
            self.engine.table(name, query)
        return rows[name]

    def take(self, name: str, step: Callable[[], int]) -> None:
        """Takes a step, which returns the rows of a table, and remembers them."""
        started = time.perf_counter()
        with progress.timed(f"preparing {name}"):
            rows = self.state["rows"][name] = step()
        self._write()
        self.show(f"  {name}: {rows:,} rows, {time.perf_counter() - started:.1f} s")

    def drop(self, *names: str) -> None:
        """See ``Engine.drop``."""
        for name in names:
            _remove(self.folder / f"{name}.parquet")

    def sql(self, query: str) -> pd.DataFrame:
        """See ``Engine.sql``; an answer is remembered as a table is."""
        answers = self.state["answers"]
        if query not in answers:
            answers[query] = self.engine.sql(query).to_dict("list")
            self._write()
        return pd.DataFrame(answers[query])

    def column(self, table: str, column: str) -> Iterator[np.ndarray]:
        """Yields a column of a table that is stored in order, piece by piece."""
        stored = self.folder / f"{table}.parquet"
        parts = sorted(stored.glob("*.parquet")) if stored.is_dir() else [stored]
        names = ", ".join(escape_glob(part) for part in parts)
        with duckdb.connect() as connection:
            connection.execute(f"SELECT {column} FROM read_parquet([{names}])")
            while len(piece := connection.fetch_df_chunk(_VECTORS)):
                yield piece[column].to_numpy()

    def _write(self) -> None:
        files.write_text(self.folder / _STATE, json.dumps(self.state) + "\n")


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def accumulate(lengths: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields the offsets of adjacent groups from their lengths, piece by piece."""
    total = np.zeros(1, np.int64)
    yield total
    for piece in lengths:
        offsets = total[-1] + np.cumsum(piece, dtype=np.int64)
        total = offsets[-1:] if len(offsets) else total
        yield offsets


def parse_memory(text: str) -> int:
    """Converts a text such as ``1GB`` to megabytes.

    Raises:
        InputError: it is not such a text.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([MGT]B)", str(text).upper())
    megabytes = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if megabytes < 1:
        raise InputError(f'memory="{text}": write it as 1GB or 800MB.')
    return megabytes


@contextmanager
def refusals(folder: Path, memory: str) -> Iterator[None]:
    """Turns an engine's error for want of disk or memory into a sentence.

    Raises:
        InputError: in place of such an error.
    """
    try:
        yield
    except Exception as error:
        text = f"{error!r} {error}"  # Java's text is in the second alone
        if "No space left" in text or "max_temp_directory_size" in text:
            remedy = (
                f"{folder.parent} has no space left: free some, or choose an --out on "
                "another disk"
            )
        elif "OutOfMemory" in text or isinstance(error, MemoryError):
            remedy = (
                f"memory={memory} is too little for this step: allow more, as in "
                f"--memory {max(200, 2 * parse_memory(memory))}MB"
            )
        else:
            raise
        raise InputError(
            f"{remedy}; the same command resumes after the last complete step."
        ) from error


@contextmanager
def start_spark(master: str, memory: str, folder: Path) -> Iterator[Any]:
    """Starts a session of Spark SQL, which ends with the block.

    A session that is active already is used as it is, and goes on.

    Args:
        master: address of the cluster, or ``"local[*]"`` for this machine.
        memory: of the driver and of each executor.
        folder: for what a local session spills.

    Raises:
        InputError: the session does not start.
    """
    settings: dict[str, Any] = {
        "spark.driver.memory": f"{parse_memory(memory)}m",
        "spark.executor.memory": f"{parse_memory(memory)}m",
        "spark.sql.session.timeZone": "UTC",
        "spark.ui.enabled": "false",
        "spark.local.dir": str(folder),
    }
    if master.startswith("local"):  # nothing is offered to the network
        for name in ("host", "bindAddress"):
            settings[f"spark.driver.{name}"] = "127.0.0.1"
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    try:
        from pyspark.sql import SparkSession

        active = SparkSession.getActiveSession()
        builder = SparkSession.builder.master(master).appName("prepare")
        session = active or builder.config(map=settings).getOrCreate()
    except Exception as error:  # of Java, in a page of text
        lines = [line for line in str(error).splitlines() if "Exception" in line]
        raise InputError(
            f'engine="spark" does not start with master="{master}", memory={memory} '
            f"({(lines or [repr(error)[:200]])[-1].strip()}): it needs the packages of "
            "ci/requirements-spark.txt, Java 17 or newer, 600MB and the address of a "
            'cluster that runs; or choose engine="duckdb".'
        ) from error
    session.sparkContext.setLogLevel("ERROR")
    try:
        yield session
    finally:
        if not active:
            session.stop()


Array = tuple[Iterator[np.ndarray], int]  # its pieces and its length


def _prepare_sessions(
    steps: Steps, reading: readers.Reading, rules: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Takes the steps of sessions; returns the record and the arrays to write."""
    chosen = Rules(**rules)
    steps.table("clicks", "")
    if not reading.is_table:
        chosen = session_steps.with_filters(steps, chosen)
    days = steps.sql("SELECT min(day) AS first, max(day) AS last FROM clicks").iloc[0]
    session_steps.run(steps, chosen)
    counts, arrays = {"clicks": reading.rows}, dict[str, Array]()
    tied = {"unordered_clicks": 0, "unordered_sessions": 0}
    for part in ("train", "test"):
        flat, lengths = f"{part}_flat", f"{part}_lengths"
        clicks = steps.table(flat, session_steps.flat(part, chosen))
        sessions = steps.table(lengths, session_steps.lengths(part))
        if not sessions:
            raise session_steps.nothing_left(reading.name, part, chosen, *days)
        counts[f"{part}_sessions"] = sessions
        counts[f"{part}_examples"] = clicks - sessions
        if chosen.order == "timeframe":
            found = steps.sql(session_steps.ties(part)).iloc[0]
            tied = {name: tied[name] + int(found[name[10:]]) for name in tied}
        offsets = accumulate(steps.column(lengths, "clicks"))
        days = (d.astype(np.int64) for d in steps.column(lengths, "day"))
        arrays[f"{part}_items"] = steps.column(flat, "number"), clicks
        arrays[f"{part}_offsets"] = offsets, sessions + 1
        arrays[f"{part}_days"] = days, sessions
    steps.drop("clicks", "train", "test")
    return {"counts": {**counts, **tied}, "rules": asdict(chosen)}, arrays


def _prepare_ratings(
    steps: Steps, reading: readers.Reading, rules: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Takes the steps of ratings; returns the record and the arrays to write."""
    split, share = rules["split"], rules["test_share"]
    steps.table("ratings", "")
    scale = ratings.find_scale(steps, reading, split)
    rating_steps.number(steps)
    query = rating_steps.split(steps, split, share, reading.rows, rules["seed"])
    steps.table("parts", query)
    steps.drop("ratings", "numbered")
    counts, arrays = dict[str, int](), dict[str, Array]()
    for is_test, part in enumerate(("train", "test")):
        query = (
            "SELECT user_idx AS users, item_idx AS items, rating AS ratings FROM parts "
            f"WHERE is_test = {is_test} ORDER BY {rating_steps.order(split)}"
        )
        rows = counts[f"{part}_ratings"] = steps.table(part, query)
        if not rows:
            raise ratings.nothing_left(reading.name, part, share, reading.rows)
        for name in ("users", "items", "ratings"):
            arrays[f"{part}_{name}"] = steps.column(part, name), rows
    steps.drop("parts")
    return {"counts": counts, "rules": {**rules, "scale": scale}}, arrays


def _check_rules(kind: str, rules: dict[str, Any]) -> dict[str, Any]:
    """Returns all rules of a preparation, defaults included.

    Raises:
        InputError: a rule is unknown or has a value that is not allowed.
    """
    for name in rules:
        check_choice(f"rule of {kind}", name, RULES[kind])
    rules = {**RULES[kind], **rules}
    if kind == "sessions":
        Rules(**rules)
        check_choice("protocol of prepared data", rules["protocol"], ("srgnn",))
    else:
        check_choice("split of prepared data", rules["split"], rating_steps.SPLITS)
        ratings.check_split(rules["split"], rules["test_share"])
        check_seed(rules["seed"])
    return rules


def _find_kind(data_path: PathLike, columns: str) -> str:
    """Tells whether data are sessions or ratings, by their names and columns."""
    raw = [files.resolve(data_path) / f"{MOVIELENS}{gz}" for gz in ("", ".gz")]
    is_ratings = "rating=" in columns.replace(" ", "") or any(map(Path.is_file, raw))
    return "ratings" if is_ratings or data_path == "ml-1m" else "sessions"


def check_space(found: list[Path], out: Path) -> None:
    """Checks that the disk has room for all steps and for the arrays.

    Raises:
        InputError: it has not.
    """
    rows = sum(map(estimate_rows, found))
    need = rows * _BYTES.get(found[0].suffix.lower(), 225)
    parent = next(each for each in out.parents if each.exists())
    free = shutil.disk_usage(parent).free
    if free < need:
        raise InputError(
            f"{parent} has {free / 1e9:.1f} GB free, and preparing about {rows:,} "
            f"rows needs {need / 1e9:.1f} GB, of which the arrays keep a tenth: free "
            "some space, or choose an --out on another disk."
        )


def estimate_rows(path: Path) -> int:
    """Estimates the rows of a file: from its record, or from its first megabyte."""
    try:
        if path.suffix.lower() == ".parquet":
            query = f"SELECT num_rows FROM parquet_file_metadata({escape_glob(path)})"
            return duckdb.execute(query).fetchall()[0][0]
        with open(path, "rb") as raw, gzip.GzipFile(fileobj=raw) as unpacked:
            is_packed = path.suffix.lower() == ".gz"
            head = (unpacked if is_packed else raw).read(2**20)
            share = min(raw.tell() / max(path.stat().st_size, 1), 1)
        return int(head.count(b"\n") / max(share, 1e-9))
    except (OSError, EOFError, duckdb.Error):
        return 0  # reading it says what is wrong


def prepare(
    data_path: PathLike,
    out: PathLike,
    kind: str = "",
    engine: str = "duckdb",
    memory: str = "1GB",
    master: str = "local[*]",
    columns: str = "",
    show: Callable[[str], object] = print,
    **rules: Any,
) -> Path:
    """Prepares a data set on disk, for training from memory maps.

    Args:
        data_path: see ``sessions.load`` and ``ratings.load``.
        out: the folder to write, which must not exist.
        kind: ``"sessions"``, ``"ratings"``, or "" for the kind of the data.
        engine: ``"duckdb"``; or ``"spark"``: DuckDB reads, and a cluster takes all
            other steps.
        memory: of the engine, as ``1GB``; the process takes some 300 MB more.
        master: address of Spark's cluster; ``out`` must be a folder that its workers
            reach.
        columns: column names of a table, see ``tables.mapping``.
        show: is called with a line for each step.
        **rules: see ``sessions.load``, without ``protocol="modelzoo"``; or ``split``,
            one of ``rating_steps.SPLITS``, ``test_share`` and ``seed``.

    Returns:
        The folder, which is complete.

    Raises:
        InputError: an argument has a value that is not allowed, the data cannot be
            read, there is too little disk or memory, the engine is not installed, or
            another preparation works on this folder. There is no folder ``out`` then;
            the steps that were complete stay in ``OUT.unfinished``.
    """
    out, kind = files.resolve(out), kind or _find_kind(data_path, columns)
    check_choice("kind", kind, RULES)
    check_choice("engine", engine, ENGINES)
    parse_memory(memory)
    rules, found = _check_rules(kind, rules), readers.find(kind, data_path)
    unfinished = _find_unfinished(out, found)
    identity = [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in found]
    source = json.dumps([kind, engine, identity, columns, sorted(rules.items())])
    files.make_folder("out", unfinished)
    log = files.open_log(unfinished / _LOCK, "preparation", "--out")
    with log, refusals(unfinished, memory):
        steps = Steps(unfinished, source, show)
        try:
            with ExitStack() as stack:
                if engine == "spark":
                    session = start_spark(master, memory, unfinished)
                    spark = Spark(stack.enter_context(session), unfinished)
                steps.engine = stack.enter_context(DuckDB(unfinished, memory))
                reading = _read(steps, steps.engine, kind, data_path, columns)
                if engine == "spark":
                    steps.engine.close()
                    steps.engine = spark
                _finish(out, kind, steps, reading, rules)
        finally:
            if out.exists() or not steps.state["rows"]:  # nothing to resume
                shutil.rmtree(unfinished, ignore_errors=True)
    show(f"{files.relative(out)} is complete")
    return out


def _find_unfinished(out: Path, found: list[Path]) -> Path:
    """The folder that becomes ``out`` when it is complete, if there is space for it."""
    if out.exists():
        raise InputError(f"{out} exists already: remove it, or choose another --out.")
    unfinished = out.with_name(f"{out.name}.unfinished")
    if not unfinished.exists():
        check_space(found, out)
    return unfinished


def _read(
    steps: Steps, engine: DuckDB, kind: str, data_path: PathLike, columns: str
) -> readers.Reading:
    """Reads the data into the table of their kind, unless an earlier call did."""

    def read() -> int:
        reading = readers.read(kind, data_path, engine, columns)
        steps.state["reading"] = asdict(reading)
        return reading.rows

    if readers.TABLES[kind] not in steps.state["rows"]:
        steps.take(readers.TABLES[kind], read)
    reading = readers.Reading(**steps.state["reading"])
    steps.show(str(reading))
    return reading


def _finish(
    out: Path,
    kind: str,
    steps: Steps,
    reading: readers.Reading,
    rules: dict[str, Any],
) -> None:
    """Takes the steps, and writes the arrays and their record."""
    take = {"sessions": _prepare_sessions, "ratings": _prepare_ratings}[kind]
    record, arrays = take(steps, reading, rules)
    for name in ("user", "item") if kind == "ratings" else ("item",):
        query = f"SELECT {name} FROM {name}s ORDER BY number"
        ids = np.array(steps.engine.sql(query)[name].tolist())
        arrays[f"{name}_ids"] = iter([ids]), len(ids)
        record["counts"][f"{name}s"] = len(ids)
    with files.replace_whole(out) as folder, progress.timed("writing the arrays"):
        folder.mkdir()
        for name, dtype in prepared.ARRAYS[kind].items():
            prepared.write_array(folder / f"{name}.npy", *arrays[name], dtype)
        engine = {"name": steps.engine.name, "version": steps.engine.version}
        source = {"name": reading.name, "sha256": reading.sha256}
        about = {"kind": kind, **record, "engine": engine, "source": source}
        prepared.write_record(folder, about)
