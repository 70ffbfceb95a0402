"""Session baselines: POP, S-POP, Markov, item-kNN, session-kNN.

A model that does not beat them is of no use. They share one interface:
``fit(examples, n_items)`` returns the fitted baseline, and ``scores(prefixes)`` the
scores of all items after each prefix, an array of item numbers: float32
``(n, n_items)``; column ``i`` belongs to item number ``i + 1``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from scipy import sparse

from lib import progress
from lib.data.examples import Examples
from lib.evaluation import metrics

Prefixes = Sequence[np.ndarray]
FAR = 2**20  # more clicks than a session has
_LastClicks = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class Baseline(Protocol):
    """The interface that the session baselines share."""

    def fit(self, examples: Examples, n_items: int) -> Baseline:
        """Learns from the sessions of ``examples``; returns the fitted baseline."""

    def scores(self, prefixes: Prefixes) -> np.ndarray:
        """Scores of all items after each prefix: ``(len(prefixes), n_items)``.

        Column ``i`` is item number ``i + 1``. A prefix has one click or more.
        """


def evaluate(
    model: Baseline,
    examples: Examples,
    k: int | Sequence[int] = 20,
    batch_size: int = 256,
) -> dict[str, float]:
    """Computes HR@k and MRR@k of a fitted baseline on ``examples``, in batches.

    ``k`` is one cut-off or several.

    Returns:
        ``{"hr_at_<k>": ..., "mrr_at_<k>": ...}``.
    """
    ranks = []
    title = f"evaluation of {type(model).__name__}"
    for first in progress.track(range(0, len(examples), batch_size), title):
        index = range(first, min(first + batch_size, len(examples)))
        scores = model.scores(examples.prefixes(index))
        _, targets = examples.windows(index, 1)
        ranks.append(metrics.ranks(scores, targets - 1))
    return metrics.ranking_metrics(np.concatenate(ranks), k)


def measure(
    baseline: type[Baseline],
    train: Examples,
    test: Examples,
    n_items: int,
    k: int | Sequence[int] = 20,
) -> tuple[dict[str, float], dict[str, float]]:
    """Fits and evaluates a session baseline, and measures the cost of both.

    Args:
        baseline: a class of ``SESSION_BASELINES``.
        train, test: the two parts of the data.
        n_items: size of the catalogue.
        k: cut-off of the metrics, or several.

    Returns:
        ``(metrics, cost)``; the cost is ``fit_s`` and ``evaluate_s``, in seconds.
    """
    started = time.perf_counter()
    with progress.timed(f"fitting {baseline.__name__}"):
        model = baseline().fit(train, n_items)
    fitted = time.perf_counter()
    values = evaluate(model, test, k)
    evaluated = time.perf_counter()
    cost = {"fit_s": fitted - started, "evaluate_s": evaluated - fitted}
    return values, {name: round(seconds, 3) for name, seconds in cost.items()}


def _mark_items(examples: Examples, n_items: int) -> sparse.csr_matrix:
    """Marks the items of each session with 1: ``(n_sessions, n_items)``."""
    ones = np.ones(len(examples.items), np.float32)
    shape = (examples.n_sessions, n_items)
    parts = ones, examples.items - 1, examples.offsets
    marks = sparse.csr_matrix(parts, shape=shape)
    marks.sum_duplicates()
    marks.data[:] = 1
    return marks


def _flatten(prefixes: Prefixes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The length of each prefix, and the row and the item's column of each click."""
    lengths = np.array([len(prefix) for prefix in prefixes])
    row = np.repeat(np.arange(len(prefixes)), lengths)
    return lengths, row, np.concatenate(prefixes) - 1


class Pop:
    """POP scores an item by its number of clicks in the training part."""

    def fit(self, examples: Examples, n_items: int) -> Pop:
        """Counts the clicks on each item."""
        counts = np.bincount(examples.items, minlength=n_items + 1)[1:]
        self.popularity = counts.astype(np.float32)
        return self

    def scores(self, prefixes: Prefixes) -> np.ndarray:
        """The same scores for every prefix, as a view that is read-only."""
        return np.broadcast_to(self.popularity, (len(prefixes), len(self.popularity)))


class SPop(Pop):
    """S-POP scores by the number of clicks in the session; ties are resolved by POP."""

    def scores(self, prefixes: Prefixes) -> np.ndarray:
        """Clicks on each item in the prefix, and less than 1 for its popularity."""
        in_session = np.zeros((len(prefixes), len(self.popularity)), np.float32)
        np.add.at(in_session, _flatten(prefixes)[1:], 1)
        share = self.popularity / (self.popularity.max() + 1)  # less than one click
        return in_session + share


