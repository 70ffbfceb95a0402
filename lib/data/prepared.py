"""The format of prepared data: a folder of arrays that training maps into memory.

``prepared.json`` says how the arrays were made and holds the SHA-256 of each;
docs/data.md describes the format. ``lib.data.preparing`` writes such a folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lib import files
from lib.data.sources import PathLike
from lib.errors import InputError

VERSION = 1
RECORD = "prepared.json"
_PARTS = {
    "sessions": {"items": "int32", "offsets": "int64", "days": "datetime64[D]"},
    "ratings": {"users": "int32", "items": "int32", "ratings": "float32"},
}
_IDS = {"sessions": ["item_ids"], "ratings": ["user_ids", "item_ids"]}
ARRAYS: dict[str, dict[str, str | None]] = {  # of a kind: name -> dtype, if it is fixed
    kind: {
        **{f"{p}_{n}": t for p in ("train", "test") for n, t in columns.items()},
        **dict.fromkeys(_IDS[kind]),
    }
    for kind, columns in _PARTS.items()
}
_CHUNK = 2**22  # bytes


class Prepared(NamedTuple):
    """A folder of prepared data: its arrays by name, and the content of its record."""

    arrays: dict[str, np.ndarray]
    counts: dict[str, int]
    rules: dict[str, Any]
    name: str
    sha256: str


def is_prepared(path: PathLike) -> bool:
    """Returns whether a path is a folder of prepared data."""
    return (files.resolve(path) / RECORD).exists()


def load(path: PathLike, kind: str) -> Prepared:
    """Maps the arrays of a folder into memory, after a check of their SHA-256.

    Args:
        path: of the folder; a relative one starts at the repository's root.
        kind: ``"sessions"`` or ``"ratings"``.

    Raises:
        InputError: the folder is of another kind or version, or damaged.
    """
    folder = files.resolve(path)
    again = "prepare the data again, with bash ci/prepare.sh"
    try:
        record = files.read_json(folder / RECORD)
        version, found = record["version"], record["kind"]
        if version != VERSION:
            raise InputError(
                f"{folder} has version {version!r} of the format of prepared data, "
                f"and this release reads version {VERSION}: {again}."
            )
        if found != kind:
            raise InputError(
                f"{folder} holds prepared {found!r}, and {kind} are needed: choose "
                f"another folder, or {again}."
            )
        hashes, source = record["sha256"], record["source"]
        return Prepared(
            {
                name: _load_array(folder / f"{name}.npy", dtype, hashes)
                for name, dtype in ARRAYS[kind].items()
            },
            dict(record["counts"]),
            dict(record["rules"]),
            str(source["name"]),
            str(source["sha256"]),
        )
    except InputError:
        raise
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise InputError(f"{folder} is damaged ({reason}): {again}.") from error


def _load_array(path: Path, dtype: str | None, hashes: dict[str, str]) -> np.ndarray:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim != 1 or (dtype and array.dtype != np.dtype(dtype)):
        raise ValueError(f"{path.name} holds {array.dtype}, {array.ndim} dimensions")
    if hash_file(path) != hashes[path.name]:
        raise ValueError(f"{path.name} has not the SHA-256 that {RECORD} says")
    return array


def hash_file(path: Path) -> str:
    """Computes the SHA-256 of a file, in bounded memory."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def write_array(
    path: Path, pieces: Iterable[np.ndarray], length: int, dtype: Any
) -> None:
    """Writes a one-dimensional ``.npy`` file piece by piece, in bounded memory.

    Args:
        path: of the file.
        pieces: arrays that follow one another.
        length: of all pieces together.
        dtype: of the array; pieces are converted. None: that of the first piece.

    Raises:
        ValueError: the pieces have another length together.
    """
    pieces = iter(pieces)
    first, written = next(pieces), 0
    dtype = np.dtype(dtype or first.dtype)
    descr = np.lib.format.dtype_to_descr(dtype)
    header = {"descr": descr, "fortran_order": False, "shape": (length,)}
    with open(path, "wb") as file:  # a memory map would end in SIGBUS on a full disk
        np.lib.format.write_array_header_1_0(file, header)
        for piece in chain([first], pieces):
            file.write(np.asarray(piece, dtype).tobytes())
            written += len(piece)
    if written != length:
        raise ValueError(f"{path}: {written} entries instead of {length}")


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Writes ``prepared.json`` for the arrays of ``record["kind"]`` in a folder."""
    names = [f"{name}.npy" for name in ARRAYS[record["kind"]]]
    hashes = {name: hash_file(folder / name) for name in names}
    text = json.dumps({**record, "version": VERSION, "sha256": hashes}, indent=1)
    files.write_text(folder / RECORD, text + "\n")
