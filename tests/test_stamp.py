"""STAMP computes its equations, and nothing but the real clicks of a session counts."""

import logging

import numpy as np
import pytest
from shared import examples

from lib.evaluation import metrics
from lib.hardware.tensorflow import tf
from lib.models import stamp

N_ITEMS = 30
NAMES = ("embedding", "w0", "w1", "w2", "w3", "b")
NAMES += ("kernel_s", "bias_s", "kernel_t", "bias_t")


@pytest.fixture(scope="module")
def model():
    model = stamp.STAMP(N_ITEMS, embed_dim=8, maxlen=9, seed=3)
    model(np.array([[1]], np.int32))
    for variable in model.trainable_variables:  # biases and layers that matter
        rng = np.random.default_rng(len(variable.shape) * 100 + variable.shape[0])
        variable.assign(rng.normal(0, 0.7, variable.shape))
    return model


def padded(session, maxlen):
    return np.array([[0] * (maxlen - len(session)) + session], np.int32)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def literal_scores(model, session):
    """The equations of the paper for one session, click by click."""
    weights = {
        name: np.asarray(getattr(model, name)).astype(np.float64) for name in NAMES
    }
    x = [weights["embedding"][item - 1] for item in session]
    m_t, m_s = x[-1], sum(x) / len(x)
    m_a = m_s.copy()
    for x_i in x:
        inner = x_i @ weights["w1"] + m_t @ weights["w2"] + m_s @ weights["w3"]
        m_a += (sigmoid(inner + weights["b"]) @ weights["w0"])[0] * x_i
    h_s = np.tanh(m_a @ weights["kernel_s"] + weights["bias_s"])
    h_t = np.tanh(m_t @ weights["kernel_t"] + weights["bias_t"])
    return np.array([(h_s * h_t) @ row for row in weights["embedding"]])


@pytest.mark.parametrize("session", [[4], [4, 4], [1, 30, 7, 2], list(range(1, 12))])
def test_scores_are_those_of_the_equations(model, session):
    scores = np.asarray(model(padded(session, 12)))[0]
    np.testing.assert_allclose(
        scores, literal_scores(model, session), rtol=2e-4, atol=2e-5
    )


def test_many_networks_are_evaluated_without_a_warning():
    """TensorFlow takes a trace of each small network for a mistake in a loop."""
    few = examples([1, 2, 3, 4])
    said, handler = [], logging.Handler()
    handler.emit = said.append
    tf.get_logger().addHandler(handler)
    try:
        for seed in range(8):
            stamp.evaluate(stamp.STAMP(9, 4, 5, seed=seed), few)
    finally:
        tf.get_logger().removeHandler(handler)
    assert not said, said[0].getMessage()


@pytest.mark.parametrize("width", [4, 7, 40])
def test_more_padding_never_changes_a_score(model, width):
    narrow = np.asarray(model(padded([5, 9, 2], 3)))
    wide = np.asarray(model(padded([5, 9, 2], width)))
    np.testing.assert_allclose(wide, narrow, rtol=1e-5, atol=1e-6)


def test_batch_order_never_changes_a_score(model):
    batch = np.random.default_rng(0).integers(1, N_ITEMS + 1, (16, 6)).astype(np.int32)
    order = np.random.default_rng(1).permutation(16)
    scores = np.asarray(model(batch))
    np.testing.assert_allclose(
        np.asarray(model(batch[order])), scores[order], atol=1e-6
    )


def test_the_mean_of_a_one_click_session_is_its_item(model):
    x, mask = stamp.look_up(model.embedding, padded([17], 5))
    m_s = tf.reduce_sum(x, 1) / tf.reduce_sum(mask, 1)
    np.testing.assert_array_equal(m_s[0], np.asarray(model.embedding)[16])


def test_padding_gets_no_attention_and_clicks_do(model):
    x, mask = stamp.look_up(model.embedding, padded([3, 8], 6))
    weights = stamp.attend(model.named_weights, x, mask, x[:, -1], x[:, -1])
    assert np.count_nonzero(weights[0, :4]) == 0
    assert np.count_nonzero(weights[0, 4:]) == 2


def test_without_attention_the_last_click_and_the_mean_decide():
    model = stamp.STAMP(N_ITEMS, embed_dim=8, attention=False)
    same_mean_and_last = model(np.array([[1, 2, 3], [2, 1, 3]], np.int32))
    np.testing.assert_allclose(*np.asarray(same_mean_and_last), atol=1e-7)
    assert len(model.trainable_variables) == 5


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_reduced_precision_rounds_what_trains_and_no_score(model, dtype):
    reduced = stamp.STAMP(N_ITEMS, embed_dim=8, matmul_dtype=dtype, seed=3)
    windows, target = padded([5, 9, 2], 4), np.array([6])
    reduced(windows)
    reduced.set_weights(model.get_weights())
    scores = np.asarray(model(windows))
    np.testing.assert_array_equal(reduced(windows), scores)
    exact, rounded = (
        one.training_loss(target, one(windows, training=True)).numpy()
        for one in (model, reduced)
    )
    step = {"bfloat16": 2**-7, "float16": 2**-10}[dtype]
    assert 0 < abs(rounded - exact) < 4 * step * max(1, np.abs(scores).max())


@pytest.fixture(scope="module")
def cosine(model):
    cosine = stamp.STAMP(N_ITEMS, embed_dim=8, scale=5.0)
    cosine(padded([1], 1))
    cosine.set_weights(model.get_weights())
    return cosine


