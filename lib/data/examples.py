"""Examples of flat sessions: a prefix and the item clicked next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Examples:
    """Training or test examples: a prefix of a session and the item clicked next.

    A session of ``c`` clicks gives ``c - 1`` examples, one for each click after the
    first. All sessions share one flat array and examples are positions in it, so memory
    grows with the number of clicks.

    Attributes:
        items: int32 ``(n_clicks,)``, item numbers, session after session.
        offsets: int64 ``(n_sessions + 1,)``, position in ``items`` of each session's
            first click; the last entry is ``n_clicks``.
        days: datetime64[D] ``(n_sessions,)``, the day of each session's last click.
        start: int32 ``(n_examples,)``, position of the first click of the prefix.
        target: int32 ``(n_examples,)``, position of the next item, which is the end of
            the prefix.
    """

    items: np.ndarray
    offsets: np.ndarray
    days: np.ndarray
    start: np.ndarray
    target: np.ndarray

    @classmethod
    def from_sessions(
        cls, items: np.ndarray, offsets: np.ndarray, days: np.ndarray
    ) -> Examples:
        """Makes the examples of flat sessions, each of two clicks or more."""
        n_examples = np.diff(offsets) - 1
        start = np.repeat(offsets[:-1], n_examples)
        position = np.arange(len(start)) - np.repeat(
            np.cumsum(n_examples) - n_examples, n_examples
        )
        return cls(
            items=items.astype(np.int32),
            offsets=offsets.astype(np.int64),
            days=days,
            start=start.astype(np.int32),
            target=(start + position + 1).astype(np.int32),
        )

    def __len__(self) -> int:
        return len(self.target)

    @property
    def n_sessions(self) -> int:
        return len(self.offsets) - 1

    @property
    def targets(self) -> np.ndarray:
        """Numbers of the items to be predicted, int32 ``(n_examples,)``."""
        return self.items[self.target]

    def prefix(self, k: int) -> np.ndarray:
        """Item numbers of the clicks of example ``k``, oldest first."""
        return self.items[self.start[k] : self.target[k]]

    def select(self, keep: np.ndarray) -> Examples:
        """Keeps the sessions where ``keep``, bool ``(n_sessions,)``, is True."""
        lengths = np.diff(self.offsets)
        offsets = np.concatenate([[0], np.cumsum(lengths[keep])])
        items = self.items[np.repeat(keep, lengths)]
        return Examples.from_sessions(items, offsets, self.days[keep])
