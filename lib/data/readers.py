"""Read clicks and ratings with DuckDB, and name the first row that cannot be read.

Every file becomes rows of one table, in the order of the file. DuckDB's reject table
names the lines that are no rows. A value that is not allowed becomes NULL, and only if
there is one is its line searched for.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
import shutil
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from lib import files
from lib.data import sources, tables
from lib.data.engines import DuckDB, escape_glob, quote
from lib.data.sources import DIGINETICA, MOVIELENS, PathLike, Source
from lib.errors import InputError

BLANKS = " \t\r\n\x0b\x0c\x85\xa0\u2003\u2009\u202f\u3000\ufeff"
MISSING = ("", "NULL", "null", r"\N", "NA", "N/A", "NaN", "nan", "None", "<NA>", "NaT")
TABLES = {"sessions": "clicks", "ratings": "ratings"}  # of a kind
LAST_SECOND = 4_102_444_800  # 2100-01-01; larger numbers are milliseconds


@dataclass(frozen=True)
class Reading:
    """What was read: the name of the data, their SHA-256, and the number of rows.

    ``is_table`` is False for the raw files of Diginetica and MovieLens-1M.
    """

    name: str
    sha256: str
    rows: int
    is_table: bool = False

    def __str__(self) -> str:
        n = f"{self.rows:,}"
        return f"{self.name}: {n} rows in the file, {n} read, 0 refused"


# How a value {v} of a file is read, in SQL that is NULL where it is not allowed; and a
# description of what is allowed.

Rule = tuple[str, str]


def _when(pattern: str, value: str) -> str:
    return f"CASE WHEN regexp_full_match({{v}}, '{pattern}') THEN {value} END"


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
_DATE = "(19|20)[0-9]{2}(-[0-9]{1,2}){2}"
_DAY = _when(_DATE, "TRY_CAST({v} AS DATE) - DATE '1970-01-01'")
_STARS = (
    _when("[ \t]*[1-5][ \t]*", "CAST({v} AS TINYINT)"),
    "a whole number from 1 to 5",
)
# ISO 8601 as it is often written: small letters, no seconds, a blank before the zone.
_ISO = "regexp_replace(upper(replace({v}, ',', '.')), ' ?(UTC|GMT|Z)$', '+00')"
_ISO = f"regexp_replace({_ISO}, '^(.{{16}}) ?([+-])', '\\1:00\\2')"
_ISO = f"TRY_CAST(regexp_replace({_ISO}, ' ([+-])', '\\1') AS TIMESTAMPTZ)"
_STAMP = f"coalesce(TRY_CAST(replace({{v}}, ' UTC', '+00') AS TIMESTAMPTZ), {_ISO})"


def _number(kind: str) -> Rule:
    number = "TRY_CAST({v} AS DOUBLE)"
    is_plain = "AND NOT contains({v}, '_')" if kind == "VARCHAR" else ""  # as in 1_0
    return f"CASE WHEN isfinite({number}) {is_plain} THEN {number} END", "a number"


def _id(kind: str) -> Rule:
    sql = "CAST(NULL AS VARCHAR)"  # a type that is no id: every row is refused
    if re.fullmatch(r"FLOAT|DOUBLE|DECIMAL\(.*,[1-9].*\)", kind):
        whole = "CAST(CAST({v} AS BIGINT) AS VARCHAR)"
        sql = f"CASE WHEN {{v}} = floor({{v}}) AND abs({{v}}) < 9e15 THEN {whole} END"
    elif re.fullmatch(r"VARCHAR|ENUM\(.*\)|UUID|\w*INT(EGER)?|DECIMAL\(.*", kind):
        sql = _ID
    return sql, "an id: a number or a text that is not empty and means no missing value"


def _time(kind: str, first: str) -> Rule:
    """Reads a time as ms since 1970; the column's first value decides on the kind."""
    ms = "epoch_ms(CAST({v} AS TIMESTAMPTZ))"
    if not kind.startswith(("TIMESTAMP", "DATE")):
        ms = f"CASE WHEN {{v}} LIKE '____-__-__%' THEN epoch_ms({_STAMP}) END"
        ms = ms.replace("{v}", _TEXT)
        with suppress(ValueError):
            factor, sign = (1, ">=") if float(first) >= LAST_SECOND else (1000, "<")
            n, _ = _number(kind)
            bounds = f"{n} {sign} {LAST_SECOND} AND {n} < 1e15"
            ms = f"CASE WHEN {bounds} THEN CAST(floor({n} * {factor}) AS BIGINT) END"
    within = f"({ms}) BETWEEN 0 AND {LAST_SECOND * 1000 - 1}"
    return f"CASE WHEN {within} THEN ({ms}) END", (
        "Unix seconds or milliseconds, or an ISO date such as 2016-05-25 or "
        "2016-05-25T10:51:09Z, from 1970 to 2099, one kind in the whole column"
    )


