"""Read clicks and ratings with DuckDB, and name the first row that cannot be read.

Every file becomes rows of one table in the order of the file. A value that is not
allowed becomes NULL there; only if there is one, or if the rows are fewer than the
lines, is the file searched line by line for the first fault.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import itertools
import re
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
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


class Column(NamedTuple):
    """A column to read.

    Attributes:
        meaning: its name in the table of the engine.
        name: its name in the file, for messages.
        sql: an expression of ``{v}``, the value in the file; NULL where it is not
            allowed.
        expected: the values that are allowed, for messages.
    """

    meaning: str
    name: str
    sql: str
    expected: str


class Text(NamedTuple):
    """A text file: its columns by position, and how it is written."""

    path: Path
    n_fields: int
    separator: str
    quotes: str = ""
    has_header: bool = True
    encoding: str = "utf-8"
    checked: bool = False  # refuse what is not UTF-8, also in columns that nobody reads

    def relation(self, path: Path) -> str:
        """The file, or a copy of it, as a table of SQL with the columns c0, c1, ..."""
        columns = ", ".join(f"'c{n}': 'VARCHAR'" for n in range(self.n_fields))
        return (
            f"read_csv({escape_glob(path)}, auto_detect=false, ignore_errors=true, "
            f"header={str(self.has_header).lower()}, delim={quote(self.separator)}, "
            f"quote={quote(self.quotes)}, escape={quote(self.quotes)}, "
            f"encoding={quote(self.encoding)}, columns={{{columns}}}, "
            f"compression={quote('gzip' if path.suffix == '.gz' else 'none')})"
        )

    def rows(self) -> Iterator[tuple[int, list[str] | str]]:
        """Yields the number and the fields of every row, or why it is none."""
        encoding = "utf-8-sig" if self.encoding == "utf-8" else self.encoding
        newline = "" if self.quotes else None
        stream = io.TextIOWrapper(unpack(self.path), encoding, "replace", newline)
        with stream:
            if not self.quotes:
                for number, line in enumerate(stream, 1):
                    if line.strip(" \t\n"):
                        yield number, line.rstrip("\n").split(self.separator)
                return
            reader = csv.reader(stream, delimiter=self.separator, strict=True)
            number = 1
            try:
                for fields in reader:
                    if fields and (len(fields) > 1 or fields[0].strip()):
                        yield number, self._swallowed(fields) or fields
                    number = reader.line_num + 1
            except csv.Error as error:
                yield number, f"{error}; perhaps a quote that is not closed"

    def copy(self, path: Path) -> Path:
        """Writes the rows with line ends of one kind and without blank lines."""
        with open(path, "w", encoding=self.encoding, newline="") as file:
            writer = csv.writer(file, delimiter=self.separator[0], lineterminator="\n")
            for _, fields in self.rows():
                if self.quotes:
                    writer.writerow(fields)
                else:
                    file.write(self.separator.join(fields) + "\n")
        return path

    def _swallowed(self, fields: list[str]) -> str:
        """Says so if a quoted field holds a line that is a row itself."""
        for line in (line for field in fields for line in field.splitlines()[1:]):
            if line.count(self.separator) >= self.n_fields - 1 > 0:
                return f"a quoted field runs on to the row {line[:60]!r}"
        return ""


def unpack(path: Path) -> Any:
    """Opens a file for reading bytes, unpacked if its name ends in ``.gz``."""
    packed = path.suffix.lower() == ".gz"
    return gzip.open(path) if packed else open(path, "rb")


class Scan(NamedTuple):
    """A pass over the bytes of a file: its hash, lines, and what is not plain text."""

    sha256: str
    lines: int
    separators: int  # bytes that are the first of the separator
    has_zero: bool
    bad_line: int  # the first that is not UTF-8; 0 if all are


def scan(path: Path, separator: str = "") -> Scan:
    """Reads a file once, as it is unpacked; without a separator it is not a text.

    Raises:
        InputError: it cannot be read, is damaged, or is empty.
    """
    digest, decoder = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")()
    lines = returns = separators = bad_line = 0
    has_zero, is_empty, last = False, True, b"\n"
    try:
        with unpack(path) as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                is_empty = is_empty and not chunk.strip()
                if not separator:
                    continue
                separators += chunk.count(separator[:1].encode())
                has_zero = has_zero or b"\0" in chunk
                try:
                    if not bad_line:
                        decoder.decode(chunk)
                except UnicodeDecodeError as error:
                    bad_line = lines + chunk.count(b"\n", 0, error.start) + 1
                lines += chunk.count(b"\n")
                returns += chunk.count(b"\r") if not lines else 0
                last = chunk[-1:]
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{path} is cut short or is not a gzip file ({error}): copy it again."
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    if is_empty:
        raise InputError(f"{path} is empty: copy or download it again.")
    ends = lines or returns
    lines = ends + (last not in b"\r\n")
    return Scan(digest.hexdigest(), lines, separators, has_zero, bad_line)


def first_line(path: Path) -> str:
    """The first line of a text file, without its end."""
    try:
        with unpack(path) as file:
            head = file.read(1 << 16)
    except (OSError, EOFError, zlib.error):
        scan(path)  # says what is wrong
        raise
    line = re.match(rb"[^\r\n]*", head)
    return line.group().decode("utf-8-sig", "replace") if line else ""


# Expressions of SQL: {v} is a value of the file; NULL where it is not allowed.

_MISSING = ", ".join(map(quote, MISSING))
_TEXT = "CAST({v} AS VARCHAR)"
WHOLE = (
    "CASE WHEN regexp_full_match({v}, '[ \t]*[0-9]{1,18}[ \t]*') "
    "THEN CAST({v} AS BIGINT) END"
)
STARS = (
    "CASE WHEN regexp_full_match({v}, '[ \t]*[1-5][ \t]*') "
    "THEN CAST({v} AS TINYINT) END"
)
DAY = (
    "CASE WHEN regexp_full_match({v}, '(19|20)[0-9]{2}-[0-9]{1,2}-[0-9]{1,2}') "
    "THEN CAST(TRY_CAST({v} AS DATE) - DATE '1970-01-01' AS INTEGER) END"
)
ID = f"CASE WHEN trim({_TEXT}, {quote(BLANKS)}) NOT IN ({_MISSING}) THEN {_TEXT} END"
WHOLE_FLOAT = (
    "CASE WHEN {v} = floor({v}) AND abs({v}) < 9e15 "
    "THEN CAST(CAST({v} AS BIGINT) AS VARCHAR) END"
)
_NUMBER = r"[ \t]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?[ \t]*"
NUMBER = (
    f"CASE WHEN regexp_full_match({_TEXT}, '{_NUMBER}') "
    "AND isfinite(TRY_CAST({v} AS DOUBLE)) THEN TRY_CAST({v} AS DOUBLE) END"
)
_CLOCK = r"[Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]{1,9})?)?"
_ISO = rf"[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}({_CLOCK})?"
_ZONE = " ?(Z|z|UTC|GMT|[+-][0-9]{2}(:?[0-9]{2})?)"
_STAMP = "epoch_ms(TRY_CAST(upper(replace({v}, ',', '.')) AS TIMESTAMP))"
ZONED = (
    (
        f"CASE WHEN regexp_full_match({{v}}, '{_ISO}{_ZONE}') THEN "
        + _STAMP.replace("{v}", f"regexp_replace({{v}}, '{_ZONE}$', '')")
        + " - 60000 * coalesce(60 * TRY_CAST({hours} AS INTEGER) + "
        "coalesce(TRY_CAST({hours}[1] || {minutes} AS INTEGER), 0), 0) END"
    )
    .replace("{hours}", "regexp_extract({v}, ':.*([+-][0-9]{2}):?[0-9]{0,2}$', 1)")
    .replace("{minutes}", "regexp_extract({v}, ':.*[+-][0-9]{2}:?([0-9]{2})$', 1)")
)
LOCAL = f"CASE WHEN regexp_full_match({{v}}, '{_ISO}') THEN {_STAMP} END"

_WHOLE_SAID, _STARS_SAID = "a whole number, 0 or more", "a whole number from 1 to 5"
_DAY_SAID, _NUMBER_SAID = "a date such as 2016-05-25", "a number"
_ID_SAID = "an id: a number or a text that is not empty and does not stand for no value"
_TIME_SAID = (
    "Unix seconds or milliseconds, or an ISO date such as 2016-05-25 or "
    "2016-05-25T10:51:09Z, from 1970 to 2099, one kind in the whole column"
)


def _id_sql(kind: str) -> str:
    """An id in a column of a DuckDB type; whole floats are the integers they stand for.

    The expression is NULL, so that every row is refused, for types that are no ids.
    """
    if re.fullmatch(r"FLOAT|DOUBLE|DECIMAL\(.*,[1-9].*\)", kind):
        return WHOLE_FLOAT
    is_id = re.fullmatch(r"VARCHAR|ENUM\(.*\)|UUID|\w*INT(EGER)?|DECIMAL\(.*", kind)
    return ID if is_id else "CAST(NULL AS VARCHAR)"


def _time_sql(first: str, kind: str) -> str:
    """A time as ms since 1970, of the kind that the first value of the column is."""
    if kind.startswith("TIMESTAMP") or kind == "DATE":
        ms = "epoch_ms(CAST({v} AS TIMESTAMP))"
    elif re.fullmatch(_NUMBER, first):
        in_ms = float(first) >= LAST_SECOND
        factor, sign = (1, ">=") if in_ms else (1000, "<")
        ms = (
            f"CASE WHEN ({NUMBER}) {sign} {LAST_SECOND} AND ({NUMBER}) < 1e15 "
            f"THEN CAST(floor(({NUMBER}) * {factor}) AS BIGINT) END"
        )
    else:
        ms = ZONED if re.search(f":[0-9.,]+{_ZONE}$", first) else LOCAL
    return f"CASE WHEN ({ms}) BETWEEN 0 AND {LAST_SECOND * 1000 - 1} THEN ({ms}) END"


# Reading


def read_views(source: Source, engine: DuckDB) -> Reading:
    """Reads the item views of Diginetica into the table ``clicks`` of an engine.

    Args:
        source: the result of ``find(DIGINETICA, ...)``.
        engine: gets the table; its columns are those of ``session_steps``.

    Raises:
        InputError: the file is damaged, empty, or a header, column or value is wrong.
    """
    path = source.path(DIGINETICA)
    wanted = ("sessionId", "itemId", "timeframe", "eventdate")
    header = _raw_header(path)
    missing = [name for name in wanted if name not in header]
    if missing:
        raise InputError(
            f"{path}: its first line has no column {missing[0]}; it needs "
            f"{';'.join(wanted)} (or session_id, item_id) and has {';'.join(header)}."
        )
    columns = [
        Column("session", "sessionId", WHOLE, _WHOLE_SAID),
        Column("item", "itemId", WHOLE, _WHOLE_SAID),
        Column("timeframe", "timeframe", WHOLE, _WHOLE_SAID),
        Column("day", "eventdate", DAY, _DAY_SAID),
    ]
    text = Text(path, len(header), ";")
    places = {column.meaning: header.index(column.name) for column in columns}
    scanned = _read_text(engine, "raw_clicks", text, columns, places, str(path))
    engine.table("clicks", "SELECT *, rowid AS place FROM raw_clicks", lazy=True)
    return Reading(source.name, scanned.sha256, engine.count("clicks"))


def read_movielens(source: Source, engine: DuckDB) -> Reading:
    """Reads the ratings of MovieLens-1M into the table ``ratings`` of an engine.

    Args:
        source: the result of ``find(MOVIELENS, ...)``.
        engine: gets the table; its columns are those of ``rating_steps``.

    Raises:
        InputError: the file is damaged or empty, or a value is wrong or out of range.
    """
    path = source.path(MOVIELENS)
    first = first_line(path)
    if not re.match(r"[0-9]+::", first):
        scan(path)
        raise InputError(
            f"{path}, line 1: found {first[:60]!r}, expected UserID::MovieID::Rating::"
            "Timestamp, four whole numbers between two colons each; give the unchanged "
            "ratings.dat of MovieLens-1M."
        )
    columns = [
        Column(name, name, STARS if name == "rating" else WHOLE, said)
        for name, said in (
            ("user", _WHOLE_SAID),
            ("item", _WHOLE_SAID),
            ("rating", _STARS_SAID),
            ("timestamp", _WHOLE_SAID),
        )
    ]
    text = Text(path, 4, "::", has_header=False)
    places = {column.meaning: place for place, column in enumerate(columns)}
    scanned = _read_text(engine, "raw_ratings", text, columns, places, str(path))
    engine.table("ratings", "SELECT *, rowid AS place FROM raw_ratings", lazy=True)
    return Reading(source.name, scanned.sha256, engine.count("ratings"))


def read_side_file(
    source: Source, file_name: str, columns: list[str] | None = None
) -> pd.DataFrame | None:
    """Reads a side file as text: a ``;``-table with a header, or ``::`` columns.

    Args:
        source: the result of ``find``.
        file_name: for example ``"product-categories.csv"`` or ``"movies.dat"``.
        columns: names for a file without a header (the ``.dat`` files).

    Returns:
        A table of strings; None if the source does not have the file.

    Raises:
        InputError: the file is damaged or empty, or a line has the wrong number of
            fields.
    """
    path = source.path(file_name)
    if not path.is_file():
        return None
    names = columns or _raw_header(path)
    text = Text(path, len(names), "::" if columns else ";", has_header=not columns)
    if columns:
        text = text._replace(encoding="latin-1")
    wanted = [
        Column(f"c{place}", name, "coalesce({v}, '')", "text")
        for place, name in enumerate(names)
    ]
    places = {column.meaning: place for place, column in enumerate(wanted)}
    with DuckDB() as engine:
        _read_text(engine, "side", text, wanted, places, str(path))
        table = engine.sql("SELECT * FROM side")
    return table.set_axis(names, axis=1)


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
    reading = _read_table(path, engine, names)
    ids = _ids(engine, ("session", "item"))
    engine.table(
        "clicks",
        f"SELECT {ids}, time AS timeframe, CAST(time // 86400000 AS INTEGER) AS day, "
        "rowid AS place FROM raw",
    )
    engine.connection.execute("DROP TABLE raw")
    return reading


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
    reading = _read_table(path, engine, names)
    ids, time = (
        _ids(engine, ("user", "item")),
        "time // 1000" if "time" in names else "0",
    )
    engine.table(
        "ratings",
        f"SELECT {ids}, rating, CAST({time} AS BIGINT) AS timestamp, rowid AS place "
        "FROM raw",
    )
    engine.connection.execute("DROP TABLE raw")
    return reading


def _ids(engine: DuckDB, names: tuple[str, str]) -> str:
    """The columns of ids; those whose texts are all whole numbers become BIGINT."""
    columns = []
    for name in names:
        number = f"TRY_CAST({name} AS BIGINT)"
        same = f"coalesce(CAST({number} AS VARCHAR) = {name}, false)"
        short = f"abs({number}) < 1000000000000000000"
        (whole,) = engine.row(f"SELECT bool_and({same} AND {short}) FROM raw")
        columns.append(f"CAST({name} AS BIGINT) AS {name}" if whole else name)
    return ", ".join(columns)


def _read_table(path: PathLike, engine: DuckDB, names: dict[str, str]) -> Reading:
    """Reads the files of a table into ``raw``: ids as texts, times as ms."""
    found, digests = tables.find(path), []
    for number, file in enumerate(found):
        table = f"piece_{number}" if number else "raw"
        if tables.ending(file) == ".parquet":
            digests.append(_read_parquet(engine, table, file, names))
        else:
            digests.append(_read_own_text(engine, table, file, names))
        if number:
            engine.connection.execute(f"INSERT INTO raw SELECT * FROM {table}")
            engine.connection.execute(f"DROP TABLE {table}")
    sha256 = digests[0]
    if len(found) > 1:
        sha256 = hashlib.sha256("".join(digests).encode()).hexdigest()
    return Reading(files.resolve(path).name, sha256, engine.count("raw"))


def _table_columns(
    names: dict[str, str], kinds: dict[str, str], first_time: str
) -> list[Column]:
    """The columns of a table by their meanings, of the DuckDB types ``kinds``."""
    columns = []
    for meaning, name in names.items():
        kind = kinds.get(meaning, "VARCHAR")
        if meaning == "time":
            columns.append(
                Column(meaning, name, _time_sql(first_time, kind), _TIME_SAID)
            )
        elif meaning == "rating":
            columns.append(Column(meaning, name, NUMBER, _NUMBER_SAID))
        else:
            columns.append(Column(meaning, name, _id_sql(kind), _ID_SAID))
    return columns


def _read_own_text(
    engine: DuckDB, table: str, path: Path, names: dict[str, str]
) -> str:
    header, separator = tables.split_header(first_line(path), path, names.values())
    if not any(header):
        scan(path)  # says so if the file is empty
    places, has_header = tables.place_columns(names, header, path.name)
    quotes = '"' if len(separator) == 1 else ""
    text = Text(path, len(header), separator, quotes, has_header, checked=True)
    first = ""
    if "time" in places:
        rows = (fields for _, fields in text.rows() if isinstance(fields, list))
        good = [f for f in itertools.islice(rows, 2) if len(f) == len(header)]
        first = good[-1][places["time"]] if len(good) > has_header else ""
    columns = _table_columns(names, {}, first)
    return _read_text(engine, table, text, columns, places, path.name).sha256


def _read_parquet(engine: DuckDB, table: str, path: Path, names: dict[str, str]) -> str:
    scanned = scan(path)
    file = escape_glob(path)
    relation = f"read_parquet({file}, binary_as_string=true, hive_partitioning=false)"
    try:
        schema = engine.connection.sql(f"DESCRIBE SELECT * FROM {relation}").fetchall()
        header = [column for column, *_ in schema]
        places, _ = tables.place_columns(names, header, path.name)
        value = {m: '"' + header[p].replace('"', '""') + '"' for m, p in places.items()}
        kinds = {meaning: schema[place][1] for meaning, place in places.items()}
        first = ""
        if "time" in names:
            sample = engine.connection.sql(
                f"SELECT CAST({value['time']} AS VARCHAR) FROM {relation} LIMIT 1"
            ).fetchall()
            first = (sample[0][0] or "") if sample else ""
        columns = _table_columns(names, kinds, first)
        _store(engine, table, columns, value, relation)
    except duckdb.Error as error:
        raise InputError(
            f"{path.name} is not a sound Parquet file ({_reason(error)}): copy "
            "it again."
        ) from error
    for column, row, more in _first_refused(engine, table, columns):
        found = engine.connection.sql(
            f"SELECT {value[column.meaning]} FROM {relation} LIMIT 1 OFFSET {row}"
        ).fetchall()
        _refuse(f"{path.name}, row {row + 1}", column, found[0][0], more)
    if not engine.count(table):
        raise InputError(f"{path.name} holds a header and no row: copy it again.")
    return scanned.sha256


def _raw_header(path: Path) -> list[str]:
    line = first_line(path).strip()
    if not line:
        scan(path)  # an empty file
    if ";" not in line:
        raise InputError(
            f"{path}, line 1: columns must be separated by ';', found {line[:80]!r}; "
            "give the unchanged file of the CIKM Cup 2016."
        )
    older = {"session_id": "sessionId", "item_id": "itemId"}
    return [older.get(name, name) for name in line.split(";")]


def _store(
    engine: DuckDB,
    table: str,
    columns: list[Column],
    value: dict[str, str],
    relation: str,
) -> None:
    """Makes the table of the converted columns of a file, in the order of its rows."""
    chosen = ", ".join(
        f"{column.sql.replace('{v}', value[column.meaning])} AS {column.meaning}"
        for column in columns
    )
    engine.connection.execute(
        f"CREATE OR REPLACE TABLE {table} AS SELECT {chosen} FROM {relation}"
    )


def _first_refused(
    engine: DuckDB, table: str, columns: list[Column]
) -> list[tuple[Column, int, int]]:
    """The first row with a NULL: its column, its number from 0, and how many follow."""
    nulls = [f"{column.meaning} IS NULL" for column in columns]
    first = ", ".join(f"min(rowid) FILTER ({null})" for null in nulls)
    bad, *rows = engine.row(
        f"SELECT count(*) FILTER ({' OR '.join(nulls)}), {first} FROM {table}"
    )
    if not bad:
        return []
    row, place = min((row, place) for place, row in enumerate(rows) if row is not None)
    return [(columns[place], row, bad - 1)]


def _read_text(
    engine: DuckDB,
    table: str,
    text: Text,
    columns: list[Column],
    places: dict[str, int],
    label: str,
) -> Scan:
    """Makes a table of a text file, or raises InputError for its first fault."""
    value = {meaning: f"c{place}" for meaning, place in places.items()}

    def store(path: Path) -> str:
        try:
            _store(engine, table, columns, value, text.relation(path))
        except duckdb.Error as error:
            return _reason(error)
        return ""

    with ThreadPoolExecutor(1) as pool:
        scanning = pool.submit(scan, text.path, text.separator)
        problem = store(text.path)
        scanned = scanning.result()
    if text.checked and scanned.has_zero:
        raise InputError(f"{label} holds zero bytes: give a plain text file.")
    if scanned.bad_line and text.encoding == "utf-8":
        if text.checked:
            raise InputError(
                f"{label}, line {scanned.bad_line}: it is not UTF-8: repair the line, "
                "or save the file as UTF-8."
            )
        text = text._replace(encoding="latin-1")
        problem = store(text.path)
    n_rows = 0 if problem else engine.count(table)
    refused = [] if problem else _first_refused(engine, table, columns)
    is_plain = n_rows == scanned.lines - text.has_header
    if not text.quotes:  # DuckDB lets an empty field at the end of a line pass
        each = (text.n_fields - 1) * len(text.separator)
        is_plain = is_plain and scanned.separators == each * scanned.lines
    if n_rows and is_plain and not refused:
        return scanned
    n_good = _search(text, columns, places, label, refused)
    if n_good != n_rows:  # line ends or blank lines that DuckDB takes for rows
        with TemporaryDirectory() as folder:
            problem = store(text.copy(Path(folder, "copy")))
        unread = problem or _first_refused(engine, table, columns)
        if unread or engine.count(table) != n_good:
            raise InputError(
                f"{label}: {n_good:,} rows were found and {n_rows:,} can be read "
                f"({problem or 'lines of an unknown kind'}): save the file again as "
                "plain text in UTF-8."
            )
    if not n_good:
        raise InputError(f"{label} holds a header and no row: copy it again.")
    return scanned


def _search(
    text: Text,
    columns: list[Column],
    places: dict[str, int],
    label: str,
    refused: list[tuple[Column, int, int]],
) -> int:
    """Counts the rows of a file, or raises InputError for the first that is refused."""
    rows, good = text.rows(), 0
    if text.has_header:
        next(rows, None)
    for number, fields in rows:
        where = f"{label}, line {number}"
        if isinstance(fields, str):
            raise InputError(f"{where}: {fields}: repair or remove the line.")
        if len(fields) != text.n_fields:
            raise InputError(
                f"{where}: {len(fields)} fields separated by {text.separator!r}, "
                f"expected {text.n_fields}; found "
                f"{text.separator.join(fields)[:80]!r}: repair or remove the line."
            )
        for column, row, more in refused:
            if row == good:
                _refuse(where, column, fields[places[column.meaning]], more)
        good += 1
    return good


def _refuse(where: str, column: Column, found: object, more: int) -> NoReturn:
    rest = f", and {more:,} more like it" if more else ""
    raise InputError(
        f"{where}, column {column.name}: found {str(found)[:60]!r}, expected "
        f"{column.expected}: repair or remove the line{rest}."
    )


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0].strip().rstrip(".")[:200]
