"""Neighbours smooth the items of STAMP, and positions shape its attention, exactly."""

import numpy as np
import pytest
import search_stamp
from shared import examples

from lib.data.sessions import Sessions
from lib.errors import InputError
from lib.evaluation import metrics, session_baselines
from lib.hardware import ascend
from lib.hardware.device import select_device
from lib.hardware.tensorflow import tf
from lib.models import stamp
from lib.records.run import Run, describe
from lib.serving import export, recommend, trained, transfer
from lib.training.fit import fit, set_seed
from lib.training.schedule import Schedule

N_ITEMS, D = 12, 6


def drawn_sessions(n=40, seed=0):
    rng = np.random.default_rng(seed)
    return examples(*(rng.integers(1, N_ITEMS, rng.integers(2, 8)) for _ in range(n)))


def made(scale=0.0, seed=0, **options):
    """A model with weights at which every part matters."""
    model = stamp.STAMP(N_ITEMS, D, maxlen=5, scale=scale, **options)
    model.build(None)
    model.adapt(drawn_sessions())
    rng = np.random.default_rng(seed)
    for weight in model.named_weights.values():
        weight.assign(rng.normal(0, 0.7, weight.shape))
    return model


def literal_neighbours(some, k):
    """The definition, pair by pair: a dense ``(n_items, n_items)`` matrix."""
    counts = np.zeros((N_ITEMS, N_ITEMS))
    for clicks in np.split(some.items - 1, some.offsets[1:-1]):
        for i, first in enumerate(clicks):
            for h in (1, 2, 3):
                if i + h < len(clicks) and clicks[i + h] != first:
                    counts[first, clicks[i + h]] += 1 / h
                    counts[clicks[i + h], first] += 1 / h
    kept = np.zeros_like(counts)
    for item, row in enumerate(counts):
        best = np.argsort(-row.astype(np.float32), kind="stable")[:k]
        kept[item, best] = row[best]
    return kept / np.maximum(kept.sum(1, keepdims=True), 1e-9)


def dense(columns, weights):
    matrix = np.zeros((N_ITEMS, N_ITEMS))
    for item, places in enumerate(columns):
        np.add.at(matrix[item], places, weights[item])
    return matrix


@pytest.mark.parametrize("k", [1, 3, 20])
def test_neighbours_are_the_strongest_co_clicks_of_the_training_sessions(k):
    some = drawn_sessions()
    columns, weights = stamp.find_neighbours(some, N_ITEMS, k)
    assert (columns.dtype, weights.dtype) == (np.int32, np.float32)
    assert columns.shape == weights.shape == (N_ITEMS, k)
    np.testing.assert_allclose(
        dense(columns, weights), literal_neighbours(some, k), atol=1e-6
    )
    assert not weights[N_ITEMS - 1].any()  # never clicked: no neighbours


def test_no_pair_reaches_from_one_session_into_the_next():
    columns, weights = stamp.find_neighbours(examples([1, 2], [3, 4]), N_ITEMS, 3)
    expected = np.zeros((N_ITEMS, N_ITEMS))
    expected[[0, 1, 2, 3], [1, 0, 3, 2]] = 1
    np.testing.assert_array_equal(dense(columns, weights), expected)


@pytest.mark.parametrize("has_sparse", [True, False])
def test_adding_neighbours_and_its_gradient_are_those_of_the_dense_matrix(
    has_sparse, monkeypatch
):
    monkeypatch.setattr(ascend, "is_open", lambda: not has_sparse)
    columns, weights = stamp.find_neighbours(drawn_sessions(), N_ITEMS, 4)
    matrix = np.eye(N_ITEMS) + dense(columns, weights)
    rng = np.random.default_rng(1)
    x, upstream = rng.normal(size=(2, N_ITEMS, D)).astype(np.float32)
    with tf.GradientTape() as tape:
        x_ = tf.Variable(x)
        y = stamp.add_neighbours(tf.convert_to_tensor(x_), columns, weights)
        total = tf.reduce_sum(y * upstream)
    np.testing.assert_allclose(y, matrix @ x, rtol=1e-5, atol=1e-5)
    found = tf.convert_to_tensor(tape.gradient(total, x_))
    np.testing.assert_allclose(found, matrix.T @ upstream, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 9.0])
