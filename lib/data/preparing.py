"""Prepare data on disk: logs of any size become a folder of arrays, on any engine.

``prepare`` runs the SQL of ``session_steps`` or ``rating_steps`` and writes the folder
that ``lib.data.prepared`` describes. Each step is stored as Parquet in
``OUT.unfinished``, so that an interrupted preparation resumes after its last step.
"""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from lib import files
from lib.data import (
    prepared,
    rating_steps,
    ratings,
    readers,
    session_steps,
    sources,
    tables,
)
from lib.data.engines import DuckDB, Engine, Spark, escape_glob
from lib.data.session_steps import Rules
from lib.data.sources import PathLike
from lib.errors import InputError, check_choice, check_seed

ENGINES = ("duckdb", "spark")
_TABLES = {"sessions": "clicks", "ratings": "ratings"}  # of a kind: what is read
_BYTES = {"sessions": 150, "ratings": 150}  # of disk, for a row
_TEXT_FACTOR = 1.5
_STATE, _LOCK = "state.json", "lock"
_VECTORS = 128  # of 2,048 rows each: a piece of an array
_PATIENCE = 10  # seconds between two lines about the same step
_UNITS = {"MB": 1, "GB": 1000, "TB": 1_000_000}
_DISK_FULL = ("No space left on device", "max_temp_directory_size", "errno 28")
_NO_MEMORY = ("Out of Memory Error", "OutOfMemoryError")
_LEAST_FOR_SPARK = 600  # MB; below about 500 its JVM does not start


class Steps:
    """An engine that remembers its steps, so that none is taken twice.

    Has the methods of ``Engine`` and passes them on to one. ``state.json`` holds the
    tables that are complete; one that no later step reads stays there when its file is
    gone.

    Args:
        folder: of the unfinished preparation.
        source: what the steps start from, as JSON can hold it: the files, the rules
            and the engine. Steps from another source are removed.
        show: is called with each line of progress.
    """

    engine: Engine

    def __init__(
        self, folder: Path, source: list, show: Callable[[str], object]
    ) -> None:
        self.folder, self.show = folder, show
        source = json.loads(json.dumps(source))
        try:
            state = files.read_json(folder / _STATE)
        except (OSError, ValueError):
            state = {}
        if state.get("source") != source:
            state = {"source": source, "tables": {}, "answers": {}}
        self.state: dict[str, Any] = state
        complete = [n for n, table in state["tables"].items() if not table["dropped"]]
        for path in folder.iterdir():  # what an interrupted step left
            if path.name not in (_STATE, _LOCK) and path.stem not in complete:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._write()

    def on(self, engine: Engine) -> Steps:
        """Takes the steps from here on with an engine."""
        self.engine, self.name, self.version = engine, engine.name, engine.version
        return self

    def table(self, name: str, query: str) -> int:
        """See ``Engine.table``."""
        table = self.state["tables"].get(name)
        if table is None:
            with self.timed(name) as done:
                done["rows"] = self.engine.table(name, query)
                table = self.keep(name, done["rows"])
        elif not table["dropped"]:
            self.engine.table(name, query)
        return table["rows"]

    def keep(self, name: str, rows: int) -> dict[str, Any]:
        """Remembers that a table is complete."""
        table = self.state["tables"][name] = {"rows": rows, "dropped": False}
        self._write()
        return table

    @contextmanager
    def timed(self, name: str) -> Iterator[dict[str, int]]:
        """Shows how far a step is, now and then, and at its end what it took."""
        started, ended, done = time.perf_counter(), threading.Event(), {"rows": 0}

        def report() -> None:
            while not ended.wait(_PATIENCE):
                seconds = time.perf_counter() - started
                self.show(f"  {name} ... {self.percent()}{seconds:.0f} s")

        threading.Thread(target=report, daemon=True).start()
        try:
            yield done
        finally:
            ended.set()
        seconds = time.perf_counter() - started
        self.show(f"  {name}: {done['rows']:,} rows, {seconds:.1f} s")

    def percent(self) -> str:
        """Returns how far DuckDB's query is, where it knows."""
        connection = getattr(self.engine, "connection", None)
        percent = connection.query_progress() if connection else -1
        return f"{percent:.0f} % of a query, " if percent > 0 else ""

    def drop(self, *names: str) -> None:
        """See ``Engine.drop``."""
        tables = self.state["tables"]
        names = tuple(name for name in names if not tables[name]["dropped"])
        for name in names:
            tables[name]["dropped"] = True
        self._write()  # first, so that no table is missing that is not dropped
        self.engine.drop(*names)

    def sql(self, query: str) -> pd.DataFrame:
        """See ``Engine.sql``; an answer is remembered as a table is."""
        answers = self.state["answers"]
        if query not in answers:
            answers[query] = self.engine.sql(query).to_dict("list")
            self._write()
        return pd.DataFrame(answers[query])

    def save(self, query: str, path: Path) -> None:
        """See ``Engine.save``."""
        self.engine.save(query, path)

    def column(self, table: str, column: str) -> Iterator[np.ndarray]:
        """Yields a column of a table that is stored in order, piece by piece."""
        stored = self.folder / f"{table}.parquet"
        parts = sorted(stored.glob("*.parquet")) if stored.is_dir() else [stored]
        names = ", ".join(escape_glob(part) for part in parts)
        with duckdb.connect() as connection:
            connection.execute(f"SELECT {column} FROM read_parquet([{names}])")
            while len(piece := connection.fetch_df_chunk(_VECTORS)):
                yield piece[column].to_numpy()

    def ids(self, column: str) -> np.ndarray:
        """Returns the raw ids of the table ``<column>s`` by their numbers."""
        query = f"SELECT {column} FROM {column}s ORDER BY number"
        return np.array(self.engine.sql(query)[column].tolist())

    def _write(self) -> None:
        files.write_text(self.folder / _STATE, json.dumps(self.state) + "\n")


