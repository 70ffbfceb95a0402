"""The modelzoo variants behave as the ports do: same losses, same predictions.

The references below are slow and literal: numpy in float64, forward, backward and Adam
written from the description of the ports, with the (batch, items, dim) product.
"""

import numpy as np
import pytest
import yaml

from lib import files
from lib.data import ratings, readers, sessions, sources
from lib.data.engines import DuckDB
from lib.errors import InputError
from lib.evaluation import metrics
from lib.hardware.device import select_device
from lib.hardware.tensorflow import tf
from lib.models import mf, optimizers, stamp
from lib.models import published as modelzoo
from lib.records.run import Run, describe
from lib.records.run import load as load_records
from lib.training.fit import fit, set_seed
from lib.training.schedule import Schedule

N_ITEMS, DIM, MAXLEN, BATCH = 60, 12, 8, 32
CLIP = 1e-7  # Keras clips probabilities to [CLIP, 1 - CLIP]
KERAS_LOSS = "sparse_categorical_crossentropy"


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def load_clicks():
    """The sample as the port preprocesses it, with items numbered from 1."""
    return sessions.load("sample", "file", "modelzoo")


def clipped_cross_entropy(targets, probabilities):
    """Keras' sparse cross-entropy of probabilities that are plain numbers.

    They are clipped and, because Keras takes their logarithms for logits, normalised
    again. An item below the limit gets no gradient.
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=tf.cast(tf.reshape(targets, [-1]), tf.int32),
        logits=tf.math.log(tf.clip_by_value(probabilities, CLIP, 1 - CLIP)),
    )


NAMES = {  # of the port's weights, and the attributes of our models
    "embedding": "embedding",
    **{f"W{k}": f"w{k}" for k in range(4)},
    "b": "b",
    "ffn_s/kernel": "kernel_s",
    "ffn_s/bias": "bias_s",
    "ffn_t/kernel": "kernel_t",
    "ffn_t/bias": "bias_t",
    **{name: name for name in ("p", "q", "user_bias", "item_bias")},
}


def get_weights(model):
    """The weights of a port by their names: float32 arrays."""
    if not model.built:
        model.build(None)
    kept = {name: getattr(model, own, None) for name, own in NAMES.items()}
    return {name: kept[name].numpy() for name in kept if kept[name] is not None}


def set_weights(model, weights):
    """Sets weights by the names of ``get_weights``; the others do not change."""
    get_weights(model)
    for name, array in weights.items():
        getattr(model, NAMES[name]).assign(array)


class LiteralAdam:
    def __init__(self, rate):
        self.rate, self.t, self.m, self.v = rate, 0, {}, {}

    def apply(self, weights, gradients):
        self.t += 1
        for name, g in gradients.items():
            self.m[name] = 0.9 * self.m.get(name, 0) + 0.1 * g
            self.v[name] = 0.999 * self.v.get(name, 0) + 0.001 * g**2
            rate = self.rate * np.sqrt(1 - 0.999**self.t) / (1 - 0.9**self.t)
            weights[name] -= rate * self.m[name] / (np.sqrt(self.v[name]) + 1e-7)


def literal_stamp(w, windows, targets=None, clipped=False):
    """Probabilities; with targets, the loss and every gradient instead."""
    table, (w0, w1, w2, w3) = w["embedding"], (w[f"W{k}"] for k in range(4))
    x = table[windows]  # (batch, maxlen, d)
    m_s, m_t, length = x.mean(1), x[:, -1], x.shape[1]
    of_window = (m_t @ w2 + m_s @ w3 + w["b"])[:, None]
    hidden = sigmoid(x @ w1 + of_window)  # (batch, maxlen, d)
    a = hidden @ w0  # (batch, maxlen, 1)
    m_a = (a * x).sum(1)
    h_s = np.tanh(m_a @ w["ffn_s/kernel"] + w["ffn_s/bias"])
    h_t = np.tanh(m_t @ w["ffn_t/kernel"] + w["ffn_t/bias"])
    product = h_t[:, None] * table[None]  # (batch, items, d)
    scores = (product @ h_s[:, :, None])[:, :, 0]
    e = np.exp(scores - scores.max(1, keepdims=True))
    p = e / e.sum(1, keepdims=True)
    if targets is None:
        return p

    n, penalized = len(targets), ("embedding", "W0", "W1", "W2", "W3", "b")
    penalty = 1e-4 * sum((w[name] ** 2).sum() for name in penalized)
    onehot = np.eye(len(table))[targets]
    if clipped:
        kept = np.clip(p, 1e-7, 1 - 1e-7)
        whole = kept.sum(1, keepdims=True)
        loss = -np.log((kept / whole)[onehot == 1]).mean()
        d_p = (1 / whole - onehot / kept) * (kept == p)
        d_scores = p * (d_p - (d_p * p).sum(1, keepdims=True)) / n
    else:
        loss = -np.log(p[onehot == 1]).mean()
        d_scores = (p - onehot) / n

    g = {}
    d_table = (d_scores[:, :, None] * (h_t * h_s)[:, None]).sum(0)
    d_z_s = (d_scores[:, :, None] * product).sum(1) * (1 - h_s**2)
    d_z_t = (d_scores[:, :, None] * table[None]).sum(1) * h_s * (1 - h_t**2)
    g["ffn_s/kernel"], g["ffn_s/bias"] = m_a.T @ d_z_s, d_z_s.sum(0)
    g["ffn_t/kernel"], g["ffn_t/bias"] = m_t.T @ d_z_t, d_z_t.sum(0)
    d_m_a = (d_z_s @ w["ffn_s/kernel"].T)[:, None]  # (batch, 1, d)
    d_a = (d_m_a * x).sum(2, keepdims=True)
    d_u = d_a * w0[:, 0] * hidden * (1 - hidden)  # (batch, maxlen, d)
    g["W0"] = (hidden * d_a).sum((0, 1))[:, None]
    g["W1"] = np.einsum("bli,blj->ij", x, d_u)
    g["W2"], g["W3"] = m_t.T @ d_u.sum(1), m_s.T @ d_u.sum(1)
    g["b"] = d_u.sum((0, 1))
    d_x = d_m_a * a + d_u @ w1.T + (d_u.sum(1) @ w3.T)[:, None] / length
    d_x[:, -1] += d_u.sum(1) @ w2.T + d_z_t @ w["ffn_t/kernel"].T
    np.add.at(d_table, windows, d_x)
    g["embedding"] = d_table
    for name in penalized:
        g[name] = g[name] + 2e-4 * w[name]
    return loss + penalty, g


def literal_mf(w, pairs, rating=None):
    """Predictions; with ratings, the loss and every gradient instead."""
    users, items = pairs.T
    predicted = (w["p"][users] * w["q"][items]).sum(1)
    if rating is None:
        return predicted
    error = predicted - rating
    loss = (error**2).mean() + 1e-4 * sum((table**2).sum() for table in w.values())
    g = {"p": 2e-4 * w["p"], "q": 2e-4 * w["q"]}  # the biases are not trained
    d = 2 * error[:, None] / len(error)
    np.add.at(g["p"], users, d * w["q"][items])
    np.add.at(g["q"], items, d * w["p"][users])
    return loss, g


def windows_and_targets(rng, n=BATCH):
    """Windows as they come: any length of padding, targets that follow the click."""
    windows = rng.integers(0, N_ITEMS, (n, MAXLEN))
    windows[np.arange(MAXLEN) < rng.integers(0, MAXLEN, (n, 1))] = 0
    targets = (windows[:, -1] * 7 + rng.integers(0, 3, n)) % N_ITEMS
    return windows.astype(np.int32), targets.astype(np.int32)


def follow(model, literal, batches, loss, rate):
    """Trains model and reference on the same batches.

    Returns the losses of both and the weights of the reference at the end.
    """
    start = get_weights(model)
    weights = {name: array.astype(np.float64) for name, array in start.items()}
    found = np.squeeze(model.predict_on_batch(batches[0][0]))
    np.testing.assert_allclose(found, literal(weights, batches[0][0]), 1e-5, 1e-7)
    adam = LiteralAdam(rate)
    model.compile(optimizer=optimizers.make_adam(rate, len(batches)), loss=loss)
    losses, expected = [], []
    for inputs, targets in batches:
        losses.append(float(model.train_on_batch(inputs, targets)))
        value, gradients = literal(weights, inputs, targets)
        expected.append(value)
        adam.apply(weights, gradients)
    return losses, expected, weights


# At 12 times the described start the attention and the tanh layers are far from linear.
@pytest.mark.parametrize("scale", [1, 12])
@pytest.mark.parametrize("loss", ["of Keras", "of the model", "clipped"])
def test_stamp_has_the_losses_and_predictions_of_the_description(scale, loss):
    model = modelzoo.STAMP(N_ITEMS, DIM, seed=1)
    functions = KERAS_LOSS, model.training_loss, clipped_cross_entropy
    function = dict(zip(("of Keras", "of the model", "clipped"), functions))[loss]
    start = get_weights(model)
    weights = {name: scale * array for name, array in start.items()}
    set_weights(model, weights)
    rng = np.random.default_rng(0)
    batches = [windows_and_targets(rng) for _ in range(50)]

    def literal(w, windows, targets=None):
        return literal_stamp(w, windows, targets, loss == "clipped")

    losses, expected, weights = follow(model, literal, batches, function, 0.005)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert expected[-1] < expected[0]
    windows, _ = windows_and_targets(rng)
    np.testing.assert_allclose(
        model.predict_on_batch(windows), literal_stamp(weights, windows), rtol=2e-3
    )


def test_mf_has_the_losses_and_predictions_of_the_description():
    model = modelzoo.MF(20, 30, latent_dim=5, seed=1)
    rng = np.random.default_rng(0)
    taste = rng.integers(1, 6, (20, 30))
    batches = []
    for _ in range(50):
        pairs = np.stack([rng.integers(0, 20, 64), rng.integers(0, 30, 64)], axis=1)
        batches.append((pairs.astype(np.int32), taste[tuple(pairs.T)].astype("f4")))
    start = get_weights(model)
    losses, expected, weights = follow(model, literal_mf, batches, "mse", 0.02)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert expected[-1] < expected[0] / 2
    pairs = batches[0][0]
    found = model.predict_on_batch(pairs)[:, 0]
    np.testing.assert_allclose(found, literal_mf(weights, pairs), rtol=1e-3, atol=1e-4)
    for name in ("user_bias", "item_bias"):  # in the loss, and as they began
        np.testing.assert_array_equal(get_weights(model)[name], start[name])


@pytest.mark.parametrize("literal", ["stamp", "clipped", "mf"])
def test_the_references_have_the_gradients_of_their_losses(literal):
    rng = np.random.default_rng(3)
    if literal == "mf":
        tables = {"p": (4, 3), "q": (5, 3), "user_bias": (4, 1), "item_bias": (5, 1)}
        weights = {name: rng.normal(size=shape) for name, shape in tables.items()}
        batch = np.array([[0, 1], [3, 4], [0, 4]]), np.array([1.0, 4.0, 5.0])
        value = literal_mf
    else:
        model = modelzoo.STAMP(N_ITEMS, DIM)
        weights = {
            name: rng.normal(0, 0.4, array.shape)
            for name, array in get_weights(model).items()
        }
        weights["embedding"] *= 6  # so that some probabilities are below 1e-7
        batch = windows_and_targets(rng, 4)

        def value(w, *batch):
            return literal_stamp(w, *batch, clipped=literal == "clipped")

    for name, gradient in value(weights, *batch)[1].items():
        place = tuple(rng.integers(0, size) for size in gradient.shape)
        if name == "embedding":
            place = (batch[0][0, -1], 0)
        sides = []
        for step in (1e-6, -1e-6):
            moved = {key: array.copy() for key, array in weights.items()}
            moved[name][place] += step
            sides.append(value(moved, *batch)[0])
        slope = (sides[0] - sides[1]) / 2e-6
        assert gradient[place] == pytest.approx(slope, rel=1e-4, abs=1e-7), name


@pytest.fixture(scope="module")
def sharp():
    """A model with probabilities far below 1e-7, and a batch for it."""
    model = modelzoo.STAMP(N_ITEMS, DIM, seed=2)
    table = get_weights(model)["embedding"]
    set_weights(model, {"embedding": 160 * table})
    windows, targets = windows_and_targets(np.random.default_rng(0))
    own = np.asarray(model(windows))[np.arange(BATCH), targets]
    assert (own < 1e-8).sum() >= 3
    return model, windows, targets


def test_the_clipped_loss_is_that_of_keras_given_mere_numbers(sharp):
    model, windows, targets = sharp
    probabilities = tf.constant(np.asarray(model(windows)))
    keras = tf.keras.losses.SparseCategoricalCrossentropy(reduction="none")
    found = clipped_cross_entropy(targets, probabilities)
    np.testing.assert_allclose(found, keras(targets, probabilities), rtol=1e-6)
    assert np.max(found) == pytest.approx(-np.log(1e-7), abs=1e-3)


def test_an_item_below_the_limit_gets_no_gradient_from_the_clipped_loss():
    probabilities = tf.constant([[0.5, 0.5 - 1e-8, 1e-8]])
    with tf.GradientTape() as tape:
        tape.watch(probabilities)
        loss = clipped_cross_entropy([2], probabilities)
    assert float(loss[0]) == pytest.approx(-np.log(1e-7), abs=1e-4)
    assert tape.gradient(loss, probabilities).numpy()[0, 2] == 0


@pytest.mark.parametrize("fixes", ["", "mask, m_s", "penalty"])
def test_val_loss_is_what_keras_finds_on_the_same_model(fixes):
    """In a graph, as the port's; the last batch is smaller."""
    data = load_clicks()
    model = modelzoo.STAMP(data.n_items, DIM, fixes=fixes)
    part = data.held_out
    take = model.example_reader(part)
    windows, targets = take(np.arange(len(part), dtype=np.int32))
    model(windows)
    for weight in model.trainable_variables:  # a penalty and scores worth the name
        weight.assign(9 * weight)
    assert len(part) % 32
    found = stamp.validate(model, part, batch_size=32)
    model.compile(tf.keras.optimizers.SGD(0.0), KERAS_LOSS)
    expected = model.evaluate(windows, targets, batch_size=32, verbose=0)
    assert found == {"val_loss": pytest.approx(expected, rel=1e-4)}
    penalty = sum(float(each) for each in model.losses)
    assert (penalty > 10 * 1e-4 * expected) == (fixes != "penalty")  # it would be seen
    assert stamp.validate(model, None) == {}
    assert stamp.validate(model, part.select(part.days < part.days)) == {}


