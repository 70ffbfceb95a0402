"""Tables of one's own: clicks or ratings as CSV, TSV or Parquet.

What the columns are called is said in a mapping such as ``"session=visit, item=sku,
time=clicked_at"``. Ids may be numbers or text; they are kept, and given back, as they
are in the file.
"""

import csv
import hashlib
import io
import re

import numpy as np
import pandas as pd

from lib import readers, sources
from lib.errors import InputError

CLICKS = ("session", "item", "time")  # what a table of clicks needs
RATINGS = ("user", "item", "rating")  # and one of ratings
SEPARATORS = {".csv": ",;\t|", ".tsv": "\t", ".txt": "\t,;|"}
ENDINGS = (*SEPARATORS, ".parquet")
LAST_SECOND = 4_102_444_800  # 2100-01-01; larger numbers are milliseconds
_ISO = re.compile(
    r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?"
).fullmatch
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})").fullmatch


def mapping(text, needed, optional=()):
    """Reads ``"session=visit, item=sku"``: what is meant -> name of the column.

    Args:
        text: pairs separated by commas; a column that is not named is called as what
            it means.
        needed, optional: what may be mapped; optional columns are read where named.

    Raises:
        InputError: a part is no pair, or maps something else, or twice.
    """
    found = {name: name for name in needed}
    given = set()
    for pair in filter(None, map(str.strip, text.split(","))):
        name, equals, column = map(str.strip, pair.partition("="))
        if not (equals and column) or name not in (*needed, *optional) or name in given:
            raise InputError(
                f'columns="{text}": "{pair}" cannot be used; write '
                f"{', '.join(f'{each}=<column>' for each in needed)}"
                + "".join(f" and perhaps {each}=<column>" for each in optional)
                + ", each once."
            )
        given.add(name)
        found[name] = column
    return found


def is_table(path):
    """Whether a path is named like a table: its ending is one of ``ENDINGS``."""
    return str(path).removesuffix(".gz").lower().endswith(ENDINGS)


def read_clicks(path, columns=""):
    """Reads a table of clicks.

    Args:
        path: a ``.csv``, ``.tsv`` or ``.parquet`` file, text perhaps as ``.gz``; a
            relative path starts at the repository's root.
        columns: see ``mapping``: ``session, item, time``. A time is a number of Unix
            seconds or milliseconds, or an ISO date such as ``2016-05-25`` or
            ``2016-05-25T10:51:09.277Z`` (without a zone: UTC).

    Returns:
        ``(clicks, item_ids, name, sha256)``: a table as ``readers.read_views`` returns
        it (``timeframe`` is the time since 1970 in ms), in which ``item`` is a place in
        ``item_ids``, the sorted raw ids.

    Raises:
        InputError: a column is missing, or a value is empty or not what it must be.
    """
    names = mapping(columns, CLICKS, ("user",))
    table, name, sha256 = _read(path, names)
    session, _ = _coded(table, names, "session", name)
    item, item_ids = _coded(table, names, "item", name)
    time = _milliseconds(table[names["time"]], names["time"], name)
    clicks = pd.DataFrame({"session": session, "item": item, "timeframe": time})
    clicks["day"] = (time // 86_400_000).astype("datetime64[D]").astype("M8[ns]")
    return clicks, item_ids, name, sha256


def read_ratings(path, columns=""):
    """Reads a table of ratings.

    Args:
        path: see ``read_clicks``.
        columns: see ``mapping``: ``user, item, rating`` and perhaps ``time``.

    Returns:
        ``(ratings, ids, name, sha256)``: a table as ``readers.read_ratings`` returns it
        (rating float32, timestamp in seconds, 0 where there is no time), in which
        ``user`` and ``item`` are places in ``ids["user"]`` and ``ids["item"]``.

    Raises:
        InputError: a column is missing, or a value is empty or not what it must be.
    """
    names = mapping(columns, RATINGS, ("time",))
    table, name, sha256 = _read(path, names)
    user, user_ids = _coded(table, names, "user", name)
    item, item_ids = _coded(table, names, "item", name)
    rating = _numbers(table[names["rating"]], names["rating"], name, "a number")
    ratings = pd.DataFrame({"user": user, "item": item, "rating": rating})
    ratings["timestamp"] = 0
    if "time" in names:
        time = _milliseconds(table[names["time"]], names["time"], name)
        ratings["timestamp"] = time // 1000
    return ratings, {"user": user_ids, "item": item_ids}, name, sha256


def _read(path, names):
    """The mapped columns: ids as categories, the others as text or as they are."""
    path = sources.resolve(path)
    ending = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    ending = ending.lower()
    if ending not in ENDINGS or (ending == ".parquet" and path.suffix == ".gz"):
        raise InputError(
            f"{path.name}: a table ends in {', '.join(ENDINGS)}, or .csv.gz and so on."
        )
    raw = readers.unpacked(path)
    read = _parquet if ending == ".parquet" else _text
    table = read(raw, ending, names, path.name)
    if not len(table):
        raise InputError(f"{path.name} holds a header and no row: copy it again.")
    return table, path.name, hashlib.sha256(raw).hexdigest()


def _refuse_missing(names, held, file_name):
    for meaning, column in names.items():
        if held.count(column) != 1:
            how = "two columns" if column in held else "no column"
            raise InputError(
                f'{file_name}: {how} "{column}" for the {meaning}; it has '
                f"{', '.join(held[:20])}; say in columns which is meant, as in "
                f"{meaning}=<column>."
            )


def _text(raw, ending, names, file_name):
    head = re.match(rb"[^\r\n]*", raw).group().decode("utf-8-sig", "replace")
    fields = {s: next(csv.reader([head], delimiter=s), []) for s in SEPARATORS[ending]}
    separator = max(fields, key=lambda s: len(set(fields[s]) & set(names.values())))
    held = fields[separator]
    _refuse_missing(names, held, file_name)
    if b"\0" in raw:
        raise InputError(f"{file_name} holds zero bytes: give a plain text file.")
    plain = [names[m] for m in ("rating", "time") if m in names]
    dtype = {column: str if column in plain else "category" for column in held}
    try:  # all columns: told of some, pandas lets surplus fields pass
        table = pd.read_csv(
            io.BytesIO(raw),
            sep=separator,
            dtype=dtype,
            keep_default_na=False,
            encoding="utf-8-sig",
        )
        if len(table) and not isinstance(table.index, pd.RangeIndex):
            raise ValueError("rows have more fields than the header")
        return table[list(names.values())]
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file_name} is not UTF-8 ({error.reason}): save it in that encoding."
        ) from None
    except (ValueError, pd.errors.ParserError) as error:
        told = str(error).replace("\n", " ").strip().rstrip(".")
        raise InputError(
            f"{file_name} cannot be read as a table ({told}): repair that line."
        ) from None