def test_a_training_steps_gradients_are_those_of_the_equations(scale):
    """Of the whole step, against TensorFlow's own gradient of dense products."""
    model = made(scale, neighbours=3, positions=True)
    read = model.example_reader(drawn_sessions())
    windows, targets = read(np.arange(16))
    matrix = tf.constant(
        np.eye(N_ITEMS)
        + dense(model.neighbour_items.numpy(), model.neighbour_weights.numpy()),
        tf.float32,
    )

    def literal():
        vectors = tf.matmul(matrix, tf.convert_to_tensor(model.embedding))
        weights = {**model.named_weights, "embedding": vectors}
        items = tf.math.l2_normalize(vectors, axis=1) if scale else vectors
        scores = tf.matmul(
            stamp.query(weights, windows, scale), items, transpose_b=True
        )
        return tf.nn.sparse_softmax_cross_entropy_with_logits(targets, scores)

    def ours():
        return model.training_loss(targets, model(windows, training=True))

    variables = model.trainable_variables
    assert len(variables) == 11
    results = []
    for compute in (literal, tf.function(ours)):
        with tf.GradientTape() as tape:
            loss = compute()
        gradients = tape.gradient(loss, variables)
        results.append([loss, *map(tf.convert_to_tensor, gradients)])
    for expected, found in zip(*results):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_training_step_adds_the_neighbours_once():
    """Queries and loss share the sum: two of them would cost a fifth of a step."""
    model = made(9.0, neighbours=3)
    windows, targets = model.example_reader(drawn_sessions())(np.arange(8))

    @tf.function
    def step(windows, targets):
        return model.training_loss(targets, model(windows, training=True))

    operations = step.get_concrete_function(windows, targets).graph.get_operations()
    kinds = [operation.type for operation in operations]
    assert kinds.count("SparseMatrixMatMul") == 1


def test_a_loss_of_other_queries_takes_the_weights_as_they_are_now():
    model = made(9.0, neighbours=3)
    windows, targets = model.example_reader(drawn_sessions())(np.arange(8))
    queries = tf.identity(model(windows, training=True))
    model.embedding.assign(2 * np.asarray(model.embedding)[::-1])
    found = model.training_loss(targets, queries)
    scores = tf.matmul(queries, model.items(), transpose_b=True)
    kernel = tf.nn.sparse_softmax_cross_entropy_with_logits
    np.testing.assert_allclose(found, kernel(targets, scores), rtol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 9.0])
def test_without_neighbours_and_at_positions_of_zero_it_is_stamp_bit_for_bit(scale):
    plain = stamp.STAMP(N_ITEMS, D, maxlen=5, scale=scale, seed=4)
    positioned = stamp.STAMP(N_ITEMS, D, 5, scale=scale, seed=4, positions=True)
    positioned.build(None)
    positioned.position_vectors.assign(tf.zeros_like(positioned.position_vectors))
    read = plain.example_reader(drawn_sessions())
    windows, targets = read(np.arange(16))
    np.testing.assert_array_equal(plain(windows), positioned(windows))
    assert len(plain.trainable_variables) == 10
    x, mask = stamp.look_up(plain.embedding, windows, scale)
    m_s = tf.reduce_sum(x, 1) / tf.reduce_sum(mask, 1)
    weights = plain.named_weights
    term = tf.matmul(x[:, -1], weights["w2"]) + tf.matmul(m_s, weights["w3"])
    term = (term + weights["b"])[:, None]
    hidden = tf.sigmoid(tf.matmul(x, weights["w1"]) + term)
    a = tf.matmul(hidden, weights["w0"]) * mask
    h = stamp.combine(weights, tf.reduce_sum(a * x, 1) + m_s, x[:, -1])
    items = tf.convert_to_tensor(plain.embedding)
    if scale:
        h, items = scale * tf.math.l2_normalize(h, 1), tf.math.l2_normalize(items, 1)
    expected = tf.matmul(h, items, transpose_b=True)
    np.testing.assert_array_equal(plain(windows), expected)