@pytest.mark.parametrize("eager", [False, True])
def test_keras_clips_outside_a_graph_only(sharp, eager):
    model, windows, targets = sharp
    model.compile(tf.keras.optimizers.SGD(0.0), KERAS_LOSS, run_eagerly=eager)
    found = float(model.train_on_batch(windows, targets))
    weights = get_weights(model)
    clipped, exact = (
        literal_stamp(weights, windows, targets, clipped=each)[0]
        for each in (True, False)
    )
    assert exact > clipped + 0.1
    assert found == pytest.approx(clipped if eager else exact, rel=1e-4)


@pytest.mark.parametrize("clipped", [False, True])
def test_gradients_are_those_of_the_description_also_below_the_limit(sharp, clipped):
    model, windows, targets = sharp
    with tf.GradientTape() as tape:
        probabilities = model(windows)
        if clipped:
            loss = clipped_cross_entropy(targets, probabilities)
        else:
            own = tf.gather(probabilities, targets, axis=1, batch_dims=1)
            loss = -tf.math.log(own)
        loss = tf.reduce_mean(loss) + tf.add_n(model.losses)
    weights = get_weights(model)
    gradients = tape.gradient(loss, [getattr(model, NAMES[name]) for name in weights])
    expected = literal_stamp(weights, windows, targets, clipped)[1]
    for name, gradient in zip(weights, gradients):
        found = tf.convert_to_tensor(gradient).numpy()
        size = np.abs(expected[name]).max()
        np.testing.assert_allclose(
            found, expected[name], rtol=1e-3, atol=1e-4 * size, err_msg=name
        )


