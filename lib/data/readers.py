"""Read the raw files of Diginetica and MovieLens-1M; errors name the first bad line.

Whole files are read at once and parsed by pandas' fast parser. Only if that fails, or a
value is not allowed, are the lines searched one by one for the first fault.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.data.sources import DIGINETICA, MOVIELENS, Source
from lib.errors import InputError

# By position: a column's name, the test of a value as text, and what it must be.
Checks = dict[int, tuple[str, Callable[[str], Any], str]]


def read_views(source: Source) -> tuple[pd.DataFrame, str]:
    """Reads the item views of Diginetica.

    Args:
        source: the result of ``find(DIGINETICA, ...)``.

    Returns:
        ``(clicks, sha256)``: a table in the order of the file, with the columns
        ``session, item, timeframe`` (int64; time frame in ms) and ``day``
        (datetime64), and the SHA-256 of the unpacked file.

    Raises:
        InputError: the file is damaged, empty, or a header, column or value is wrong.
    """
    path = source.path(DIGINETICA)
    raw = unpacked(path)
    older = {"session_id": "sessionId", "item_id": "itemId"}
    header = [older.get(name, name) for name in _header(path, raw, ";")]
    wanted = ["sessionId", "itemId", "timeframe", "eventdate"]
    missing = [name for name in wanted if name not in header]
    if missing:
        raise InputError(
            f"{path}: its first line has no column {missing[0]}; it needs "
            f"{';'.join(wanted)} (or session_id, item_id) and has {';'.join(header)}."
        )
    checks: Checks = {header.index(name): (name, *_WHOLE) for name in wanted[:3]}
    checks[header.index("eventdate")] = ("eventdate", *_DATE)
    dtype = {**dict.fromkeys(wanted[:3], np.int64), "eventdate": "category"}
    options = {"names": header, "header": 0, "dtype": dtype}
    table, sha256 = _read(path, raw, ";", len(header), checks, options)
    table = table.rename(columns={"sessionId": "session", "itemId": "item"})
    days = pd.to_datetime(table["eventdate"].cat.categories, format="%Y-%m-%d")
    table["day"] = days.to_numpy()[table["eventdate"].cat.codes]
    return table[["session", "item", "timeframe", "day"]], sha256


def read_ratings(source: Source) -> tuple[pd.DataFrame, str]:
    """Reads the ratings of MovieLens-1M.

    Args:
        source: the result of ``find(MOVIELENS, ...)``.

    Returns:
        ``(ratings, sha256)``: a table in the order of the file, with the columns
        ``user, item, rating, timestamp`` (int32, or int64 where a number needs it;
        rating 1 to 5, time in Unix seconds), and the SHA-256 of the unpacked file.

    Raises:
        InputError: the file is damaged or empty, or a value is wrong or out of range.
    """
    path = source.path(MOVIELENS)
    raw = unpacked(path)
    if not re.match(rb"(\xef\xbb\xbf)?[0-9]+::", raw):
        first = raw[:60].split(b"\n")[0].decode("latin-1")
        raise InputError(
            f"{path}, line 1: found {first!r}, expected UserID::MovieID::Rating::"
            "Timestamp, four whole numbers between two colons each; give the unchanged "
            "ratings.dat of MovieLens-1M."
        )
    columns = ["user", "item", "rating", "timestamp"]
    checks: Checks = {n: (name, *_WHOLE) for n, name in enumerate(columns)}
    checks[2] = ("rating", *_RATING)
    # One colon as the separator keeps pandas on its fast parser; every second column is
    # then empty.
    names = ["user", "", "item", " ", "rating", "  ", "timestamp"]
    options = {"names": names, "header": None, "dtype": np.int64}
    return _read(path, raw, "::", 4, checks, {**options, "chunksize": 2**17})


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
    raw = unpacked(path)
    if columns:
        rows = _fields(path, raw, "::", len(columns), "latin-1")
        return pd.DataFrame([row for _, row in rows], columns=columns)
    names = _header(path, raw, ";")
    checks: Checks = {n: (name, _is_text, "text") for n, name in enumerate(names)}
    options = {"header": 0, "names": names, "dtype": str, "keep_default_na": False}
    table, _ = _read(path, raw, ";", len(names), checks, options)
    return table


def _is_text(text: str) -> bool:
    return True


def _is_date(text: str) -> bool:
    form = re.fullmatch(r"((?:19|20)[0-9]{2})-([0-9]{1,2})-([0-9]{1,2})", text)
    try:
        return form is not None and bool(date(*map(int, form.groups())))
    except ValueError:  # no such day in the calendar
        return False


_WHOLE = (re.compile(r"[ \t]*[0-9]{1,18}[ \t]*").fullmatch, "a whole number, 0 or more")
_DATE = (_is_date, "a date such as 2016-05-25")
_RATING = (re.compile(r"[ \t]*[1-5][ \t]*").fullmatch, "a whole number from 1 to 5")


def unpacked(path: Path) -> bytes:
    """Reads a file, and unpacks it if its name ends in ``.gz``.

    Raises:
        InputError: it cannot be read, is damaged, or is empty.
    """
    try:
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{path} is cut short or is not a gzip file ({error}): copy it again."
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    if not re.search(rb"\S", raw):
        raise InputError(f"{path} is empty: copy or download it again.")
    return raw


def _fields(
    path: Path, raw: bytes, separator: str, n_fields: int, encoding: str = "utf-8-sig"
) -> Iterator[tuple[int, list[str]]]:
    """Yields the number and the fields of every line that is not blank."""
    for number, encoded in enumerate(raw.splitlines(), 1):
        if not encoded.strip(b" \t"):
            continue
        line = encoded.decode(encoding, "replace")
        fields = line.split(separator)
        if len(fields) != n_fields:
            raise InputError(
                f"{path}, line {number}: {len(fields)} fields separated by "
                f"{separator!r}, expected {n_fields}; found {line[:80]!r}: repair or "
                "remove the line."
            )
        yield number, fields


def first_line(raw: bytes) -> bytes:
    """The first line of a file, without its end and without a copy of the rest."""
    return next(re.finditer(rb"[^\r\n]*", raw)).group()


def _header(path: Path, raw: bytes, separator: str) -> list[str]:
    head = first_line(raw)
    line = head.decode("utf-8-sig", "replace").strip()
    if separator not in line:
        raise InputError(
            f"{path}, line 1: columns must be separated by {separator!r}, found "
            f"{line[:80]!r}; give the unchanged file of the CIKM Cup 2016."
        )
    if not raw[len(head) :].strip():
        raise InputError(f"{path} holds a header and no row: copy it again.")
    return line.split(separator)


def _read(
    path: Path, raw: bytes, separator: str, n_fields: int, checks: Checks, options: dict
) -> tuple[pd.DataFrame, str]:
    """Reads the checked columns fast; if that fails, finds the first bad line."""
    wanted, has_header = checks.values(), options["header"] is not None
    try:
        table = pd.read_csv(
            io.BytesIO(raw),
            sep=separator[0],
            usecols=[name for name, _, _ in wanted],
            quoting=3,
            encoding_errors="replace",
            float_precision="round_trip",  # the others crash on 1e100978300760
            **options,
        )
        if "chunksize" in options:  # in pieces the peak is 46 MB lower
            with table as chunks:
                table = pd.concat(map(_narrow, chunks), ignore_index=True)
        # pandas lets surplus fields pass, and takes a zero byte for the end of a field.
        sep, n = separator.encode(), (n_fields - 1) * (len(table) + has_header)
        plain = raw.count(sep) == n and raw.count(sep[:1]) == n * len(sep)
        plain = plain and b"\0" not in raw
        if plain and all(_is_sound(table[name], good) for name, good, _ in wanted):
            return table, hashlib.sha256(raw).hexdigest()
        reason = "it is not plain text"
    except (ValueError, OverflowError) as error:
        reason = str(error)
    for number, fields in _fields(path, raw, separator, n_fields):
        if number == 1 and has_header:
            continue
        for place, (name, is_good, expected) in checks.items():
            if not is_good(fields[place]):
                raise InputError(
                    f"{path}, line {number}, column {name}: found {fields[place]!r}, "
                    f"expected {expected}: repair or remove the line."
                )
    raise InputError(f"{path} cannot be parsed: {reason}.")


def _narrow(chunk: pd.DataFrame) -> pd.DataFrame:
    """Converts the columns whose numbers all fit to int32."""
    bounds = np.iinfo(np.int32)
    inside = (chunk.min() >= bounds.min) & (chunk.max() <= bounds.max)
    return chunk.astype(dict.fromkeys(chunk.columns[inside], np.int32))


def _is_sound(column: pd.Series, is_good: Callable[[str], Any]) -> bool:
    """Tells whether all values are good; of numbers, the extremes decide."""
    if hasattr(column, "cat"):
        return not column.isna().any() and all(map(is_good, column.cat.categories))
    return bool(is_good(str(column.min())) and is_good(str(column.max())))