# Files


def unpack(path: Path) -> Any:
    """Opens a file for reading bytes, unpacked if its name ends in ``.gz``."""
    return gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb")


def scan(path: Path, separator: str = "") -> tuple[str, int, int]:
    """Reads the bytes of a file once.

    Returns:
        Their SHA-256, the number of lines, and the first bytes of separators in them.

    Raises:
        InputError: it cannot be read, is damaged, or is empty.
    """
    digest, is_empty, lines, last = hashlib.sha256(), True, 0, b"\n"
    separators, byte = 0, (separator or "\n")[0].encode()
    try:
        with unpack(path) as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                is_empty = is_empty and not chunk.strip()
                lines, last = lines + chunk.count(b"\n"), chunk[-1:]
                separators += chunk.count(byte)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{path} is cut short or is not a gzip file ({error}): copy it again."
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    if is_empty:
        raise InputError(f"{path} is empty: copy or download it again.")
    return digest.hexdigest(), lines + (last != b"\n"), separators


def _head(path: Path) -> str:
    """The first row of a text."""
    head = b""
    with suppress(OSError, EOFError, zlib.error), unpack(path) as file:
        head = file.read(1 << 16)
    if not head.strip():
        scan(path)  # says what is wrong
    quoted = rb'(?:"[^"]*"|[^\r\n])*'  # quotes may hold line ends
    text = re.findall(quoted, head)[0]
    line = text.decode("utf-8-sig", "replace")
    if "\0" in line:
        raise InputError(f"{path} holds zero bytes: save it as plain text in UTF-8.")
    return line


@dataclass(frozen=True)
class Table:
    """A file as a table of SQL with the columns c0, c1, ..., of the types ``kinds``.

    ``places`` has the position of a column by its meaning; the other fields tell how a
    text is written.
    """

    path: Path
    kinds: list[str]
    places: dict[str, int]
    separator: str = ""
    quotes: str = ""
    has_header: bool = False
    encoding: str = "utf-8"

    def relation(self, path: Path) -> str:
        """The rows of a file that is written as this one."""
        names = [f"c{n}" for n in range(len(self.kinds))]
        if not self.separator:
            return f"{_parquet(path)} AS t({', '.join(names)})"
        quotes = quote(self.quotes)
        packing = "gzip" if path.suffix.lower() == ".gz" else "none"
        columns = ", ".join(f"{name}: 'VARCHAR'" for name in names)
        return (
            f"read_csv({escape_glob(path)}, auto_detect=false, store_rejects=true, "
            f"rejects_limit=100000, header={self.has_header}, quote={quotes}, "
            f"escape={quotes}, delim={quote(self.separator)}, compression='{packing}', "
            f"encoding='{self.encoding}', columns={{{columns}}})"
        )

    def lines(self) -> io.TextIOWrapper:
        """Opens a text for reading lines, which then have ends of one kind."""
        return io.TextIOWrapper(unpack(self.path), self.encoding, "surrogateescape")

    def rows(self, with_blank: bool = False) -> Iterator[tuple[int, list[str]]]:
        """Yields the first line and the fields of each row of a text; this is slow."""
        csv.field_size_limit(2**31 - 1)
        line = 1
        with self.lines() as file:
            reader = csv.reader(
                (text.replace("\0", " ") for text in file),
                delimiter=self.separator[0],
                quoting=csv.QUOTE_MINIMAL if self.quotes else csv.QUOTE_NONE,
            )
            for fields in reader:
                if with_blank or len(fields) > 1 or "".join(fields).strip():
                    yield line, fields
                line = reader.line_num + 1

    def line_of(self, row: int) -> int:
        """The number of the line, or the row of Parquet, of a row that was read.

        Rejected lines count as rows, so a rejected line before the row is named instead
        of it.
        """
        if not self.separator:
            return row + 1
        return next(islice(self.rows(), row + self.has_header, None))[0]


