"""Sessions as flat arrays, and every prefix of one with the item that came next."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Examples:
    """Sessions as one flat array; example ``k`` is "these clicks, then that item".

    A session of ``c`` clicks holds ``c - 1`` examples: every prefix with the click
    after it. Nothing is copied: memory grows with the clicks.

    Attributes:
        items: int32 ``(n_clicks,)``, item numbers, session after session.
        offsets: int64 ``(n_sessions + 1,)``, where each session starts; the last entry
            is ``n_clicks``.
        days: datetime64[D] ``(n_sessions,)``, the day of each session's last click.
        start: int32 ``(n_examples,)``, where the prefix of an example starts in
            ``items``.
        target: int32 ``(n_examples,)``, where its next item stands; the prefix ends
            before it.
    """

    items: np.ndarray
    offsets: np.ndarray
    days: np.ndarray
    start: np.ndarray
    target: np.ndarray

    @classmethod
    def of(cls, items, offsets, days):
        """Makes examples from flat sessions, each of two clicks or more."""
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

    def __len__(self):
        return len(self.target)

    @property
    def n_sessions(self):
        return len(self.offsets) - 1

    @property
    def targets(self):
        """Item numbers to be predicted, int32 ``(n_examples,)``."""
        return self.items[self.target]

    def prefix(self, k):
        """The clicks before the next item of example ``k``, oldest first."""
        return self.items[self.start[k] : self.target[k]]

    def select(self, keep):
        """The sessions for which the mask ``keep``, bool ``(n_sessions,)``, is True."""
        lengths = np.diff(self.offsets)
        offsets = np.concatenate([[0], np.cumsum(lengths[keep])])
        items = self.items[np.repeat(keep, lengths)]
        return Examples.of(items, offsets, self.days[keep])