def test_positions_count_from_the_last_click_and_reach_the_attention_alone():
    model = made(positions=True)
    x, mask = stamp.look_up(model.embedding, np.array([[0, 0, 3, 8, 8]], np.int32))
    m_s, m_t = tf.reduce_mean(x, 1), x[:, -1]
    before = stamp.attend(model.named_weights, x, mask, m_s, m_t).numpy()
    assert before[0, 3] != pytest.approx(before[0, 4])  # the same item at two places
    model.position_vectors.assign(tf.zeros_like(model.position_vectors))
    flat = stamp.attend(model.named_weights, x, mask, m_s, m_t).numpy()
    assert flat[0, 3] == pytest.approx(flat[0, 4])
    shifted = np.zeros((5, D))
    shifted[3] = 1  # the click before the last one
    model.position_vectors.assign(shifted)
    found = stamp.attend(model.named_weights, x, mask, m_s, m_t).numpy()
    assert (found != flat)[0, :, 0].tolist() == [False, False, False, True, False]
    narrow = stamp.attend(model.named_weights, x[:, 2:], mask[:, 2:], m_s, m_t)
    np.testing.assert_allclose(narrow, found[:, 2:], rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_at_the_start_a_click_weighs_less_than_the_next_one(seed):
    """From 0, the weights of the last two clicks changed places by chance."""
    model = stamp.STAMP(N_ITEMS, 100, maxlen=6, seed=seed, positions=True)
    model.build(None)
    x = tf.ones((1, 6, 100)) * model.embedding[0]  # one item, six times
    a = stamp.attend(model.named_weights, x, 1.0, x[:, 0], x[:, 0])[0, :, 0]
    assert (np.diff(a) > 0).all()
    signs = np.sign(np.asarray(model.w0)[:, 0])  # those of the weights that it has
    np.testing.assert_allclose(model.position_vectors[-1], signs)
    np.testing.assert_allclose(model.position_vectors[0], 0.6**5 * signs, rtol=1e-5)


def test_a_model_without_its_neighbours_is_refused_before_it_reads_an_example():
    model = stamp.STAMP(N_ITEMS, D, neighbours=3)
    with pytest.raises(InputError, match="neighbours=3: .* call its adapt"):
        model.example_reader(drawn_sessions())
    model.build(None)
    with pytest.raises(InputError, match="call its adapt"):
        model.example_reader(drawn_sessions())
    model.adapt(drawn_sessions())
    model.example_reader(drawn_sessions())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"neighbours": -1}, "neighbours=-1: choose a whole number"),
        ({"neighbours": 2.5}, "neighbours=2.5: choose a whole number"),
        ({"positions": True, "attention": False}, "part of the attention"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, sentence):
    with pytest.raises(InputError, match=sentence):
        stamp.STAMP(N_ITEMS, D, **options)