def _parquet(path: Path) -> str:
    options = "binary_as_string=true, hive_partitioning=false"
    return f"read_parquet({escape_glob(path)}, {options})"


@dataclass(frozen=True)
class Selection:
    """The columns to read from files, and how a text is written.

    Attributes:
        names: from meanings to names of columns.
        rules: by meaning; for other columns their types decide.
        rest: SQL for the columns of the result that take the place of all but the ids.
        quotes: of fields, or "".
        header: the names of the columns of a text without a header line, in which
            ``::`` separates the fields.
        encoding: of a text.
    """

    names: dict[str, str]
    rules: dict[str, Rule] = field(default_factory=dict)
    rest: str = ""
    quotes: str = '"'
    header: list[str] | None = None
    encoding: str = "utf-8"


def _describe(engine: DuckDB, path: Path, selection: Selection) -> Table:
    """Finds the columns of a file and how it is written."""
    if tables.ending(path) == ".parquet":
        query = f"DESCRIBE SELECT * FROM {_parquet(path)}"
        schema = dict(row[:2] for row in engine.connection.sql(query).fetchall())
        places, _ = tables.place_columns(selection.names, [*schema], path)
        return Table(path, [*schema.values()], places)
    separator, header = "::", selection.header
    if header is None:
        line = _head(path)
        separator = tables.find_separator(line, selection.names.values())
        header = tables.split(line, separator)
    places, has_names = tables.place_columns(selection.names, header, path)
    return Table(
        path, ["VARCHAR"] * len(header), places, separator,
        selection.quotes if len(separator) == 1 else "",
        has_names and selection.header is None, selection.encoding,
    )  # fmt: skip


Refused = tuple[int, str, int]  # row from 0, meaning of a column, how many more
Fault = tuple[int, str, int]  # line, what is wrong, how many more


def _store(
    engine: DuckDB, name: str, columns: dict[str, str], relation: str
) -> list[Refused]:
    """Makes a table of columns of a file, in the order of its rows.

    Returns:
        The first row with a value that is not allowed, or nothing.
    """
    chosen = ", ".join(f'{sql} AS "{column}"' for column, sql in columns.items())
    query = f"CREATE OR REPLACE TABLE {name} AS SELECT {chosen} FROM {relation}"
    engine.connection.execute(query)
    nulls = [f'"{column}" IS NULL' for column in columns]
    first = ", ".join(f"min(rowid) FILTER ({null})" for null in nulls)
    bad, *rows = engine.row(
        f"SELECT count(*) FILTER ({' OR '.join(nulls)}), {first} FROM {name}"
    )
    refused = [(row, c, bad - 1) for row, c in zip(rows, columns) if row is not None]
    return sorted(refused, key=lambda each: each[0])[:1]