def test_padding_is_item_0_and_changes_a_score(sharp):
    model, *_ = sharp
    narrow, wide = (
        np.log(np.asarray(model(np.array([window], np.int32))))
        for window in ([5, 9], [0, 0, 5, 9])
    )
    assert np.abs(wide - narrow).max() > 0.1


def test_weights_start_as_described():
    starts = get_weights(modelzoo.STAMP(3000, 40))
    assert np.abs(starts["embedding"]).max() == pytest.approx(0.05, rel=1e-3)
    assert starts["embedding"].std() == pytest.approx(0.05 / np.sqrt(3), rel=0.02)
    for name in ("W0", "W1", "W2", "W3", "b"):
        assert starts[name].std() == pytest.approx(0.05, rel=0.3), name
    limit = np.sqrt(6 / 80)  # Glorot and Bengio 2010, 40 inputs and 40 outputs
    for name in ("ffn_s", "ffn_t"):
        assert np.abs(starts[name + "/kernel"]).max() == pytest.approx(limit, rel=0.02)
        assert not starts[name + "/bias"].any()
    assert np.abs(starts["W1"] - starts["W2"]).max() > 0.05
    for name, array in get_weights(modelzoo.MF(900, 800)).items():
        assert array.std() == pytest.approx(0.05, rel=0.1), name


