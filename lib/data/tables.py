"""Find the files of a table and say which column is which.

A table is a file, a folder or a glob of files: CSV, TSV or Parquet with any column
names. A mapping such as ``"session=visit, item=sku, time=clicked_at"`` names the
columns; ``"user=1, item=2, rating=3"`` numbers those of a file without a header line.
"""

from __future__ import annotations

import csv
import glob
from collections.abc import Collection
from pathlib import Path

from lib import files
from lib.data.sources import DIGINETICA, MOVIELENS, PathLike
from lib.errors import InputError

CLICKS = ("session", "item", "time")  # what a table of clicks needs
RATINGS = ("user", "item", "rating")  # and one of ratings
IDS = ("session", "user", "item")
SEPARATORS = {
    ".csv": (",", ";", "\t", "|"),
    ".tsv": ("\t",),
    ".txt": ("\t", ",", ";", "|"),
    ".dat": ("::", "\t", ",", ";", "|"),
    ".data": ("\t", "::", ",", ";", "|"),
}
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


def ending(path: PathLike) -> str:
    """The ending of a file's name in small letters, without ``.gz``."""
    return Path(str(path).lower().removesuffix(".gz")).suffix


def is_table(path: PathLike) -> bool:
    """Tells whether a path is a table: a file by its ending, a folder by its files."""
    if ending(path) in ENDINGS:
        return True
    folder = files.resolve(path)
    raw = (f"{name}{gz}" for name in (DIGINETICA, MOVIELENS) for gz in ("", ".gz"))
    return not any((folder / name).exists() for name in raw) and bool(_inside(folder))


def _inside(folder: Path) -> list[Path]:
    """The files of a table in a folder and its folders, in the order of their names."""
    return sorted(
        path
        for path in folder.rglob("*")
        if ending(path) in ENDINGS
        and path.is_file()
        and not any(part[0] in "._" for part in path.relative_to(folder).parts)
    )


def find(location: PathLike) -> list[Path]:
    """Finds the files of a table, in the order of their names.

    Raises:
        InputError: there is none, or a file has an ending that tables do not have.
    """
    path = files.resolve(location)
    found = [path]
    if path.is_dir():
        found = _inside(path)
    elif not path.exists() and glob.has_magic(str(location)):
        found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    unfit = [each for each in found if ending(each) not in ENDINGS]
    unfit += [each for each in found if each.name.lower().endswith(".parquet.gz")]
    if unfit or not found:
        raise InputError(
            f"{(unfit or [path])[0].name}: {'a' if unfit else 'no file of a'} table "
            f"ends in {', '.join(ENDINGS)}, or .csv.gz and so on."
        )
    return found


def split_header(line: str, path: Path, wanted: Collection[str]) -> tuple[list, str]:
    """Splits the first line of a text file; returns its fields and the separator."""
    fields = {}
    for separator in SEPARATORS[ending(path)]:
        parts = line.split(separator)
        if len(separator) == 1:
            parts = next(
                csv.reader([line], delimiter=separator, skipinitialspace=True), []
            )
        fields[separator] = [part.strip() for part in parts]
    best = max(fields, key=lambda s: (len({*fields[s]} & {*wanted}), len(fields[s])))
    return fields[best], best


def place_columns(
    names: dict[str, str], header: list[str], file_name: str
) -> tuple[dict[str, int], bool]:
    """Finds the mapped columns.

    Args:
        names: from meanings to column names, see ``mapping``.
        header: the fields of the first line, or the names in a Parquet file.
        file_name: for messages.

    Returns:
        The position of each meaning's column, from 0, and whether the first line is
        a header: it is not where the mapping numbers the columns from 1.

    Raises:
        InputError: a column is missing or is there twice.
    """
    n = len(header)
    by_number = all(name.isdecimal() and 1 <= int(name) <= n for name in names.values())
    if by_number and not {*names.values()} <= {*header}:
        return {meaning: int(name) - 1 for meaning, name in names.items()}, False
    for meaning, column in names.items():
        if header.count(column) == 1:
            continue
        how = "two columns" if column in header else "no column"
        advice = f"say in columns which is meant, as in {meaning}=<column>"
        if any(any(c.isdigit() for c in field[:4]) for field in header):
            numbered = ", ".join(f"{m}={k}" for k, m in enumerate(names, 1))
            advice += (
                "; if that is a row and the header line is missing, give the numbers "
                f'of the columns, as in columns="{numbered}"'
            )
        raise InputError(
            f'{file_name}: {how} "{column}" for the {meaning}; its first line has '
            f"{', '.join(header[:20])}; {advice}."
        )
    return {meaning: header.index(column) for meaning, column in names.items()}, True