def _read_rows(
    engine: DuckDB, name: str, table: Table, given: dict[str, Rule], path: Path
) -> tuple[str, dict[str, Rule], list[Refused]]:
    """Stores the rows of a file; returns its relation, the rules, the refused row."""
    relation, rules = table.relation(path), dict(given)
    try:
        if "time" in table.places:  # the first one decides
            place = table.places["time"]
            value = f"SELECT CAST(c{place} AS VARCHAR) AS time FROM {relation} "
            value += "WHERE time IS NOT NULL LIMIT 1"
            first = engine.connection.execute(value).fetchone() or ("",)
            rules["time"] = _time(table.kinds[place], first[0])
        for meaning, place in table.places.items():
            of_type = _number if meaning in ("rating", "order") else _id
            rules.setdefault(meaning, of_type(table.kinds[place]))
        columns = {
            meaning: rules[meaning][0].replace("{v}", f"c{place}")
            for meaning, place in table.places.items()
        }
        for rejects in ("reject_errors", "reject_scans"):  # of other reads
            engine.connection.execute(f"DROP TABLE IF EXISTS {rejects}")
        return relation, rules, _store(engine, name, columns, relation)
    except duckdb.InvalidInputException:  # the line ends are of several kinds
        if path != table.path or not table.separator:
            raise
        copy, how = engine.spill / "lines.txt", (table.encoding, "surrogateescape")
        with table.lines() as lines, open(copy, "w", -1, *how) as file:
            shutil.copyfileobj(lines, file)
        return _read_rows(engine, name, table, given, copy)


def _find_rejected(engine: DuckDB, table: Table) -> list[Fault]:
    """The first line of a text that DuckDB rejected, unless it is blank."""
    separator = repr(table.separator).replace("\\", "\\\\")
    fields = f"\\2 fields separated by {separator}, expected \\1"
    rejected = engine.connection.sql(
        "SELECT line, concat(': ', regexp_replace(rtrim(error_message, '.'), "
        f"'.*: (\\d+) Found: (\\d+)', {quote(fields)}), '; found ', text), 0 FROM ("
        "SELECT *, trim(csv_line, ' \t\r\n')[:80] AS text FROM reject_errors) "
        "WHERE text IS DISTINCT FROM '' ORDER BY line, "
        f"abs(CAST(column_idx AS INTEGER) - {len(table.kinds)}) DESC LIMIT 1"
    ).fetchall()
    return [  # DuckDB counts a quoted field of several lines as one
        (next(islice(table.rows(with_blank=True), line - 1, None))[0], *rest)
        for line, *rest in rejected
    ]


def _is_plain(table: Table, n_rows: int, n_lines: int, n_separators: int) -> bool:
    """Whether a file has a row in each line, so that nothing need be counted again."""
    if not table.separator:
        return True
    each = (len(table.kinds) - 1) * len(table.separator)
    all_separate = bool(table.quotes) or n_separators == n_lines * each
    return n_rows == n_lines - table.has_header and all_separate


def _count_again(table: Table, n_rows: int, is_sound: bool) -> list[Fault]:
    """Finds what the counts hide in a text.

    Returns:
        The first row with another number of fields, or with rows within a quoted field;
        else the place where rows were lost, if any were.
    """
    line, n_found, width = 1, -table.has_header, len(table.kinds)
    separator = table.separator
    for line, fields in table.rows():
        n_found += 1
        if not table.quotes:
            fields = separator[0].join(fields).split(separator)
        if len(fields) != width:  # DuckDB passes over an empty one at the end
            what = (
                f": {len(fields)} fields separated by {separator!r}, expected {width}"
            )
            return [(line, f"{what}; found {separator.join(fields)[:80]}", 0)]
        parts = (part for f in fields if "\n" in f for part in f.split("\n")[1:])
        if any(part.count(separator) >= width - 1 for part in parts):
            return [(line, ": a quoted field runs on over the next rows", 0)]
    lost = [(line, f": {n_found:,} rows end here, of which {n_rows:,} are read", 0)]
    return lost if is_sound and n_found != n_rows else []


