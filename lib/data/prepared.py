"""Folders of prepared data: arrays that training maps into memory, and their record.

A folder holds ``prepared.json`` and the arrays of ``ARRAYS`` as ``.npy`` files. Item
numbers of sessions start at 1, users and items of ratings at 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from lib import files
from lib.data.sources import PathLike
from lib.errors import InputError

VERSION = 1
RECORD = "prepared.json"
ARRAYS = {
    "sessions": {
        **{
            f"{part}_{name}": dtype
            for part in ("train", "test")
            for name, dtype in (
                ("items", "int32"),
                ("offsets", "int64"),
                ("days", "datetime64[D]"),
            )
        },
        "item_ids": None,
    },
    "ratings": {
        **{
            f"{part}_{name}": dtype
            for part in ("train", "test")
            for name, dtype in (
                ("users", "int32"),
                ("items", "int32"),
                ("ratings", "float32"),
            )
        },
        "user_ids": None,
        "item_ids": None,
    },
}


class Prepared(NamedTuple):
    """A folder of prepared data: its arrays by name, and the content of its record."""

    arrays: dict[str, np.ndarray]
    counts: dict[str, int]
    rules: dict
    name: str
    sha256: str


def is_prepared(path: PathLike) -> bool:
    """Returns whether a path is a folder of prepared data."""
    return (files.resolve(path) / RECORD).exists()


def load(path: PathLike, kind: str) -> Prepared:
    """Maps the arrays of a folder into memory.

    Args:
        path: of the folder.
        kind: ``"sessions"`` or ``"ratings"``.

    Raises:
        InputError: the folder is damaged, of another version, or of the other kind.
    """
    folder = files.resolve(path)
    try:
        record = files.read_json(folder / RECORD)
        version, found = record["version"], record["kind"]
        if (version, found) != (VERSION, kind):
            raise InputError(
                f"{folder} holds {found} of version {version}, and {kind} of version "
                f"{VERSION} are needed: prepare the data again."
            )
        source = record["source"]
        arrays = {
            name: _load_array(folder / f"{name}.npy", dtype)
            for name, dtype in ARRAYS[kind].items()
        }
        return Prepared(
            arrays,
            dict(record["counts"]),
            dict(record["rules"]),
            str(source["name"]),
            str(source["sha256"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{folder} is damaged ({str(error)[:200]}): prepare the data again."
        ) from error


def _load_array(path: Path, dtype: str | None) -> np.ndarray:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim != 1 or (dtype and array.dtype != np.dtype(dtype)):
        raise ValueError(f"{path.name} holds {array.dtype}, {array.ndim} dimensions")
    return array
