"""Find a data set: the embedded sample, a folder, or a download.

``data_path`` is ``"sample"`` (made on the spot), a folder that holds the raw files
(plain or ``.gz``), or ``"ml-1m"`` (fetched from GroupLens). Relative paths start at the
repository's root, whatever folder a notebook runs in.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from lib import download, sample
from lib.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
DATA_DIR = ROOT / "data"

DIGINETICA = "train-item-views.csv"
MOVIELENS = "ratings.dat"
_PLACE = {
    DIGINETICA: "Diginetica (CIKM Cup 2016, track 2) has no live public link: put the "
    f"file {DIGINETICA} or {DIGINETICA}.gz, from whoever has a copy, into a folder and "
    "give that folder instead",
    MOVIELENS: f"put {MOVIELENS}, movies.dat and users.dat of ml-1m.zip, plain or .gz, "
    'into a folder and give that folder instead, or "ml-1m" to fetch them',
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
    """A path as given, or below the repository's root where it is relative.

    Raises:
        InputError: no file or folder can have such a name here.
    """
    try:
        full = ROOT / Path(path).expanduser()
        os.stat(full)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # it may come, and whoever needs it says what is missing
    except (OSError, RuntimeError, ValueError) as error:
        shown = f"{str(path)[:60]}..." if len(str(path)) > 60 else path
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{str(shown)!r} cannot be a path ({reason}): give another."
        ) from None
    return full


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
    """The sample's second data set: a table of clicks, see ``sample``."""
    path = _sample_folder() / "next_season.csv"
    if not path.exists():
        unfinished = path.with_name(f"unfinished-{os.getpid()}.csv")
        sample.write_next_season(unfinished)
        unfinished.replace(path)
    return path


def _sample_folder():
    folder = DATA_DIR / f"sample-v{sample.VERSION}"
    if not folder.is_dir():
        unfinished = DATA_DIR / f"unfinished-{os.getpid()}"
        shutil.rmtree(unfinished, ignore_errors=True)
        sample.write(unfinished)
        try:
            unfinished.rename(folder)
        except OSError:  # another process was first
            shutil.rmtree(unfinished)
    return folder
