"""Examples of flat sessions: a prefix and the item clicked next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Examples:
    """Training or test examples: a prefix of a session and the item clicked next.

    A session of ``c`` clicks gives ``c - 1`` examples, one for each click after the
    first. All sessions share one flat array. The place of an example in it is found by
    binary search whenever it is read, so no array has the size of the examples. The
    arrays may be memory maps of any length.

    Attributes:
        items: int32 ``(n_clicks,)``, item numbers, session after session.
        offsets: int64 ``(n_sessions + 1,)``, position in ``items`` of each session's
            first click; the last entry is ``n_clicks``.
        days: datetime64[D] ``(n_sessions,)``, the day of each session's last click.
    """

    items: np.ndarray
    offsets: np.ndarray
    days: np.ndarray

    @classmethod
    def from_sessions(
        cls, items: np.ndarray, offsets: np.ndarray, days: np.ndarray
    ) -> Examples:
        """Makes the examples of flat sessions; copies other integer types only."""
        numbers = items.astype(np.int32, copy=False)
        return cls(numbers, offsets.astype(np.int64, copy=False), days)

    def __len__(self) -> int:
        return len(self.items) - self.n_sessions

    @property
    def n_sessions(self) -> int:
        """Number of sessions: each has one example less than it has clicks."""
        return len(self.offsets) - 1

    @property
    def targets(self) -> np.ndarray:
        """Numbers of all items to be predicted, in memory: int32 ``(n_examples,)``."""
        return np.delete(self.items, self.offsets[:-1])

    @property
    def last_clicks(self) -> np.ndarray:
        """The item clicked before each target, in memory: int32 ``(n_examples,)``."""
        return np.delete(self.items, self.offsets[1:] - 1)

    def bounds(
        self, index: Sequence[int] | np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Finds where the prefixes of examples lie.

        Session ``s`` begins with example ``offsets[s] - s``: each session before it has
        one click more than examples.

        Args:
            index: int ``(n,)``, numbers of examples, from 0.

        Returns:
            ``(start, target)``, int64 ``(n,)``: positions in ``items`` of the first
            click of each prefix, and of the next item, which is the prefix's end.
        """
        index = np.asarray(index, np.int64)
        low, high = np.zeros_like(index), np.full_like(index, self.n_sessions)
        for _ in range(self.n_sessions.bit_length()):
            middle = (low + high) // 2
            is_later = self.offsets[middle] - middle > index
            low, high = (
                np.where(is_later, low, middle),
                np.where(is_later, middle, high),
            )
        return self.offsets[low], index + low + 1

    def windows(
        self, index: Sequence[int] | np.ndarray, maxlen: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Reads examples as a model takes them.

        Args:
            index: int ``(n,)``, numbers of examples, from 0.
            maxlen: width of the window.

        Returns:
            ``(windows, targets)``: int32 ``(n, maxlen)``, the last ``maxlen`` clicks of
            each prefix, oldest first, padded with 0 on the left; and int32 ``(n,)``,
            the number of the next item.
        """
        start, target = self.bounds(index)
        position = target[:, None] + np.arange(-maxlen, 0)
        clicks = self.items[np.maximum(position, 0)]
        windows = np.where(position >= start[:, None], clicks, np.int32(0))
        return windows, self.items[target]

    def prefixes(
        self, index: Sequence[int] | np.ndarray | None = None
    ) -> list[np.ndarray]:
        """The item numbers of each example's clicks, oldest first; None: of all."""
        chosen = np.arange(len(self)) if index is None else np.asarray(index)
        return [self.items[first:end] for first, end in zip(*self.bounds(chosen))]

    def prefix(self, k: int) -> np.ndarray:
        """Item numbers of the clicks of example ``k``, oldest first."""
        return self.prefixes([k])[0]

    def select(self, keep: np.ndarray) -> Examples:
        """Keeps the sessions where ``keep``, bool ``(n_sessions,)``, is True."""
        lengths = np.diff(self.offsets)
        offsets = np.concatenate([[0], np.cumsum(lengths[keep])])
        items = self.items[np.repeat(keep, lengths)]
        return Examples.from_sessions(items, offsets, self.days[keep])