def _parquet(raw, ending, names, file_name):
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(io.BytesIO(raw))
        _refuse_missing(names, list(file.schema_arrow.names), file_name)
        return file.read(list(names.values())).to_pandas()
    except (pyarrow.ArrowException, OSError) as error:
        told = str(error).splitlines()[0].rstrip(".")
        raise InputError(
            f"{file_name} is not a sound Parquet file ({told}): copy it again."
        ) from None


def _wrong(column, file_name, bad, expected):
    """Raises InputError for the first row of the mask ``bad``."""
    row = int(np.flatnonzero(bad)[0])
    found = column.iloc[row]
    raise InputError(
        f"{file_name}, row {row + 1} after the header, column {column.name}: found "
        f"{found if isinstance(found, float) else str(found)[:60]!r}, expected "
        f"{expected}: repair or remove the row."
    )


def _coded(table, names, meaning, file_name):
    """A column of ids as places in the sorted ids, int64, and those ids."""
    column = table[names[meaning]]
    if not hasattr(column, "cat"):
        if column.dtype.kind not in "iuOfM" and not hasattr(column, "str"):
            _wrong(column, file_name, np.ones(1, bool), "a number or a text")
        column = column.astype("category")
    codes, ids = column.cat.codes.to_numpy(np.int64), column.cat.categories
    empty = codes < 0
    if ids.dtype.kind in "iuf":
        ids = ids.to_numpy()
    else:
        ids = [str(each) for each in ids]
        blank = np.array([not each.strip() for each in ids], bool)
        if blank.any():
            empty |= blank[codes]
    if empty.any():
        _wrong(table[names[meaning]], file_name, empty, f"the id of a {meaning}")
    if isinstance(ids, list):
        whole = all(map(_WHOLE, ids))
        ids = np.array(ids, np.int64) if whole else np.array(ids)
    order = np.argsort(ids, kind="stable")
    place = np.empty(len(ids), np.int64)
    place[order] = np.arange(len(ids))
    return place[codes], ids[order]


def _numbers(column, name, file_name, expected):
    """A column as float64; every value must be a finite number."""
    values = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    bad = ~np.isfinite(values)
    if bad.any():
        _wrong(column.rename(name), file_name, bad, expected)
    return values


def _milliseconds(column, name, file_name):
    """A column of times as int64 ms since 1970."""
    expected = (
        "Unix seconds or milliseconds, or an ISO date such as 2016-05-25 or "
        "2016-05-25T10:51:09Z, from 1970 to 2099, one kind in the whole column"
    )
    column = column.rename(name)
    if column.dtype.kind == "M" or isinstance(column.dtype, pd.DatetimeTZDtype):
        when = pd.to_datetime(column, utc=True)
    elif column.dtype.kind in "iuf" or _is_number(column.iloc[0]):
        number = _numbers(column, name, file_name, expected)
        in_ms = np.abs(number) >= LAST_SECOND
        mixed = in_ms != in_ms[0]
        if mixed.any():
            _wrong(column, file_name, mixed, expected)
        when = np.floor(number if in_ms[0] else number * 1000)
        return _in_range(when, column, file_name, expected)
    else:
        texts = column.astype(str)
        bad = np.array([_ISO(text) is None for text in texts], bool)
        if bad.any():
            _wrong(column, file_name, bad, expected)
        when = pd.to_datetime(texts, utc=True, errors="coerce", **_MIXED)
    bad = when.isna().to_numpy()
    if bad.any():
        _wrong(column, file_name, bad, expected)
    when = when.dt.tz_localize(None).to_numpy("M8[ms]").astype(np.int64)
    return _in_range(when, column, file_name, expected)


# Newer releases of pandas take one format from the first value unless told otherwise.
_MIXED = {"format": "ISO8601"} if pd.__version__ >= "2" else {}


def _is_number(text):
    try:
        return bool(np.isfinite(float(text)))
    except (TypeError, ValueError):
        return False


def _in_range(when, column, file_name, expected):
    bad = (when < 0) | (when >= LAST_SECOND * 1000)
    if bad.any():
        _wrong(column, file_name, bad, expected)
    return when.astype(np.int64)
