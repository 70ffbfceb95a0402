"""Metrics: HR@K and MRR@K over the whole catalogue; RMSE and MAE."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lib.errors import check_whole


def ranks(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Computes the ranks of the targets among all items, without sorting.

    The best item has rank 1. Items with equal scores share the mean of their ranks, so
    a model that gives all items one score gets no credit. A target whose score is NaN
    has the last rank.

    Args:
        scores: float array ``(n, n_items)``.
        targets: int array ``(n,)``, a column of ``scores`` for each row.

    Returns:
        float64 ``(n,)``, from 1 to ``n_items``.
    """
    n_items = scores.shape[1]
    own = scores[np.arange(len(targets)), targets][:, None]
    not_higher = np.count_nonzero(scores <= own, axis=1)
    lower = np.count_nonzero(scores < own, axis=1)
    return np.minimum(n_items + 1 - (not_higher + lower + 1) / 2, n_items)


def ranking_metrics(ranks: np.ndarray, k: int | Sequence[int]) -> dict[str, float]:
    """HR@k and MRR@k by their names in records: ``hr_at_<k>``, ``mrr_at_<k>``.

    The hit rate is the share of targets with a rank of at most ``k``; with one target
    per example it is also called Recall@K or P@K. In the mean reciprocal rank, a rank
    beyond ``k`` counts as 0.

    Args:
        ranks: as ``ranks`` returns them.
        k: the cut-off, or several.

    Raises:
        InputError: ``k`` is not a whole number, 1 or more.
    """
    values = {}
    for cut in k if isinstance(k, Sequence) else [k]:
        check_whole("k", cut)
        values[f"hr_at_{cut}"] = float(np.mean(ranks <= cut))
        reciprocal = np.where(ranks <= cut, 1.0 / ranks, 0.0)
        values[f"mrr_at_{cut}"] = float(np.mean(reciprocal))
    return values


def rmse(predicted: np.ndarray, rating: np.ndarray) -> float:
    """Computes the root mean squared error of ratings ``(n,)``, in stars."""
    error = np.subtract(predicted, rating, dtype=np.float64)
    return float(np.sqrt(np.mean(np.square(error, out=error))))


def rating_metrics(predicted: np.ndarray, rating: np.ndarray) -> dict[str, float]:
    """RMSE and the mean absolute error, in stars, as records name them."""
    error = np.subtract(predicted, rating, dtype=np.float64)
    return {"rmse": rmse(predicted, rating), "mae": float(np.mean(np.abs(error)))}
