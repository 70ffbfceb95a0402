"""The two published Ascend ports, with their defects.

Settings of the publication, for a ``Schedule``:

STAMP: ``sessions.load(..., "file", "modelzoo")``, windows of 8 clicks, rate 0.005, 30
epochs of 50 batches of 128.

MF: ``by_raw_id(ratings.load(..., split="modelzoo"))``, rate 0.001, 100 epochs of
batches of 512 with ``reshuffle=False``.

Both take ``fixes``, the names of defects to fix, as in ``"mask, m_s"``. Defects of the
data (order, split) are fixed by the arguments that load them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from lib.data.examples import Examples
from lib.data.ratings import Part, Ratings, means
from lib.errors import check_choice
from lib.hardware.tensorflow import tf
from lib.models import mf, softmax, stamp

PENALTY = 1e-4  # on the sum of squares of a whole table, at every step
START = 0.05  # half-width of the uniform, standard deviation of the normal weights
STAMP_FIXES = ("mask", "m_s", "logits", "penalty")
MF_FIXES = ("biases", "means", "penalty")


class STAMP(stamp.STAMP):
    """STAMP as the port computes it; see ``stamp.STAMP`` for the symbols.

    The differences: the model numbers items from 0 and pads with 0, so padding is item
    0 and takes part in the mean and the attention like any click;
    ``m_a = sum_i a_i x_i`` without ``+ m_s``; the output is the softmax of the scores;
    the embedding, ``W0`` to ``W3`` and ``b`` pay a penalty of ``1e-4`` times the sum of
    their squares at every step.

    Fixes: ``"mask"`` excludes padding from the mean and the attention; the model then
    numbers items from 1. ``"m_s"`` adds ``+ m_s`` to ``m_a``. ``"logits"`` returns
    scores, and trains on them as ``stamp.STAMP`` does. ``"penalty"`` removes the
    penalty.

    The loss, Keras' sparse categorical cross-entropy, recognises in a compiled graph
    that probabilities come from a softmax and uses its input, so ``fit`` trains on the
    exact cross-entropy. Outside a graph it gets numbers alone and clips them to
    ``[1e-7, 1 - 1e-7]``. The two are equal until a probability is below 1e-7.

    Args:
        n_items, embed_dim, maxlen: see ``stamp.STAMP``.
        fixes: names in ``STAMP_FIXES``.
        **options: ``matmul_dtype, seed`` of ``stamp.STAMP``.

    Inputs:
        int32 ``(batch, maxlen)``, item numbers from 0, oldest first, padded with 0.

    Returns:
        float32 ``(batch, n_items)``, probabilities; column ``j`` is item ``j``.
    """

    def __init__(
        self,
        n_items: int,
        embed_dim: int = 100,
        maxlen: int = 8,
        fixes: str = "",
        **options: Any,
    ) -> None:
        super().__init__(n_items, embed_dim, maxlen, **options)
        self.fixes = _parse_fixes(fixes, STAMP_FIXES)

    def weight_options(self, name: str) -> dict[str, Any]:
        """See ``stamp.STAMP``; all weights but those of ``layers`` pay the penalty."""
        start, options = tf.keras.initializers, super().weight_options(name)
        seed = 100 * self.seed + stamp.SEEDS.get(name, 0)
        if name == "embedding":
            options["initializer"] = start.RandomUniform(-START, START, seed=seed)
        elif name == "b":
            options["initializer"] = start.RandomNormal(stddev=START, seed=seed)
        elif name.startswith("kernel"):
            options["initializer"] = start.GlorotUniform(seed)
        if "penalty" not in self.fixes and name not in stamp.PARTS["layers"]:
            options["regularizer"] = tf.keras.regularizers.l2(PENALTY)
        return options

    def query(
        self, windows: tf.Tensor, training: bool = False, vectors: None = None
    ) -> tf.Tensor:
        """``h_s * h_t`` as the port and the fixes compute it: ``(batch, d)``."""
        if "mask" in self.fixes:
            x, mask = stamp.look_up(self.embedding, windows)
            m_s = tf.reduce_sum(x, 1) / tf.reduce_sum(mask, 1)  # (batch, d)
        else:
            x, mask = tf.gather(self.embedding, windows), 1.0  # padding is item 0
            m_s = tf.reduce_mean(x, 1)
        weights, m_t = self.named_weights, x[:, -1, :]
        m_a = tf.reduce_sum(stamp.attend(weights, x, mask, m_s, m_t) * x, 1)
        if "m_s" in self.fixes:
            m_a += m_s
        return stamp.combine(weights, m_a, m_t)

    def call(self, windows: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Probabilities of all items: float32 ``(batch, n_items)``.

        With the fix ``"logits"``, what ``stamp.STAMP`` returns.
        """
        if "logits" in self.fixes:
            return super().call(windows, training)
        query = self.query(windows)
        dtype = self.matmul_dtype if training else "float32"
        product = softmax.matrix_product(query, self.items(), dtype, transpose_b=True)
        return tf.nn.softmax(product)

    def training_loss(self, targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        """The cross-entropy of the outputs of ``call`` in training: ``(batch,)``."""
        if "logits" in self.fixes:
            return super().training_loss(targets, outputs)
        return tf.keras.losses.sparse_categorical_crossentropy(targets, outputs)

    def example_reader(self, examples: Examples) -> stamp.Reader:
        """See ``stamp.STAMP``; the windows are numbered as this model numbers items."""
        read = super().example_reader(examples)
        if "mask" in self.fixes:
            return read

        def read_from_0(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            windows, targets = read(index)
            return np.maximum(windows - 1, 0), targets  # padding becomes item 0

        return read_from_0


class MF(mf.MF):
    """MF as the port computes it: a rating is ``<p_u, q_i>``, without biases.

    There are bias tables, but the switch that should use them reaches another argument,
    so they are neither used nor trained. All four tables pay a penalty of ``1e-4``
    times the sum of their squares at every step, with all rows, not only those of the
    batch; for the biases this is a constant in the loss. Predictions are not clipped to
    the scale.

    Fixes: ``"biases"`` predicts ``mean_u + b_u + b_i + <p_u, q_i>``, as the port
    intends; ``"means"`` takes the user means from the training part, see ``by_raw_id``;
    ``"penalty"`` penalises the rows of the batch's ratings, as in ``mf.MF``, with
    ``regularization`` for each.

    Args:
        n_users, n_items, latent_dim: see ``mf.MF``.
        fixes: names in ``MF_FIXES``.
        user_mean: float32 ``(n_users,)``, for ``"biases"``.
        **options: ``regularization, matmul_dtype, seed`` of ``mf.MF``.
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        latent_dim: int = 32,
        fixes: str = "",
        user_mean: np.ndarray | None = None,
        **options: Any,
    ) -> None:
        super().__init__(n_users, n_items, 0.0, latent_dim, **options)
        self.fixes = _parse_fixes(fixes, MF_FIXES)
        if "biases" in self.fixes:
            self.user_mean = tf.constant(user_mean, tf.float32)[:, None]

    def build(self, input_shape: object) -> None:
        """Makes four tables of small normal numbers; the biases train if fixed."""
        d = self.latent_dim
        shapes = {"p": (self.n_users, d), "q": (self.n_items, d)}
        shapes.update(user_bias=(self.n_users, 1), item_bias=(self.n_items, 1))
        for number, (name, shape) in enumerate(shapes.items(), 100 * self.seed + 1):
            table = self.add_weight(
                name=name,
                shape=shape,
                initializer=tf.keras.initializers.RandomNormal(0, START, number),
                trainable=name in ("p", "q") or "biases" in self.fixes,
            )
            setattr(self, name, table)
        self.built = True

    def call(self, pairs: tf.Tensor) -> tf.Tensor:
        """Ratings of pairs, as ``mf.MF`` returns them: ``(batch, 1)``, in stars."""
        user, item = pairs[:, 0], pairs[:, 1]
        rows = [tf.gather(self.p, user), tf.gather(self.q, item)]  # (batch, dim)
        p, q = (tf.cast(row, self.matmul_dtype) for row in rows)
        rating = tf.reduce_sum(tf.cast(p * q, tf.float32), 1, keepdims=True)
        if "biases" in self.fixes:
            rows += [tf.gather(self.user_bias, user), tf.gather(self.item_bias, item)]
            rating += tf.gather(self.user_mean, user) + rows[2] + rows[3]
        if "penalty" in self.fixes:
            squares = tf.add_n([tf.reduce_sum(row * row, 1) for row in rows])
            self.add_loss(self.regularization * tf.reduce_mean(squares))
            return rating
        # No regularizer: Keras 3 ignores those of weights that are not trained.
        for table in (self.p, self.q, self.user_bias, self.item_bias):
            self.add_loss(2 * PENALTY * tf.nn.l2_loss(table))
        return rating

    @tf.function(autograph=False)
    def stars(self, pairs: tf.Tensor) -> tf.Tensor:
        """Ratings of pairs, not clipped to the scale: float32 ``(batch,)``."""
        return self(pairs)[:, 0]


def _parse_fixes(fixes: str, allowed: tuple[str, ...]) -> frozenset[str]:
    names = fixes.replace(",", " ").split()
    for name in names:
        check_choice("fix", name, allowed)
    return frozenset(names)


def by_raw_id(data: Ratings, fixes: str = "") -> Ratings:
    """Numbers users and items by their raw ids, as the port does.

    ``n_users`` and ``n_items`` become the highest id + 1. A number without a user or
    item gets the global mean as its user mean, and its row of a table only adds to the
    penalty. The fix ``"means"`` takes user means over the training part alone.
    """
    users, items = data.user_ids, data.item_ids
    user_mean = np.full(users.max() + 1, data.global_mean, np.float32)
    no_leak = "means" in _parse_fixes(fixes, MF_FIXES)
    user_mean[users] = means(data.train, data.n_users)[1] if no_leak else data.user_mean

    def renumber(part: Part) -> Part:
        user_idx = users[part.user_idx].astype(np.int32)
        item_idx = items[part.item_idx].astype(np.int32)
        return replace(part, user_idx=user_idx, item_idx=item_idx)

    return replace(
        data,
        train=renumber(data.train),
        test=renumber(data.test),
        user_ids=np.arange(users.max() + 1),
        item_ids=np.arange(items.max() + 1),
        user_mean=user_mean,
    )
