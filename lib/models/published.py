"""The two published Ascend ports as they behave, what is odd in them included.

Run as published, with ``optimizers.adam`` and ``fit``:

STAMP: ``sessions.load(..., "file", "modelzoo")``, windows of 8 clicks, loss
``model.cross_entropy``, rate 0.005, 30 epochs of 50 batches of 128.

MF: ``by_raw_id(ratings.load(..., split="modelzoo"))``, loss "mse", rate 0.001, 100
epochs of batches of 512 with ``reshuffle=False``.

Both take ``fixes``, names of oddities to leave out, as in ``"mask, m_s"``; what is odd
in the data (order, split) is switched where they are loaded.
"""

from dataclasses import replace

import numpy as np

from lib.data.ratings import means
from lib.errors import InputError
from lib.hardware.tensorflow import tf
from lib.models import mf, softmax, stamp

PENALTY = 1e-4  # on the sum of squares of a whole table, at every step
START = 0.05  # half-width of the uniform, standard deviation of the normal start
STAMP_FIXES = ("mask", "m_s", "logits", "penalty")
MF_FIXES = ("biases", "means", "penalty")
CLIP = 1e-7  # Keras keeps probabilities this far from 0 and 1


class STAMP(stamp.STAMP):
    """STAMP as the port computes it; see ``stamp.STAMP`` for the symbols.

    Other than there: items are numbered from 0, and padding is 0, hence item 0, which
    takes part in the mean and the attention like any click; ``m_a = sum_i a_i x_i``
    without ``+ m_s``; the outcome is the softmax of the scores; the embedding, ``W0``
    to ``W3`` and ``b`` pay ``1e-4`` times the sum of their squares at every step.

    Fixes: ``"mask"`` leaves padding out of the mean and the attention; items are then
    numbered from 1, see ``first_item``. ``"m_s"`` adds ``+ m_s`` to ``m_a``.
    ``"logits"`` returns scores, and trains on them as ``stamp.STAMP`` does.
    ``"penalty"`` takes the penalty away.

    The loss, Keras' sparse categorical cross-entropy, sees in a compiled graph that
    probabilities come from a softmax and goes back to its input, so ``fit`` trains on
    the exact cross-entropy. Given nothing but numbers, outside a graph, it computes
    ``clipped_cross_entropy``. The two are equal until a probability is below 1e-7.

    Inputs:
        int32 ``(batch, maxlen)``, item numbers from 0, oldest first, padded with 0.

    Returns:
        float32 ``(batch, n_items)``, probabilities; column ``j`` is item ``j``.
    """

    # A weight's name for get_weights and set_weights -> the attribute that holds it.
    names = {name: name.lower() for name in ("embedding", "W0", "W1", "W2", "W3", "b")}
    names.update({"ffn_s/kernel": "kernel_s", "ffn_s/bias": "bias_s"})
    names.update({"ffn_t/kernel": "kernel_t", "ffn_t/bias": "bias_t"})

    def __init__(
        self, n_items, embed_dim=100, fixes="", matmul_dtype="float32", seed=0
    ):
        super().__init__(n_items, embed_dim, matmul_dtype=matmul_dtype, seed=seed)
        self.fixes = _known(fixes, STAMP_FIXES)
        self.first_item = 1 if "mask" in self.fixes else 0

    def weight(self, name, shape, number):
        starts, seed = tf.keras.initializers, 100 * self.seed + number
        penalty = None if "penalty" in self.fixes else tf.keras.regularizers.l2(PENALTY)
        if name == "embedding":
            start = starts.RandomUniform(-START, START, seed=seed)
        elif name in stamp.PARTS["layers"]:  # the two of tanh
            penalty = None
            start = starts.GlorotUniform(seed=seed) if number else "zeros"
        else:
            start = starts.RandomNormal(stddev=START, seed=seed)
        return self.add_weight(
            name=name, shape=shape, initializer=start, regularizer=penalty
        )

    def query(self, windows, training=False):
        """``h_s * h_t``, the vector that items are compared with: ``(batch, d)``."""
        if "mask" in self.fixes:
            x, real = self.look_up(windows)
            m_s = tf.reduce_sum(x, 1) / tf.reduce_sum(real, 1)  # (batch, d)
        else:
            x, real = tf.gather(self.embedding, windows), 1.0  # padding is item 0
            m_s = tf.reduce_mean(x, 1)
        m_t = x[:, -1, :]  # (batch, d)
        m_a = tf.reduce_sum(self.attend(x, real, m_s, m_t) * x, 1)
        if "m_s" in self.fixes:
            m_a += m_s
        h_s = tf.tanh(tf.matmul(m_a, self.kernel_s) + self.bias_s)
        h_t = tf.tanh(tf.matmul(m_t, self.kernel_t) + self.bias_t)
        return h_s * h_t

    def call(self, windows, training=False):
        if "logits" in self.fixes:
            return super().call(windows, training)
        query = self.query(windows)
        dtype = self.matmul_dtype if training else "float32"
        product = softmax.matrix_product(query, self.items(), dtype, transpose_b=True)
        return tf.nn.softmax(product)

    def cross_entropy(self, targets, outcome):
        """The training loss of what ``call`` returns: ``(batch,)``."""
        if "logits" in self.fixes:
            return super().cross_entropy(targets, outcome)
        return tf.keras.losses.sparse_categorical_crossentropy(targets, outcome)


