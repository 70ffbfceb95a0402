"""Find a data set and read its raw files, with errors that a person can act on.

``data_path`` is ``"sample"`` (made on the spot), a folder that holds the raw files
(plain or ``.gz``), or ``"ml-1m"`` (fetched from GroupLens). Relative paths start at the
repository's root, whatever folder a notebook runs in.
"""

import gzip
import hashlib
import io
import re
import shutil
import tempfile
import zlib
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

from lib import download, sample
from lib.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
DATA_DIR = ROOT / "data"

DIGINETICA = "train-item-views.csv"
MOVIELENS = "ratings.dat"
_PLACE = {
    DIGINETICA: "Diginetica (CIKM Cup 2016, track 2) has no live public link: put the "
    f"file {DIGINETICA} or {DIGINETICA}.gz, from whoever has a copy, into a folder and "
    "give that folder as data_path",
    MOVIELENS: f"put {MOVIELENS}, movies.dat and users.dat of ml-1m.zip, plain or .gz, "
    'into a folder and give that folder as data_path, or set data_path to "ml-1m" to '
    "fetch them",
}


@dataclass(frozen=True)
class Source:
    """A data set that was found: its ``name`` for records, and its ``folder``."""

    name: str
    folder: Path

    def path(self, file_name):
        """The path of a file, plain or ``.gz``; None where there is none."""
        for path in (self.folder / file_name, self.folder / f"{file_name}.gz"):
            if path.is_file():
                return path
        return None


def resolve(path):
    """A path as given, or below the repository's root where it is relative."""
    return ROOT / Path(path).expanduser()


def find(main_file, data_path):
    """Finds the data set whose main file is ``main_file``.

    Args:
        main_file: ``sources.DIGINETICA`` or ``sources.MOVIELENS``.
        data_path: ``"sample"``, a folder, or (MovieLens) ``"ml-1m"``.

    Returns:
        A ``Source`` whose folder holds the main file.

    Raises:
        InputError: no such folder, or the main file is not in it.
    """
    place = _PLACE[main_file]
    if data_path == "sample":
        kind = "diginetica" if main_file == DIGINETICA else "movielens"
        return Source("sample", _sample_folder() / kind)
    if data_path == "ml-1m" and main_file == MOVIELENS:
        return Source("ml-1m", download.movielens(DATA_DIR))
    folder = resolve(data_path)
    if not folder.is_dir():
        raise InputError(
            f'data_path "{data_path}" is not a folder (looked for {folder}): {place}; '
            'or use "sample".'
        )
    source = Source(folder.name, folder)
    if source.path(main_file) is None:
        held = sorted(path.name for path in folder.iterdir())
        held = ", ".join(held[:5] + ["..."] * (len(held) > 5)) or "nothing"
        raise InputError(
            f"{folder} holds neither {main_file} nor {main_file}.gz (it holds {held}): "
            f"{place}."
        )
    return source


def _sample_folder():
    folder = DATA_DIR / f"sample-v{sample.VERSION}"
    if not folder.is_dir():
        DATA_DIR.mkdir(exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=DATA_DIR))
        sample.write(unfinished)
        try:
            unfinished.rename(folder)
        except OSError:  # another process was first
            shutil.rmtree(unfinished)
    return folder


def read_views(source):
    """Reads the item views of Diginetica.

    Args:
        source: what ``find(DIGINETICA, ...)`` returned.

    Returns:
        ``(clicks, sha256)``: a table in the order of the file, with the columns
        ``session, item, timeframe`` (int64; time frame in ms) and ``day``
        (datetime64), and the SHA-256 of the unpacked file.

    Raises:
        InputError: the file is damaged, empty, or a header, column or value is wrong.
    """
    path = source.path(DIGINETICA)
    raw = _bytes(path)
    older = {"session_id": "sessionId", "item_id": "itemId"}
    header = [older.get(name, name) for name in _header(path, raw, ";")]
    wanted = ["sessionId", "itemId", "timeframe", "eventdate"]
    missing = [name for name in wanted if name not in header]
    if missing:
        raise InputError(
            f"{path}: its first line has no column {missing[0]}; needed are "
            f"{';'.join(wanted)} (or session_id, item_id); found is {';'.join(header)}."
        )
    checks = {header.index(name): (name, *_WHOLE) for name in wanted[:3]}
    checks[header.index("eventdate")] = ("eventdate", *_DATE)
    dtype = {**dict.fromkeys(wanted[:3], np.int64), "eventdate": "category"}
    options = {"names": header, "header": 0, "dtype": dtype}
    table, sha256 = _read(path, raw, ";", len(header), checks, options)
    table = table.rename(columns={"sessionId": "session", "itemId": "item"})
    days = pd.to_datetime(table["eventdate"].cat.categories, format="%Y-%m-%d")
    table["day"] = days.to_numpy()[table["eventdate"].cat.codes]
    return table[["session", "item", "timeframe", "day"]], sha256