def test_evaluation_ranks_items_that_are_numbered_from_0():
    data = load_clicks()
    model = modelzoo.STAMP(data.n_items, 8)
    windows, targets = model.example_reader(data.train)(np.arange(500))
    np.testing.assert_array_equal(targets, data.train.targets[:500] - 1)
    for k in (0, 1, 250, 499):
        prefix = data.train.prefix(k)[-MAXLEN:] - 1
        padding = np.zeros(MAXLEN - len(prefix), np.int32)
        np.testing.assert_array_equal(windows[k], np.append(padding, prefix))
    first = sessions.Examples.from_sessions(
        data.test.items[:300], np.arange(0, 301, 5), data.test.days[:60]
    )
    ranks = []
    for k in range(len(first)):
        prefix = first.prefix(k)[-MAXLEN:] - 1
        window = np.append(np.zeros(MAXLEN - len(prefix), np.int32), prefix)
        target = first.targets[[k]] - 1
        ranks.append(metrics.ranks(np.asarray(model(window[None])), target))
    found = stamp.evaluate(model, first, k=50)
    assert found == pytest.approx(metrics.ranking_metrics(np.concatenate(ranks), 50))


def test_the_mask_numbers_items_from_1_and_pads_with_0():
    data = load_clicks()
    fixed = modelzoo.STAMP(data.n_items, 8, fixes="mask").example_reader(data.train)
    paper = stamp.STAMP(data.n_items, 8, MAXLEN).example_reader(data.train)
    for ours, theirs in zip(fixed(np.arange(500)), paper(np.arange(500))):
        np.testing.assert_array_equal(ours, theirs)


