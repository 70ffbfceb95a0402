"""Atomic file writes, reading untrusted JSON, and a log that locks its run folder."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from lib.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # a module or None

ROOT = Path(__file__).resolve().parents[1]
UNFINISHED = ".unfinished"  # ends the names of temporary folders and links


def read_json(path: Path) -> Any:
    """Reads a JSON file from an untrusted source; nothing in it is executed.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON in UTF-8, or nested deeper than Python's recursion
            limit.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an ``OSError`` of the block into the InputError of ``not_written``."""
    try:
        yield
    except OSError as error:
        raise not_written(path, error.strerror or str(error)) from error


@contextmanager
def replace_whole(path: Path) -> Iterator[Path]:
    """Writes a file or a folder that is complete or absent, never half written.

    The block writes to the path that it gets, in a temporary folder beside ``path``.
    When it ends well, the result is flushed to the disk and takes the place of a file
    or folder at ``path``; otherwise ``path`` stays as it was. In both cases nothing
    else is left behind; after a process that was killed, the next one tidies up.

    Args:
        path: of the file or folder. Missing parent folders are made.

    Yields:
        A path that does not exist yet, with the suffix of ``path``.

    Raises:
        InputError: an ``OSError`` in the block or afterwards: ``path`` cannot be
            written.
    """
    with writing(path), ExitStack() as undo:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent)
        prefix = f"{platform.node()}-{os.getpid()}-"
        temporary = TemporaryDirectory(UNFINISHED, prefix, path.parent)
        folder = Path(undo.enter_context(temporary))
        unfinished = folder / f"unfinished{path.suffix}"
        yield unfinished
        for written in filter(Path.is_file, [unfinished, *unfinished.rglob("*")]):
            with open(written, "r+b") as file:
                os.fsync(file.fileno())
        with ExitStack() as undo_move:
            if unfinished.is_dir() and path.is_dir():  # a rename replaces files only
                replaced = path.rename(folder / "replaced")
                undo_move.callback(replaced.rename, path)
            os.replace(unfinished, path)
            undo_move.pop_all()


def _remove_abandoned(folder: Path) -> None:
    """Removes what processes of this machine left unfinished when they were killed."""
    own = f"{platform.node()}-*{UNFINISHED}"
    for left in folder.glob(own) if fcntl else ():  # Windows cannot ask a process
        with suppress(OSError, ValueError):  # another user's process, or another folder
            try:
                os.kill(int(left.name.rsplit("-", 2)[1]), 0)  # nothing if it is alive
            except ProcessLookupError:
                shutil.rmtree(left, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file as ``replace_whole`` does, in UTF-8.

    Raises:
        InputError: it cannot be written; the previous content is still there.
    """
    with replace_whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def not_written(path: Path, reason: str | None) -> InputError:
    """Returns the InputError for a file or folder that cannot be written."""
    return InputError(
        f"{path} cannot be written ({reason}): free some space, or choose a folder "
        "that you may write to."
    )


def make_folder(name: str, path: str | Path, *below: str) -> Path:
    """Makes a folder unless it exists, and returns its absolute path.

    Args:
        name: of the parameter that says which folder.
        path: its value; a relative one starts at the repository's root.
        below: names of folders in it, each inside the one before.

    Raises:
        InputError: the path is empty, or the folder cannot be made.
    """
    if not str(path).strip():
        raise InputError(f"{name} is empty: name a folder.")
    folder = resolve(path).joinpath(*below)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{name}: {folder} cannot be made ({error.strerror}): choose a folder that "
            "you may write to."
        ) from error
    return folder


def link(path: Path, target: str | Path) -> None:
    """Makes ``path`` a symbolic link to ``target``; replaces an older link atomically.

    Does nothing where the file system has no links, or where ``path`` is a file or a
    folder.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    if path.is_symlink() or not path.exists():
        with suppress(OSError, NotImplementedError):
            unfinished.unlink(missing_ok=True)  # left by a process that died
            unfinished.symlink_to(target)
            os.replace(unfinished, path)


def now() -> str:
    """Returns date and time in UTC, to the millisecond, as ISO 8601 text."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


@contextmanager
def open_log(path: Path) -> Iterator[IO[bytes]]:
    """Opens the log of a training run to append to it; this locks the run's folder.

    The lock is the operating system's and ends with the process that holds it, even
    when that is killed. Where there are no locks (Windows, some network drives), two
    runs in one folder are not prevented.

    Raises:
        InputError: it cannot be written, or another training has it open.
    """
    with writing(path):
        file = open(path, "ab", buffering=0)  # noqa: SIM115
    with file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{path.parent}: another training is at work in this folder; wait for "
                "it, end it, or choose another output_dir."
            ) from error
        except OSError:
            pass
        yield file


def resolve(path: str | os.PathLike[str]) -> Path:
    """Returns an absolute path; a relative one starts at the repository's root.

    Raises:
        InputError: no file or folder can have such a name here.
    """
    try:
        full = ROOT / Path(path).expanduser()
        os.stat(full)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # a valid name: the code that reads or writes it reports these
    except (OSError, RuntimeError, ValueError) as error:
        text = str(path) if len(str(path)) <= 60 else f"{str(path)[:60]}..."
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{text!r} cannot be a path ({reason}): choose another."
        ) from error
    return full


def relative(path: str | Path) -> Path:
    """Returns a path relative to the repository's root if it is inside, to print it."""
    path = Path(path)
    return path.relative_to(ROOT) if ROOT in path.parents else path