IDS = np.arange(N_ITEMS) * 10 + 7


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A model with neighbours and positions, trained for two epochs, and its folder."""
    set_seed(0)
    some = drawn_sessions()
    data = Sessions(some, drawn_sessions(8, seed=1), IDS, "drawn", "0")
    device, folder = select_device("cpu"), tmp_path_factory.mktemp("runs")
    run = Run("03_stamp", {"output_dir": str(folder)}, describe(data), device)
    model = stamp.STAMP(
        N_ITEMS, D, 5, scale=9.0, dropout=0.2, neighbours=3, positions=True
    )
    model.adapt(some)
    trained.keep(run, model, IDS)
    fit(model, some, Schedule(16, epochs=2), device, run, verbose=False)
    return model, run.folder


def test_a_kept_model_is_loaded_with_its_neighbours_and_positions(kept):
    model, folder = kept
    loaded = trained.load(folder).model
    assert np.any(model.position_vectors)
    windows, _ = model.example_reader(drawn_sessions())(np.arange(30))
    np.testing.assert_array_equal(loaded(windows), model(windows))
    np.testing.assert_array_equal(loaded.neighbour_items, model.neighbour_items)


def test_recommendations_and_exports_are_those_of_the_model(kept, tmp_path):
    model, folder = kept
    ours, session = trained.load(folder), [2, 5, 5, 9]
    scores = np.asarray(model(np.array([[0, *session]], np.int32)))[0]
    expected = IDS[np.argsort(-scores)[:4]].tolist()
    asked = IDS[np.array(session) - 1]
    assert recommend.recommend(ours, asked, 4).ids == expected
    module = tf.saved_model.load(str(export.save(ours, tmp_path / "stamp")))
    answer = module.recommend(
        tf.constant(asked), tf.constant([4]), tf.constant(False), tf.constant(4)
    )
    assert answer["ids"].numpy()[0].tolist() == expected
    np.testing.assert_allclose(
        answer["scores"].numpy()[0], np.sort(scores)[::-1][:4], rtol=1e-5
    )


def test_onnxruntime_ranks_as_a_model_with_neighbours_and_positions(kept, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model, folder = kept
    path = export.save_onnx(trained.load(folder), tmp_path / "stamp.onnx", k=7)
    engine = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    windows, _ = model.example_reader(drawn_sessions())(np.arange(60))
    numbers, scores = engine.run(["numbers", "scores"], {"windows": windows})
    expected = np.asarray(model(windows))
    order = np.argsort(-expected, axis=1, kind="stable")[:, :7]
    np.testing.assert_array_equal(numbers, order + 1)
    own = np.take_along_axis(expected, order, 1)
    np.testing.assert_allclose(scores, own, rtol=1e-4, atol=1e-4)


def test_the_shown_attention_is_that_of_the_model(kept):
    model, folder = kept
    session = np.array([2, 5, 9])
    _, found = recommend.attention(trained.load(folder), IDS[session - 1])
    x, mask = stamp.look_up(model.vectors(), session[None], model.scale)
    weights = model.named_weights
    expected = stamp.attend(weights, x, mask, tf.reduce_mean(x, 1), x[:, -1])
    np.testing.assert_allclose(found, expected[0, :, 0], rtol=1e-6)
    assert len({round(float(a), 6) for a in found}) == 3


def test_another_catalogue_keeps_positions_and_needs_neighbours_of_its_own(kept):
    model, folder = kept
    carried, _ = transfer.carry_over(trained.load(folder), IDS[2:])
    np.testing.assert_array_equal(carried.position_vectors, model.position_vectors)
    with pytest.raises(InputError, match="call its adapt"):
        carried(np.array([[1, 2]], np.int32))
    carried.adapt(examples([1, 2, 3], [2, 3]))
    assert np.isfinite(carried(np.array([[0, 0, 0, 1, 2]], np.int32))).all()


def test_blending_ranks_by_the_weighted_shares_of_network_and_baseline(kept):
    model, _ = kept
    some = drawn_sessions(20, seed=5)
    knn = session_baselines.DecayedSessionKnn().fit(drawn_sessions(), N_ITEMS)
    found = stamp.blend_ranks(model, knn, some, (0, 0.3, 1, 0.0), batch_size=7)
    for k in range(len(some)):
        window = np.zeros((1, 5), np.int32)
        clicks = some.prefix(k)[-5:]
        window[0, 5 - len(clicks) :] = clicks
        scores = np.asarray(model(window))[0].astype(np.float64)
        p = np.exp(scores - scores.max())
        votes = knn.scores([some.prefix(k)])[0]
        p = 0.7 * p / p.sum() + 0.3 * votes / max(votes.sum(), 1e-9)
        rank = metrics.ranks(p[None], some.targets[k : k + 1] - 1)[0]
        assert found[0.3][k] == rank
    alone = metrics.ranking_metrics(found[0], 3)
    assert alone == pytest.approx(stamp.evaluate(model, some, 3))
    voted = metrics.ranking_metrics(found[1], 3)
    assert voted == pytest.approx(session_baselines.evaluate(knn, some, 3))


@pytest.mark.parametrize("options", [{}, {"neighbours": 3, "positions": True}])
def test_the_search_computes_what_stamp_does_from_the_rows_of_a_batch(options):
    model = search_stamp.SampledSTAMP(N_ITEMS, 0.0, embed_dim=D, maxlen=5, **options)
    model.adapt(drawn_sessions())
    windows, targets = model.example_reader(drawn_sessions())(np.arange(30))
    query = model(windows, training=True)
    np.testing.assert_allclose(query, model.query(windows), rtol=1e-5, atol=1e-6)
    found = np.mean(model.training_loss(targets, query))
    # 4,096 draws of twelve items are nearly the softmax over all of them
    exact = np.mean(stamp.STAMP.log_loss(model, windows, targets))
    assert found == pytest.approx(exact, abs=0.02)