def test_mf_predictions_are_not_clipped_to_the_scale():
    model = modelzoo.MF(3, 3, latent_dim=1)
    weights = {"p": [[9.0], [1.0], [-2.0]], "q": [[1.0], [1.0], [1.0]]}
    set_weights(model, weights)
    found = mf.predict(model, np.arange(3), np.arange(3))
    np.testing.assert_allclose(found, [9, 1, -2])


def test_raw_ids_number_the_tables_and_change_nothing_else():
    data = ratings.load("sample", "modelzoo")
    raw = modelzoo.by_raw_id(data)
    assert raw.n_users == data.user_ids.max() + 1
    assert raw.n_items == data.item_ids.max() + 1
    for before, after in ((data.train, raw.train), (data.test, raw.test)):
        np.testing.assert_array_equal(data.user_ids[before.user_idx], after.user_idx)
        np.testing.assert_array_equal(data.item_ids[before.item_idx], after.item_idx)
        np.testing.assert_array_equal(before.rating, after.rating)
    np.testing.assert_array_equal(raw.user_mean[data.user_ids], data.user_mean)


def test_the_fix_of_the_means_leaves_the_test_ratings_out():
    data = ratings.load("sample", "modelzoo")
    fixed = modelzoo.by_raw_id(data, "means").user_mean[data.user_ids]
    assert np.abs(fixed - data.user_mean).max() > 0.01
    user, mine = data.train.user_idx[0], data.train.user_idx == data.train.user_idx[0]
    np.testing.assert_allclose(fixed[user], data.train.rating[mine].mean(), rtol=1e-6)


