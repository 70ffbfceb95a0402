"""A log of the size of Diginetica's, so that the bench runs without the data.

Speed depends on sizes alone: the numbers of sessions, clicks and items, and how long
windows are.
"""

import numpy as np

from lib.data import sessions
from lib.data.sessions import Examples
from lib.evaluation import metrics

N_ITEMS, TRAIN_SESSIONS, TEST_SESSIONS = 43_097, 186_670, 15_963
MEAN_LENGTH = 4.85  # clicks a session; the shortest has 2


def make():
    """Returns ``(train, test)``, about 719,000 and 61,000 ``sessions.Examples``."""
    rng = np.random.default_rng(0)
    return tuple(_part(rng, n) for n in (TRAIN_SESSIONS, TEST_SESSIONS))


def cut_windows(examples, index, maxlen=19):
    """Windows as the peers take them, padded with 0 on the right.

    Returns:
        ``(windows, lengths, targets)``, int64 ``(n, maxlen)``, ``(n,)`` and ``(n,)``;
        items and targets are numbered from 1.
    """
    stop = examples.target[index].astype(np.int64)
    lengths = np.minimum(stop - examples.start[index], maxlen)
    place = np.arange(maxlen)
    position = np.where(place < lengths[:, None], (stop - lengths)[:, None] + place, 0)
    windows = np.where(place < lengths[:, None], examples.items[position], 0)
    return windows.astype(np.int64), lengths, examples.targets[index].astype(np.int64)


def evaluate(score, examples, batch_size=256):
    """HR and MRR at 5, 10 and 20 of ``score(windows, lengths)``, ``(n, n_items)``."""
    ranks = []
    for first in range(0, len(examples), batch_size):
        index = np.arange(first, min(first + batch_size, len(examples)))
        windows, lengths, targets = cut_windows(examples, index)
        ranks.append(metrics.ranks(score(windows, lengths), targets - 1))
    return metrics.ranking_metrics(np.concatenate(ranks), (5, 10, 20))


def load(data_path, evaluate_on):
    """The made-up log without a path; else real sessions, and the items' number.

    Returns:
        ``(train, test, n_items)``; the last training week is the test part if
        ``evaluate_on`` is ``"validation"``.
    """
    if not data_path:
        return (*make(), N_ITEMS)
    data = sessions.load(data_path)
    data = data.validation() if evaluate_on == "validation" else data
    return data.train, data.test, data.n_items


def _part(rng, n_sessions):
    lengths = 1 + rng.geometric(1 / (MEAN_LENGTH - 1), n_sessions)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    popular = rng.power(0.4, offsets[-1])  # few items get most clicks
    items = 1 + np.minimum(popular * N_ITEMS, N_ITEMS - 1).astype(np.int32)
    return Examples.from_sessions(items, offsets, np.zeros(n_sessions, "datetime64[D]"))