def clipped_cross_entropy(targets, probabilities):
    """Keras' sparse cross-entropy where it is given probabilities as mere numbers.

    They are clipped to ``[1e-7, 1 - 1e-7]`` and, because Keras takes their logarithms
    for logits, brought back to the sum 1. An item below the limit gets no gradient.

    Args:
        targets: int ``(batch,)`` or ``(batch, 1)``, columns of ``probabilities``.
        probabilities: float32 ``(batch, n_items)``.

    Returns:
        float32 ``(batch,)``, in nats.
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=tf.cast(tf.reshape(targets, [-1]), tf.int32),
        logits=tf.math.log(tf.clip_by_value(probabilities, CLIP, 1 - CLIP)),
    )


class MF(mf.MF):
    """MF as the port computes it: a rating is ``<p_u, q_i>`` and nothing else.

    There are bias tables, but the switch that should turn them on reaches another
    argument, so they are neither used nor trained. All four tables pay ``1e-4`` times
    the sum of their squares at every step: all rows, not those of the batch alone; for
    the biases this is a constant in the loss. Predictions are not clipped to the scale.

    Fixes: ``"biases"`` predicts ``mean_u + b_u + b_i + <p_u, q_i>``, as the port means
    to; ``"means"`` takes the user means from the training part, see ``by_raw_id``;
    ``"penalty"`` lets the ratings of the batch pay, as in ``mf.MF``, with
    ``regularization`` for each.

    Args:
        n_users, n_items, latent_dim, regularization, matmul_dtype, seed: see ``mf.MF``.
        fixes: names of oddities to leave out.
        user_mean: float32 ``(n_users,)``, for ``"biases"``.
    """

    names = {name: name for name in ("p", "q", "user_bias", "item_bias")}

    def __init__(
        self, n_users, n_items, latent_dim=32, fixes="", user_mean=None, **options
    ):
        super().__init__(n_users, n_items, 0.0, latent_dim, **options)
        self.fixes = _known(fixes, MF_FIXES)
        if "biases" in self.fixes:
            self.user_mean = tf.constant(user_mean, tf.float32)[:, None]

    def build(self, input_shape):
        def table(name, rows, columns, number, trainable=False):
            shape, seed = (rows, columns), 100 * self.seed + number
            start = tf.keras.initializers.RandomNormal(stddev=START, seed=seed)
            return self.add_weight(
                name=name, shape=shape, initializer=start, trainable=trainable
            )

        self.p = table("p", self.n_users, self.latent_dim, 1, trainable=True)
        self.q = table("q", self.n_items, self.latent_dim, 2, trainable=True)
        trained = "biases" in self.fixes
        self.user_bias = table("user_bias", self.n_users, 1, 3, trained)
        self.item_bias = table("item_bias", self.n_items, 1, 4, trained)
        self.built = True

    def call(self, pairs):
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
        # Not a regularizer: Keras 3 leaves out those of weights that are not trained.
        for table in (self.p, self.q, self.user_bias, self.item_bias):
            self.add_loss(2 * PENALTY * tf.nn.l2_loss(table))
        return rating

    @tf.function
    def stars(self, pairs):
        """Ratings of pairs, not clipped to the scale: float32 ``(batch,)``."""
        return self(pairs)[:, 0]


def _known(fixes, allowed):
    names = fixes.replace(",", " ").split()
    for name in names:
        if name not in allowed:
            raise InputError(f'fix "{name}": allowed are {", ".join(allowed)}.')
    return frozenset(names)


def by_raw_id(data, fixes=""):
    """``Ratings`` with users and items numbered by their raw ids, as in the port.

    ``n_users`` and ``n_items`` become the highest id + 1. A number that nobody has gets
    the global mean as its user mean, and its row in a table costs a penalty only. The
    fix ``"means"`` takes user means over the training part alone.
    """
    users, items = data.user_ids, data.item_ids
    user_mean = np.full(users.max() + 1, data.global_mean, np.float32)
    own = "means" in _known(fixes, MF_FIXES)
    user_mean[users] = means(data.train, data.n_users)[1] if own else data.user_mean

    def renumbered(part):
        user_idx = users[part.user_idx].astype(np.int32)
        return replace(
            part, user_idx=user_idx, item_idx=items[part.item_idx].astype(np.int32)
        )

    return replace(
        data,
        train=renumbered(data.train),
        test=renumbered(data.test),
        user_ids=np.arange(users.max() + 1),
        item_ids=np.arange(items.max() + 1),
        user_mean=user_mean,
    )


def get_weights(model):
    """The weights of a ``STAMP`` or ``MF`` of this module: name -> float32 array.

    STAMP: ``embedding, W0, W1, W2, W3, b, ffn_s/kernel, ffn_s/bias, ffn_t/kernel,
    ffn_t/bias``. MF: ``p, q, user_bias, item_bias``.
    """
    return {name: variable.numpy() for name, variable in _variables(model).items()}


def set_weights(model, weights):
    """Sets weights by the names of ``get_weights``; those not given stay.

    Raises:
        InputError: an unknown name, or an array of another shape than the weight.
    """
    variables = _variables(model)
    for name, array in weights.items():
        if name not in variables:
            raise InputError(f'weight "{name}": allowed are {", ".join(variables)}.')
        shape, given = tuple(variables[name].shape), np.shape(array)
        if given != shape:
            raise InputError(f'weight "{name}": its shape is {shape}, not {given}.')
        variables[name].assign(np.asarray(array, np.float32))


def _variables(model):
    if not model.built:
        model.build(None)  # sizes are known without an input
    return {name: getattr(model, attr) for name, attr in model.names.items()}
