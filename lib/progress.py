"""A progress line for long computations that leaves no trace in a notebook's outputs.

In JupyterLab the line is an output that is updated in place and empty in the end. Any
other process, such as the kernel of papermill or nbval, writes to the stderr that it
inherited: in a terminal the line is updated in place and removed in the end; in a log
there is a line a minute. So an executed notebook holds no trace of it.
"""

from __future__ import annotations

import os
import sys
import threading
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from io import StringIO
from typing import Any, TypeVar

from tqdm import tqdm

LONG_S = 10.0  # a computation that takes less is not shown
LOG_EVERY_S = 60.0  # between two lines of a log
PREFIX = "PROGRESS_PREFIX"  # variable with the start of each line, for parallel runs
FORM = "{desc}: {percentage:3.0f}%|{bar:10}| {note}{left} left"

T = TypeVar("T")


def find_shell() -> Any:
    """Returns IPython's shell, or None; lib runs without IPython."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython else None


class ProgressLine(tqdm):
    """The line of one computation, for ``with``, which removes it in the end.

    tqdm decides when the line is due; this class fills it in and knows where it goes.

    Args:
        title: what is done, for example ``"evaluation"``.
        total: amount of work, in any unit; None if it is unknown.
        describe: returns ``(title, share, note)``: the title and the share done to show
            in place of the defaults, and a text before the time left.
    """

    monitor_interval = 0  # tqdm starts no thread

    def __init__(
        self,
        title: str,
        total: float | None = None,
        describe: Callable[[], tuple[str, float, str]] | None = None,
    ) -> None:
        self._describe = describe or (lambda: (title, self.n / self.total, ""))
        self._prefix, self._id = os.environ.get(PREFIX, ""), uuid.uuid4().hex
        self._shell = find_shell() if "JPY_SESSION_NAME" in os.environ else None
        self._fd, self._width, self._is_shown = -1, 0, False
        with suppress(AttributeError, OSError, ValueError):
            self._fd = sys.stderr.fileno()  # a kernel's inherited stream
            if os.isatty(self._fd) and not self._prefix:
                self._width = os.get_terminal_size(self._fd).columns or 80
        is_live = bool(self._shell or self._width)
        every_s = 0.5 if is_live else LOG_EVERY_S
        options = {"mininterval": every_s, "miniters": 0, "delay": 1, "leave": False}
        super().__init__(
            desc=title, total=total, file=StringIO(), ascii=not is_live, **options
        )

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Shows the line, or removes it if ``msg`` is empty; a log keeps its lines."""
        if msg is None:
            elapsed = self._time() - self.start_t
            left = elapsed * (self.total / self.n - 1) if self.total else 0.0
            if elapsed + left < LONG_S:
                return
            msg = f"{self.desc}: {tqdm.format_interval(elapsed)}"
            if self.total:
                title, share, note = self._describe()
                texts = {"note": note, "left": tqdm.format_interval(left)}
                style = {"ascii": self.ascii, "bar_format": FORM, "prefix": title}
                msg = self.format_meter(share, 1.0, elapsed, **style, **texts)
            msg = self._prefix + msg
        if self._shell and (msg or self._is_shown):
            data = {"text/plain": msg} if msg else {}
            shown = {"transient": {"display_id": self._id}, "update": self._is_shown}
            self._shell.display_pub.publish(data, {}, **shown)
        elif msg or (self._is_shown and self._width):
            room = self._width - 1
            line = f"\r{msg[:room]:<{room}}" if self._width else f"{msg}\n"
            with suppress(OSError):
                os.write(self._fd, (line if msg else f"{line}\r").encode())
        self._is_shown = bool(msg)


def track(items: Collection[T], title: str) -> Iterator[T]:
    """Yields the items and shows how many are done; ``title`` says what is done."""
    with ProgressLine(title, len(items)) as line:
        for item in items:
            yield item
            line.update()


@contextmanager
def timed(title: str) -> Iterator[None]:
    """Shows how long a block or, as a decorator, a call has been at work."""
    with ProgressLine(title) as line:
        ended = threading.Event()

        def show() -> None:
            while not ended.wait(0.5):
                line.update(0)

        thread = threading.Thread(target=show, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
