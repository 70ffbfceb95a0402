"""Metrics: HR@K and MRR@K over the whole catalogue; RMSE and MAE."""

import numpy as np


def ranks(scores, targets):
    """Ranks of the targets among all items, without sorting.

    The best item has rank 1. Items that tie share the mean rank of their block, so a
    model that scores everything alike gets no credit. A NaN loses against every number.

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


def hr_at(ranks, k):
    """Hit rate: the share of targets among the first ``k``.

    With one target an example this is also called Recall@K or P@K.
    """
    return float(np.mean(ranks <= k))


def mrr_at(ranks, k):
    """Mean reciprocal rank; a target beyond rank ``k`` counts 0."""
    return float(np.mean(np.where(ranks <= k, 1.0 / ranks, 0.0)))


def ranking_metrics(ranks, k):
    """Both of the above, under the names that records use."""
    return {f"hr_at_{k}": hr_at(ranks, k), f"mrr_at_{k}": mrr_at(ranks, k)}


def rmse(predicted, actual):
    """Root mean squared error, in stars; arrays of shape ``(n,)``."""
    error = np.asarray(predicted, np.float64) - np.asarray(actual, np.float64)
    return float(np.sqrt(np.mean(error**2)))


def mae(predicted, actual):
    """Mean absolute error, in stars; arrays of shape ``(n,)``."""
    error = np.asarray(predicted, np.float64) - np.asarray(actual, np.float64)
    return float(np.mean(np.abs(error)))


def rating_metrics(predicted, actual):
    """Both of the above, under the names that records use."""
    return {"rmse": rmse(predicted, actual), "mae": mae(predicted, actual)}