def _read_file(engine: DuckDB, name: str, path: Path, selection: Selection) -> str:
    """Makes the table ``name`` of columns of a file, in the order of its rows.

    Returns:
        The SHA-256 of the file.

    Raises:
        InputError: for the first fault of the file.
    """
    names = selection.names
    with ThreadPoolExecutor(1) as pool:
        try:
            table = _describe(engine, path, selection)
            scanning = pool.submit(scan, path, table.separator)
            relation, rules, refused = _read_rows(
                engine, name, table, selection.rules, path
            )
            sha256, n_lines, n_separators = scanning.result()
            faults = _find_rejected(engine, table) if table.separator else []
            for row, meaning, more in refused:
                query = f"SELECT c{table.places[meaning]} FROM {relation}"
                value = engine.row(f"{query} LIMIT 1 OFFSET {row}")[0]
                found = "" if value is None else str(value)[:60]
                what = f"found {found!r}, expected {rules[meaning][1]}"
                what = f", column {names[meaning]}: {what}"
                faults.append((table.line_of(row), what, more))
            n_rows = engine.count(name)
            if n_rows and not _is_plain(table, n_rows, n_lines, n_separators):
                faults += _count_again(table, n_rows, not faults)
        except duckdb.Error as error:
            scan(path)  # says so if the file is damaged
            if re.search("No space left|Out of Memory", str(error)):
                raise
            kind = "Parquet" if tables.ending(path) == ".parquet" else "text"
            raise InputError(
                f"{path} is not a sound {kind} file "
                f"({str(error).splitlines()[0][:200]}): copy it again."
            ) from error
    for line, what, more in sorted(faults)[:1]:
        where = f"{path}, {'line' if table.separator else 'row'} {line}"
        rest = f", and {more:,} more like it" if more else ""
        raise InputError(f"{where}{what}: repair or remove the line{rest}.")
    if not n_rows:
        raise InputError(f"{path} holds a header and no row: copy it again.")
    return sha256


def _read(
    engine: DuckDB, table: str, paths: list[Path], selection: Selection
) -> tuple[str, int]:
    """Reads files into a table with ``place``; returns its SHA-256 and its rows."""
    run, digests, raw = engine.connection.execute, [], f"raw_{table}"
    for number, path in enumerate(paths):
        piece = "piece" if number else raw
        digests.append(_read_file(engine, piece, path, selection))
        if number:
            run(f"INSERT INTO {raw} SELECT * FROM piece")
    place, chosen = "rowid", ["*"]
    if selection.rest:
        ids = [name for name in ("session", "user", "item") if name in selection.names]
        for name in ids:  # whole numbers become numbers
            other = f"NOT regexp_full_match({name}, '0|-?[1-9][0-9]{{0,17}}')"
            if not run(f"SELECT 1 FROM {raw} WHERE {other} LIMIT 1").fetchall():
                run(f"ALTER TABLE {raw} ALTER {name} TYPE BIGINT")
        chosen = [*ids, selection.rest]
    if "order" in selection.names:
        place = 'row_number() OVER (ORDER BY "order", rowid) - 1'
    query = f"SELECT {', '.join(chosen)}, {place} AS place FROM {raw}"
    rows = engine.table(table, query, lazy=True)
    if engine.folder:
        run(f"DROP TABLE {raw}")
    whole = hashlib.sha256("".join(digests).encode()).hexdigest()
    return whole if len(digests) > 1 else digests[0], rows


def find(kind: str, data_path: PathLike) -> list[Path]:
    """Finds the files of ``"sessions"`` or ``"ratings"``.

    Raises:
        InputError: there are none.
    """
    if tables.is_table(data_path):
        return tables.find(data_path)
    main_file = DIGINETICA if kind == "sessions" else MOVIELENS
    return [sources.find(main_file, data_path).path(main_file)]


def read(kind: str, data_path: PathLike, engine: DuckDB, columns: str = "") -> Reading:
    """Reads ``"sessions"`` or ``"ratings"``, raw or a table, into ``TABLES[kind]``.

    Args:
        data_path: see ``lib.data.sources`` and ``tables.find``.
        engine: gets the table.
        columns: of a table, see ``tables.mapping``.

    Raises:
        InputError: the data cannot be found or read.
    """
    if tables.is_table(data_path):
        read_table = read_clicks if kind == "sessions" else read_ratings
        return read_table(data_path, engine, columns)
    if kind == "sessions":
        return read_views(sources.find(DIGINETICA, data_path), engine)
    return read_movielens(sources.find(MOVIELENS, data_path), engine)


