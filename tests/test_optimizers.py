"""The fused Adam computes Adam, and the learning rate follows its schedule."""

import numpy as np
import pytest

from lib.errors import InputError
from lib.hardware.tensorflow import tf
from lib.models import optimizers


def literal_adam(gradients, rates, start):
    """Algorithm 1 of Kingma and Ba, in the form with epsilon beside the root of v."""
    value, m, v = start.astype(np.float64), 0.0, 0.0
    for t, (g, rate) in enumerate(zip(gradients, rates), 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        step = rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        value = value - step * m / (np.sqrt(v) + 1e-7)
    return value


def moved(optimizer, gradients, start):
    weight = tf.Variable(start)
    for gradient in gradients:
        optimizer.apply_gradients([(tf.constant(gradient), weight)])
    return weight.numpy()


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_weights_move_as_in_the_paper(schedule):
    rng = np.random.default_rng(0)
    start = rng.normal(size=(7, 3)).astype("f4")
    gradients = rng.normal(size=(20, 7, 3)).astype("f4")
    course = np.full(20, 0.01)
    if schedule == "cosine":
        course = 0.005 * (1 + np.cos(np.pi * np.arange(20) / 20))
    found = moved(optimizers.make_adam(0.01, 20, schedule), gradients, start)
    expected = literal_adam(gradients, course, start)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_rows_looked_up_get_their_gradients_summed():
    table = tf.Variable(np.ones((5, 2), "f4"))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.gather(table, [1, 3, 1]))
    gradient = tape.gradient(loss, table)
    optimizers.make_adam(0.01, 1).apply_gradients([(gradient, table)])
    dense = np.zeros((5, 2))
    dense[[1, 3]] = [[2, 2], [1, 1]]
    expected = literal_adam([dense], [0.01], np.ones((5, 2)))
    np.testing.assert_allclose(table, expected, rtol=1e-6)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(InputError, match='schedule="linear": allowed are "constant", '):
        optimizers.make_adam(0.01, 20, "linear")
