"""Session baselines: POP, S-POP, Markov, item-kNN, session-kNN.

What a model must beat before its name is worth mentioning. They share one interface:
``fit(examples, n_items)`` and ``scores(prefixes)``, which returns float32
``(n, n_items)``; column ``i`` belongs to item number ``i + 1``.
"""

import time
import tracemalloc

import numpy as np
from scipy import sparse

from lib.evaluation import metrics


def evaluate(model, examples, k=20, batch_size=256):
    """HR@k and MRR@k of a session baseline on ``examples``, in batches.

    Returns:
        ``{"hr_at_<k>": ..., "mrr_at_<k>": ...}``.
    """
    ranks = []
    for first in range(0, len(examples), batch_size):
        index = range(first, min(first + batch_size, len(examples)))
        scores = model.scores([examples.prefix(i) for i in index])
        ranks.append(metrics.ranks(scores, examples.targets[index] - 1))
    return metrics.ranking_metrics(np.concatenate(ranks), k)


def measure(baseline, train, test, n_items, k=20):
    """Fits and judges a session baseline, and what both cost.

    Args:
        baseline: a class of ``SESSION_BASELINES``.
        train, test: ``lib.data.sessions.Examples``.
        n_items, k: size of the catalogue; cut-off of the metrics.

    Returns:
        ``(metrics, cost)``; the cost is ``fit_s`` and ``evaluate_s``, seconds, and
        ``memory_mb``, the most that fitting and scoring a batch hold beyond the data.
    """
    started = time.perf_counter()
    model = baseline().fit(train, n_items)
    fitted = time.perf_counter()
    found = evaluate(model, test, k)
    evaluated = time.perf_counter()
    tracemalloc.start()  # it slows what it watches, so it watches a second time
    baseline().fit(train, n_items).scores([test.prefix(i) for i in range(256)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    cost = {
        "fit_s": round(fitted - started, 3),
        "evaluate_s": round(evaluated - fitted, 3),
        "memory_mb": round(peak / 1e6),
    }
    return found, cost


def _one_row_each(prefixes, n_items, binary):
    """Prefixes as a sparse matrix of click counts (or of ones), ``(n, n_items)``."""
    lengths = [len(prefix) for prefix in prefixes]
    row = np.repeat(np.arange(len(prefixes)), lengths)
    column = np.concatenate(prefixes) - 1
    shape = (len(prefixes), n_items)
    counts = sparse.csr_matrix(
        (np.ones(len(row), np.float32), (row, column)), shape=shape
    )
    counts.sum_duplicates()
    if binary:
        counts.data[:] = 1
    return counts


class Pop:
    """POP: the items clicked most often in the training part."""

    def fit(self, examples, n_items):
        counts = np.bincount(examples.items, minlength=n_items + 1)[1:]
        self.popularity = counts.astype(np.float32)
        return self

    def scores(self, prefixes):
        return np.broadcast_to(self.popularity, (len(prefixes), len(self.popularity)))


class SPop(Pop):
    """S-POP: the items clicked most often in the session, ties and the rest by POP."""

    def scores(self, prefixes):
        in_session = _one_row_each(prefixes, len(self.popularity), binary=False)
        share = self.popularity / (self.popularity.max() + 1)  # below one click
        return in_session.toarray() + share


class ItemKnn:
    """Item-kNN: items that share sessions with the last click (Sarwar et al. 2001).

    Similarity is the cosine of two items' columns in the session x item matrix of ones,
    ``n_ij / (sqrt(n_i n_j) + damping)``.
    """

    def __init__(self, damping=0.0):
        self.damping = damping

    def fit(self, examples, n_items):
        lengths = np.diff(examples.offsets)
        sessions = np.split(examples.items, examples.offsets[1:-1])
        seen = _one_row_each(sessions, n_items, binary=True)
        together = (seen.T @ seen).tocoo()
        count = seen.sum(axis=0).A1 if lengths.size else np.zeros(n_items)
        scale = np.sqrt(count[together.row] * count[together.col]) + self.damping
        together.data = together.data / scale.astype(np.float32)
        together.data[together.row == together.col] = 0  # not the click itself
        self.similarity = together.tocsr()
        return self

    def scores(self, prefixes):
        last = np.array([prefix[-1] for prefix in prefixes]) - 1
        return self.similarity[last].toarray()


class Markov:
    """The rule "what followed the last click most often", counted in training."""

    def fit(self, examples, n_items):
        before = examples.items[examples.target - 1] - 1
        shape = (n_items, n_items)
        ones = np.ones(len(before), np.float32)
        self.followed = sparse.csr_matrix(
            (ones, (before, examples.targets - 1)), shape=shape
        )
        return self

    def scores(self, prefixes):
        last = np.array([prefix[-1] for prefix in prefixes]) - 1
        return self.followed[last].toarray()


class SessionKnn:
    """SKNN: what the most similar past sessions held (Jannach and Ludewig 2017).

    Of the ``sample`` most recent sessions that share an item with the prefix, the ``k``
    with the highest cosine vote for their items with that cosine.
    """

    def __init__(self, k=100, sample=1000):
        self.k, self.sample = k, sample

    def fit(self, examples, n_items):
        sessions = np.split(examples.items, examples.offsets[1:-1])
        recent_first = np.argsort(-examples.days.astype(np.int64), kind="stable")
        seen = _one_row_each([sessions[s] for s in recent_first], n_items, binary=True)
        self.sessions = seen
        self.sessions_of_item = seen.T.tocsr()
        self.norm = np.sqrt(np.diff(seen.indptr)).astype(np.float32)
        return self

    def weigh(self, prefixes):
        """Prefixes as rows of item weights: here 1 for every item."""
        return _one_row_each(prefixes, self.sessions.shape[1], binary=True)

    def scores(self, prefixes):
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

    Items of the prefix weigh ``position / length`` (the last click 1, an item clicked
    twice as its later click) where SKNN counts them all alike.
    """

    def weigh(self, prefixes):
        lengths = np.array([len(prefix) for prefix in prefixes])
        row = np.repeat(np.arange(len(prefixes)), lengths)
        column = np.concatenate(prefixes) - 1
        position = 1 + np.concatenate([np.arange(length) for length in lengths])
        weight = (position / lengths[row]).astype(np.float32)
        shape = (len(prefixes), self.sessions.shape[1])
        place = row * shape[1] + column
        order = np.lexsort([position, place])
        last = order[np.diff(place[order], append=-1) != 0]  # click of each item
        return sparse.csr_matrix((weight[last], (row[last], column[last])), shape=shape)


SESSION_BASELINES = {
    "POP": Pop,
    "S-POP": SPop,
    "Markov": Markov,
    "Item-kNN": ItemKnn,
    "SKNN": SessionKnn,
    "V-SKNN": VSessionKnn,
}