def test_both_train_on_the_sample(tmp_path):
    set_seed(0)
    clicks = load_clicks()
    model = modelzoo.STAMP(clicks.n_items, 16)
    device = select_device("cpu")
    schedule = Schedule(128, 5, 0.005, steps_per_epoch=50)
    run = Run("s", {"output_dir": str(tmp_path)}, describe(clicks), device)
    history, _ = fit(
        model, clicks.train, schedule, device, run,
        evaluate=lambda: stamp.evaluate(model, clicks.test),
        validate=lambda: stamp.validate(model, clicks.held_out),
    )  # fmt: skip
    assert all(np.isfinite(row["val_loss"]) for row in history)
    assert history[-1]["loss"] < history[0]["loss"] - 0.2
    assert history[-1]["hr_at_20"] > 2 * 20 / clicks.n_items

    data = modelzoo.by_raw_id(ratings.load("sample", "modelzoo"))
    model = modelzoo.MF(data.n_users, data.n_items)
    schedule = Schedule(512, 4, 0.01, steps_per_execution=8, reshuffle=False)
    run = Run("m", {"output_dir": str(tmp_path)}, describe(data), device)
    history, _ = fit(
        model, data.train, schedule, device, run,
        evaluate=lambda: mf.evaluate(model, data.test),
    )  # fmt: skip
    assert history[-1]["rmse"] < history[0]["rmse"] - 0.1


def test_all_fixes_together_are_the_models_of_stamp_and_mf():
    """What is left between the port and the paper's model has a name."""
    fixed = modelzoo.STAMP(N_ITEMS, DIM, fixes="mask, m_s, logits")
    paper = stamp.STAMP(N_ITEMS, DIM)
    windows = np.array([[0, 0, 3], [0, 5, 9], [7, 7, 1]], np.int32)
    fixed(windows), paper(windows)
    paper.set_weights(fixed.get_weights())
    np.testing.assert_allclose(fixed(windows), paper(windows), atol=1e-6)

    mean = np.full(5, 3.5, np.float32)
    fixed = modelzoo.MF(5, 4, 3, "biases penalty", mean, regularization=0.1)
    paper = mf.MF(5, 4, 3.5, 3, regularization=0.1)
    pairs = np.array([[0, 1], [4, 3], [2, 2]], np.int32)
    fixed(pairs), paper(pairs)
    paper.set_weights(fixed.get_weights())
    np.testing.assert_allclose(fixed(pairs), paper(pairs), atol=1e-6)
    np.testing.assert_allclose(sum(fixed.losses), sum(paper.losses), rtol=1e-6)


