"""Rating baselines do what their names say, and give the known figures on the data."""

from dataclasses import replace

import numpy as np
import pytest

from lib.data import ratings
from lib.evaluation import metrics
from lib.evaluation.rating_baselines import (
    RATING_BASELINES,
    ItemKnnRating,
    UserItemBias,
)


def test_user_item_bias_finds_additive_ratings():
    rng = np.random.default_rng(0)
    user, item = (grid.ravel() for grid in np.mgrid[0:30, 0:40])
    truth = 3 + rng.normal(0, 0.4, 30)[user] + rng.normal(0, 0.4, 40)[item]
    part = ratings.Part(user, item, truth.astype(np.float32), np.zeros(1200, np.int64))
    fitted = UserItemBias(damping=0.01).fit(part, 30, 40)
    np.testing.assert_allclose(fitted.predict(part), np.clip(truth, 1, 5), atol=0.01)


def test_a_user_or_item_without_ratings_gets_the_mean():
    part = ratings.Part(*(np.zeros(2, t) for t in (int, int, np.float32, int)))
    part.rating[:] = [2, 4]
    fitted = UserItemBias().fit(part, 2, 2)
    unseen = ratings.Part(np.array([1]), np.array([1]), np.array([3.0]), np.array([0]))
    assert fitted.predict(unseen) == pytest.approx(3.0)


def test_bias_baseline_reaches_the_known_rmse_on_movielens(real_data):
    data = ratings.load(real_data / "ml-1m")
    fitted = UserItemBias().fit(data.train, data.n_users, data.n_items)
    found = metrics.rmse(fitted.predict(data.test), data.test.rating)
    assert 0.904 < found < 0.912


def literal_item_knn(train, user, item, k, shrinkage):
    """The definition for one pair, item by item."""
    bias = UserItemBias().fit(train, 8, 6)
    left = {}
    for u, i, r in zip(
        train.user_idx, train.item_idx, train.rating - bias.predict(train)
    ):
        left[u, i] = r

    def similarity(i, j):
        both = [u for u in range(8) if (u, i) in left and (u, j) in left]
        pairs = np.array([(left[u, i], left[u, j]) for u in both]).reshape(-1, 2)
        norm = np.sqrt((pairs**2).sum(axis=0).prod())
        return (
            (pairs.prod(axis=1).sum() / norm if both else 0)
            * len(both)
            / (len(both) + shrinkage)
        )

    rated = [j for j in range(6) if (user, j) in left]
    near = sorted(((similarity(item, j), j) for j in rated), reverse=True)[:k]
    near = [(s, j) for s, j in near if s > 0]
    asked = ratings.Part(*(np.array([x]) for x in (user, item, 0.0, 0)))
    offset = sum(s * left[user, j] for s, j in near)
    offset /= sum(s for s, _ in near) or 1
    return np.clip(bias.predict(asked)[0] + offset, 1, 5)


@pytest.mark.parametrize("k", [1, 2, 6])
def test_item_knn_averages_the_residuals_of_the_nearest_rated_items(k):
    rng = np.random.default_rng(0)
    user, item = (grid.ravel() for grid in np.mgrid[0:8, 0:6])
    known = rng.random(48) < 0.6
    rating = rng.integers(1, 6, 48).astype("f4")
    part = ratings.Part(user, item, rating, np.zeros(48, int))
    train, test = part.take(known), part.take(~known)
    found = ItemKnnRating(k, shrinkage=2.0).fit(train, 8, 6).predict(test)
    expected = [
        literal_item_knn(train, u, i, k, 2.0)
        for u, i in zip(test.user_idx, test.item_idx)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("baseline", RATING_BASELINES.values())
@pytest.mark.parametrize(("low", "high"), [(0, 100), (0.5, 5), (1, 10)])
def test_on_another_scale_predictions_are_stretched_and_nothing_else(
    baseline, low, high
):
    data = ratings.load("sample")
    factor = (high - low) / 4
    train = replace(data.train, rating=low + factor * (data.train.rating - 1))
    sizes = data.n_users, data.n_items
    plain = baseline().fit(data.train, *sizes).predict(data.test)
    found = baseline().fit(train, *sizes).predict(data.test)
    np.testing.assert_allclose(found, low + factor * (plain - 1), rtol=1e-3, atol=1e-3)
    assert low <= found.min() <= found.max() <= high