# Diginetica and MovieLens-1M


def read_views(source: Source, engine: DuckDB) -> Reading:
    """Reads the item views of Diginetica into the table ``clicks`` of an engine.

    Args:
        source: the result of ``find(DIGINETICA, ...)``.
        engine: gets the table; its columns are those of ``session_steps``.

    Raises:
        InputError: the file is damaged, empty, or a header, column or value is wrong.
    """
    path = source.path(DIGINETICA)
    ids = ("session_id", "item_id", "timeframe", "eventdate")
    if "session_id" not in _head(path):
        ids = ("sessionId", "itemId", "timeframe", "eventdate")
    names = dict(zip(("session", "item", "timeframe", "day"), ids))
    rules = {**dict.fromkeys(names, _WHOLE), "day": (_DAY, "a date such as 2016-05-25")}
    found = _read(engine, "clicks", [path], Selection(names, rules, quotes=""))
    return Reading(source.name, *found)


def read_movielens(source: Source, engine: DuckDB) -> Reading:
    """Reads the ratings of MovieLens-1M into the table ``ratings`` of an engine.

    Args:
        source: the result of ``find(MOVIELENS, ...)``.
        engine: gets the table; its columns are those of ``rating_steps``.

    Raises:
        InputError: the file is damaged or empty, or a value is wrong or out of range.
    """
    names = ["user", "item", "rating", "timestamp"]
    rules = {**dict.fromkeys(names, _WHOLE), "rating": _STARS}
    selection = Selection(dict(zip(names, names)), rules, header=names)
    found = _read(engine, "ratings", [source.path(MOVIELENS)], selection)
    return Reading(source.name, *found)


def read_side_file(
    source: Source, file_name: str, columns: list[str] | None = None
) -> pd.DataFrame | None:
    """Reads a side file as text: a table with a header, or ``::`` columns.

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
    path = source.path(file_name)
    if not path.is_file():
        return None
    line = _head(path)
    header = columns or tables.split(line, tables.find_separator(line, []))
    names = {f"c{n}": name for n, name in enumerate(header)}
    rules = dict.fromkeys(names, ("coalesce({v}, '')", "a text"))
    encoding = "latin-1" if columns else "utf-8"
    selection = Selection(names, rules, "", "", columns, encoding)
    with DuckDB() as engine:
        _read(engine, "side", [path], selection)
        table = engine.sql("SELECT * EXCLUDE (place) FROM side ORDER BY place")
    return table.set_axis(header, axis=1)


# Tables


def read_clicks(path: PathLike, engine: DuckDB, columns: str = "") -> Reading:
    """Reads a table of clicks into the table ``clicks`` of an engine.

    Args:
        path: a file, folder or glob of files, see ``tables.find``; a relative path
            starts at the repository's root.
        engine: gets the table; its columns are those of ``session_steps``.
        columns: see ``tables.mapping``: ``session, item, time``, and perhaps ``order``:
            numbers that order clicks of the same time, which otherwise keep the order
            of the file. A time is a number of Unix seconds or milliseconds, or an ISO
            date such as ``2016-05-25`` or ``2016-05-25T10:51:09.277Z`` (without a zone:
            UTC).

    Raises:
        InputError: a column is missing, or a value is empty or of another kind.
    """
    names = tables.mapping(columns, tables.CLICKS, ("user", "order"))
    names.pop("user", None)
    rest = "time AS timeframe, CAST(time // 86400000 AS INTEGER) AS day"
    found = _read(engine, "clicks", tables.find(path), Selection(names, rest=rest))
    return Reading(files.resolve(path).name, *found, is_table=True)


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
    rest = f"rating, {time} AS timestamp"
    found = _read(engine, "ratings", tables.find(path), Selection(names, rest=rest))
    return Reading(files.resolve(path).name, *found, is_table=True)
