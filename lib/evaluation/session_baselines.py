"""Session baselines: POP, S-POP, Markov, item-kNN, session-kNN.

A model that does not beat them is of no use. They share one interface:
``fit(examples, n_items)`` returns the fitted baseline, and ``scores(prefixes)`` the
scores of all items after each prefix, an array of item numbers: float32
``(n, n_items)``; column ``i`` belongs to item number ``i + 1``.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from scipy import sparse

from lib import progress
from lib.data.sessions import Examples
from lib.evaluation import metrics

Prefixes = Sequence[np.ndarray]
FAR = 2**20  # more clicks than a session has


class Baseline(Protocol):
    """The interface that the session baselines share."""

    def fit(self, examples: Examples, n_items: int) -> Baseline: ...

    def scores(self, prefixes: Prefixes) -> np.ndarray: ...


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
        scores = model.scores([examples.prefix(i) for i in index])
        ranks.append(metrics.ranks(scores, examples.targets[index] - 1))
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
        ``(metrics, cost)``; the cost is ``fit_s`` and ``evaluate_s``, in seconds, and
        ``memory_mb``, the peak memory for fitting and scoring one batch, without the
        data.
    """
    started = time.perf_counter()
    name = baseline.__name__
    with progress.timed(f"fitting {name}"):
        model = baseline().fit(train, n_items)
    fitted = time.perf_counter()
    values = evaluate(model, test, k)
    evaluated = time.perf_counter()
    batch = [test.prefix(i) for i in range(min(256, len(test)))]
    tracemalloc.start()  # slows the code that it traces, so this is a second run
    with progress.timed(f"measuring the memory of {name}"):
        baseline().fit(train, n_items).scores(batch)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    cost = {
        "fit_s": round(fitted - started, 3),
        "evaluate_s": round(evaluated - fitted, 3),
        "memory_mb": round(peak / 1e6),
    }
    return values, cost


def _count_clicks(prefixes: Prefixes, n_items: int, binary: bool) -> sparse.csr_matrix:
    """Counts the clicks on each item; ``binary`` counts 1 at most: ``(n, n_items)``."""
    lengths = [len(prefix) for prefix in prefixes]
    row = np.repeat(np.arange(len(prefixes)), lengths)
    column = np.concatenate(prefixes) - 1
    shape = (len(prefixes), n_items)
    ones = np.ones(len(row), np.float32)
    counts = sparse.csr_matrix((ones, (row, column)), shape=shape)
    counts.sum_duplicates()
    if binary:
        counts.data[:] = 1
    return counts


class Pop:
    """POP scores an item by its number of clicks in the training part."""

    def fit(self, examples: Examples, n_items: int) -> Pop:
        counts = np.bincount(examples.items, minlength=n_items + 1)[1:]
        self.popularity = counts.astype(np.float32)
        return self

    def scores(self, prefixes: Prefixes) -> np.ndarray:
        return np.broadcast_to(self.popularity, (len(prefixes), len(self.popularity)))


class SPop(Pop):
    """S-POP scores by the number of clicks in the session; ties are resolved by POP."""

    def scores(self, prefixes: Prefixes) -> np.ndarray:
        in_session = _count_clicks(prefixes, len(self.popularity), binary=False)
        share = self.popularity / (self.popularity.max() + 1)  # less than one click
        return in_session.toarray() + share


class ItemKnn:
    """Item-kNN scores items by similarity to the last click (Sarwar et al. 2001).

    The similarity is the cosine of two items' columns in the session x item matrix of
    ones, ``n_ij / (sqrt(n_i n_j) + damping)``.
    """

    def __init__(self, damping: float = 0.0) -> None:
        self.damping = damping

    def fit(self, examples: Examples, n_items: int) -> ItemKnn:
        sessions = np.split(examples.items, examples.offsets[1:-1])
        seen = _count_clicks(sessions, n_items, binary=True)
        together = (seen.T @ seen).tocoo()
        count = seen.sum(axis=0).A1
        scale = np.sqrt(count[together.row] * count[together.col]) + self.damping
        together.data = together.data / scale.astype(np.float32)
        together.data[together.row == together.col] = 0  # the click itself
        self.similarity = together.tocsr()
        return self

    def scores(self, prefixes: Prefixes) -> np.ndarray:
        last = np.array([prefix[-1] for prefix in prefixes]) - 1
        return self.similarity[last].toarray()


class Markov:
    """Markov scores an item by how often it followed the last click in training."""

    def fit(self, examples: Examples, n_items: int) -> Markov:
        before = examples.items[examples.target - 1] - 1
        shape = (n_items, n_items)
        ones = np.ones(len(before), np.float32)
        pairs = (before, examples.targets - 1)
        self.followed = sparse.csr_matrix((ones, pairs), shape=shape)
        return self

    def scores(self, prefixes: Prefixes) -> np.ndarray:
        last = np.array([prefix[-1] for prefix in prefixes]) - 1
        return self.followed[last].toarray()


