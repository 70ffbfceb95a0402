"""Find the files of a table and say which column is which.

A table is a file, a folder or a glob of files: CSV, TSV or Parquet with any column
names. A mapping such as ``"session=visit, item=sku, time=clicked_at"`` names the
columns; ``"user=1, item=2, rating=3"`` numbers those of a file without a header line.
"""

from __future__ import annotations

import csv
import glob
import io
from collections.abc import Collection, Iterable
from pathlib import Path

from lib import files
from lib.data.sources import DIGINETICA, MOVIELENS, PathLike
from lib.errors import InputError

CLICKS = ("session", "item", "time")  # what a table of clicks needs
RATINGS = ("user", "item", "rating")  # and one of ratings
SEPARATORS = (",", "\t", "::", ";", "|")
ENDINGS = (".csv", ".tsv", ".txt", ".dat", ".data", ".parquet")


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
    names = dict[str, str]()
    for pair in filter(None, map(str.strip, str(text).split(","))):
        meaning, _, column = map(str.strip, pair.partition("="))
        if not column or meaning not in (*needed, *optional) or meaning in names:
            raise InputError(
                f'columns="{text}": "{pair}" cannot be used; write '
                f"{', '.join(f'{each}=<column>' for each in needed)}"
                + "".join(f" and perhaps {each}=<column>" for each in optional)
                + ", each once."
            )
        names[meaning] = column
    return {**dict(zip(needed, needed)), **names}


def ending(path: PathLike) -> str:
    """The ending of a file's name in small letters, without ``.gz``."""
    return Path(str(path).lower().removesuffix(".gz")).suffix


def is_table(path: PathLike) -> bool:
    """Tells whether a path is a table: a file by its ending, a folder by its files."""
    if ending(path) in ENDINGS:
        return True
    folder = files.resolve(path)
    raw = (f"{name}{gz}" for name in (DIGINETICA, MOVIELENS) for gz in ("", ".gz"))
    is_raw = not str(path).strip() or any((folder / name).exists() for name in raw)
    return not is_raw and bool(_inside(folder))


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
    found = _inside(path) if path.is_dir() else [path]
    if not path.exists() and glob.has_magic(str(location)):
        found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    unfit = [each.name for each in found if ending(each) not in ENDINGS]
    unfit += [each.name for each in found if each.name.lower().endswith(".parquet.gz")]
    if unfit or not found:
        raise InputError(
            f"{', '.join(unfit[:1]) or path}: {'a' if unfit else 'no file of a'} table "
            f"ends in {', '.join(ENDINGS)}, or .csv.gz and so on."
        )
    return found


def split(line: str, separator: str) -> list[str]:
    """Splits the first row of a text file into its fields."""
    single = separator if len(separator) == 1 else "\x1f"
    lines = io.StringIO(line.replace(separator, single), newline="")
    fields = next(csv.reader(lines, delimiter=single, skipinitialspace=True), [])
    return [field.strip() for field in fields]


def find_separator(line: str, wanted: Iterable[str]) -> str:
    """Finds the separator with which the first line has most names that are wanted."""
    names = {*wanted}

    def fit(separator: str) -> tuple[int, int]:
        fields = split(line, separator)
        return len({*fields} & names), len(fields)

    return max(SEPARATORS, key=fit)


def place_columns(
    names: dict[str, str], header: list[str], path: Path
) -> tuple[dict[str, int], bool]:
    """Finds the mapped columns.

    Args:
        names: from meanings to column names, see ``mapping``.
        header: the fields of the first line, or the names in a Parquet file.
        path: of the file, for messages.

    Returns:
        The position of each meaning's column, from 0, and whether the columns have
        names: they have not where the mapping numbers them from 1.

    Raises:
        InputError: a column is missing or is there twice.
    """
    numbers = [str(number) for number in range(1, len(header) + 1)]
    if {*names.values()} <= {*numbers} and not {*names.values()} <= {*header}:
        return {meaning: int(name) - 1 for meaning, name in names.items()}, False
    for meaning, column in names.items():
        if header.count(column) != 1:
            numbered = ", ".join(f"{m}={k}" for k, m in enumerate(names, 1))
            raise InputError(
                f"{path}: {'two columns' if column in header else 'no column'} "
                f'"{column}" for the {meaning}; its first line has '
                f"{', '.join(header[:20])}; say in columns which is meant, as in "
                f"{meaning}=<column>; if that is a row and the header line is missing, "
                f'give the numbers of the columns, as in columns="{numbered}".'
            )
    return {meaning: header.index(column) for meaning, column in names.items()}, True