def accumulate(lengths: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields the offsets of adjacent groups from their lengths, piece by piece."""
    total = np.zeros(1, np.int64)
    yield total
    for piece in lengths:
        offsets = total[-1] + np.cumsum(piece, dtype=np.int64)
        total = offsets[-1:] if len(offsets) else total
        yield offsets


@contextmanager
def lock(folder: Path, out: Path) -> Iterator[None]:
    """Makes the folder of an unfinished preparation; one process may be in the block.

    Raises:
        InputError: another process is, the folder cannot be made, or ``out`` exists.
    """
    if out.exists():
        raise InputError(f"{out} exists already: remove it, or choose another --out.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / _LOCK, "ab")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise files.not_written(folder, error.strerror) from error
    with file:
        try:
            if files.fcntl:
                files.fcntl.flock(file, files.fcntl.LOCK_EX | files.fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{folder}: another preparation is at work in this folder; wait for "
                "it, end it, or choose another --out."
            ) from error
        try:
            yield
        finally:
            if {path.name for path in folder.glob("*")} <= {_LOCK, _STATE}:
                shutil.rmtree(folder, ignore_errors=True)  # no step is complete


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
    resume = "the same command resumes after the last step that was complete"
    try:
        yield
    except Exception as error:
        text, number = str(error), getattr(error, "errno", None)
        if number == errno.ENOSPC or any(sign in text for sign in _DISK_FULL):
            raise InputError(
                f"{folder.parent} has no space left: free some, or choose an --out on "
                f"another disk; {resume}."
            ) from error
        if isinstance(error, MemoryError) or any(sign in text for sign in _NO_MEMORY):
            raise InputError(
                f"memory={memory} is too little for this step: allow more, as in "
                f"--memory {max(200, 2 * parse_memory(memory))}MB; {resume}."
            ) from error
        raise


def check_spark(memory: str) -> None:
    """Checks that Spark can start on this machine.

    Raises:
        InputError: Spark or Java is not installed, or the memory is too little.
    """
    if not find_spec("pyspark"):
        raise InputError(
            'engine="spark" needs the package pyspark: install the packages of '
            'ci/requirements-spark.txt with pip, or choose engine="duckdb".'
        )
    java = Path(os.environ.get("JAVA_HOME", ""), "bin", "java")
    if not (java.exists() or shutil.which("java")):
        raise InputError(
            'engine="spark" needs Java 17 or newer: install it and set JAVA_HOME, or '
            'choose engine="duckdb".'
        )
    if parse_memory(memory) < _LEAST_FOR_SPARK:
        raise InputError(
            f"memory={memory} is too little: Spark needs {_LEAST_FOR_SPARK}MB or more."
        )


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
    megabytes = parse_memory(memory)
    from pyspark.sql import SparkSession

    active = SparkSession.getActiveSession()
    if active:
        yield active
        return
    settings = {
        "spark.driver.memory": f"{megabytes}m",
        "spark.executor.memory": f"{megabytes}m",
        "spark.sql.session.timeZone": "UTC",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": str(sys.stderr.isatty()).lower(),
        "spark.local.dir": str(folder),
        "spark.sql.warehouse.dir": str(folder),
    }
    if master.startswith("local"):  # nothing is offered to the network
        settings["spark.driver.host"] = "127.0.0.1"
        settings["spark.driver.bindAddress"] = "127.0.0.1"
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    builder = SparkSession.builder.master(master).appName("prepare")
    for name, value in settings.items():
        builder = builder.config(name, value)
    try:
        session = builder.getOrCreate()
    except Exception as error:  # of Java, in a page of text
        lines = [line for line in str(error).splitlines() if "Exception" in line]
        reason = (lines or str(error).splitlines() or ["no reason given"])[-1].strip()
        raise InputError(
            f'Spark does not start with master="{master}" ({reason}): Java 17 or newer '
            "and the address of a cluster that runs are needed."
        ) from error
    session.sparkContext.setLogLevel("ERROR")
    try:
        yield session
    finally:
        session.stop()


Array = tuple[Iterator[np.ndarray], int]  # its pieces and its length


def _read(
    steps: Steps, engine: DuckDB, kind: str, data_path: PathLike, columns: str
) -> readers.Reading:
    """Reads the data into the table of their kind, unless an earlier call did."""
    name = _TABLES[kind]
    if name not in steps.state["tables"]:
        with steps.timed(f"{name}, read from {data_path}") as done:
            if tables.is_table(data_path):
                read = readers.read_clicks if name == "clicks" else readers.read_ratings
                reading = read(data_path, engine, columns)
            elif name == "clicks":
                source = sources.find(sources.DIGINETICA, data_path)
                reading = readers.read_views(source, engine)
            else:
                source = sources.find(sources.MOVIELENS, data_path)
                reading = readers.read_movielens(source, engine)
            done["rows"] = reading.rows
            steps.state["reading"] = asdict(reading)
            steps.keep(name, reading.rows)
    return readers.Reading(**steps.state["reading"])


def _prepare_sessions(
    steps: Steps, reading: readers.Reading, rules: dict[str, Any], is_table: bool
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Takes the steps of sessions; returns the record and the arrays to write."""
    chosen = Rules(**rules)
    steps.table("clicks", "")
    if not is_table:
        chosen = session_steps.with_filters(steps, chosen)
    taken = session_steps.run(steps, chosen)
    counts, arrays = {"clicks": reading.rows}, dict[str, Array]()
    tied = {"clicks": 0, "sessions": 0}
    for part, label in (("train", "training"), ("test", "test")):
        clicks = steps.table(f"{part}_flat", session_steps.flat(part, chosen))
        sessions = steps.table(f"{part}_lengths", session_steps.lengths(part))
        if not sessions:
            raise InputError(
                f"{reading.name}: after the filters and the split by date no {label} "
                "example is left: add clicks, or choose other thresholds and days."
            )
        counts[f"{part}_sessions"] = sessions
        counts[f"{part}_examples"] = clicks - sessions
        if chosen.order == "timeframe":
            for name, number in steps.sql(session_steps.ties(part)).iloc[0].items():
                tied[name] += int(number)
        lengths = f"{part}_lengths"
        offsets = accumulate(steps.column(lengths, "clicks"))
        days = (d.astype(np.int64) for d in steps.column(lengths, "day"))
        arrays[f"{part}_items"] = steps.column(f"{part}_flat", "number"), clicks
        arrays[f"{part}_offsets"] = offsets, sessions + 1
        arrays[f"{part}_days"] = days, sessions
    ids = steps.ids("item")
    arrays["item_ids"] = iter([ids]), len(ids)
    counts["items"] = len(ids)
    counts.update({f"unordered_{name}": number for name, number in tied.items()})
    left = {step.table for step in taken} - {"items"}
    steps.drop("clicks", *left)
    return {"counts": counts, "rules": asdict(chosen)}, arrays


def _prepare_ratings(
    steps: Steps, reading: readers.Reading, rules: dict[str, Any], is_table: bool
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Takes the steps of ratings; returns the record and the arrays to write."""
    split, test_share = rules["split"], rules["test_share"]
    steps.table("ratings", "")
    bounds = "SELECT min(rating) AS low, max(rating) AS high, max(timestamp) AS last"
    low, high, last = steps.sql(f"{bounds} FROM ratings").iloc[0]
    if split in ("per_user_last", "global_time") and not last:
        raise InputError(
            f'split="{split}": {reading.name} is read without times; name their '
            'column, as in columns="time=<column>".'
        )
    rating_steps.number(steps)
    query = rating_steps.split(split, test_share, reading.rows, rules["seed"])
    steps.table("parts", query)
    steps.drop("ratings", "numbered")
    counts, arrays = dict[str, int](), dict[str, Array]()
    for part, is_test in (("train", 0), ("test", 1)):
        query = (
            "SELECT user_idx AS users, item_idx AS items, rating AS ratings FROM parts "
            f"WHERE is_test = {is_test} ORDER BY {rating_steps.order(split)}"
        )
        rows = counts[f"{part}_ratings"] = steps.table(part, query)
        if not rows:
            raise InputError(
                f"{reading.name}: test_share={test_share} of {reading.rows} ratings "
                f"leaves no {part} rating: add ratings or choose another share."
            )
        for name in ("users", "items", "ratings"):
            arrays[f"{part}_{name}"] = steps.column(part, name), rows
    steps.drop("parts")
    for name in ("user", "item"):
        ids = steps.ids(name)
        arrays[f"{name}_ids"] = iter([ids]), len(ids)
        counts[f"{name}s"] = len(ids)
    scale = [float(low), float(high)] if is_table else list(ratings.STARS)
    return {"counts": counts, "rules": {**rules, "scale": scale}}, arrays


def _check_rules(kind: str, rules: dict[str, Any]) -> dict[str, Any]:
    """Returns all rules of a preparation, defaults included.

    Raises:
        InputError: a rule is unknown or has a value that is not allowed.
    """
    if kind == "sessions":
        allowed = asdict(Rules())
        del allowed["filters"]
    else:
        allowed = {"split": "by_pair", "test_share": 0.2, "seed": 0}
    for name in rules:
        check_choice(f"rule of {kind}", name, allowed)
    rules = {**allowed, **rules}
    if kind == "sessions":
        Rules(**rules)
        check_choice("protocol of prepared data", rules["protocol"], ("srgnn",))
    else:
        check_choice("split of prepared data", rules["split"], rating_steps.SPLITS)
        ratings.check_split(rules["split"], rules["test_share"])
        check_seed(rules["seed"])
    return rules


def _kind_of(data_path: PathLike, columns: str) -> str:
    """Tells whether data are sessions or ratings, by their names and columns."""
    if tables.is_table(data_path):
        means = {pair.partition("=")[0].strip() for pair in columns.split(",")}
        return "ratings" if "rating" in means else "sessions"
    folder = Path(data_path) if data_path != "ml-1m" else Path("ml-1m")
    raw = [folder / f"{sources.MOVIELENS}{gz}" for gz in ("", ".gz")]
    is_ratings = folder.name == "ml-1m" or any(path.is_file() for path in raw)
    return "ratings" if is_ratings else "sessions"


def _list_files(kind: str, data_path: PathLike) -> list[Path]:
    """Returns the files of a data set.

    Raises:
        InputError: there are none.
    """
    if tables.is_table(data_path):
        return tables.find(data_path)
    main_file = sources.DIGINETICA if kind == "sessions" else sources.MOVIELENS
    return [sources.find(main_file, data_path).path(main_file)]


def check_space(found: list[Path], kind: str, out: Path) -> None:
    """Checks that the disk has room for all steps and for the arrays.

    Raises:
        InputError: it has not.
    """
    rows = sum(map(estimate_rows, found))
    need = rows * _BYTES[kind] * (1 if _is_parquet(found[0]) else _TEXT_FACTOR)
    parent = next(each for each in out.parents if each.exists())
    free = shutil.disk_usage(parent).free
    if free < need:
        raise InputError(
            f"{parent} has {free / 1e9:.1f} GB free, and preparing about {rows:,} "
            f"rows needs {need / 1e9:.1f} GB, of which the arrays keep a tenth: free "
            "some space, or choose an --out on another disk."
        )


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def estimate_rows(path: Path) -> int:
    """Estimates the rows of a file: from its record, or from its first megabyte."""
    try:
        if _is_parquet(path):
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
        show: is called with each line of progress.
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
    started = time.perf_counter()
    out, kind = files.resolve(out), kind or _kind_of(data_path, columns)
    check_choice("kind", kind, _TABLES)
    check_choice("engine", engine, ENGINES)
    parse_memory(memory)
    rules, found = _check_rules(kind, rules), _list_files(kind, data_path)
    if engine == "spark":
        check_spark(memory)
    unfinished = out.with_name(f"{out.name}.unfinished")
    if not unfinished.exists():
        check_space(found, kind, out)
    identity = [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in found]
    source = [kind, engine, identity, columns, sorted(rules.items())]
    with lock(unfinished, out), refusals(unfinished, memory):
        steps = Steps(unfinished, source, show)
        with DuckDB(unfinished, memory) as reader:
            reading = _read(steps.on(reader), reader, kind, data_path, columns)
            show(str(reading))
            is_table = tables.is_table(data_path)
            finish = partial(_finish, out, kind, steps, reading, rules, is_table)
            if engine == "duckdb":
                finish()
        if engine == "spark":
            with start_spark(master, memory, unfinished) as session:
                steps.on(Spark(session, unfinished))
                finish()
        shutil.rmtree(unfinished)
    show(f"{files.relative(out)} is complete, {time.perf_counter() - started:.0f} s")
    return out


def _finish(
    out: Path,
    kind: str,
    steps: Steps,
    reading: readers.Reading,
    rules: dict[str, Any],
    is_table: bool,
) -> None:
    """Takes the steps, and writes the arrays and their record."""
    take = {"sessions": _prepare_sessions, "ratings": _prepare_ratings}[kind]
    record, arrays = take(steps, reading, rules, is_table)
    with files.replace_whole(out) as folder, steps.timed("arrays") as done:
        folder.mkdir()
        for name, dtype in prepared.ARRAYS[kind].items():
            pieces, length = arrays[name]
            first = next(pieces)
            path, pieces = folder / f"{name}.npy", chain([first], pieces)
            prepared.write_array(path, pieces, length, dtype or first.dtype)
            done["rows"] += length
        about = {
            "kind": kind,
            **record,
            "engine": {"name": steps.name, "version": steps.version},
            "source": {"name": reading.name, "sha256": reading.sha256},
        }
        prepared.write_record(folder, about)
