"""Read clicks and ratings with DuckDB, and name the first row that cannot be read.

Every file becomes rows of one table, in the order of the file. A value that is not
allowed becomes NULL there; only if there is one, or if there are more lines than rows,
is the file searched line by line for the first fault.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import duckdb
import pandas as pd

from lib import files
from lib.data import tables
from lib.data.engines import DuckDB, escape_glob, quote
from lib.data.sources import DIGINETICA, MOVIELENS, PathLike, Source
from lib.errors import InputError

BLANKS = " \t\r\n\x0b\x0c\x85\xa0\u2003\u2009\u202f\u3000\ufeff"
MISSING = ("", "NULL", "null", r"\N", "NA", "N/A", "NaN", "nan", "None", "<NA>", "NaT")
LAST_SECOND = 4_102_444_800  # 2100-01-01; larger numbers are milliseconds


@dataclass(frozen=True)
class Reading:
    """What was read: the name of the data, their SHA-256, and the number of rows."""

    name: str
    sha256: str
    rows: int

    def __str__(self) -> str:
        n = f"{self.rows:,}"
        return f"{self.name}: {n} rows in the file, {n} read, 0 refused"


# How values are read: {v} in SQL is a value of the file; NULL where it is not allowed.


class Column(NamedTuple):
    """A column: its meaning, its name in the file, how it is read, what is allowed."""

    meaning: str
    name: str
    sql: str
    expected: str


def _when(pattern: str, value: str) -> str:
    return f"CASE WHEN regexp_full_match({{v}}, '{pattern}') THEN {value} END"


_SECONDS = "[0-9]{2}([.,][0-9]{1,9})?"
_DATE, _CLOCK = "[0-9]{4}-[0-9]{2}-[0-9]{2}", f"[0-9]{{2}}:[0-9]{{2}}(:{_SECONDS})?"
_UTC, _SHIFT = " ?(Z|z|UTC|GMT)", " ?[+-][0-9]{2}(:?[0-9]{2})?"
_STAMP = "epoch_ms(TRY_CAST({} AS TIMESTAMP))"
_BARE = f"upper(replace(regexp_replace({{v}}, '({_UTC}|{_SHIFT})$', ''), ',', '.'))"
_HOURS, _MINUTES = (
    f"CAST(regexp_extract({{v}}, '([+-])([0-9]{{2}}):?([0-9]{{2}})?$', {each}) || "
    f"'0' AS INTEGER)"
    for each in (2, 3)
)
_SIGN = "CASE WHEN {v}[-6:] LIKE '%-%' THEN -1 ELSE 1 END"
_NUMBER = "[ \t]*[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?[ \t]*"
_TEXT = "CAST({v} AS VARCHAR)"
_MISSING = ", ".join(map(quote, MISSING))
_ID = (  # most ids meet the second condition; trim takes ten times as long
    f"CASE WHEN {_TEXT} IN ({_MISSING}) THEN NULL "
    f"WHEN {_TEXT} BETWEEN '0' AND '~' AND {_TEXT} NOT LIKE '% ' THEN {_TEXT} "
    f"WHEN trim({_TEXT}, {quote(BLANKS)} || chr(0)) NOT IN ({_MISSING}) "
    f"THEN {_TEXT} END"
)
_WHOLE = (
    _when("[ \t]*[0-9]{1,18}[ \t]*", "CAST({v} AS BIGINT)"),
    "a whole number, 0 or more",
)
_DAY = (
    _when(
        "(19|20)[0-9]{2}(-[0-9]{1,2}){2}", "TRY_CAST({v} AS DATE) - DATE '1970-01-01'"
    ),
    "a date such as 2016-05-25",
)
_STARS = (
    _when("[ \t]*[1-5][ \t]*", "CAST({v} AS TINYINT)"),
    "a whole number from 1 to 5",
)
_TIMES = (
    "Unix seconds or milliseconds, or an ISO date such as 2016-05-25 or "
    "2016-05-25T10:51:09Z, from 1970 to 2099, one kind in the whole column"
)


def _number(kind: str) -> tuple[str, str]:
    number = "TRY_CAST({v} AS DOUBLE)"
    if kind == "VARCHAR":  # the cast alone takes 1_0
        number = _when(_NUMBER, number)
    return f"CASE WHEN isfinite({number}) THEN {number} END", "a number"


def _id(kind: str) -> tuple[str, str]:
    sql = "CAST(NULL AS VARCHAR)"  # a type that is no id: every row is refused
    if re.fullmatch(r"FLOAT|DOUBLE|DECIMAL\(.*,[1-9].*\)", kind):
        whole = "CAST(CAST({v} AS BIGINT) AS VARCHAR)"
        sql = f"CASE WHEN {{v}} = floor({{v}}) AND abs({{v}}) < 9e15 THEN {whole} END"
    elif re.fullmatch(r"VARCHAR|ENUM\(.*\)|UUID|\w*INT(EGER)?|DECIMAL\(.*", kind):
        sql = _ID
    return sql, "an id: a number or a text that is not empty and means no missing value"


def _time(kind: str, first: str) -> tuple[str, str]:
    """A time as ms since 1970, of the kind that the first value of the column is."""
    if kind.startswith(("TIMESTAMP", "DATE")):
        ms = "epoch_ms(CAST({v} AS TIMESTAMP))"
    elif re.fullmatch(_NUMBER, first):
        factor, sign = (1, ">=") if float(first) >= LAST_SECOND else (1000, "<")
        number, _ = _number(kind)
        bounds = f"{number} {sign} {LAST_SECOND} AND {number} < 1e15"
        ms = f"CASE WHEN {bounds} THEN CAST(floor({number} * {factor}) AS BIGINT) END"
    elif re.search(f":.*({_UTC}|{_SHIFT})$", first):
        quick = _when(f"{_DATE}[T ][0-9:]{{8}}Z", _STAMP.format("{v}"))
        shift = f"6000 * {_SIGN} * (60 * {_HOURS} + {_MINUTES})"
        slow = _when(
            f"{_DATE}[Tt ]{_CLOCK}({_UTC}|{_SHIFT})",
            f"{_STAMP.format(_BARE)} - {shift}",
        )
        ms = f"coalesce({quick}, {slow})"
    else:
        bare = "upper(replace({v}, ',', '.'))"
        ms = _when(f"{_DATE}([Tt ]{_CLOCK})?", _STAMP.format(bare))
    within = f"({ms}) BETWEEN 0 AND {LAST_SECOND * 1000 - 1}"
    return f"CASE WHEN {within} THEN ({ms}) END", _TIMES


# Files


class Layout(NamedTuple):
    """How a text file is written."""

    path: Path
    n_fields: int
    separator: str
    quotes: str = ""
    has_header: bool = True
    encoding: str = "utf-8"

    def relation(self, strict: bool) -> str:
        """The file as a table of SQL with the columns c0, c1, ..."""
        columns = ", ".join(f"'c{n}': 'VARCHAR'" for n in range(self.n_fields))
        return (
            f"read_csv({escape_glob(self.path)}, auto_detect=false, "
            "ignore_errors=true, "
            f"strict_mode={strict}, header={self.has_header}, "
            f"delim={quote(self.separator)}, quote={quote(self.quotes)}, "
            f"escape={quote(self.quotes)}, encoding={quote(self.encoding)}, "
            f"compression={quote('gzip' if self.path.suffix == '.gz' else 'none')}, "
            f"columns={{{columns}}})"
        )

    def rows(self) -> Iterator[tuple[int, list[str] | str]]:
        """Yields number and fields of every line that is a row, or why it is none."""
        encoding = self.encoding.replace("utf-8", "utf-8-sig")
        newline, number = "" if self.quotes else None, 1
        with io.TextIOWrapper(unpack(self.path), encoding, "replace", newline) as lines:
            if not self.quotes:
                for number, line in enumerate(lines, 1):
                    if line.strip(" \t\n"):
                        yield number, line.rstrip("\n").split(self.separator)
                return
            reader = csv.reader(lines, delimiter=self.separator, strict=True)
            try:
                for fields in reader:
                    if any(map(str.strip, fields)):
                        yield number, self._swallowed(fields) or fields
                    number = reader.line_num + 1
            except csv.Error as error:
                yield number, f"{error}, perhaps because of a quote that is not closed"

    def _swallowed(self, fields: list[str]) -> str:
        """Says so if a quoted field holds a line that is a row itself."""
        for line in (line for field in fields for line in field.splitlines()[1:]):
            if line.count(self.separator) >= self.n_fields - 1 > 0:
                return f"a quoted field runs on to the row {line[:60]!r}"
        return ""


class Scan(NamedTuple):
    """The SHA-256 of a file, its lines, and the first bytes of separators in it."""

    sha256: str
    lines: int
    separators: int


def unpack(path: Path) -> Any:
    """Opens a file for reading bytes, unpacked if its name ends in ``.gz``."""
    return gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb")


def scan(path: Path, separator: str = ",") -> Scan:
    """Reads the bytes of a file once.

    Raises:
        InputError: it cannot be read, is damaged, or is empty.
    """
    digest, is_empty, last = hashlib.sha256(), True, b"\n"
    lines = returns = separators = 0
    try:
        with unpack(path) as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                is_empty = is_empty and not chunk.strip()
                lines += chunk.count(b"\n")
                returns += 0 if lines else chunk.count(b"\r")
                separators += chunk.count(separator[:1].encode())
                last = chunk[-1:]
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{path} is cut short or is not a gzip file ({error}): copy it again."
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    if is_empty:
        raise InputError(f"{path} is empty: copy or download it again.")
    lines = (lines or returns) + (last not in b"\r\n")
    return Scan(digest.hexdigest(), lines, separators)


def _first_line(path: Path) -> str:
    head = b""
    with suppress(OSError, EOFError, zlib.error), unpack(path) as file:
        head = file.read(1 << 16)
    if not head.strip():
        scan(path)  # says what is wrong
    line = re.split(rb"[\r\n]", head)[0].decode("utf-8-sig", "replace")
    if "\0" in line:
        raise InputError(f"{path} holds zero bytes: save it as plain text in UTF-8.")
    return line


def _store(engine: DuckDB, table: str, columns: list, value: dict, source: str) -> None:
    """Makes a table of the columns of a file, in the order of its rows."""
    chosen = ", ".join(
        f"{column.sql.replace('{v}', value[column.meaning])} AS {column.meaning}"
        for column in columns
    )
    engine.connection.execute(
        f"CREATE OR REPLACE TABLE {table} AS SELECT {chosen} FROM {source}"
    )


def _first_refused(engine: DuckDB, table: str, columns: list) -> list:
    """The first row with a NULL: its column, its number from 0, how many follow."""
    nulls = [f"{column.meaning} IS NULL" for column in columns]
    first = ", ".join(f"min(rowid) FILTER ({null})" for null in nulls)
    bad, *rows = engine.row(
        f"SELECT count(*) FILTER ({' OR '.join(nulls)}), {first} FROM {table}"
    )
    found = [(row, place) for place, row in enumerate(rows) if row is not None]
    return [(columns[place], row, bad - 1) for row, place in sorted(found)[:1]]


def _refuse(where: str, column: Column, found: object, more: int) -> NoReturn:
    rest = f", and {more:,} more like it" if more else ""
    raise InputError(
        f"{where}, column {column.name}: found {str(found)[:60]!r}, expected "
        f"{column.expected}: repair or remove the line{rest}."
    )


def _read_text(
    engine: DuckDB,
    table: str,
    layout: Layout,
    columns: list,
    places: dict,
    name: object,
) -> str:
    """Makes a table of a text file, and returns the SHA-256 of the file.

    Raises:
        InputError: for the first fault of the file, which ``name`` stands for.
    """
    value = {meaning: f"c{place}" for meaning, place in places.items()}
    with ThreadPoolExecutor(1) as pool:
        scanning = pool.submit(scan, layout.path, layout.separator)
        for strict in (True, False):  # False: the line ends are of several kinds
            n_rows, refused = 0, []
            with suppress(duckdb.InvalidInputException, duckdb.IOException):
                _store(engine, table, columns, value, layout.relation(strict))
                n_rows = engine.count(table)
                refused = _first_refused(engine, table, columns)
                break
        scanned = scanning.result()
    is_plain = 0 < n_rows == scanned.lines - layout.has_header
    if not layout.quotes:  # DuckDB lets an empty field at the end of a line pass
        each = (layout.n_fields - 1) * len(layout.separator)
        is_plain = is_plain and scanned.separators == each * scanned.lines
    if refused or not is_plain:
        n_found = _search(layout, columns, places, name, refused)
        if not n_found:
            raise InputError(f"{name} holds a header and no row: copy it again.")
        if n_found != n_rows:
            raise InputError(
                f"{name}: {n_found:,} rows in the file and {n_rows:,} read: save it "
                "again as plain text in UTF-8."
            )
    return scanned.sha256


def _search(
    layout: Layout, columns: list, places: dict, name: object, refused: list
) -> int:
    """Counts the rows of a file, or raises InputError for the first that is refused."""
    rows, good = layout.rows(), 0
    if layout.has_header:
        next(rows, None)
    for number, fields in rows:
        where = f"{name}, line {number}"
        if isinstance(fields, str):
            raise InputError(f"{where}: {fields}: repair or remove the line.")
        line = layout.separator.join(fields)
        if len(fields) != layout.n_fields:
            raise InputError(
                f"{where}: {len(fields)} fields separated by {layout.separator!r}, "
                f"expected {layout.n_fields}; found {line[:80]!r}: repair or remove "
                "the line."
            )
        for column, row, more in refused:
            if row == good:
                _refuse(where, column, fields[places[column.meaning]], more)
        if any("\ufffd" in fields[place] for place in places.values()):
            raise InputError(f"{where}: it is not UTF-8: repair or remove the line.")
        good += 1
    return good


# Diginetica and MovieLens-1M


def read_views(source: Source, engine: DuckDB) -> Reading:
    """Reads the item views of Diginetica into the table ``clicks`` of an engine.

    Args:
        source: the result of ``find(DIGINETICA, ...)``.
        engine: gets the table; its columns are those of ``session_steps``.

    Raises:
        InputError: the file is damaged, empty, or a header, column or value is wrong.
    """
    columns = [
        Column("session", "sessionId", *_WHOLE),
        Column("item", "itemId", *_WHOLE),
        Column("timeframe", "timeframe", *_WHOLE),
        Column("day", "eventdate", *_DAY),
    ]
    older = {"session_id": "sessionId", "item_id": "itemId"}
    header = [older.get(name, name) for name in _raw_header(source.path(DIGINETICA))]
    return _read_raw(source, DIGINETICA, engine, "clicks", columns, header)


def read_movielens(source: Source, engine: DuckDB) -> Reading:
    """Reads the ratings of MovieLens-1M into the table ``ratings`` of an engine.

    Args:
        source: the result of ``find(MOVIELENS, ...)``.
        engine: gets the table; its columns are those of ``rating_steps``.

    Raises:
        InputError: the file is damaged or empty, or a value is wrong or out of range.
    """
    first = _first_line(source.path(MOVIELENS))
    if not re.match(r"[0-9]+::", first):
        raise InputError(
            f"{source.path(MOVIELENS)}, line 1: found {first[:60]!r}, expected "
            "UserID::MovieID::Rating::Timestamp, four whole numbers between two colons "
            "each; give the unchanged ratings.dat of MovieLens-1M."
        )
    names = ["user", "item", "rating", "timestamp"]
    columns = [Column(n, n, *(_STARS if n == "rating" else _WHOLE)) for n in names]
    return _read_raw(source, MOVIELENS, engine, "ratings", columns, names, "::")


def read_side_file(
    source: Source, file_name: str, columns: list[str] | None = None
) -> pd.DataFrame | None:
    """Reads a side file as text: a ``;``-table with a header, or ``::`` columns.

    Args:
        source: the result of ``find``.
        file_name: for example ``"product-categories.csv"`` or ``"movies.dat"``.
        columns: names for a file without a header (the ``.dat`` files, in latin-1).

    Returns:
        A table of strings; None if the source does not have the file.

    Raises:
        InputError: the file is damaged or empty, or a line has the wrong number of
            fields.
    """
    if not source.path(file_name).is_file():
        return None
    names = columns or _raw_header(source.path(file_name))
    sql = "coalesce({v}, '')"
    texts = [Column(f"c{n}", name, sql, "a text") for n, name in enumerate(names)]
    with DuckDB() as engine:
        separator = "::" if columns else ";"
        _read_raw(source, file_name, engine, "side", texts, names, separator)
        table = engine.sql("SELECT * EXCLUDE (place) FROM side ORDER BY place")
    return table.set_axis(names, axis=1)


def _read_raw(
    source: Source,
    file_name: str,
    engine: DuckDB,
    table: str,
    columns: list[Column],
    header: list[str],
    separator: str = ";",
) -> Reading:
    """Reads a raw file, with a header line if the separator is ``;``."""
    path = source.path(file_name)
    if len(header) < 2:
        raise InputError(
            f"{path}, line 1: columns must be separated by ';', found "
            f"{header[0][:80]!r}; give the unchanged file of the CIKM Cup 2016."
        )
    names = [column.name for column in columns]
    missing = [name for name in names if name not in header]
    if missing:
        raise InputError(
            f"{path}: its first line has no column {missing[0]}; it needs "
            f"{';'.join(names)} (or session_id, item_id) and has {';'.join(header)}."
        )
    has_header = separator == ";"
    encoding = "utf-8" if has_header or file_name == MOVIELENS else "latin-1"
    layout = Layout(path, len(header), separator, "", has_header, encoding)
    places = {column.meaning: header.index(column.name) for column in columns}
    if names == header:  # also where a name is there twice
        places = {column.meaning: place for place, column in enumerate(columns)}
    sha256 = _read_text(engine, f"raw_{table}", layout, columns, places, path)
    engine.table(table, f"SELECT *, rowid AS place FROM raw_{table}", lazy=True)
    return Reading(source.name, sha256, engine.count(table))


def _raw_header(path: Path) -> list[str]:
    return _first_line(path).strip().split(";")


# Tables


def read_clicks(path: PathLike, engine: DuckDB, columns: str = "") -> Reading:
    """Reads a table of clicks into the table ``clicks`` of an engine.

    Args:
        path: a file, folder or glob of files, see ``tables.find``; a relative path
            starts at the repository's root.
        engine: gets the table; its columns are those of ``session_steps``.
        columns: see ``tables.mapping``: ``session, item, time``. A time is a number of
            Unix seconds or milliseconds, or an ISO date such as ``2016-05-25`` or
            ``2016-05-25T10:51:09.277Z`` (without a zone: UTC).

    Raises:
        InputError: a column is missing, or a value is empty or of another kind.
    """
    names = tables.mapping(columns, tables.CLICKS, ("user",))
    names.pop("user", None)
    times = "time AS timeframe, CAST(time // 86400000 AS INTEGER) AS day"
    return _read_table(path, engine, "clicks", names, times)


def read_ratings(path: PathLike, engine: DuckDB, columns: str = "") -> Reading:
    """Reads a table of ratings into the table ``ratings`` of an engine.

    Args:
        path: see ``read_clicks``.
        engine: gets the table; its columns are those of ``rating_steps``, where
            ``timestamp`` is 0 if the table has no time.
        columns: see ``tables.mapping``: ``user, item, rating`` and perhaps ``time``.

    Raises:
        InputError: a column is missing, or a value is empty or of another kind.
    """
    names = tables.mapping(columns, tables.RATINGS, ("time",))
    time = "time // 1000" if "time" in names else "CAST(0 AS BIGINT)"
    return _read_table(path, engine, "ratings", names, f"rating, {time} AS timestamp")


def _read_table(
    path: PathLike, engine: DuckDB, table: str, names: dict[str, str], rest: str
) -> Reading:
    """Reads the files of a table; ids come first, ``rest`` are the other columns."""
    found, digests = tables.find(path), []
    for number, file in enumerate(found):
        read = _read_parquet if tables.ending(file) == ".parquet" else _read_own_text
        digests.append(read(engine, f"piece_{number}", file, names))
        if number:
            piece = f"SELECT * FROM piece_{number}"
            engine.connection.execute(f"INSERT INTO piece_0 {piece}")
            engine.connection.execute(f"DROP TABLE piece_{number}")
    ids = [_compact(engine, name) for name in names if name in tables.IDS]
    query = f"SELECT {', '.join(ids)}, {rest}, rowid AS place FROM piece_0"
    rows = engine.table(table, query)
    engine.connection.execute("DROP TABLE piece_0")
    sha256 = hashlib.sha256("".join(digests).encode()).hexdigest()
    name = files.resolve(path).name
    return Reading(name, sha256 if len(digests) > 1 else digests[0], rows)


def _compact(engine: DuckDB, name: str) -> str:
    """A column of ids as numbers, if all its texts are whole numbers."""
    number = f"TRY_CAST({name} AS BIGINT)"
    same = f"coalesce(CAST({number} AS VARCHAR) = {name}, false)"
    short = f"abs({number}) < 1000000000000000000"
    for rows in ("(SELECT * FROM piece_0 LIMIT 9)", "piece_0"):  # few of texts suffice
        if not engine.row(f"SELECT bool_and({same} AND {short}) FROM {rows} AS ids")[0]:
            return name
    return f"CAST({name} AS BIGINT) AS {name}"


def _columns(names: dict, kinds: dict, first: str) -> list[Column]:
    """The columns of a table, of the DuckDB types ``kinds`` by their meaning."""
    columns = []
    for meaning, name in names.items():
        kind = kinds.get(meaning, "VARCHAR")
        how = _number(kind) if meaning == "rating" else _id(kind)
        how = _time(kind, first) if meaning == "time" else how
        columns.append(Column(meaning, name, *how))
    return columns


def _read_own_text(
    engine: DuckDB, table: str, path: Path, names: dict[str, str]
) -> str:
    header, separator = tables.split_header(_first_line(path), path, names.values())
    places, has_header = tables.place_columns(names, header, path.name)
    quotes = '"' if len(separator) == 1 else ""
    layout = Layout(path, len(header), separator, quotes, has_header)
    first, lines = "", layout.rows()
    for _ in range(1 + has_header):
        _, fields = next(lines, (0, ""))
    if "time" in names and len(fields) == len(header):
        first = fields[places["time"]]
    columns = _columns(names, {}, first)
    return _read_text(engine, table, layout, columns, places, path.name)


def _read_parquet(engine: DuckDB, table: str, path: Path, names: dict[str, str]) -> str:
    sha256, run = scan(path).sha256, engine.connection.sql
    options = "binary_as_string=true, hive_partitioning=false"
    source = f"read_parquet({escape_glob(path)}, {options})"
    try:
        schema = run(f"DESCRIBE SELECT * FROM {source}").fetchall()
        places, _ = tables.place_columns(names, [row[0] for row in schema], path.name)
        kinds = {meaning: schema[place][1] for meaning, place in places.items()}
        value = {
            m: '"' + schema[p][0].replace('"', '""') + '"' for m, p in places.items()
        }
        time = value.get("time", "''")
        first = run(f"SELECT CAST({time} AS VARCHAR) FROM {source} LIMIT 1").fetchall()
        columns = _columns(names, kinds, (first[0][0] or "") if first else "")
        _store(engine, table, columns, value, source)
        for column, row, more in _first_refused(engine, table, columns):
            one = f"SELECT {value[column.meaning]} FROM {source} LIMIT 1 OFFSET {row}"
            _refuse(
                f"{path.name}, row {row + 1}", column, run(one).fetchall()[0][0], more
            )
    except duckdb.Error as error:
        raise InputError(
            f"{path.name} is not a sound Parquet file "
            f"({str(error).splitlines()[0][:200]}): copy it again."
        ) from error
    if not first:
        raise InputError(f"{path.name} holds a header and no row: copy it again.")
    return sha256
