"""A log of the size of Diginetica's, so that the bench runs without the data.

Speed depends on sizes alone: the numbers of sessions, clicks and items, and how long
windows are.
"""

import numpy as np

from lib.data.examples import Examples

N_ITEMS, TRAIN_SESSIONS, TEST_SESSIONS = 43_097, 186_670, 15_963
MEAN_LENGTH = 4.85  # clicks a session; the shortest has 2


def make():
    """Returns ``(train, test)``, about 719,000 and 61,000 ``sessions.Examples``."""
    rng = np.random.default_rng(0)
    return tuple(_part(rng, n) for n in (TRAIN_SESSIONS, TEST_SESSIONS))


def _part(rng, n_sessions):
    lengths = 1 + rng.geometric(1 / (MEAN_LENGTH - 1), n_sessions)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    popular = rng.power(0.4, offsets[-1])  # few items get most clicks
    items = 1 + np.minimum(popular * N_ITEMS, N_ITEMS - 1).astype(np.int32)
    return Examples.from_sessions(items, offsets, np.zeros(n_sessions, "datetime64[D]"))
