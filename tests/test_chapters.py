"""What a notebook shows as the model is what ``lib`` computes."""

import json

import numpy as np
import pytest
from shared import the_only

from lib.files import ROOT
from lib.hardware.tensorflow import tf
from lib.models import mf, softmax, stamp


def run_cells(notebook, *starts):
    """Runs the cells of a notebook that begin so; returns their names."""
    found = (ROOT / "notebooks").glob(f"{notebook}_*.ipynb")
    path = the_only(found, f"notebooks/{notebook}_*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    names = {"tf": tf, "np": np}
    for start in starts:
        found = (each for each in sources if each.startswith(start))
        source = the_only(found, f"a cell of {path.name} that starts with {start!r}")
        exec(source, names)  # our own file
    return names


def randomise(variables):
    """Gives every weight a value, also those that start at 0."""
    rng = np.random.default_rng(0)
    for variable in variables:
        variable.assign(0.3 * rng.standard_normal(variable.shape, np.float32))


@pytest.mark.parametrize("maxlen", [1, 6])
def test_notebook_03_shows_stamp(maxlen):
    shown = run_cells("03", "def attend(w, x, mask", "def scores(w, windows)")
    model = stamp.STAMP(50, 8, maxlen)
    model.build(None)
    randomise(model.trainable_variables)
    windows = np.random.default_rng(1).integers(1, 51, (20, maxlen), np.int32)
    for row, padding in enumerate(windows):
        padding[: row % maxlen] = 0
    found = shown["scores"](model.named_weights, tf.constant(windows))
    np.testing.assert_allclose(found, model(windows), rtol=1e-4, atol=1e-5)


def test_notebook_04_shows_mf_and_its_penalty():
    shown = run_cells("04", "def predict(w, user", "def penalty(w, user")
    model = mf.MF(9, 7, 3.5, latent_dim=4, regularization=0.08)
    model.build(None)
    randomise(model.trainable_variables)
    rng = np.random.default_rng(1)
    user, item = (rng.integers(0, n, 30).astype(np.int32) for n in (9, 7))
    rating = model(tf.constant(np.stack([user, item], axis=1)))
    np.testing.assert_allclose(shown["predict"](model, user, item), rating, rtol=1e-5)
    (penalty,) = model.losses
    np.testing.assert_allclose(shown["penalty"](model, user, item), penalty, rtol=1e-5)


def test_notebook_15_shows_the_loss_and_its_gradient():
    shown = run_cells("15", "def loss_and_gradients(")
    rng = np.random.default_rng(0)
    q, x = (tf.constant(rng.standard_normal((n, 8), np.float32)) for n in (16, 40))
    y = tf.constant(rng.integers(0, 40, 16), tf.int32)
    with tf.GradientTape() as tape:
        tape.watch([q, x])
        loss = softmax.fused_cross_entropy(y, q, x)
    expected = loss, *tape.gradient(loss, [q, x])
    for ours, theirs in zip(shown["loss_and_gradients"](y, q, x), expected):
        np.testing.assert_allclose(
            ours, tf.convert_to_tensor(theirs), rtol=1e-4, atol=1e-5
        )
