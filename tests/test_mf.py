"""MF computes its equation, charges each rating a penalty, and stays on the scale."""

import numpy as np
import pytest

from lib.data import ratings
from lib.evaluation import metrics
from lib.models import mf


def made(use_bias=True, **options):
    model = mf.MF(6, 9, 3.5, latent_dim=4, use_bias=use_bias, **options)
    model(np.array([[0, 0]], np.int32))
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(0, 1.2, variable.shape))
    return model


def weights(model):
    return {name: np.asarray(getattr(model, name)) for name in ("p", "q")}


PAIRS = np.array([[0, 8], [5, 0], [3, 3]], np.int32)


def test_a_prediction_is_mean_plus_biases_plus_product():
    model = made()
    p, q = weights(model).values()
    for (user, item), found in zip(PAIRS, np.asarray(model(PAIRS))[:, 0]):
        biases = (
            np.asarray(model.user_bias)[user, 0] + np.asarray(model.item_bias)[item, 0]
        )
        assert found == pytest.approx(3.5 + biases + p[user] @ q[item], rel=1e-5)


def test_without_biases_only_mean_and_product_remain():
    model = made(use_bias=False)
    p, q = weights(model).values()
    found = np.asarray(model(PAIRS))[:, 0]
    np.testing.assert_allclose(
        found, 3.5 + (p[PAIRS[:, 0]] * q[PAIRS[:, 1]]).sum(1), rtol=1e-5
    )


def test_the_penalty_is_paid_per_rating_and_not_by_others():
    model = made(regularization=0.5)
    p, q = weights(model).values()
    model(np.array([[2, 4], [2, 4], [1, 0]], np.int32))
    paid = [
        (p[u] ** 2).sum()
        + (q[i] ** 2).sum()
        + np.asarray(model.user_bias)[u, 0] ** 2
        + np.asarray(model.item_bias)[i, 0] ** 2
        for u, i in ((2, 4), (2, 4), (1, 0))
    ]
    assert float(model.losses[0]) == pytest.approx(0.5 * np.mean(paid), rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 50])
def test_predictions_are_clipped_and_do_not_depend_on_the_batch(batch_size):
    model = made()
    user, item = np.repeat(np.arange(6), 9), np.tile(np.arange(9), 6)
    raw = np.asarray(model(np.stack([user, item], 1).astype(np.int32)))[:, 0]
    assert raw.min() < 1
    assert raw.max() > 5
    found = mf.predict(model, user, item, batch_size)
    np.testing.assert_allclose(found, np.clip(raw, 1, 5), atol=1e-5)


def test_evaluation_is_the_error_of_the_clipped_predictions():
    model = made()
    part = ratings.Part(
        np.array([0, 5], np.int32),
        np.array([1, 2], np.int32),
        np.array([4, 2], np.float32),
        np.zeros(2, np.int64),
    )
    predicted = mf.predict(model, part.user_idx, part.item_idx)
    assert mf.evaluate(model, part) == metrics.rating_metrics(predicted, part.rating)
