"""Find a data set: the embedded sample, a folder, or a download.

``data_path`` is ``"sample"`` (shipped with the code), a folder that holds the raw files
(plain or ``.gz``), or ``"ml-1m"`` (fetched from GroupLens). Relative paths start at the
repository's root, whatever folder a notebook runs in.
"""

import os
import shutil
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from lib import files
from lib.errors import InputError

DATA_DIR = files.ROOT / "data"
SAMPLE = Path(__file__).with_name("sample")  # tools/make_sample.py makes it

DIGINETICA = "train-item-views.csv"
MOVIELENS = "ratings.dat"
_PLACE = {
    DIGINETICA: "Diginetica (CIKM Cup 2016, track 2) has no live public link: put the "
    f"file {DIGINETICA} or {DIGINETICA}.gz, from whoever has a copy, into a folder and "
    "give that folder instead",
    MOVIELENS: f"put {MOVIELENS}, movies.dat and users.dat of ml-1m.zip, plain or .gz, "
    'into a folder and give that folder instead, or "ml-1m" to fetch them',
}
MOVIELENS_URLS = (
    "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
    "https://huggingface.co/datasets/Recommenders/MovieLens/resolve/main/ml-1m.zip",
)
MOVIELENS_SHA256 = "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20"
MOVIELENS_FILES = ("ratings.dat", "movies.dat", "users.dat")
LARGEST = 100_000_000  # bytes of an unpacked file; ratings.dat has a quarter of that
TIMEOUT_S = 30
CHUNK = 1 << 16


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
        return Source("sample", SAMPLE / kind)
    if data_path == "ml-1m" and main_file == MOVIELENS:
        return Source("ml-1m", fetch_movielens(DATA_DIR))
    folder = files.resolve(data_path)
    if not folder.is_dir():
        raise InputError(
            f'"{data_path}" is not a folder (looked for {folder}): {place}; '
            'or use "sample", or a table that ends in .csv, .tsv, .txt or .parquet.'
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


def next_season():
    """The sample's second data set: a table of a later season's clicks.

    Three items in ten are new, and the columns are ``visit, sku, clicked_at``.
    """
    return SAMPLE / "next_season.csv.gz"


def fetch_movielens(data_dir, urls=MOVIELENS_URLS, sha256=MOVIELENS_SHA256):
    """Returns the folder ``data_dir/ml-1m``, fetching and unpacking it if need be.

    Args:
        data_dir: where the archive and the folder are kept; they are used again.
        urls: the mirrors, in the order in which they are tried.
        sha256: what the archive must hash to.

    Raises:
        InputError: no mirror gave the archive; the message says how to do without.
    """
    data_dir = Path(data_dir)
    folder = data_dir / "ml-1m"
    if folder.is_dir():
        return folder
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tqdm, which misses ipywidgets
        import pooch
    failures = []
    for url in urls:
        try:
            archive = pooch.retrieve(
                url,
                known_hash=f"sha256:{sha256}",
                fname="ml-1m.zip",
                path=data_dir,
                downloader=_Resume(data_dir / "ml-1m.zip.part"),
            )
            _unpack(archive, folder)
            return folder
        except (OSError, ValueError, KeyError, *_DAMAGED) as error:
            failures.append(f"{url}: {str(error) or type(error).__name__}")
    raise InputError(
        f"MovieLens-1M could not be fetched ({'; '.join(failures)}): download "
        "ml-1m.zip by other means, unpack it, and give its folder instead."
    )


# What zipfile raises; RuntimeError: encrypted, or packed in an unknown way.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)


class _Resume:
    """A downloader for pooch that goes on where an interrupted one stopped."""

    def __init__(self, part):
        self.part = Path(part)

    def __call__(self, url, output_file, pooch_object):
        import requests
        from tqdm import tqdm

        done = self.part.stat().st_size if self.part.exists() else 0
        headers = {"Range": f"bytes={done}-"} if done else {}
        with requests.get(
            url, headers=headers, stream=True, timeout=TIMEOUT_S
        ) as reply:
            if reply.status_code == 416:  # the part is as long as the file, or longer
                self.part.unlink()
                raise OSError("the interrupted download did not fit; call again")
            reply.raise_for_status()
            resumed = reply.status_code == 206
            left = int(reply.headers.get("Content-Length", 0))
            with (
                open(self.part, "ab" if resumed else "wb") as part,
                tqdm(
                    desc="ml-1m.zip",
                    total=(done if resumed else 0) + left,
                    initial=done if resumed else 0,
                    unit="B",
                    unit_scale=True,
                ) as bar,
            ):
                for chunk in reply.iter_content(CHUNK):
                    part.write(chunk)
                    bar.update(len(chunk))
        # A part that fails the check of its hash must not be resumed for ever.
        shutil.move(self.part, output_file)


def _unpack(archive, folder):
    """Writes the three data files, and nothing else, whatever the archive holds."""
    unfinished = folder.parent / f"unfinished-{os.getpid()}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        with zipfile.ZipFile(archive) as packed:
            for name in MOVIELENS_FILES:
                size = packed.getinfo(f"ml-1m/{name}").file_size  # no more is read
                if size > LARGEST:
                    raise ValueError(f"{name} would unpack to {size:,} bytes")
                with (
                    packed.open(f"ml-1m/{name}") as source,
                    open(unfinished / name, "wb") as target,
                ):
                    shutil.copyfileobj(source, target)
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