class Markov:
    """Markov scores an item by how often it followed the last click in training."""

    def fit(self, examples: Examples, n_items: int) -> Markov:
        """Counts how often one item came right after another, or after itself."""
        before = examples.last_clicks - 1
        shape = (n_items, n_items)
        ones = np.ones(len(before), np.float32)
        pairs = (before, examples.targets - 1)
        self.related = sparse.csr_matrix((ones, pairs), shape=shape)
        return self

    def scores(self, prefixes: Prefixes) -> np.ndarray:
        """The row of the last click; the clicks before it do not count."""
        last = np.array([prefix[-1] for prefix in prefixes]) - 1
        return self.related[last].toarray()


class ItemKnn(Markov):
    """Item-kNN scores items by similarity to the last click (Sarwar et al. 2001).

    The similarity is the cosine of two items' columns in the session x item matrix of
    ones, ``n_ij / (sqrt(n_i n_j) + damping)``.
    """

    def __init__(self, damping: float = 0.0) -> None:
        self.damping = damping

    def fit(self, examples: Examples, n_items: int) -> ItemKnn:
        """Finds the similarity of every two items; that of an item to itself is 0."""
        seen = _mark_items(examples, n_items)
        together = (seen.T @ seen).tocoo()
        count = seen.sum(axis=0).A1
        scale = np.sqrt(count[together.row] * count[together.col]) + self.damping
        together.data = together.data / scale.astype(np.float32)
        together.data[together.row == together.col] = 0  # the click itself
        self.related = together.tocsr()
        return self


