"""The format of prepared data: a folder of arrays that training maps into memory.

``prepared.json`` says how the arrays were made and holds the SHA-256 of each; docs/data.md
describes the format. ``lib.data.preparing`` writes such a folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lib import files
from lib.errors import InputError

VERSION = 1
DESCRIPTION = "prepared.json"
ARRAYS = {  # kind: the dtype of each array; None is that of the raw ids
    "sessions": {
        "train_items": np.int32,
        "train_offsets": np.int64,
        "train_days": "datetime64[D]",
        "test_items": np.int32,
        "test_offsets": np.int64,
        "test_days": "datetime64[D]",
        "item_ids": None,
    },
    "ratings": {
        "train_users": np.int32,
        "train_items": np.int32,
        "train_ratings": np.float32,
        "test_users": np.int32,
        "test_items": np.int32,
        "test_ratings": np.float32,
        "user_ids": None,
        "item_ids": None,
    },
}
_CHUNK = 2**22  # bytes


def is_prepared(path: str | os.PathLike[str]) -> bool:
    """Tells whether a path is a folder of prepared data."""
    return (files.resolve(path) / DESCRIPTION).is_file()


def read(
    path: str | os.PathLike[str], kind: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Maps the arrays of a folder into memory, after a check of their SHA-256.

    Args:
        path: of the folder; a relative one starts at the repository's root.
        kind: ``"sessions"`` or ``"ratings"``.

    Returns:
        The content of ``prepared.json``, and the arrays of ``ARRAYS[kind]`` by name,
        mapped read-only.

    Raises:
        InputError: the folder is of another kind or version, or damaged.
    """
    folder = files.resolve(path)
    again = "prepare the data again, with bash ci/prepare.sh"
    try:
        about = files.read_json(folder / DESCRIPTION)
        version, found, hashes = about["version"], about["kind"], about["sha256"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{folder / DESCRIPTION} cannot be read or lacks an entry ({error}): {again}."
        ) from error
    if version != VERSION:
        raise InputError(
            f"{folder} has version {version!r} of the format of prepared data, and "
            f"this release reads version {VERSION}: {again}."
        )
    if found != kind:
        raise InputError(
            f"{folder} holds prepared {found!r}, not {kind}: choose another folder."
        )
    arrays = {}
    for name, dtype in ARRAYS[kind].items():
        file = folder / f"{name}.npy"
        try:
            array = np.load(file, mmap_mode="r", allow_pickle=False)
            good = array.ndim == 1 and (dtype is None or array.dtype == np.dtype(dtype))
            good = good and hash_file(file) == hashes.get(file.name)
        except (OSError, ValueError, AttributeError):
            good = False
        if not good:
            raise InputError(
                f"{file} is missing or damaged (its SHA-256 is not the one in "
                f"{DESCRIPTION}): {again}."
            )
        arrays[name] = array
    return about, arrays


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
        dtype: of the array; pieces are converted.

    Raises:
        ValueError: the pieces have another length together.
    """
    dtype = np.dtype(dtype)
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (length,),
    }
    written = 0
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for piece in pieces:
            file.write(np.asarray(piece, dtype).tobytes())
            written += len(piece)
        file.flush()
        os.fsync(file.fileno())
    if written != length:
        raise ValueError(f"{path}: {written} entries instead of {length}")


def describe(folder: Path, about: dict[str, Any]) -> None:
    """Writes ``prepared.json`` for the arrays of ``about["kind"]`` in a folder."""
    names = [f"{name}.npy" for name in ARRAYS[about["kind"]]]
    hashes = {name: hash_file(folder / name) for name in names}
    text = json.dumps({**about, "version": VERSION, "sha256": hashes}, indent=1)
    files.write_text(folder / DESCRIPTION, text + "\n")
