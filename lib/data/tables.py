"""Read tables of clicks or ratings: CSV, TSV or Parquet with any column names.

A mapping such as ``"session=visit, item=sku, time=clicked_at"`` names the columns. Ids
may be numbers or text and keep the form that they have in the file.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Collection

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from lib import files
from lib.data import columns as converters
from lib.data import readers
from lib.data.sources import PathLike
from lib.errors import InputError

_IDS = ("session", "user", "item")
CLICKS = ("session", "item", "time")  # what a table of clicks needs
RATINGS = ("user", "item", "rating")  # and one of ratings
SEPARATORS = {".csv": ",;\t|", ".tsv": "\t", ".txt": "\t,;|"}
ENDINGS = (*SEPARATORS, ".parquet")


def mapping(
    text: str, needed: Collection[str], optional: Collection[str] = ()
) -> dict[str, str]:
    """Parses ``"session=visit, item=sku"`` to a dict from meanings to column names.

    Args:
        text: pairs separated by commas; a meaning without a pair is the name of its
            column.
        needed, optional: the allowed meanings; an optional column is read only if the
            text names it.

    Raises:
        InputError: a part is not a pair, or its meaning is unknown or repeated.
    """
    if not isinstance(text, str):
        raise InputError(
            f"columns={text!r}: write it as a text, such as "
            f'"{", ".join(f"{each}=<column>" for each in needed)}".'
        )
    names = {meaning: meaning for meaning in needed}
    mapped = set()
    for pair in filter(None, map(str.strip, text.split(","))):
        meaning, equals, column = map(str.strip, pair.partition("="))
        is_allowed = meaning in (*needed, *optional) and meaning not in mapped
        if not (equals and column and is_allowed):
            raise InputError(
                f'columns="{text}": "{pair}" cannot be used; write '
                f"{', '.join(f'{each}=<column>' for each in needed)}"
                + "".join(f" and perhaps {each}=<column>" for each in optional)
                + ", each once."
            )
        mapped.add(meaning)
        names[meaning] = column
    return names


def is_table(path: PathLike) -> bool:
    """Tells whether a path has the ending of a table, one of ``ENDINGS``."""
    return str(path).removesuffix(".gz").lower().endswith(ENDINGS)


def read_clicks(
    path: PathLike, columns: str = ""
) -> tuple[pd.DataFrame, np.ndarray, str, str]:
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
        InputError: a column is missing, or a value is empty or of another kind.
    """
    names = mapping(columns, CLICKS, ("user",))
    table, name, sha256 = _read(path, names)
    session, _ = converters.ids(table, names["session"], name)
    item, item_ids = converters.ids(table, names["item"], name)
    time = converters.milliseconds(table, names["time"], name)
    clicks = pd.DataFrame({"session": session, "item": item, "timeframe": time})
    clicks["day"] = (time // 86_400_000).astype("datetime64[D]").astype("M8[ns]")
    return clicks, item_ids, name, sha256


def read_ratings(
    path: PathLike, columns: str = ""
) -> tuple[pd.DataFrame, dict[str, np.ndarray], str, str]:
    """Reads a table of ratings.

    Args:
        path: see ``read_clicks``.
        columns: see ``mapping``: ``user, item, rating`` and perhaps ``time``.

    Returns:
        ``(ratings, ids, name, sha256)``: a table as ``readers.read_ratings`` returns it
        (rating float32, timestamp in seconds, 0 where there is no time), in which
        ``user`` and ``item`` are places in ``ids["user"]`` and ``ids["item"]``.

    Raises:
        InputError: a column is missing, or a value is empty or of another kind.
    """
    names = mapping(columns, RATINGS, ("time",))
    table, name, sha256 = _read(path, names)
    user, user_ids = converters.ids(table, names["user"], name)
    item, item_ids = converters.ids(table, names["item"], name)
    rating = converters.numbers(table, names["rating"], name)
    ratings = pd.DataFrame({"user": user, "item": item, "rating": rating})
    ratings["timestamp"] = 0
    if "time" in names:
        time = converters.milliseconds(table, names["time"], name)
        ratings["timestamp"] = time // 1000
    return ratings, {"user": user_ids, "item": item_ids}, name, sha256


def _read(location: PathLike, names: dict[str, str]) -> tuple[pa.Table, str, str]:
    """Reads the mapped columns; returns an Arrow table, the file's name and SHA-256."""
    path = files.resolve(location)
    ending = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    ending = ending.lower()
    if ending not in ENDINGS or (ending == ".parquet" and path.suffix == ".gz"):
        raise InputError(
            f"{path.name}: a table ends in {', '.join(ENDINGS)}, or .csv.gz and so on."
        )
    raw = readers.unpacked(path)
    read = _parquet if ending == ".parquet" else _text
    table = read(raw, ending, names, path.name).combine_chunks()
    if not len(table):
        raise InputError(f"{path.name} holds a header and no row: copy it again.")
    return table, path.name, hashlib.sha256(raw).hexdigest()


def _refuse_missing(names: dict[str, str], header: list[str], file_name: str) -> None:
    for meaning, column in names.items():
        if header.count(column) != 1:
            how = "two columns" if column in header else "no column"
            raise InputError(
                f'{file_name}: {how} "{column}" for the {meaning}; it has '
                f"{', '.join(header[:20])}; say in columns which is meant, as in "
                f"{meaning}=<column>."
            )


def _text(raw: bytes, ending: str, names: dict[str, str], file_name: str) -> pa.Table:
    head = readers.first_line(raw).decode("utf-8-sig", "replace")
    fields = {s: next(csv.reader([head], delimiter=s), []) for s in SEPARATORS[ending]}
    separator = max(fields, key=lambda s: len(set(fields[s]) & set(names.values())))
    _refuse_missing(names, fields[separator], file_name)
    if b"\0" in raw:
        raise InputError(f"{file_name} holds zero bytes: give a plain text file.")
    ids = pa.dictionary(pa.int32(), pa.string())
    types = {c: ids if m in _IDS else pa.string() for m, c in names.items()}
    try:
        return arrow_csv.read_csv(
            io.BytesIO(raw),
            parse_options=arrow_csv.ParseOptions(delimiter=separator),
            convert_options=arrow_csv.ConvertOptions(
                column_types=types,
                include_columns=list(types),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowException as error:
        raise InputError(
            f"{file_name} cannot be read as a table in UTF-8 ({_first_line(error)}): "
            "repair that line."
        ) from error


def _parquet(
    raw: bytes, ending: str, names: dict[str, str], file_name: str
) -> pa.Table:
    try:
        file = parquet.ParquetFile(io.BytesIO(raw))
        _refuse_missing(names, list(file.schema_arrow.names), file_name)
        return file.read(list(names.values()))
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{file_name} is not a sound Parquet file ({_first_line(error)}): copy it "
            "again."
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].strip().rstrip(".")[:200]
