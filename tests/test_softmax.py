"""The hand-written softmax cross-entropy is exact, and safe for any logits."""

import numpy as np
import pytest

from lib import softmax
from lib.quiet import tf


def exact(logits, targets):
    """Loss and gradient in float64, from the definition."""
    z = logits.astype(np.float64)
    z = z - z.max(axis=1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    rows = np.arange(len(targets))
    gradient = np.exp(log_p)
    gradient[rows, targets] -= 1
    return -log_p[rows, targets], gradient


def ours(logits, targets, upstream=1.0):
    logits = tf.constant(logits, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = softmax.cross_entropy(tf.constant(targets), logits)
        total = tf.reduce_sum(loss * upstream)
    return loss.numpy(), tape.gradient(total, logits).numpy()


def case(batch=32, n_items=5000, spread=3.0, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, (batch, n_items)).astype(np.float32)
    return logits, rng.integers(0, n_items, batch)


@pytest.mark.parametrize("spread", [0.01, 1.0, 10.0])
def test_loss_and_gradient_are_those_of_the_definition(spread):
    logits, targets = case(spread=spread)
    loss, gradient = ours(logits, targets)
    expected_loss, expected_gradient = exact(logits, targets)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6, atol=1e-6)
    error = np.abs(gradient - expected_gradient).max()
    assert error < 1e-5 * np.abs(expected_gradient).max()


def test_it_agrees_with_tensorflows_own_kernel():
    logits, targets = case()
    theirs = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
    np.testing.assert_allclose(ours(logits, targets)[0], theirs, rtol=2e-6)


@pytest.mark.parametrize("shift", [-1e30, -1e4, 1e4, 1e30])
def test_large_logits_overflow_nothing(shift):
    logits = np.array([[0, 1, 2], [2, 1, 0]], np.float32) + np.float32(shift)
    loss, gradient = ours(logits, [2, 2])
    expected_loss, expected_gradient = exact(logits, [2, 2])
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)


def test_a_target_that_the_model_excludes_costs_its_distance_and_not_infinity():
    loss, gradient = ours([[0.0, 500.0]], [0])
    assert loss[0] == pytest.approx(500)
    np.testing.assert_allclose(gradient, [[-1, 1]])


def test_every_row_has_its_own_weight():
    logits, targets = case(batch=3, n_items=7)
    weights = np.array([0.0, 1.0, 2.5], np.float32)
    expected = exact(logits, targets)[1] * weights[:, None]
    np.testing.assert_allclose(ours(logits, targets, weights)[1], expected, atol=1e-6)


def test_targets_may_come_as_a_column():
    logits, targets = case(batch=4, n_items=9)
    np.testing.assert_array_equal(
        ours(logits, targets)[0], ours(logits, targets[:, None])[0]
    )
