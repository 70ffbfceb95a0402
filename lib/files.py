"""Files that are whole or not there, JSON from strangers, and a log that is a lock."""

import contextlib
import errno
import json
import os
from datetime import datetime, timezone
from pathlib import Path

from lib.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

ROOT = Path(__file__).resolve().parents[1]
_TAKEN = (errno.EACCES, errno.EAGAIN)


def read_json(path):
    """Reads a JSON file whose content nobody vouches for; reading runs none of it.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, or nested deeper than Python follows.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_text(path, text):
    """Writes a file under a temporary name and renames it: whole or not at all.

    Raises:
        InputError: it cannot be written; what was there before is there still.
    """
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        with open(unfinished, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise not_written(path, error.strerror) from None


def not_written(path, reason):
    """The InputError of a file or folder that cannot be written."""
    return InputError(
        f"{path} cannot be written ({reason}): free some space, or give an output_dir "
        "that you may write to."
    )


def link(path, target):
    """Makes ``path`` lead to ``target``, in one step; replaces a link of that name.

    Nothing happens where the file system has no links, or where a file or a folder has
    that name.
    """
    if path.exists() and not path.is_symlink():
        return
    unfinished = path.with_name(path.name + ".unfinished")
    with contextlib.suppress(OSError, NotImplementedError):
        if unfinished.is_symlink():  # of a process that died
            unfinished.unlink()
        unfinished.symlink_to(target)
        os.replace(unfinished, path)


def now():
    """Date and time in UTC, to the millisecond, as text (ISO 8601)."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


class Log:
    """The log of a training; who has it open is alone in the folder.

    The lock is the operating system's and ends with the process that holds it, however
    that ends. Where there is none (Windows, some network drives), nobody is kept out.

    Args:
        path: of the file. What is in it stays until ``clear``.

    Raises:
        InputError: it cannot be written, or another training has it open.
    """

    def __init__(self, path):
        self.path = path
        try:
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise not_written(path, error.strerror) from None
        try:
            if fcntl:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                self._file.close()
                raise InputError(
                    f"{path.parent}: another training is at work in this folder; wait "
                    "for it, end it, or give another output_dir."
                ) from None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def clear(self):
        self._file.truncate(0)

    def write(self, line):
        """Adds a line.

        Raises:
            InputError: it cannot be written.
        """
        try:
            self._file.write(f"{line}\n".encode())
        except OSError as error:
            raise not_written(self.path, error.strerror) from None


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


def relative(path):
    """A path as seen from the repository's root, for printing."""
    path = Path(path)
    return path.relative_to(ROOT) if ROOT in path.parents else path
