"""Text files of sessions, read in small parts, and of what comes out, written whole."""

import gzip
import itertools
import os
import zlib
from contextlib import contextmanager

from lib.errors import InputError


def parts(path, size):
    """Yields lists of up to ``size`` lines of a text file, plain or ``.gz``.

    Bytes that are no UTF-8 are read as a character of their own, which no id holds.

    Args:
        path: a ``pathlib.Path``.
        size: lines that are in memory at once.

    Raises:
        InputError: the file cannot be read, is cut short or is no text.
    """
    try:
        with _open(path, path, "rt", encoding="utf-8-sig", errors="replace") as lines:
            while part := list(itertools.islice(lines, size)):
                if any("\0" in line for line in part):
                    raise InputError(
                        f"{path} is no text file, it holds zero bytes: give one that "
                        "holds a session a line."
                    )
                yield part
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{path} is cut short or is not a gzip file ({error}): copy it again."
        ) from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): give a text file that holds a "
            "session a line."
        ) from None


@contextmanager
def written(path):
    """Writes a text file under a temporary name; renamed when the block ends well.

    Args:
        path: a ``pathlib.Path``; packed where it ends in ``.gz``.

    Yields:
        ``write(text)``.

    Raises:
        InputError: it cannot be written.
    """
    unfinished = path.with_name(path.name + ".unfinished")

    def write(text):
        with writing(path):
            file.write(text)

    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = _open(unfinished, path, "wt", encoding="utf-8", newline="\n")
        with file:
            yield write
            with writing(path):
                file.close()
        with writing(path):
            with open(unfinished, "rb") as whole:
                os.fsync(whole.fileno())
            unfinished.replace(path)
    finally:
        if unfinished.exists():
            unfinished.unlink()


def _open(path, named, mode, **options):
    """Opens ``path``, with gzip where the name ``named`` says so."""
    if named.suffix == ".gz":
        level = {"compresslevel": 6} if mode == "wt" else {}
        return gzip.open(path, mode, **level, **options)
    return open(path, mode, **options)


@contextmanager
def writing(path):
    """Turns an OSError inside the block into an InputError that says what to do."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}): give a place that you may "
            "write to, on a disk with room."
        ) from None
