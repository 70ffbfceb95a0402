"""Convert columns of an Arrow table to ids, numbers and times.

Every function takes ``(table, name of the column, name of the file for messages)`` and
raises an ``InputError`` that names the first row whose value cannot be converted.
"""

from __future__ import annotations

import math
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.errors import InputError

LAST_SECOND = 4_102_444_800  # 2100-01-01; larger numbers are milliseconds
_ISO = (
    r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}:?\d{2})?)?$"
)
_ZONE = r"\d{2}(Z|[+-]\d{2}:?\d{2})$"
_WHOLE = r"^-?(0|[1-9][0-9]{0,17})$"
_ID = "an id: a number or a text that is not empty"
_TIMES = (
    "Unix seconds or milliseconds, or an ISO date such as 2016-05-25 or "
    "2016-05-25T10:51:09Z, from 1970 to 2099, one kind in the whole column"
)


def ids(table: pa.Table, name: str, file_name: str) -> tuple[np.ndarray, np.ndarray]:
    """Converts ids to their places in the sorted ids, int64 ``(n,)``, and those ids.

    Ids are numbers or texts; texts that are all whole numbers become int64.
    """
    values = _column(table, name)
    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    kind = values.dictionary.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (is_text or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        _refuse_row(values, name, file_name, 0, _ID)
    _refuse(values.is_null(), values, name, file_name, _ID)
    raw, codes = values.dictionary, values.indices.to_numpy()
    empty = pc.equal(pc.utf8_trim_whitespace(raw), "") if is_text else pc.is_nan(raw)
    _refuse(empty.to_numpy(zero_copy_only=False)[codes], values, name, file_name, _ID)
    if is_text and pc.all(pc.match_substring_regex(raw, _WHOLE)).as_py():
        raw = pc.cast(raw, pa.int64())
    order = pc.array_sort_indices(raw).to_numpy()
    place = np.empty(len(raw), np.int64)
    place[order] = np.arange(len(raw))
    return place[codes], np.array(raw.take(pa.array(order)).to_pylist())


def numbers(
    table: pa.Table, name: str, file_name: str, expected: str = "a number"
) -> np.ndarray:
    """Converts a column of finite numbers to float64 ``(n,)``."""
    values = _plain(table, name)
    number = _cast(values, pa.float64(), name, file_name, expected)
    number = number.fill_null(math.nan).to_numpy(zero_copy_only=False)
    _refuse(~np.isfinite(number), values, name, file_name, expected)
    return number


def milliseconds(table: pa.Table, name: str, file_name: str) -> np.ndarray:
    """Converts a column of times to int64 ``(n,)``, ms since 1970 in UTC."""
    values = _plain(table, name)
    _refuse(values.is_null(), values, name, file_name, _TIMES)
    if pa.types.is_temporal(values.type) or (
        pa.types.is_string(values.type) and not _is_number(values[0].as_py())
    ):
        when = _parse_dates(values, name, file_name)
    else:
        number = numbers(table, name, file_name, _TIMES)
        in_ms = np.abs(number) >= LAST_SECOND
        _refuse(in_ms != in_ms[0], values, name, file_name, _TIMES)
        when = np.floor(number if in_ms[0] else number * 1000)
    outside = (when < 0) | (when >= LAST_SECOND * 1000)
    _refuse(outside, values, name, file_name, _TIMES)
    return when.astype(np.int64)


def _parse_dates(values: pa.Array, name: str, file_name: str) -> np.ndarray:
    kind = pa.timestamp("ns")
    if pa.types.is_string(values.type):
        good = pc.match_substring_regex(values, _ISO).to_numpy(zero_copy_only=False)
        _refuse(~good, values, name, file_name, _TIMES)
        zone = pc.match_substring_regex(values, _ZONE).to_numpy(zero_copy_only=False)
        _refuse(zone != zone[0], values, name, file_name, _TIMES)
        kind = pa.timestamp("ns", "UTC") if zone[0] else kind
    elif getattr(values.type, "tz", None):
        kind = pa.timestamp("ns", "UTC")
    when = _cast(values, kind, name, file_name, _TIMES)
    return when.cast(pa.int64()).to_numpy() // 1_000_000


def _is_number(text: object) -> bool:
    try:
        return math.isfinite(float(str(text)))
    except ValueError:
        return False


def _refuse_row(
    values: pa.Array,
    name: str,
    file_name: str,
    row: int,
    expected: str,
    others: int = 0,
) -> NoReturn:
    """Raises InputError for a row; ``others`` is the number of further bad rows."""
    rows = f"the row, and {others:,} more like it" if others else "the row"
    raise InputError(
        f"{file_name}, row {row + 1} after the header, column {name}: found "
        f"{str(values[row].as_py())[:60]!r}, expected {expected}: repair or remove "
        f"{rows}."
    )


def _refuse(
    bad: np.ndarray, values: pa.Array, column: str, file_name: str, expected: str
) -> None:
    """Raises InputError for the first row where the mask ``bad`` is True."""
    bad = np.asarray(bad, bool)
    if bad.any():
        others = int(bad.sum()) - 1
        _refuse_row(values, column, file_name, int(np.argmax(bad)), expected, others)


def _column(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _plain(table: pa.Table, name: str) -> pa.Array:
    """A column with texts as plain strings, however they are stored."""
    values = _column(table, name)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_large_string(values.type):
        values = values.cast(pa.string())
    return values


def _cast(
    values: pa.Array, kind: pa.DataType, column: str, file_name: str, expected: str
) -> pa.Array:
    """Casts an Arrow array, or raises InputError for the first row that fails."""
    try:
        return pc.cast(values, kind)
    except pa.ArrowException:
        good, bad = 0, len(values)  # rows before good can be cast, those before bad not
        while bad - good > 1:
            middle = (good + bad) // 2
            try:
                pc.cast(values[good:middle], kind)
                good = middle
            except pa.ArrowException:
                bad = middle
        _refuse_row(values, column, file_name, good, expected)
