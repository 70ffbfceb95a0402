"""Engines that run the SQL of ``session_steps`` and ``rating_steps``.

``DuckDB`` runs in this process; ``Spark`` hands the same text to a cluster. Both run
``table`` and ``sql``; only ``DuckDB`` reads files and returns arrays. The text uses
only SQL that both engines share: days are whole numbers, semi-joins are written with
IN, and no function of a single engine is called.
"""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import duckdb
import numpy as np
import pandas as pd

from lib import files


def quote(text: object) -> str:
    """Returns a text as a literal of SQL."""
    return "'" + str(text).replace("'", "''") + "'"


def escape_glob(path: Path) -> str:
    """Writes a path as a literal of SQL that DuckDB does not take for a glob."""
    return quote(re.sub(r"([\[*?])", r"[\1]", str(path)))


class Engine(Protocol):
    """The methods that the preparation of data uses."""

    def table(self, name: str, query: str) -> int:
        """Stores the rows of ``query`` as table ``name``; returns their number."""
        ...

    def sql(self, query: str) -> pd.DataFrame:
        """Runs a query and returns its rows, which must fit into memory."""
        ...

    def drop(self, *names: str) -> None:
        """Removes tables that no later step reads."""
        ...


class DuckDB:
    """SQL in this process.

    Args:
        folder: stores each table as ``<name>.parquet``; a table that exists there
            is not computed again. Without it, tables stay in memory.
        memory: at most this much is used, as ``1GB``; what does not fit goes to the
            disk. By default 80 % of the machine's.
        threads: by default as many as there are cores.
    """

    name = "duckdb"
    version: str = duckdb.__version__

    def __init__(
        self, folder: Path | None = None, memory: str = "", threads: int = 0
    ) -> None:
        self.folder = folder
        self._spill = TemporaryDirectory(prefix="duckdb-", dir=folder)
        self.spill = Path(self._spill.name)
        config: dict[str, Any] = {
            "temp_directory": str(self.spill),
            "autoinstall_known_extensions": False,  # would access the network
            "autoload_known_extensions": False,
        }
        if memory:
            config["memory_limit"] = memory
        if threads:
            config["threads"] = threads
        base = ":memory:" if folder is None else str(self.spill / "raw.db")
        self.connection = duckdb.connect(base, config=config)
        self.connection.execute("SET TimeZone = 'UTC'")
        self.connection.execute("SET enable_progress_bar = false")

    def __enter__(self) -> DuckDB:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the memory and removes what was spilled to the disk."""
        self.connection.close()
        self._spill.cleanup()

    def table(self, name: str, query: str, lazy: bool = False) -> int:
        """See ``Engine.table``; ``lazy`` stores no copy of a table in memory."""
        if self.folder is None:
            kind = "VIEW" if lazy else "TABLE"
            self.connection.execute(f"CREATE OR REPLACE {kind} {name} AS {query}")
        else:
            path = self.folder / f"{name}.parquet"
            if not path.exists():
                self.save(query, path)
            view = f"SELECT * FROM read_parquet({escape_glob(path)})"
            self.connection.execute(f"CREATE OR REPLACE VIEW {name} AS {view}")
        return self.count(name)

    def count(self, name: str) -> int:
        """Returns the number of rows of a table."""
        return self.row(f"SELECT count(*) FROM {name}")[0]

    def register(self, name: str, columns: pd.DataFrame) -> None:
        """Makes columns in memory a table, without a copy."""
        self.connection.register(name, columns)

    def sql(self, query: str) -> pd.DataFrame:
        """See ``Engine.sql``."""
        return self.connection.sql(query).df()

    def row(self, query: str) -> tuple:
        """Returns the one row of a query."""
        return self.connection.sql(query).fetchall()[0]

    def arrays(self, query: str) -> dict[str, np.ndarray]:
        """Returns the columns of a query by name, without a copy where it can."""
        return self.connection.sql(query).fetchnumpy()

    def save(self, query: str, path: Path) -> None:
        """Writes the rows of a query as a Parquet file, in the order of the query."""
        with files.replace_whole(path) as unfinished:
            target = f"COPY ({query}) TO {quote(unfinished)} (FORMAT parquet)"
            self.connection.execute(target)

    def drop(self, *names: str) -> None:
        """See ``Engine.drop``; a table in memory."""
        for name in names:
            views = "SELECT count(*) FROM duckdb_views() WHERE view_name = "
            kind = "VIEW" if self.row(views + quote(name))[0] else "TABLE"
            self.connection.execute(f"DROP {kind} IF EXISTS {name}")
            self.connection.execute(f"DROP TABLE IF EXISTS raw_{name}")


class Spark:
    """SQL on a cluster, or on this machine through Spark's local mode.

    Args:
        session: a ``pyspark.sql.SparkSession``.
        folder: a place that all workers reach. Each table is stored in it as
            ``<name>.parquet``, a folder of files in order; a table that is there, or
            that ``DuckDB`` stored there, is not computed again.
    """

    name = "spark"

    def __init__(self, session: Any, folder: Path) -> None:
        self.session, self.folder = session, folder
        self.version: str = session.version

    def table(self, name: str, query: str) -> int:
        """See ``Engine.table``."""
        path = self.folder / f"{name}.parquet"
        if not path.exists():
            self.save(query, path)
        stored = self.session.read.parquet(path.as_uri())
        stored.createOrReplaceTempView(name)
        return stored.count()

    def sql(self, query: str) -> pd.DataFrame:
        """See ``Engine.sql``."""
        answer = self.session.sql(query)
        rows = [tuple(row) for row in answer.collect()]
        return pd.DataFrame(rows, columns=answer.columns)

    def save(self, query: str, path: Path) -> None:
        """Writes the rows of a query as a folder of Parquet files.

        They are in the order that the query asks for, by the names of the files.
        """
        with files.replace_whole(path) as unfinished:
            self.session.sql(query).write.parquet(unfinished.as_uri())
