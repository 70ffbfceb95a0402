"""The hand-written softmax cross-entropy is exact, and safe for any logits."""

import numpy as np
import pytest

from lib.hardware import device
from lib.hardware.tensorflow import tf
from lib.models import softmax


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
    """Of logits: the product of queries with items that are unit vectors."""
    logits = tf.constant(logits, tf.float32)
    items = tf.eye(logits.shape[1])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = softmax.fused_cross_entropy(tf.constant(targets), logits, items)
        total = tf.reduce_sum(loss * upstream)
    return loss.numpy(), tape.gradient(total, logits).numpy()


def case(batch=32, n_items=1000, spread=3.0, seed=0):
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


def product_case(batch=32, n_items=3000, dim=16, spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    queries = rng.normal(0, spread, (batch, dim)).astype(np.float32)
    items = rng.normal(size=(n_items, dim)).astype(np.float32)
    return queries, items, rng.integers(0, n_items, batch), rng.uniform(0, 2, batch)


def of_product(queries, items, targets, upstream, dtype="float32"):
    queries, items = tf.constant(queries), tf.constant(items)
    with tf.GradientTape() as tape:
        tape.watch([queries, items])
        loss = softmax.fused_cross_entropy(targets, queries, items, dtype)
        total = tf.reduce_sum(loss * tf.cast(upstream, tf.float32))
    return [loss.numpy(), *(g.numpy() for g in tape.gradient(total, [queries, items]))]


def exact_of_product(queries, items, targets, upstream):
    queries, items = queries.astype(np.float64), items.astype(np.float64)
    loss, gradient = exact(queries @ items.T, targets)
    gradient *= upstream[:, None]
    return [loss, gradient @ items, gradient.T @ queries]


@pytest.mark.parametrize("spread", [0.01, 1.0, 10.0])
def test_the_fused_product_has_the_loss_and_gradients_of_the_definition(spread):
    case = product_case(spread=spread)
    found, expected = of_product(*case), exact_of_product(*case)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6, atol=3e-6)
    for ours, theirs in zip(found[1:], expected[1:]):
        assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_a_target_drawn_twice_gets_both_gradients():
    queries, items, _, upstream = product_case(batch=6, n_items=5)
    case = queries, items, np.array([1, 1, 1, 4, 4, 0]), upstream
    for ours, theirs in zip(of_product(*case), exact_of_product(*case)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dtype", "step"), [("bfloat16", 2**-8), ("float16", 2**-11)])
def test_reduced_precision_rounds_inputs_of_products_and_nothing_else(dtype, step):
    """Each input is off by at most ``step`` of itself.

    Products add up in float32 or, on some processors, in chunks that are rounded once
    more.
    """
    queries, items, targets, upstream = product_case(dim=8)
    found = of_product(queries, items, targets, upstream, dtype)
    expected = exact_of_product(queries, items, targets, upstream)
    logits = np.abs(queries) @ np.abs(items).T  # bounds the sum of all terms
    assert 0 < np.abs(found[0] - expected[0]).max() < 6 * step * logits.max()
    for ours, theirs in zip(found[1:], expected[1:]):
        assert np.abs(ours - theirs).max() < 6 * step * logits.max()


@pytest.fixture(params=["in hardware", "by hand"])
def bfloat16(request, monkeypatch):
    in_hardware = request.param == "in hardware"
    if in_hardware and tf.__version__.startswith("2.6."):
        pytest.skip("TensorFlow 2.6 adds up in bfloat16, and is not left to do so")
    monkeypatch.setattr(device, "multiplies_bfloat16", lambda: in_hardware)
    return "bfloat16"


def test_a_bfloat16_product_rounds_its_inputs_and_its_outcome(bfloat16):
    queries, items, *_ = product_case(dim=8)
    found = softmax.matrix_product(queries, items, bfloat16, transpose_b=True)
    a, b = (tf.cast(tf.cast(x, "bfloat16"), "float64") for x in (queries, items))
    expected = tf.matmul(a, b, transpose_b=True).numpy()
    added = (tf.abs(a) @ tf.abs(tf.transpose(b))).numpy()  # float32 sums round, too
    assert (np.abs(found - expected) <= 2**-8 * np.abs(expected) + 1e-6 * added).all()
    assert np.abs(found - queries @ items.T).max() > 2**-9  # float32 is elsewhere


def test_rounded_probabilities_move_a_loss_by_no_more_than_is_said(bfloat16):
    """Small whole numbers, whose products bfloat16 holds: probabilities alone round."""
    rng = np.random.default_rng(0)
    queries, items = (rng.integers(-1, 2, (n, 6)).astype("float32") for n in (32, 500))
    case = queries, items, rng.integers(0, 500, 32), np.ones(32)
    found, expected = of_product(*case, bfloat16), exact_of_product(*case)
    assert found[0].dtype == found[1].dtype == found[2].dtype == np.float32
    assert np.abs(found[0] - expected[0]).max() < 2**-8
    for ours, theirs in zip(found[1:], expected[1:]):
        assert np.abs(ours - theirs).max() < 2**-8 * np.abs(theirs).max()


def test_large_products_overflow_nothing():
    items = np.array([[0.0], [1.0], [-1.0]], np.float32)
    for size, target, loss, slope in ((500, 2, 1000, 2), (1e30, 1, 0, 0)):
        query = np.array([[size]], np.float32)
        found = of_product(query, items, [target], np.ones(1))
        np.testing.assert_allclose(found[0], [loss])
        np.testing.assert_allclose(found[1], [[slope]])
        expected = [[0], [slope * size / 2], [-slope * size / 2]]
        np.testing.assert_allclose(found[2], expected)
