"""STAMP: Short-Term Attention/Memory Priority (Liu et al., KDD 2018)."""

import numpy as np

from lib import metrics
from lib.quiet import tf

EMBEDDING_STDDEV = 0.05
WEIGHT_STDDEV = 0.05


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

    Args:
        n_items: size of the catalogue.
        embed_dim: length of an item's vector.
        attention: False gives STMP, the paper's variant without attention
            (``m_a = m_s``).
        matmul_dtype: type of the score product's inputs; its outcome is float32.
        seed: of the initial weights.

    Inputs:
        int32 ``(batch, maxlen)``, item numbers, oldest first, padded with 0; at least
        one click a row.

    Returns:
        float32 ``(batch, n_items)``, unnormalised scores; column ``j`` is item
        ``j + 1``.
    """

    def __init__(
        self, n_items, embed_dim=100, attention=True, matmul_dtype="float32", seed=0
    ):
        super().__init__()
        self.n_items, self.embed_dim = n_items, embed_dim
        self.attention, self.matmul_dtype, self.seed = attention, matmul_dtype, seed

    def build(self, input_shape):
        d, seed = self.embed_dim, 100 * self.seed

        def weight(name, shape, number):
            stddev = EMBEDDING_STDDEV if name == "embedding" else WEIGHT_STDDEV
            normal = tf.keras.initializers.RandomNormal(
                stddev=stddev, seed=seed + number
            )
            start = normal if number else "zeros"
            return self.add_weight(name=name, shape=shape, initializer=start)

        self.embedding = weight("embedding", (self.n_items, d), 1)
        if self.attention:
            self.w0 = weight("W0", (d, 1), 2)
            self.w1 = weight("W1", (d, d), 3)
            self.w2 = weight("W2", (d, d), 4)
            self.w3 = weight("W3", (d, d), 5)
            self.b = weight("b", (d,), 0)
        self.kernel_s, self.bias_s = weight("Ws", (d, d), 6), weight("bs", (d,), 0)
        self.kernel_t, self.bias_t = weight("Wt", (d, d), 7), weight("bt", (d,), 0)
        self.built = True

    def look_up(self, windows):
        """The clicks' vectors, 0 for padding: ``(batch, maxlen, d)``; and the mask."""
        real = tf.cast(windows > 0, tf.float32)[:, :, None]
        rows = tf.gather(self.embedding, tf.maximum(windows - 1, 0))
        return rows * real, real

    def attend(self, x, real, m_s, m_t):
        """Attention weights ``a_i``, 0 for padding: ``(batch, maxlen, 1)``."""
        of_window = tf.matmul(m_t, self.w2) + tf.matmul(m_s, self.w3) + self.b
        hidden = tf.sigmoid(tf.matmul(x, self.w1) + of_window[:, None, :])
        return tf.matmul(hidden, self.w0) * real

    def query(self, windows):
        """``h_s * h_t``, the vector that items are compared with: ``(batch, d)``."""
        x, real = self.look_up(windows)
        m_s = tf.reduce_sum(x, 1) / tf.reduce_sum(real, 1)  # (batch, d)
        m_t = x[:, -1, :]  # (batch, d)
        m_a = m_s
        if self.attention:
            m_a = tf.reduce_sum(self.attend(x, real, m_s, m_t) * x, 1) + m_s
        h_s = tf.tanh(tf.matmul(m_a, self.kernel_s) + self.bias_s)
        h_t = tf.tanh(tf.matmul(m_t, self.kernel_t) + self.bias_t)
        return h_s * h_t

    def call(self, windows):
        query = tf.cast(self.query(windows), self.matmul_dtype)
        items = tf.cast(self.embedding, self.matmul_dtype)
        return tf.cast(tf.matmul(query, items, transpose_b=True), tf.float32)


def windows(items, start, stop, maxlen):
    """Cuts the last ``maxlen`` clicks of each prefix ``items[start:stop]``.

    Args:
        items: int32 ``(n_clicks,)``, flat sessions.
        start, stop: int32 ``(batch,)``.
        maxlen: width of the window.

    Returns:
        int32 ``(batch, maxlen)``, padded with 0 on the left.
    """
    position = tf.expand_dims(stop, 1) - maxlen + tf.range(maxlen)  # (batch, maxlen)
    clicks = tf.gather(items, tf.maximum(position, 0))
    return tf.where(position >= tf.expand_dims(start, 1), clicks, 0)


def batch_of(examples, maxlen):
    """Returns ``take(index) -> (windows, target columns)`` for a batch of examples.

    Args:
        examples: ``lib.sessions.Examples``.
        maxlen: width of the windows.
    """
    items = tf.constant(examples.items)
    start, target = tf.constant(examples.start), tf.constant(examples.target)

    def take(index):
        stop = tf.gather(target, index)
        window = windows(items, tf.gather(start, index), stop, maxlen)
        return window, tf.gather(items, stop) - 1

    return take


def evaluate(model, examples, maxlen, k=20, batch_size=512):
    """HR@k and MRR@k of every example against the whole catalogue.

    Works in batches: neither a (tests x items) matrix nor a sort is made. The last
    batch is filled up, so that every batch has one shape, and cut again.

    Returns:
        ``{"hr_at_<k>": ..., "mrr_at_<k>": ...}``.
    """
    take, n = batch_of(examples, maxlen), len(examples)
    ranks = []
    for first in range(0, n, batch_size):
        index = np.minimum(np.arange(first, first + batch_size, dtype=np.int32), n - 1)
        window, target = take(index)
        scores = model.predict_on_batch(window)
        ranks.append(metrics.ranks(scores, target.numpy())[: n - first])
    return metrics.at(np.concatenate(ranks), k)


def recommend(model, session, maxlen, k=10):
    """The best ``k`` items after one session.

    Args:
        model: a trained ``STAMP``.
        session: item numbers, oldest click first.
        maxlen: width of the window.
        k: how many.

    Returns:
        ``(item numbers, scores)``, best first, each ``(k,)``.
    """
    session = np.asarray(session, np.int32)
    window = windows(session, np.array([0], np.int32), [len(session)], maxlen)
    scores = model.predict_on_batch(window)[0]
    best = np.argpartition(-scores, k)[:k]
    best = best[np.argsort(-scores[best], kind="stable")]
    return best + 1, scores[best]
