"""Fetch MovieLens-1M: two mirrors, checked, resumed, and unpacked safely."""

import os
import shutil
import warnings
import zipfile
import zlib
from pathlib import Path

from lib.errors import InputError

URLS = (
    "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
    "https://huggingface.co/datasets/Recommenders/MovieLens/resolve/main/ml-1m.zip",
)
SHA256 = "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20"
FILES = ("ratings.dat", "movies.dat", "users.dat")
LARGEST = 100_000_000  # bytes of an unpacked file; ratings.dat has a quarter of that
TIMEOUT_S = 30
CHUNK = 1 << 16


def movielens(data_dir, urls=URLS, sha256=SHA256):
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
            for name in FILES:
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