def read_ratings(source):
    """Reads the ratings of MovieLens-1M.

    Args:
        source: what ``find(MOVIELENS, ...)`` returned.

    Returns:
        ``(ratings, sha256)``: a table in the order of the file, with the int64 columns
        ``user, item, rating, timestamp`` (rating 1 to 5, time in Unix seconds), and the
        SHA-256 of the unpacked file.

    Raises:
        InputError: the file is damaged or empty, or a value is wrong or out of range.
    """
    path = source.path(MOVIELENS)
    raw = _bytes(path)
    if not re.match(rb"(\xef\xbb\xbf)?[0-9]+::", raw):
        first = raw[:60].split(b"\n")[0].decode("latin-1")
        raise InputError(
            f"{path}, line 1: found {first!r}, expected UserID::MovieID::Rating::"
            "Timestamp, four whole numbers between two colons each; give the unchanged "
            "ratings.dat of MovieLens-1M."
        )
    columns = ["user", "item", "rating", "timestamp"]
    checks = dict(enumerate((name, *_WHOLE) for name in columns))
    checks[2] = ("rating", *_RATING)
    # One colon as the separator keeps pandas on its fast parser; every second column is
    # then empty.
    names = ["user", "", "item", " ", "rating", "  ", "timestamp"]
    options = {"names": names, "header": None, "dtype": np.int64}
    return _read(path, raw, "::", 4, checks, options)


def read_side_file(source, file_name, columns=None):
    """Reads a side file as text: a ``;``-table with a header, or ``::`` columns.

    Args:
        source: what ``find`` returned.
        file_name: for example ``"product-categories.csv"`` or ``"movies.dat"``.
        columns: names for a file without a header (the ``.dat`` files).

    Returns:
        A table of strings, or None where the source does not have the file.

    Raises:
        InputError: the file is damaged or empty, or a line has the wrong number of
            fields.
    """
    path = source.path(file_name)
    if path is None:
        return None
    raw = _bytes(path)
    separator = "::" if columns else ";"
    names = columns or _header(path, raw, separator)
    encoding = "latin-1" if columns else "utf-8-sig"
    rows = [row for _, row in _fields(path, raw, separator, len(names), encoding)]
    return pd.DataFrame(rows if columns else rows[1:], columns=names)


def _is_date(text):
    form = re.fullmatch(r"((?:19|20)[0-9]{2})-([0-9]{1,2})-([0-9]{1,2})", text)
    try:
        return form is not None and bool(date(*map(int, form.groups())))
    except ValueError:  # no such day in the calendar
        return False


_WHOLE = (re.compile(r"[ \t]*[0-9]{1,18}[ \t]*").fullmatch, "a whole number, 0 or more")
_DATE = (_is_date, "a date such as 2016-05-25")
_RATING = (re.compile(r"[ \t]*[1-5][ \t]*").fullmatch, "a whole number from 1 to 5")


def _bytes(path):
    try:
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{path} is cut short or is not a gzip file ({error}): copy it again."
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    if not raw.strip():
        raise InputError(f"{path} is empty: copy or download it again.")
    return raw


def _fields(path, raw, separator, n_fields, encoding="utf-8-sig"):
    """Yields every line that is not blank: its number in the file, and its fields."""
    for number, line in enumerate(raw.splitlines(), 1):
        if not line.strip(b" \t"):
            continue
        line = line.decode(encoding, "replace")
        fields = line.split(separator)
        if len(fields) != n_fields:
            raise InputError(
                f"{path}, line {number}: {len(fields)} fields separated by "
                f"{separator!r}, expected {n_fields}; found {line[:80]!r}: repair or "
                "remove the line."
            )
        yield number, fields


def _header(path, raw, separator):
    head = re.match(rb"[^\r\n]*", raw).group()
    line = head.decode("utf-8-sig", "replace").strip()
    if separator not in line:
        raise InputError(
            f"{path}, line 1: columns must be separated by {separator!r}, found "
            f"{line[:80]!r}; give the unchanged file of the CIKM Cup 2016."
        )
    if not raw[len(head) :].strip():
        raise InputError(f"{path} holds a header and no row: copy it again.")
    return line.split(separator)


def _read(path, raw, separator, n_fields, checks, options):
    """Reads the checked columns fast; where that fails, finds the first bad line."""
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
        # pandas lets surplus fields pass, and takes a zero byte for the end of a field.
        sep, n = separator.encode(), (n_fields - 1) * (len(table) + has_header)
        plain = raw.count(sep) == n and raw.count(sep[:1]) == n * len(sep)
        plain = plain and b"\0" not in raw
        if plain and all(_is_sound(table[name], good) for name, good, _ in wanted):
            return table, hashlib.sha256(raw).hexdigest()
        error = "it is not plain text"
    except (ValueError, OverflowError) as caught:
        error = caught
    for number, fields in _fields(path, raw, separator, n_fields):
        if number == 1 and has_header:
            continue
        for place, (name, is_good, expected) in checks.items():
            if not is_good(fields[place]):
                raise InputError(
                    f"{path}, line {number}, column {name}: found {fields[place]!r}, "
                    f"expected {expected}: repair or remove the line."
                )
    raise InputError(f"{path} cannot be parsed: {error}.")


def _is_sound(column, is_good):
    if hasattr(column, "cat"):
        return not column.isna().any() and all(map(is_good, column.cat.categories))
    return is_good(str(column.min())) and is_good(str(column.max()))
