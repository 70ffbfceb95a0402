"""A progress line for long computations that leaves no trace in a notebook's outputs.

In JupyterLab the line is an output that is updated in place and empty in the end. Any
other process, such as the kernel of papermill or nbval, writes to the stderr that it
inherited: in a terminal the line is updated in place and removed in the end; in a log
there is a line a minute. So an executed notebook holds no trace of it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm import tqdm

LONG_S = 10.0  # a computation that takes less is not shown
LOG_EVERY_S = 60.0  # between two lines of a log
PREFIX = "PROGRESS_PREFIX"  # variable with the start of each line, for parallel runs
FORM = "{desc}: {percentage:3.0f}%|{bar:10}| "

T = TypeVar("T")


def find_shell() -> Any:
    """Returns IPython's shell, or None; lib runs without IPython."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython else None


class ProgressLine:
    """The line of one computation; a context that removes the line in the end.

    Args:
        title: what is done, for example ``"evaluation"``.
        total: amount of work, in any unit; None if it is unknown.
    """

    def __init__(self, title: str, total: float | None = None) -> None:
        self.title, self.total = title, total
        self._prefix = os.environ.get(PREFIX, "")
        self._shell: Any = find_shell() if "JPY_SESSION_NAME" in os.environ else None
        self._fd, self._width = -1, 0
        with contextlib.suppress(AttributeError, OSError, ValueError):
            self._fd = sys.stderr.fileno()  # a kernel's inherited stream
            if os.isatty(self._fd) and not self._prefix:
                self._width = os.get_terminal_size(self._fd).columns or 80
        is_live = bool(self._shell or self._width)
        self._every_s = 0.5 if is_live else LOG_EVERY_S
        self._id = uuid.uuid4().hex
        self._is_shown = False
        self._started = time.monotonic()
        self._due = self._started + (1.0 if is_live else LOG_EVERY_S)

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def update(
        self,
        done: float,
        describe: Callable[[], str] | None = None,
        share: float | None = None,
    ) -> None:
        """Shows the line if it is time to; a call that shows nothing costs little.

        Args:
            done: the part of ``total`` that is done.
            describe: returns a text to show before the time that is left.
            share: of a part, such as an epoch, to show in place of that of ``total``.
        """
        now = time.monotonic()
        elapsed = now - self._started
        if now < self._due or done <= 0:
            return
        left = max(elapsed * (self.total / done - 1), 0) if self.total else 0.0
        if elapsed + left < LONG_S:
            return
        self._due = now + self._every_s
        text = f"{self._prefix}{self.title}: {tqdm.format_interval(elapsed)}"
        if self.total:
            share = done / self.total if share is None else share
            note = f"{describe()}, " if describe else ""
            text = tqdm.format_meter(
                share,
                1.0,
                elapsed,
                prefix=self._prefix + self.title,
                bar_format=f"{FORM}{note}{tqdm.format_interval(left)} left",
                ascii=not (self._shell or self._width),
            )
        self._write(text)

    def clear(self) -> None:
        """Removes the line; a log keeps its lines."""
        if self._is_shown and self._shell:
            self._publish({})
        elif self._is_shown and self._width:
            self._emit(f"\r{' ' * (self._width - 1)}\r")
        self._is_shown = False
        self._due += 1  # the next print starts on an empty line

    def _write(self, text: str) -> None:
        if self._shell:
            self._publish({"text/plain": text})
        elif self._width:
            room = self._width - 1
            self._emit(f"\r{text[:room]:<{room}}")
        else:
            self._emit(f"{text}\n")
        self._is_shown = True

    def _publish(self, data: dict[str, str]) -> None:
        transient = {"display_id": self._id}
        publish = self._shell.display_pub.publish
        publish(data, {}, transient=transient, update=self._is_shown)

    def _emit(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(self._fd, text.encode())


def track(items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
    """Yields the items and shows how many are done.

    Args:
        items: anything; without a length, ``total`` is needed.
        title: what is done with them.
        total: how many there are.
    """
    if total is None:
        total = len(items) if isinstance(items, Sized) else 0
    with ProgressLine(title, max(total, 1)) as line:
        for done, item in enumerate(items):
            line.update(done)
            yield item


@contextmanager
def timed(title: str) -> Iterator[None]:
    """Shows how long a block or, as a decorator, a call has been at work."""
    with ProgressLine(title) as line:
        ended = threading.Event()

        def show() -> None:
            while not ended.wait(0.5):
                line.update(1)

        thread = threading.Thread(target=show, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