def test_cosine_scores_stay_within_the_scale_and_use_vectors_of_length_one(cosine):
    windows = np.random.default_rng(0).integers(1, N_ITEMS + 1, (50, 6)).astype("i4")
    scores = np.asarray(cosine(windows))
    assert 1 < np.abs(scores).max() <= 5 * (1 + 1e-6)
    query = cosine.query(windows)
    np.testing.assert_allclose(np.linalg.norm(query, axis=1), 5, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(cosine.items(), axis=1), 1, rtol=1e-5)


def test_the_length_of_an_items_vector_never_changes_a_cosine_score(model):
    weights = model.get_weights()
    lengths = np.random.default_rng(0).uniform(0.5, 4, (N_ITEMS, 1))
    scores = []
    for factor in (1, lengths):
        cosine = stamp.STAMP(N_ITEMS, embed_dim=8, scale=5.0)
        cosine(padded([1], 1))
        cosine.set_weights([weights[0] * factor, *weights[1:]])
        scores.append(np.asarray(cosine(padded([4, 9, 2], 5))))
    np.testing.assert_allclose(*scores, rtol=1e-4, atol=1e-5)


def test_dropout_is_for_training_alone_and_keeps_the_mean(model):
    dropping = stamp.STAMP(N_ITEMS, embed_dim=8, dropout=0.4, seed=2)
    windows = np.random.default_rng(0).integers(1, N_ITEMS + 1, (4, 6)).astype("i4")
    np.testing.assert_array_equal(dropping(windows), dropping(windows))
    first, second = dropping(windows, training=True), dropping(windows, training=True)
    assert np.abs(first - second).max() > 0
    x = tf.ones((100, 50, 8))
    kept = np.asarray(dropping.drop(x))
    assert set(np.unique(kept)) == {np.float32(0), np.float32(1 / 0.6)}
    assert kept.mean() == pytest.approx(1, abs=0.02)


def test_the_same_seed_and_step_drop_the_same_entries():
    def masks():
        model = stamp.STAMP(N_ITEMS, embed_dim=8, dropout=0.4, seed=2)
        model(padded([1], 1))
        return [np.asarray(model.drop(tf.ones((9, 9)))) for _ in range(3)]

    np.testing.assert_array_equal(masks(), masks())


def test_every_rank_drops_other_entries():
    dropped = []
    for rank in (0, 1):
        model = stamp.STAMP(N_ITEMS, embed_dim=8, dropout=0.4, seed=2)
        model.build(None)
        model.rank = rank
        dropped.append(np.asarray(model.drop(tf.ones((9, 9)))) == 0)
    assert 0.2 < np.mean(dropped[0] != dropped[1]) < 0.8


@pytest.mark.parametrize("is_open", [False, True])
def test_ranks_are_those_of_the_metrics_also_for_ties_and_nan(is_open, monkeypatch):
    monkeypatch.setattr(stamp.ascend, "is_open", lambda: is_open)
    scores = np.random.default_rng(0).integers(0, 6, (40, N_ITEMS)).astype("f4")
    targets = np.random.default_rng(1).integers(0, N_ITEMS, 40).astype("i4")
    scores[3, targets[3]] = np.nan

    class Fixed(stamp.STAMP):
        def call(self, windows, training=False):
            return tf.constant(scores)

    fixed = Fixed(N_ITEMS)
    found = fixed.ranks(tf.zeros((40, 1), tf.int32), tf.constant(targets))
    np.testing.assert_array_equal(found, metrics.ranks(scores, targets))
    assert found[3] == N_ITEMS


def test_a_card_that_lowers_sums_to_float16_sums_whole_numbers(model, monkeypatch):
    monkeypatch.setattr(stamp.ascend, "is_open", lambda: True)
    graph = model.balance.get_concrete_function(
        tf.TensorSpec([3, 5], tf.int32), tf.TensorSpec([3], tf.int32)
    ).graph
    sums = [x for x in graph.get_operations() if x.type == "Sum"]
    over_items = [x for x in sums if x.inputs[0].shape[-1] == N_ITEMS]
    assert len(over_items) == 2
    assert {x.outputs[0].dtype for x in over_items} == {tf.int32}


def test_windows_hold_the_last_clicks_of_the_prefix_and_padding_before_them():
    some = examples([1, 2, 3, 4, 5], [6, 7])
    read = stamp.STAMP(N_ITEMS, maxlen=3).example_reader(some)
    windows, targets = read(np.arange(len(some)))
    expected = [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [0, 0, 6]]
    np.testing.assert_array_equal(windows, expected)
    np.testing.assert_array_equal(targets + 1, [2, 3, 4, 5, 7])


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_evaluation_counts_every_example_once_whatever_the_batch(model, batch_size):
    rng = np.random.default_rng(5)
    some = examples(
        *(rng.integers(1, N_ITEMS + 1, rng.integers(2, 9)) for _ in range(6))
    )
    ranks = []
    for k in range(len(some)):
        scores = np.asarray(model(padded(some.prefix(k).tolist(), 9)))
        ranks.append(metrics.ranks(scores, some.targets[k : k + 1] - 1)[0])
    found = stamp.evaluate(model, some, k=5, batch_size=batch_size)
    assert found == pytest.approx(metrics.ranking_metrics(np.array(ranks), 5))