def test_each_fix_changes_something_and_an_unknown_one_is_refused():
    windows = np.array([[0, 5, 9]], np.int32)
    published = np.asarray(modelzoo.STAMP(N_ITEMS, DIM)(windows))
    for fix in ("mask", "m_s", "logits"):
        fixed = np.asarray(modelzoo.STAMP(N_ITEMS, DIM, fixes=fix)(windows))
        assert np.abs(fixed - published).max() > 1e-7, fix
    paid, free = (modelzoo.STAMP(N_ITEMS, DIM, fixes=f) for f in ("", "penalty"))
    assert np.array_equal(paid(windows), free(windows))
    assert sum(paid.losses) > 0
    assert sum(free.losses) == 0
    with pytest.raises(
        InputError, match='fix="mean": allowed are "mask", "m_s", "logits", "pen'
    ):
        modelzoo.STAMP(N_ITEMS, DIM, fixes="mean")


# What notebooks 06 and 13 show of the ports, on the sample.


@pytest.fixture(scope="module")
def clicks():
    return load_clicks()


def of_each_fix(fixes, **options):
    for names in fixes:
        model = modelzoo.STAMP(N_ITEMS, DIM, fixes=names, seed=1, **options)
        model.build(None)
        yield model


def test_counting_finds_the_hits_of_a_sort(clicks):
    model = modelzoo.STAMP(clicks.n_items, DIM, seed=1)
    model.build(None)  # scores far enough apart that rounding swaps none
    set_weights(model, {"embedding": 40 * np.asarray(model.embedding)})
    windows, targets = model.example_reader(clicks.test)(np.arange(len(clicks.test)))
    best = np.argsort(-model.query(windows).numpy() @ model.items().numpy().T, axis=1)
    hits = (best[:, :20] == targets[:, None]).any(axis=1).mean()
    found = stamp.evaluate(model, clicks.test)["hr_at_20"]
    assert found == pytest.approx(hits, abs=2 / len(clicks.test))


def test_the_mask_takes_padding_out_of_a_query():
    changes = []
    for model in of_each_fix(["", "mask"]):
        short, padded = (
            model.query(np.array([[0] * n + [5, 6]], np.int32)).numpy() for n in (0, 6)
        )
        changes.append(np.abs(padded - short).max() / np.abs(short).max())
    assert changes[0] > 0.1
    assert changes[1] < 1e-5


def test_without_m_s_no_attention_leaves_no_query():
    windows, _ = windows_and_targets(np.random.default_rng(0))
    queries = []
    for model in of_each_fix(["", "m_s"]):
        set_weights(model, {"W0": np.zeros((DIM, 1))})
        queries.append(model.query(windows).numpy())
    assert not queries[0].any()
    assert queries[1].any(axis=1).all()


def test_the_published_epochs_are_a_quarter_of_one():
    path = files.ROOT / "ci/params/stamp_full_1p.yaml"
    asked = yaml.safe_load(path.read_text(encoding="utf-8"))
    sizes = {
        record["data"]["counts"]["train_examples"]
        for record in load_records("results")
        if record["parameters"].get("label") == asked["label"]
    }
    drawn = asked["epochs"] * asked["steps_per_epoch"] * asked["batch_size"]
    assert len(sizes) == 1, f"{sizes} examples in the runs labelled {asked['label']}"
    assert 0.25 < drawn / sizes.pop() < 0.28


def test_the_order_of_the_file_is_not_that_of_the_clicks():
    with DuckDB() as engine:
        readers.read_views(sources.find(sources.DIGINETICA, "sample"), engine)
        back = []
        for order in ("place", "timeframe"):
            views = engine.sql(f"SELECT * FROM clicks ORDER BY session, {order}")
            back.append((views.groupby("session")["timeframe"].diff() < 0).mean())
    assert back[0] > 0.3
    assert back[1] == 0


