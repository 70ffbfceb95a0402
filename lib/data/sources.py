"""Find a data set: the embedded sample, a folder, or a download.

``data_path`` is ``"sample"`` (shipped with the code), a folder with the raw files
(plain or ``.gz``), or ``"ml-1m"`` (downloaded from GroupLens or a mirror). A relative
path starts at the repository's root, whatever folder a notebook runs in.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Union

import pooch

from lib import files
from lib.errors import InputError

DATA_DIR = files.ROOT / "data"
SAMPLE = Path(__file__).with_name("sample")  # tools/make_sample.py makes it

DIGINETICA = "train-item-views.csv"
MOVIELENS = "ratings.dat"
_REMEDIES = {
    DIGINETICA: "Diginetica (CIKM Cup 2016, track 2) has no public link any more: put "
    f"a copy of {DIGINETICA} or {DIGINETICA}.gz into a folder and use its path",
    MOVIELENS: f"put {MOVIELENS}, movies.dat and users.dat of ml-1m.zip, plain or .gz, "
    'into a folder and use its path, or use "ml-1m" to download them',
}
MOVIELENS_URLS = (
    "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
    "https://huggingface.co/datasets/Recommenders/MovieLens/resolve/main/ml-1m.zip",
)
MOVIELENS_SHA256 = "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20"
MOVIELENS_FILES = ("ratings.dat", "movies.dat", "users.dat")
TIMEOUT_S = 30

PathLike = Union[str, os.PathLike]


@dataclass(frozen=True)
class Source:
    """A data set: its ``name`` in records and the ``folder`` of its files."""

    name: str
    folder: Path

    def path(self, file_name: str) -> Path:
        """The path of a file, as ``.gz`` if only that exists; it may be missing."""
        plain, packed = self.folder / file_name, self.folder / f"{file_name}.gz"
        return packed if packed.is_file() and not plain.is_file() else plain


def find(main_file: str, data_path: PathLike) -> Source:
    """Finds the data set whose main file is ``main_file``.

    Args:
        main_file: ``sources.DIGINETICA`` or ``sources.MOVIELENS``.
        data_path: ``"sample"``, a folder, or (MovieLens) ``"ml-1m"``.

    Returns:
        A ``Source`` whose folder holds the main file.

    Raises:
        InputError: the folder does not exist or has no main file, or the download
            failed.
    """
    remedy = _REMEDIES[main_file]
    if data_path == "sample":
        kind = "diginetica" if main_file == DIGINETICA else "movielens"
        return Source("sample", SAMPLE / kind)
    if data_path == "ml-1m" and main_file == MOVIELENS:
        return Source("ml-1m", fetch_movielens(DATA_DIR))
    folder = files.resolve(data_path)
    if not folder.is_dir() or not str(data_path).strip():
        raise InputError(
            f'"{data_path}" is not a folder (looked for {folder}): {remedy}; '
            'or use "sample". Notebooks that train, transfer or recommend take tables, '
            "too, which end in .csv, .tsv, .txt or .parquet."
        )
    source = Source(folder.name, folder)
    if not source.path(main_file).is_file():
        names = sorted(path.name for path in folder.iterdir())
        if len(names) > 5:
            names = [*names[:5], "..."]
        content = ", ".join(names) or "nothing"
        raise InputError(
            f"{folder} holds neither {main_file} nor {main_file}.gz (it holds "
            f"{content}): {remedy}."
        )
    return source


def next_season() -> Path:
    """The sample's second data set: a table of a later season's clicks.

    Three items in ten are new, and the columns are ``visit, sku, clicked_at``.
    """
    return SAMPLE / "next_season.csv.gz"


def fetch_movielens(
    data_dir: Path, urls: Sequence[str] = MOVIELENS_URLS, sha256: str = MOVIELENS_SHA256
) -> Path:
    """Downloads and unpacks MovieLens-1M, unless an earlier call has done so.

    The folder appears only when all its files are unpacked, so an interrupted call
    leaves no incomplete file behind.

    Args:
        data_dir: folder for the archive ``ml-1m.zip`` and the unpacked ``ml-1m``.
        urls: the mirrors, in the order in which they are tried.
        sha256: of the archive; another content is refused before it is unpacked.

    Returns:
        The folder ``data_dir/ml-1m``, with ``MOVIELENS_FILES``.

    Raises:
        InputError: no mirror sent the archive, or it cannot be written; the message
            says which file to put where instead.
    """
    data_dir = data_dir.resolve()
    folder = data_dir / "ml-1m"
    members = [f"ml-1m/{name}" for name in MOVIELENS_FILES]
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT_S)
    failures = []
    for url in urls:
        if folder.is_dir():  # from an earlier call, or from a faster process
            break
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(prefix="unfinished-", dir=data_dir) as unfinished:
                unzip = pooch.Unzip(members, extract_dir=unfinished)
                pooch.retrieve(
                    url, f"sha256:{sha256}", "ml-1m.zip", data_dir, unzip, downloader
                )
                Path(unfinished, "ml-1m").rename(folder)
        except (OSError, ValueError) as error:  # ValueError: the hash is wrong
            failures.append(f"{url}: {str(error).rstrip('.')}")
    if not folder.is_dir():
        raise InputError(
            f"MovieLens-1M could not be downloaded ({'; '.join(failures)}): download "
            f"ml-1m.zip by other means and put it into {data_dir}, or unpack it and "
            "use the path of its folder."
        )
    return folder