class SessionKnn:
    """SKNN scores by the items of similar past sessions (Jannach and Ludewig 2017).

    Of the ``sample`` most recent sessions that share an item with the prefix, the ``k``
    with the highest cosine similarity vote for their items, weighted by that cosine.
    """

    def __init__(self, k: int = 100, sample: int = 1000) -> None:
        self.k, self.sample = k, sample

    def fit(self, examples: Examples, n_items: int) -> SessionKnn:
        sessions = np.split(examples.items, examples.offsets[1:-1])
        recent_first = np.argsort(-examples.days.astype(np.int64), kind="stable")
        seen = _count_clicks([sessions[s] for s in recent_first], n_items, binary=True)
        self.sessions = seen
        self.sessions_of_item = seen.T.tocsr()
        self.norm = np.sqrt(np.diff(seen.indptr)).astype(np.float32)
        return self

    def weigh(self, prefixes: Prefixes) -> sparse.csr_matrix:
        """Weighs the items of each prefix, here all with 1: ``(n, n_items)``."""
        return _count_clicks(prefixes, self.sessions.shape[1], binary=True)

    def scores(self, prefixes: Prefixes) -> np.ndarray:
        shared = self.weigh(prefixes) @ self.sessions_of_item  # (n, sessions)
        shared.sort_indices()  # most recent session first
        votes = []
        for row in range(shared.shape[0]):
            past = slice(shared.indptr[row], shared.indptr[row + 1])
            recent = shared.indices[past][: self.sample]
            cosine = shared.data[past][: self.sample] / self.norm[recent]
            best = np.argsort(-cosine, kind="stable")[: self.k]
            votes.append((recent[best], cosine[best]))
        indptr = np.concatenate([[0], np.cumsum([len(v[0]) for v in votes])])
        columns, weights = (np.concatenate(part) for part in zip(*votes))
        shape = (len(votes), self.sessions.shape[0])
        neighbours = sparse.csr_matrix((weights, columns, indptr), shape=shape)
        return (neighbours @ self.sessions).toarray()


class VSessionKnn(SessionKnn):
    """V-SKNN: session-kNN that stresses recent clicks (Ludewig and Jannach 2018).

    An item of the prefix has the weight ``position / length`` of its last click, so the
    last click of the prefix has 1. SKNN gives all items the same weight.
    """

    def weigh(self, prefixes: Prefixes) -> sparse.csr_matrix:
        row, column, distance = _last_clicks(prefixes)
        length = np.array([len(prefix) for prefix in prefixes])[row]
        weight = ((length - distance) / length).astype(np.float32)
        shape = (len(prefixes), self.sessions.shape[1])
        return sparse.csr_matrix((weight, (row, column)), shape=shape)


def _last_clicks(prefixes: Prefixes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Finds the last click on each item of each prefix.

    Returns:
        ``(row, column, distance)``: the prefix, the item's column, and the number of
        clicks that came after it in the prefix.
    """
    lengths = np.array([len(prefix) for prefix in prefixes])
    row = np.repeat(np.arange(len(prefixes)), lengths)
    column = np.concatenate(prefixes) - 1
    distance = np.concatenate([np.arange(length)[::-1] for length in lengths])
    last = _find_highest(-distance, column, row)
    return row[last], column[last], distance[last]


def _find_highest(value: np.ndarray, *keys: np.ndarray) -> np.ndarray:
    """The positions of the highest value among those with the same keys."""
    order = np.lexsort([value, *keys])
    changes = [np.diff(key[order], append=-1) != 0 for key in keys]
    return order[np.any(changes, axis=0)]


class DecayedSessionKnn:
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
        self.k, self.sample, self.days, self.repeats = k, sample, days, repeats
        self.prefix_decay, self.click_decay = prefix_decay, click_decay

    def fit(self, examples: Examples, n_items: int) -> DecayedSessionKnn:
        days = examples.days.astype(np.int64)
        recent_first = np.argsort(-days, kind="stable")
        sessions = np.split(examples.items, examples.offsets[1:-1])
        sessions = [sessions[s] for s in recent_first]
        self.items = np.concatenate(sessions) - 1
        self.lengths = np.diff(examples.offsets)[recent_first]
        self.first = np.cumsum(self.lengths) - self.lengths
        found = _count_clicks(sessions, n_items, binary=True).T.tocsr()
        found.sort_indices()  # the most recent session first
        n_sessions = np.diff(found.indptr)
        row = np.repeat(np.arange(n_items), n_sessions)
        age = days.max() - days[recent_first][found.indices]
        idf = np.log(len(sessions) / np.maximum(n_sessions, 1))
        found.data = (idf[row] * np.exp(-age / self.days)).astype(np.float32)
        found.data[np.arange(found.nnz) - found.indptr[row] >= self.sample] = 0
        found.eliminate_zeros()
        self.sessions_of_item = found
        return self

    def scores(self, prefixes: Prefixes) -> np.ndarray:
        shape = (len(prefixes), self.sessions_of_item.shape[0])
        row, column, distance = _last_clicks(prefixes)
        weight = np.exp(-distance / self.prefix_decay).astype(np.float32)
        late = sparse.csr_matrix((weight, (row, column)), shape=shape)
        prefix, session, similarity = self._neighbours(late)
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

    def _neighbours(
        self, late: sparse.csr_matrix
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The ``k`` most similar sessions of each prefix, ties to the recent ones.

        Returns:
            ``(prefix, session, similarity)``, sorted by prefix.
        """
        similar = late @ self.sessions_of_item
        similar.sort_indices()
        counts = np.diff(similar.indptr)
        prefix = np.repeat(np.arange(len(counts)), counts)
        best = np.argsort(-similar.data, kind="stable")
        best = best[np.argsort(prefix[best], kind="stable")]
        best = best[np.arange(len(best)) - similar.indptr[prefix] < self.k]
        return prefix[best], similar.indices[best], similar.data[best]


SESSION_BASELINES: dict[str, type[Baseline]] = {
    "POP": Pop,
    "S-POP": SPop,
    "Markov": Markov,
    "Item-kNN": ItemKnn,
    "SKNN": SessionKnn,
    "V-SKNN": VSessionKnn,
    "VSTAN": DecayedSessionKnn,
}
