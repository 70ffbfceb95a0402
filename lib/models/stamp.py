"""STAMP: Short-Term Attention/Memory Priority (Liu et al., KDD 2018)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from lib import progress
from lib.data.examples import Examples
from lib.errors import LARGEST, InputError, check_choice, check_number, check_whole
from lib.evaluation import metrics
from lib.evaluation.session_baselines import Baseline
from lib.hardware import ascend
from lib.hardware.tensorflow import tf, without_notes
from lib.models import softmax

PARTS = {  # parts of the model and the names of their weights
    "items": ("embedding",),
    "attention": ("w0", "w1", "w2", "w3", "b", "position_vectors"),
    "layers": ("kernel_s", "bias_s", "kernel_t", "bias_t"),
}
VARIANTS = ("paper", "stmp", "normalized")
STDDEV = 0.05  # of the initial weights
RANDOM = ("embedding", "w0", "w1", "w2", "w3", "kernel_s", "kernel_t")  # others are 0
SEEDS = {name: number for number, name in enumerate(RANDOM, 1)}
DECAY = 0.6  # of the positions at the start, for each click back
FARTHEST = 3  # clicks between two co-clicked items, at most

Weights = Mapping[str, tf.Variable]  # by the names in PARTS
Reader = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class STAMP(tf.keras.Model):
    """Predicts the next item of a session from a window of its last clicks.

    With ``x_i`` the vectors of the real clicks, ``m_t`` the last one and ``m_s`` their
    mean (equation numbers of the paper)::

        a_i = W0 sigmoid(W1 x_i + W2 m_t + W3 m_s + b)        (7)
        m_a = sum_i a_i x_i + m_s                             (8), authors' code
        h_s = tanh(W_s m_a + b_s),  h_t = tanh(W_t m_t + b_t)
        score of item j = <h_s * h_t, x_j>                    (2), without its sigmoid

    The paper's (8) has no ``+ m_s``; the code behind its numbers has. Scores are one
    matrix product ``(h_s * h_t) X'``. Padding (0) takes no part in any of it and has no
    row in ``X``: item number ``i`` is row ``i - 1``.

    With a ``scale``, item vectors and ``h_s * h_t`` are normalised to length 1 and a
    score is their cosine times the scale, so that the length of an item's vector cannot
    encode its popularity (NISER, Gupta et al. 2019, equations 6 and 7; there for a
    graph network).

    With ``neighbours``, an item's vector is ``x_i`` plus the weighted mean of the
    vectors of the items that training sessions click with it most, see
    ``find_neighbours``, everywhere above, and before it is normalised: ``X + A X`` with
    a fixed sparse ``A``. With ``positions``, equation 7 has one more term inside its
    sigmoid, a vector for each position of the window, counted from the last click. At
    the start it is ``0.6^k sign(W0)``, ``k`` clicks before the last one: ``a_i`` falls
    with the distance. From 0, some trainings end with less weight on the last click
    than on the one before it, and at a lower hit rate.

    Args:
        n_items: size of the catalogue.
        embed_dim: length of an item's vector.
        maxlen: width of the window, in clicks.
        attention: False gives STMP, the paper's variant without attention
            (``m_a = m_s``).
        scale: of cosine scores; 0 leaves the vectors as they are.
        dropout: share of the entries of the clicks' vectors that a training step sets
            to 0.
        matmul_dtype: type of the inputs of the training loss's matrix products. Ranking
            scores are always float32: 16-bit rounding creates ties, which lower the
            rank of the best item.
        seed: of the initial weights and of the dropout.
        frozen: names in ``PARTS`` of the parts that are not trained.
        neighbours: how many neighbours an item has; 0 leaves items alone. Such a model
            needs ``adapt`` before it can do anything.
        positions: True adds the vectors of positions to the attention.

    Raises:
        InputError: an argument has a value that is not allowed.

    Attributes:
        rank: number of this worker, 0 unless several train together; each rank draws
            other dropout masks.

    Inputs:
        int32 ``(batch, maxlen)``, item numbers, oldest first, padded with 0; at least
        one click a row.

    Returns:
        float32 ``(batch, n_items)``, unnormalised scores; column ``j`` is item
        ``j + 1``. In training, the queries ``(batch, d)`` alone:
        ``compile(loss=model.training_loss)`` multiplies them with the items itself.
    """

    def __init__(
        self,
        n_items: int,
        embed_dim: int = 100,
        maxlen: int = 19,
        attention: bool = True,
        scale: float = 0.0,
        dropout: float = 0.0,
        matmul_dtype: str = "float32",
        seed: int = 0,
        frozen: Sequence[str] = (),
        neighbours: int = 0,
        positions: bool = False,
    ) -> None:
        super().__init__()
        for part in frozen:
            check_choice("frozen", part, PARTS)
        check_whole("embed_dim", embed_dim)
        check_whole("maxlen", maxlen)
        check_number("dropout", dropout, 0 <= dropout < 1, "from 0 to below 1")
        allowed = f"from 0 to {LARGEST:g}"
        check_number("scale", scale, 0 <= scale <= LARGEST, allowed)
        if neighbours:
            check_whole("neighbours", neighbours)
        if positions and not attention:
            raise InputError("positions=True is a part of the attention: switch it on.")
        self.neighbours, self.positions = neighbours, positions
        self.n_items, self.embed_dim, self.maxlen = n_items, embed_dim, maxlen
        self.attention, self.scale, self.dropout = attention, scale, dropout
        self.matmul_dtype, self.seed, self.frozen = matmul_dtype, seed, frozen
        self.rank = 0

    def build(self, input_shape: object) -> None:
        """Makes the weights that the switches of the model need."""
        d, square = self.embed_dim, (self.embed_dim, self.embed_dim)
        shapes: dict[str, tuple] = {"embedding": (self.n_items, d)}
        if self.attention:
            shapes.update(w0=(d, 1), w1=square, w2=square, w3=square, b=(d,))
        if self.positions:
            shapes["position_vectors"] = (self.maxlen, d)
        shapes.update(kernel_s=square, bias_s=(d,), kernel_t=square, bias_t=(d,))
        for name, shape in shapes.items():
            setattr(
                self, name, self.add_weight(**self.weight_options(name), shape=shape)
            )
        if self.dropout:  # a variable: a checkpoint holds it, so a resumed run
            first = tf.VariableAggregation.ONLY_FIRST_REPLICA  # draws the same masks
            self.step = tf.Variable(0, trainable=False, aggregation=first)
        if self.neighbours:  # variables: a checkpoint holds them
            self.supports_jit = False  # XLA has no sparse products
            size, nan = (self.n_items, self.neighbours), float("nan")
            self.neighbour_items = tf.Variable(tf.zeros(size, tf.int32), False)
            self.neighbour_weights = tf.Variable(tf.fill(size, nan), False)
        self.built = True

    def weight_options(self, name: str) -> dict[str, Any]:
        """The arguments of ``add_weight`` for a weight, without its shape."""
        initializer: Any = "zeros"
        if name in SEEDS:
            seed = 100 * self.seed + SEEDS[name]
            initializer = tf.keras.initializers.RandomNormal(stddev=STDDEV, seed=seed)
        if name == "position_vectors":
            initializer = self._start_positions
        is_frozen = any(name in PARTS[part] for part in self.frozen)
        return {"name": name, "initializer": initializer, "trainable": not is_frozen}

    def _start_positions(self, shape: Any, **_: object) -> tf.Tensor:
        """``0.6^k sign(W0)``, ``k`` clicks before the last one: ``(maxlen, d)``."""
        w0 = self.weight_options("w0")["initializer"]((self.embed_dim, 1))
        distance = tf.cast(tf.range(shape[0])[::-1], tf.float32)
        return (DECAY**distance)[:, None] * tf.sign(w0[:, 0])

    def adapt(self, examples: Examples) -> None:
        """Makes the weights, and finds the items' neighbours in training sessions."""
        if not self.built:
            self.build(None)
        if self.neighbours:
            found = find_neighbours(examples, self.n_items, self.neighbours)
            self.neighbour_items.assign(found[0])
            self.neighbour_weights.assign(found[1])

    def _check_adapted(self) -> None:
        if self.neighbours and not (
            self.built and np.isfinite(self.neighbour_weights[0, 0])
        ):
            raise InputError(
                f"neighbours={self.neighbours}: the model has no neighbours yet: call "
                "its adapt(examples) with the training part first."
            )

    @property
    def named_weights(self) -> dict[str, tf.Variable]:
        """The weights that the model has, by their names in ``PARTS``."""
        names = [name for part in PARTS.values() for name in part]
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    def vectors(self) -> tf.Tensor:
        """The vectors of all items with their neighbours' part: ``(n_items, d)``."""
        vectors = tf.convert_to_tensor(self.embedding)
        if not self.neighbours:
            return vectors
        if tf.executing_eagerly():
            self._check_adapted()
        return add_neighbours(vectors, self.neighbour_items, self.neighbour_weights)

    def items(self, vectors: tf.Tensor | None = None) -> tf.Tensor:
        """The vectors of all items, of length 1 with a ``scale``: ``(n_items, d)``.

        Args:
            vectors: the result of ``self.vectors()``, if the caller has it.
        """
        items = self.vectors() if vectors is None else vectors
        return tf.math.l2_normalize(items, axis=1) if self.scale else items

    def drop(self, x: tf.Tensor) -> tf.Tensor:
        """Sets a share of the entries to 0 and scales the rest up to keep the mean."""
        seed = self.seed + 2**20 * self.rank
        key = tf.stack([seed, tf.convert_to_tensor(self.step)])
        self.step.assign_add(1)
        is_kept = tf.random.stateless_uniform(tf.shape(x), key) >= self.dropout
        return x * tf.cast(is_kept, x.dtype) / (1 - self.dropout)

    def query(
        self,
        windows: tf.Tensor,
        training: bool = False,
        vectors: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """See the function ``query``; dropout in training only.

        ``vectors`` are those of the items with their neighbours, if they are known.
        """
        drop = self.drop if training and self.dropout else None
        weights = self.named_weights
        if self.neighbours:
            weights["embedding"] = self.vectors() if vectors is None else vectors
        return query(weights, windows, self.scale, drop)

    def scores(self, query: tf.Tensor, vectors: tf.Tensor | None = None) -> tf.Tensor:
        """Scores of every item for each query: float32 ``(batch, n_items)``."""
        return tf.matmul(query, self.items(vectors), transpose_b=True)

    def call(self, windows: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Scores of all items; in training, the queries that the loss takes.

        Args:
            windows: int ``(batch, maxlen)``, item numbers; 0 is padding, on the left.
            training: whether to drop entries, and to return queries.

        Returns:
            float32 ``(batch, n_items)``; in training ``(batch, d)``.
        """
        vectors = self.vectors() if self.neighbours else None  # once for both
        query = self.query(windows, training, vectors)
        if not training:
            return self.scores(query, vectors)
        self.__dict__["_last"] = query, vectors
        return query

    def training_loss(self, targets: tf.Tensor, query: tf.Tensor) -> tf.Tensor:
        """The cross-entropy of queries, in nats, see ``softmax``: ``(batch,)``."""
        last, vectors = self.__dict__.pop("_last", (None, None))
        items = self.items(vectors if last is query else None)
        return softmax.fused_cross_entropy(targets, query, items, self.matmul_dtype)

    def example_reader(self, examples: Examples) -> Reader:
        """Returns a function that reads a batch of examples.

        Args:
            examples: a part of ``lib.data.sessions.Sessions``; items are numbered
                from 1.

        Returns:
            ``read(index) -> (windows, targets)`` for an int ``(batch,)`` of example
            numbers: int32 ``(batch, maxlen)``, as the model takes them, and the columns
            of the next items, int32 ``(batch,)``.
        """
        self._check_adapted()

        def read(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            windows, targets = examples.windows(index, self.maxlen)
            return windows, targets - 1

        return read

    def ranks(self, windows: tf.Tensor, targets: tf.Tensor) -> np.ndarray:
        """Ranks of the targets as ``metrics.ranks`` counts them: float64 ``(batch,)``.

        With ``n`` items the mean rank of a tie is half of ``n + 1`` plus the balance. A
        NaN puts the target last.
        """
        balance = self.balance(windows, targets).numpy()
        return np.minimum((self.n_items + 1 + balance) / 2, self.n_items)

    @tf.function(autograph=False)
    def balance(self, windows: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """How many more scores are higher than the target's than lower: int32 (batch,).

        An NPU may lower a float32 sum to float16, which is exact up to 2,048 only:
        there whole numbers are summed, in two passes instead of one.
        """
        scores = self(windows)
        own = tf.gather(scores, targets, axis=1, batch_dims=1)[:, None]
        if ascend.is_open():
            masks = scores <= own, scores < own  # neither holds for a NaN
            return self.n_items - sum(
                tf.reduce_sum(tf.cast(mask, tf.int32), 1) for mask in masks
            )
        total = tf.reduce_sum(tf.sign(scores - own), axis=1)
        last = tf.cast(self.n_items, tf.float32)
        return tf.cast(tf.where(tf.math.is_nan(total), last, total), tf.int32)

    @tf.function(autograph=False)
    def probabilities(self, windows: tf.Tensor) -> tf.Tensor:
        """The softmax of the scores, without dropout: float32 ``(batch, n_items)``."""
        return tf.nn.softmax(STAMP.call(self, windows))

    @tf.function(autograph=False)
    def log_loss(self, windows: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Cross-entropy of each target, without dropout, in float32: ``(batch,)``."""
        scores = STAMP.call(self, windows)  # the ports' outputs are a softmax
        own = tf.gather(scores, targets, axis=1, batch_dims=1)
        return tf.reduce_logsumexp(scores, axis=1) - own


def choose_variant(variant: str, scale: float) -> dict[str, Any]:
    """Returns the arguments of ``STAMP`` that make a variant.

    Args:
        variant: ``"paper"``; ``"stmp"``, without attention; or ``"normalized"``, with
            cosine scores.
        scale: of the cosine scores; not used by the other variants.

    Raises:
        InputError: an unknown variant, or cosine scores without a scale above 0.
    """
    check_choice("variant", variant, VARIANTS)
    if variant == "normalized":
        allowed = f"above 0, up to {LARGEST:g}"
        check_number("scale", scale, 0 < scale <= LARGEST, allowed)
        return {"attention": True, "scale": scale}
    return {"attention": variant != "stmp", "scale": 0.0}


def find_neighbours(
    examples: Examples, n_items: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the items that are clicked most often near each item.

    Two clicks of a session at a distance ``h`` of 1 to ``FARTHEST`` add ``1 / h`` to
    each other's items; an item is no neighbour of itself.

    Args:
        examples: the training part.
        n_items: size of the catalogue.
        k: neighbours of an item, the strongest ones; ties go to the lower number.

    Returns:
        ``(columns, weights)``, int32 and float32 ``(n_items, k)``, strongest first. The
        weights of an item sum to 1; places without a neighbour have column and weight
        0.
    """
    items = examples.items - 1
    session = np.repeat(np.arange(examples.n_sessions), np.diff(examples.offsets))
    total = sparse.csr_matrix((n_items, n_items), dtype=np.float32)
    for h in range(1, FARTHEST + 1):
        near = (session[h:] == session[:-h]) & (items[h:] != items[:-h])
        pairs = items[:-h][near], items[h:][near]
        weights = np.full(len(pairs[0]), 1 / h, np.float32)
        total += sparse.csr_matrix((weights, pairs), total.shape)
    total = (total + total.T).tocoo()
    order = np.lexsort([total.col, -total.data, total.row])
    row = total.row[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)  # among those of its row
    is_near = place < k
    row, place, order = row[is_near], place[is_near], order[is_near]
    columns = np.zeros((n_items, k), np.int32)
    weights = np.zeros((n_items, k), np.float32)
    columns[row, place], weights[row, place] = total.col[order], total.data[order]
    sums = weights.sum(axis=1, keepdims=True)
    return columns, weights / np.where(sums > 0, sums, 1)


def add_neighbours(x: tf.Tensor, columns: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Computes ``X + A X``, with ``A`` from ``find_neighbours``.

    The sparse product takes about 20 ms for 43,097 items, five neighbours and 100
    dimensions on one core, forward as well as backward, a third of what gathering the
    rows takes. An NPU has no sparse matrices and gathers.

    Args:
        x: float32 ``(n_items, d)``.
        columns, weights: int32 and float32 ``(n_items, k)``.

    Returns:
        float32 ``(n_items, d)``.
    """
    if ascend.is_open():
        neighbours = tf.gather(x, columns)  # (n_items, k, d)
        return x + tf.reduce_sum(weights[:, :, None] * neighbours, 1)

    def sparse_matrix() -> tf.Tensor:
        n, k = columns.shape
        row = tf.repeat(tf.range(n, dtype=tf.int64), k)
        places = tf.stack([row, tf.cast(tf.reshape(columns, [-1]), tf.int64)], 1)
        return tf.raw_ops.SparseTensorToCSRSparseMatrix(
            indices=places, values=tf.reshape(weights, [-1]), dense_shape=[n, n]
        )

    @tf.custom_gradient
    def compute(x: tf.Tensor) -> tuple:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            a = tf.raw_ops.SparseMatrixTranspose(input=sparse_matrix(), type=tf.float32)
            return upstream + tf.raw_ops.SparseMatrixMatMul(a=a, b=upstream)

        return x + tf.raw_ops.SparseMatrixMatMul(a=sparse_matrix(), b=x), gradient

    return compute(x)


def look_up(
    embedding: tf.Tensor, windows: tf.Tensor, scale: float = 0.0
) -> tuple[tf.Tensor, tf.Tensor]:
    """Looks up the vectors of the clicks in windows.

    Args:
        embedding: float32 ``(n_items, d)``, or a variable.
        windows: int32 ``(batch, maxlen)``, padded with 0.
        scale: unless it is 0, vectors are normalised to length 1.

    Returns:
        ``(x, mask)``: the vectors ``(batch, maxlen, d)``, 0 for padding, and float32
        ``(batch, maxlen, 1)``, 1 for a click and 0 for padding.
    """
    mask = tf.cast(windows > 0, tf.float32)[:, :, None]
    x = tf.gather(embedding, tf.maximum(windows - 1, 0))
    if scale:
        x = tf.math.l2_normalize(x, axis=2)
    return x * mask, mask


def attend(
    weights: Weights, x: tf.Tensor, mask: tf.Tensor, m_s: tf.Tensor, m_t: tf.Tensor
) -> tf.Tensor:
    """Attention weights ``a_i`` (equation 7), 0 for padding: ``(batch, maxlen, 1)``.

    Args:
        weights: of the part ``attention``.
        x, mask: as ``look_up`` returns them; a mask of 1.0 masks nothing.
        m_s, m_t: ``(batch, d)``, mean and last click.
    """
    window_term = tf.matmul(m_t, weights["w2"]) + tf.matmul(m_s, weights["w3"])
    window_term += weights["b"]
    hidden = tf.matmul(x, weights["w1"]) + window_term[:, None, :]
    if "position_vectors" in weights:  # the last ones, for a narrower window
        hidden += weights["position_vectors"][-x.shape[1] :]
    hidden = tf.sigmoid(hidden)
    return tf.matmul(hidden, weights["w0"]) * mask


def combine(weights: Weights, m_a: tf.Tensor, m_t: tf.Tensor) -> tf.Tensor:
    """``h_s * h_t`` of the part ``layers``: ``(batch, d)``."""
    h_s = tf.tanh(tf.matmul(m_a, weights["kernel_s"]) + weights["bias_s"])
    h_t = tf.tanh(tf.matmul(m_t, weights["kernel_t"]) + weights["bias_t"])
    return h_s * h_t


def query(
    weights: Weights,
    windows: tf.Tensor,
    scale: float = 0.0,
    drop: Callable | None = None,
) -> tf.Tensor:
    """Computes ``h_s * h_t``, the vector whose product with an item is its score.

    Args:
        weights: of the whole model; without those of ``attention`` it is STMP.
        windows: int32 ``(batch, maxlen)``, padded with 0.
        scale: of cosine scores; 0 leaves the vectors as they are.
        drop: dropout, applied to the clicks' vectors.

    Returns:
        float32 ``(batch, d)``; of length ``scale`` unless that is 0.
    """
    x, mask = look_up(weights["embedding"], windows, scale)
    if drop:
        x = drop(x)
    m_s = tf.reduce_sum(x, 1) / tf.reduce_sum(mask, 1)  # (batch, d)
    m_t = x[:, -1, :]  # (batch, d)
    m_a = m_s
    if "w0" in weights:
        m_a = tf.reduce_sum(attend(weights, x, mask, m_s, m_t) * x, 1) + m_s
    h = combine(weights, m_a, m_t)
    return scale * tf.math.l2_normalize(h, axis=1) if scale else h


def evaluate(
    model: STAMP,
    examples: Examples,
    k: int | Sequence[int] = 20,
    batch_size: int = 256,
) -> dict[str, float]:
    """Measures HR@k and MRR@k of every example against the whole catalogue.

    Works in batches, on the device, without sorting and without a (tests x items)
    matrix. ``k`` is one cut-off or several.

    Returns:
        ``{"hr_at_<k>": ..., "mrr_at_<k>": ...}``.
    """
    return metrics.ranking_metrics(
        _map_examples(model.ranks, model, examples, batch_size), k
    )


def blend_ranks(
    model: STAMP,
    baseline: Baseline,
    examples: Examples,
    weights: Sequence[float],
    batch_size: int = 256,
) -> dict[float, np.ndarray]:
    """Ranks the targets by a network and a baseline together.

    An item's score is ``(1 - w) p + w v``, with ``p`` the softmax of the network's
    scores and ``v`` the item's share of the baseline's scores, all of them 0 or more.

    Args:
        model: a trained ``STAMP``.
        baseline: a fitted baseline, such as ``session_baselines.DecayedSessionKnn``.
        examples: the examples to rank.
        weights: values of ``w``, from 0, the network alone, to 1, the baseline alone.
        batch_size: examples at once.

    Returns:
        ``{w: ranks}``, as ``metrics.ranks`` returns them: float64 ``(n_examples,)``.
    """
    ranks: dict[float, list[np.ndarray]] = {weight: [] for weight in weights}
    for index, windows, targets in _batches(model, examples, batch_size):
        votes = baseline.scores(examples.prefixes(index))
        total = votes.sum(axis=1, keepdims=True)
        share = votes / np.where(total > 0, total, 1)
        network = model.probabilities(windows).numpy()[: len(index)]
        for weight in ranks:
            scores = (1 - weight) * network + weight * share
            ranks[weight].append(metrics.ranks(scores, targets[: len(index)]))
    return {weight: np.concatenate(parts) for weight, parts in ranks.items()}


def validate(
    model: STAMP, examples: Examples | None, batch_size: int = 256
) -> dict[str, float]:
    """Measures ``val_loss``, the loss of examples as Keras' ``model.evaluate`` does.

    That is the mean cross-entropy, without dropout, plus the penalties on the weights
    at this moment: ``published.STAMP`` has them unless that fix is on, ``STAMP`` has
    none.

    Args:
        model: a ``STAMP``.
        examples: such as ``Sessions.held_out``, or None.
        batch_size: as in ``evaluate``.

    Returns:
        ``{"val_loss": nats}``; empty without examples.
    """
    if examples is None or not len(examples):
        return {}
    losses = _map_examples(model.log_loss, model, examples, batch_size)
    penalty = sum(float(loss) for loss in model.losses)
    return {"val_loss": float(losses.mean(dtype=np.float64)) + penalty}


def _map_examples(
    function: Callable, model: STAMP, examples: Examples, batch_size: int
) -> np.ndarray:
    """``function(windows, targets)`` of all examples."""
    with without_notes():  # TensorFlow warns of the traces of many small networks
        results = [
            np.asarray(function(windows, targets))[: len(index)]
            for index, windows, targets in _batches(model, examples, batch_size)
        ]
    return np.concatenate(results)


def _batches(
    model: STAMP, examples: Examples, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields numbers of examples, their windows and targets, in batches of one shape.

    The last windows and targets repeat the last example.
    """
    read, n = model.example_reader(examples), len(examples)
    for first in progress.track(range(0, n, batch_size), "evaluation"):
        index = np.minimum(np.arange(first, first + batch_size), n - 1)
        yield index[: n - first], *read(index)