def test_the_port_asks_for_items_that_were_never_trained(clicks):
    others = sessions.load("sample", "file", "srgnn")
    for data, share in ((clicks, 0.05), (others, 0)):
        never = ~np.isin(data.test.targets, data.train.items)
        assert (never.mean() > share) == (data is clicks)


def test_before_training_an_item_moves_by_the_penalty_alone(clicks):
    """And Adam takes it a whole learning rate towards 0, however weak the penalty."""
    model = modelzoo.STAMP(clicks.n_items, DIM, seed=1)
    windows, targets = model.example_reader(clicks.train)(np.arange(BATCH))
    with tf.GradientTape(persistent=True) as tape:
        loss = tf.reduce_mean(model.training_loss(targets, model(windows)))
        penalty = tf.add_n(model.losses)
    parts = (tape.gradient(part, model.embedding) for part in (loss, penalty))
    loss, penalty = (
        np.linalg.norm(tf.convert_to_tensor(part), axis=1) for part in parts
    )
    assert np.mean(penalty > loss) > 0.9
    row, adam = tf.Variable([0.05]), optimizers.make_adam(0.005, 1)
    adam.apply_gradients([(2 * modelzoo.PENALTY * row, row)])
    assert 0.7 * 0.005 < 0.05 - float(row[0]) < 1.1 * 0.005


def test_keras_3_refuses_the_calls_of_the_port_s_summary():
    """Keras 2.6 takes a function of TensorFlow as a layer of a model."""
    inputs = tf.keras.Input((8,))
    if tf.keras.__version__.startswith("3"):
        with pytest.raises(ValueError, match="KerasTensor"):
            tf.reduce_mean(inputs, 1)
    else:
        model = tf.keras.Model(inputs, tf.reduce_mean(inputs, 1))
        rows = np.arange(16, dtype=np.float32).reshape(2, 8)
        np.testing.assert_allclose(model(rows), rows.mean(axis=1))


@pytest.mark.parametrize(("fixes", "n_tables"), [("", 2), ("biases", 4)])
def test_biases_start_at_the_mean_of_the_user_and_are_trained(fixes, n_tables):
    raw = modelzoo.by_raw_id(ratings.load("sample", split="modelzoo"))
    pairs = np.stack([raw.test.user_idx, raw.test.item_idx], axis=1)
    model = modelzoo.MF(raw.n_users, raw.n_items, fixes=fixes, user_mean=raw.user_mean)
    start = raw.user_mean[raw.test.user_idx] if fixes else np.zeros(len(pairs))
    np.testing.assert_allclose(np.asarray(model(pairs))[:, 0], start, atol=0.3)
    assert len(model.trainable_variables) == n_tables


def test_the_means_of_the_port_reveal_the_direction_of_the_test_ratings():
    raw = ratings.load("sample", split="modelzoo")
    of_train, of_test = (
        ratings.means(part, raw.n_users)[1] for part in (raw.train, raw.test)
    )
    told = np.corrcoef(raw.user_mean - of_train, of_test - of_train)[0, 1]
    assert told > 0.9


@pytest.mark.parametrize(
    ("fixes", "users"), [("", [0, 1, 2, 3, 4, 5]), ("penalty", [0, 2, 4])]
)
def test_rows_outside_the_batch_pay_until_that_is_fixed(fixes, users):
    pairs = np.array([[0, 1], [4, 3], [2, 2]], np.int32)
    model = modelzoo.MF(6, 5, fixes=fixes)
    with tf.GradientTape() as tape:
        model(pairs)
        penalty = tf.add_n(model.losses)
    slopes = tf.convert_to_tensor(tape.gradient(penalty, model.p)).numpy()
    assert np.flatnonzero(slopes.any(axis=1)).tolist() == users
