"""Rating baselines: global mean, user and item bias, item-kNN.

They share one interface: ``fit(train, n_users, n_items)`` returns the fitted baseline,
and ``predict(part)`` the ratings of the part's users and items: float64 ``(n,)``, in
stars, within the range of the training ratings.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from lib import progress
from lib.data.ratings import Part


class UserItemBias:
    """``mu + b_u + b_i`` with shrunken biases (Koren 2008, section 2.1).

    Args:
        damping: number of residuals of 0 that are added to those of each user and item.
        rounds: number of alternating updates of the item and the user biases.
    """

    def __init__(self, damping: float = 5.0, rounds: int = 10) -> None:
        self.damping, self.rounds = damping, rounds

    def fit(self, train: Part, n_users: int, n_items: int) -> UserItemBias:
        """Takes the mean of the ratings, then item and user biases in turn."""
        user, item = train.user_idx, train.item_idx
        self.mean = float(train.rating.mean(dtype=np.float64))
        self.scale = float(train.rating.min()), float(train.rating.max())
        centred = train.rating - self.mean
        self.user_bias, self.item_bias = np.zeros(n_users), np.zeros(n_items)
        for _ in range(self.rounds):
            self.item_bias = self._bias(item, centred - self.user_bias[user], n_items)
            self.user_bias = self._bias(user, centred - self.item_bias[item], n_users)
        return self

    def _bias(self, index: np.ndarray, residual: np.ndarray, n: int) -> np.ndarray:
        total = np.bincount(index, residual, minlength=n)
        return total / (self.damping + np.bincount(index, minlength=n))

    def predict(self, part: Part) -> np.ndarray:
        """The mean and both biases."""
        raw = self.mean + self.user_bias[part.user_idx] + self.item_bias[part.item_idx]
        return np.clip(raw, *self.scale)


class GlobalMean(UserItemBias):
    """Predicts the mean training rating: all biases stay 0."""

    def __init__(self) -> None:
        super().__init__(rounds=0)


class ItemKnnRating(UserItemBias):
    """Item-kNN on the residuals of the biases (Koren 2008, section 2.2, equation 3).

    Adds to the biases the mean of the user's residuals on the ``k`` rated items that
    are most similar to the item, weighted by similarity: the cosine of two items'
    residuals over the ``n`` users who rated both, times ``n / (n + shrinkage)``.
    """

    def __init__(self, k: int = 40, shrinkage: float = 100.0) -> None:
        super().__init__()
        self.k, self.shrinkage = k, shrinkage

    @progress.timed("fitting item-kNN")
    def fit(self, train: Part, n_users: int, n_items: int) -> ItemKnnRating:
        """Fits the biases, and finds the similarity of every two items."""
        super().fit(train, n_users, n_items)
        residual = train.rating - super().predict(train)
        place, shape = (train.user_idx, train.item_idx), (n_users, n_items)
        self.residuals = sparse.csr_matrix((residual, place), shape, dtype=np.float32)
        rated = sparse.csr_matrix((np.ones_like(residual), place), shape, np.float32)
        together = (rated.T @ rated).toarray()
        square = (self.residuals.power(2).T @ rated).toarray()  # over common users
        norm = np.sqrt(square * square.T)
        self.similarity = (self.residuals.T @ self.residuals).toarray()
        self.similarity *= together / ((together + self.shrinkage) * norm + 1e-9)
        return self

    @progress.timed("evaluation of item-kNN")
    def predict(self, part: Part) -> np.ndarray:
        """The biases and the weighted residual of the user's similar items."""
        rating = super().predict(part)
        by_user = np.argsort(part.user_idx, kind="stable")
        bounds = np.searchsorted(part.user_idx[by_user], np.arange(len(self.user_bias)))
        for user, rows in enumerate(np.split(by_user, bounds[1:])):
            history = slice(*self.residuals.indptr[user : user + 2])
            items = self.residuals.indices[history]
            if not len(rows) or not len(items):
                continue
            near = np.maximum(self.similarity[np.ix_(part.item_idx[rows], items)], 0)
            if len(items) > self.k:
                least = np.partition(near, -self.k, axis=1)[:, -self.k, None]
                near[near < least] = 0
            weight = near.sum(axis=1)
            offset = near @ self.residuals.data[history] / np.maximum(weight, 1e-9)
            rating[rows] += offset
        return np.clip(rating, *self.scale)


RATING_BASELINES = {
    "Global mean": GlobalMean,
    "User + item bias": UserItemBias,
    "Item-kNN": ItemKnnRating,
}