class SessionKnn:
    """SKNN scores by the items of similar past sessions (Jannach and Ludewig 2017).

    Of the ``sample`` most recent sessions that share an item with the prefix, the ``k``
    with the highest cosine similarity vote for their items, weighted by that cosine.
    """

    def __init__(self, k: int = 100, sample: int = 1000) -> None:
        self.k, self.sample = k, sample

    def fit(self, examples: Examples, n_items: int) -> SessionKnn:
        """Lists the sessions of each item, the most recent first."""
        self.recent_first = np.argsort(-examples.days.astype(np.int64), kind="stable")
        self.sessions = _mark_items(examples, n_items)[self.recent_first]
        self.sessions_of_item = self.sessions.T.tocsr()
        self.norm = np.sqrt(np.diff(self.sessions.indptr)).astype(np.float32)
        return self

    def weigh(self, distance: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Weighs an item of a prefix by the distance of its last click to the end."""
        return np.ones(len(distance))

    def find_neighbours(
        self, clicks: _LastClicks, n_prefixes: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The ``k`` most similar sessions of each prefix, ties to the recent ones.

        Returns:
            ``(prefix, session, similarity)``, sorted by prefix, the most similar first.
        """
        row, column, distance, length = clicks
        weight = self.weigh(distance, length).astype(np.float32)
        shape = n_prefixes, self.sessions_of_item.shape[0]
        weights = sparse.csr_matrix((weight, (row, column)), shape=shape)
        shared = weights @ self.sessions_of_item  # (n_prefixes, sessions)
        shared.sort_indices()  # the most recent session first
        prefix = np.repeat(np.arange(n_prefixes), np.diff(shared.indptr))
        recent = np.arange(shared.nnz) - shared.indptr[prefix] < self.sample
        prefix, session = prefix[recent], shared.indices[recent]
        similarity = shared.data[recent] / self.norm[session]
        best = np.argsort(-similarity, kind="stable")
        best = best[np.argsort(prefix[best], kind="stable")]
        first = np.searchsorted(prefix, prefix)  # of the same prefix
        best = best[np.arange(len(best)) - first < self.k]
        return prefix[best], session[best], similarity[best]

    def scores(self, prefixes: Prefixes) -> np.ndarray:
        """The sum of similarities of the neighbours that have the item."""
        n = len(prefixes)
        prefix, session, similarity = self.find_neighbours(_last_clicks(prefixes), n)
        indptr = np.searchsorted(prefix, np.arange(n + 1))
        shape = n, self.sessions.shape[0]
        near = sparse.csr_matrix((similarity, session, indptr), shape=shape)
        return (near @ self.sessions).toarray()


class VSessionKnn(SessionKnn):
    """V-SKNN: session-kNN that stresses recent clicks (Ludewig and Jannach 2018).

    An item of the prefix has the weight ``position / length`` of its last click, so the
    last click of the prefix has 1. SKNN gives all items the same weight.
    """

    def weigh(self, distance: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Weighs an item by the position of its last click, over the length."""
        return (length - distance) / length


def _last_clicks(prefixes: Prefixes) -> _LastClicks:
    """Finds the last click on each item of each prefix.

    Returns:
        ``(row, column, distance, length)``: the prefix, the item's column, the number
        of clicks that came after it in the prefix, and the clicks of the prefix.
    """
    lengths, row, column = _flatten(prefixes)
    distance = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(row)) - 1
    last = _find_highest(-distance, column, row)
    return row[last], column[last], distance[last], lengths[row[last]]


def _find_highest(value: np.ndarray, *keys: np.ndarray) -> np.ndarray:
    """The positions of the highest value among those with the same keys."""
    order = np.lexsort([value, *keys])
    changes = [np.diff(key[order], append=-1) != 0 for key in keys]
    return order[np.any(changes, axis=0)]


class DecayedSessionKnn(SessionKnn):
    """VSTAN: session-kNN with decays (Garg et al. 2019; Ludewig et al. 2021).

    The similarity of a past session to the prefix is the sum over the items that they
    share of ``idf * exp(-distance / prefix_decay)``, with the distance of the item's
    last click to the end of the prefix, times ``exp(-age / days)``. The ``k`` most
    similar sessions vote for their clicks: similarity times ``exp(-distance /
    click_decay)``, with the distance to the last click on the shared item that the
    prefix clicked last. An item counts once a session, with its best vote; items of the
    prefix count ``repeats`` times.

    It is exact but for one thing: of the sessions with an item, only the ``sample``
    most recent ones count that item as shared. The defaults were chosen on the last
    week of Diginetica's training part. The sources also know decays that did not help
    there: the length norm, the order of votes, the idf of the voted item.
    """

    def __init__(
        self,
        k: int = 250,
        sample: int = 2500,
        days: float = 90.0,
        prefix_decay: float = 1.5,
        click_decay: float = 4.0,
        repeats: float = 3.0,
    ) -> None:
        super().__init__(k, 2**62)  # the sessions of each item are sampled instead
        self.item_sample, self.days, self.repeats = sample, days, repeats
        self.prefix_decay, self.click_decay = prefix_decay, click_decay

    def fit(self, examples: Examples, n_items: int) -> DecayedSessionKnn:
        """Weighs each session of an item by its age and the item's idf."""
        super().fit(examples, n_items)
        self.items = examples.items - 1
        self.lengths = np.diff(examples.offsets)[self.recent_first]
        self.first = examples.offsets[self.recent_first]
        found = self.sessions_of_item
        found.sort_indices()  # the most recent session first
        n_sessions = np.diff(found.indptr)
        row = np.repeat(np.arange(n_items), n_sessions)
        days = examples.days.astype(np.int64)
        age = days.max() - days[self.recent_first][found.indices]
        idf = np.log(examples.n_sessions / np.maximum(n_sessions, 1))
        found.data = (idf[row] * np.exp(-age / self.days)).astype(np.float32)
        found.data[np.arange(found.nnz) - found.indptr[row] >= self.item_sample] = 0
        found.eliminate_zeros()
        self.norm = np.ones_like(self.norm)
        return self

    def weigh(self, distance: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Weighs an item by ``exp(-distance / prefix_decay)`` of its last click."""
        return np.exp(-distance / self.prefix_decay)

    def scores(self, prefixes: Prefixes) -> np.ndarray:
        """The sum of the neighbours' votes for each item."""
        shape = (len(prefixes), self.sessions_of_item.shape[0])
        row, column, distance, _ = clicks = _last_clicks(prefixes)
        prefix, session, similarity = self.find_neighbours(clicks, len(prefixes))
        pair = np.repeat(np.arange(len(session)), self.lengths[session])
        start = np.cumsum(self.lengths[session]) - self.lengths[session]
        position = np.arange(len(pair)) - start[pair]
        clicked = self.items[self.first[session][pair] + position]
        distances = np.full(shape, FAR, np.int32)
        distances[row, column] = distance
        # The shared click: least distance in the prefix, then last in the session.
        rank = distances[prefix[pair], clicked].astype(np.int64) * FAR - position
        shared = -np.minimum.reduceat(rank, start) % FAR if len(start) else start
        away = np.abs(position - shared[pair])
        vote = similarity[pair] * np.exp(-away / self.click_decay)
        best = _find_highest(vote, clicked, pair)
        places = prefix[pair[best]], clicked[best]
        votes = sparse.coo_matrix((vote[best], places), shape).toarray()
        votes[row, column] *= self.repeats
        return votes


SESSION_BASELINES: dict[str, type[Baseline]] = {
    "POP": Pop,
    "S-POP": SPop,
    "Markov": Markov,
    "Item-kNN": ItemKnn,
    "SKNN": SessionKnn,
    "V-SKNN": VSessionKnn,
    "VSTAN": DecayedSessionKnn,
}
