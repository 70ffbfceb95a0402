"""STAMP: Short-Term Attention/Memory Priority (Liu et al., KDD 2018)."""

import numpy as np

from lib.errors import check_choice
from lib.evaluation import metrics
from lib.hardware import workers
from lib.hardware.device import host
from lib.hardware.tensorflow import tf
from lib.models import softmax, top_k

PARTS = {  # of the model, and their weights
    "items": ("embedding",),
    "attention": ("w0", "w1", "w2", "w3", "b"),
    "layers": ("kernel_s", "bias_s", "kernel_t", "bias_t"),
}
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

    With a ``scale``, item vectors and ``h_s * h_t`` are brought to length 1 and a score
    is their cosine times the scale, so an item's popularity cannot sit in the length of
    its vector (NISER, Gupta et al. 2019, equations 6 and 7; there for a graph network).

    Args:
        n_items: size of the catalogue.
        embed_dim: length of an item's vector.
        attention: False gives STMP, the paper's variant without attention
            (``m_a = m_s``).
        scale: of cosine scores; 0 leaves vectors as they are.
        dropout: share of the looked-up vectors' entries that a training step sets to 0.
        matmul_dtype: type of the inputs of the training loss's products. Scores to rank
            by are float32 always: rounded ones tie, and a tie costs its best item.
        seed: of the initial weights and the dropout.
        frozen: parts that training leaves as they are, of ``PARTS``.

    Inputs:
        int32 ``(batch, maxlen)``, item numbers, oldest first, padded with 0; at least
        one click a row.

    Returns:
        float32 ``(batch, n_items)``, unnormalised scores; column ``j`` is item
        ``j + 1``. In training, the queries ``(batch, d)`` alone: the loss,
        ``compile(loss=model.cross_entropy)``, multiplies them with the items itself.
    """

    first_item = 1  # the item of column 0

    def __init__(
        self,
        n_items,
        embed_dim=100,
        attention=True,
        scale=0.0,
        dropout=0.0,
        matmul_dtype="float32",
        seed=0,
        frozen=(),
    ):
        super().__init__()
        for part in frozen:
            check_choice("frozen", part, PARTS)
        self.frozen = frozen
        self.n_items, self.embed_dim, self.attention = n_items, embed_dim, attention
        self.scale, self.dropout = scale, dropout
        self.matmul_dtype, self.seed = matmul_dtype, seed

    def weight(self, name, shape, number):
        """Adds a weight; ``number`` makes it a seed of its own, 0 starts it at zero."""
        stddev = EMBEDDING_STDDEV if name == "embedding" else WEIGHT_STDDEV
        normal = tf.keras.initializers.RandomNormal(
            stddev=stddev, seed=100 * self.seed + number
        )
        start = normal if number else "zeros"
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=start,
            trainable=not any(name in PARTS[part] for part in self.frozen),
        )

    def build(self, input_shape):
        d, weight = self.embed_dim, self.weight
        self.embedding = weight("embedding", (self.n_items, d), 1)
        if self.attention:
            self.w0 = weight("w0", (d, 1), 2)
            self.w1 = weight("w1", (d, d), 3)
            self.w2 = weight("w2", (d, d), 4)
            self.w3 = weight("w3", (d, d), 5)
            self.b = weight("b", (d,), 0)
        self.kernel_s, self.bias_s = (
            weight("kernel_s", (d, d), 6),
            weight("bias_s", (d,), 0),
        )
        self.kernel_t, self.bias_t = (
            weight("kernel_t", (d, d), 7),
            weight("bias_t", (d,), 0),
        )
        if (
            self.dropout
        ):  # a variable, so that a resumed run goes on with the same masks
            first = tf.VariableAggregation.ONLY_FIRST_REPLICA
            self.step = tf.Variable(0, trainable=False, aggregation=first)
        self.built = True

    def items(self):
        """The vectors of all items, of length 1 with a ``scale``: ``(n_items, d)``."""
        items = tf.convert_to_tensor(self.embedding)
        return tf.math.l2_normalize(items, axis=1) if self.scale else items

    def look_up(self, windows):
        """The clicks' vectors, 0 for padding: ``(batch, maxlen, d)``; and the mask."""
        real = tf.cast(windows > 0, tf.float32)[:, :, None]
        x = tf.gather(self.embedding, tf.maximum(windows - 1, 0))
        if self.scale:
            x = tf.math.l2_normalize(x, axis=2)
        return x * real, real

    def drop(self, x):
        """Sets a share of the entries to 0 and scales the rest up to keep the mean."""
        seed = self.seed + 2**20 * workers.current().rank
        key = tf.stack([seed, tf.convert_to_tensor(self.step)])
        self.step.assign_add(1)
        kept = tf.random.stateless_uniform(tf.shape(x), key) >= self.dropout
        return x * tf.cast(kept, x.dtype) / (1 - self.dropout)

    def attend(self, x, real, m_s, m_t):
        """Attention weights ``a_i``, 0 for padding: ``(batch, maxlen, 1)``."""
        of_window = tf.matmul(m_t, self.w2) + tf.matmul(m_s, self.w3) + self.b
        hidden = tf.sigmoid(tf.matmul(x, self.w1) + of_window[:, None, :])
        return tf.matmul(hidden, self.w0) * real

    def query(self, windows, training=False):
        """``h_s * h_t``, the vector that items are compared with: ``(batch, d)``."""
        x, real = self.look_up(windows)
        if training and self.dropout:
            x = self.drop(x)
        m_s = tf.reduce_sum(x, 1) / tf.reduce_sum(real, 1)  # (batch, d)
        m_t = x[:, -1, :]  # (batch, d)
        m_a = m_s
        if self.attention:
            m_a = tf.reduce_sum(self.attend(x, real, m_s, m_t) * x, 1) + m_s
        h_s = tf.tanh(tf.matmul(m_a, self.kernel_s) + self.bias_s)
        h_t = tf.tanh(tf.matmul(m_t, self.kernel_t) + self.bias_t)
        if self.scale:
            return self.scale * tf.math.l2_normalize(h_s * h_t, axis=1)
        return h_s * h_t

    def scores(self, query):
        """A query against every item: float32 ``(batch, n_items)``."""
        return tf.matmul(query, self.items(), transpose_b=True)

    def call(self, windows, training=False):
        query = self.query(windows, training)
        return query if training else self.scores(query)

    def cross_entropy(self, targets, query):
        """The training loss of queries, see ``softmax``: ``(batch,)``."""
        return softmax.cross_entropy_of_product(
            targets, query, self.items(), self.matmul_dtype
        )

    @tf.function
    def ranks(self, windows, targets):
        """Ranks of the targets as ``metrics.ranks`` counts them: float32 ``(batch,)``.

        One pass over the scores: with ``s`` the sum of ``sign(score - own)``, that is
        higher items minus lower ones, the mean rank of the tie is
        ``(n_items + 1 + s) / 2``. A NaN puts the target last.
        """
        scores = self(windows)
        own = tf.gather(scores, targets, axis=1, batch_dims=1)
        balance = tf.reduce_sum(tf.sign(scores - own[:, None]), axis=1)
        rank = (self.n_items + 1 + balance) / 2
        return tf.where(tf.math.is_nan(rank), float(self.n_items), rank)

    @tf.function
    def log_loss(self, windows, targets):
        """Cross-entropy of each target, without dropout, in float32: ``(batch,)``."""
        scores = self.scores(self.query(windows))
        own = tf.gather(scores, targets, axis=1, batch_dims=1)
        return tf.reduce_logsumexp(scores, axis=1) - own


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


def batch_of(examples, maxlen, first_item=STAMP.first_item):
    """Returns ``take(index) -> (windows, target columns)`` for a batch of examples.

    Args:
        examples: ``lib.data.sessions.Examples``.
        maxlen: width of the windows.
        first_item: the item of column 0; 0 for ``protocol="modelzoo"``.
    """
    with host():
        items = tf.constant(examples.items)
        start, target = tf.constant(examples.start), tf.constant(examples.target)

    @host()
    def take(index):
        stop = tf.gather(target, index)
        window = windows(items, tf.gather(start, index), stop, maxlen)
        return window, tf.gather(items, stop) - first_item

    return take


def evaluate(model, examples, maxlen, k=20, batch_size=256):
    """HR@k and MRR@k of every example against the whole catalogue.

    Works in batches, on the device: neither a (tests x items) matrix nor a sort is
    made. The last batch is filled up, so that all have one shape, and cut again.

    Returns:
        ``{"hr_at_<k>": ..., "mrr_at_<k>": ...}``.
    """
    return metrics.at(_of_each(model.ranks, model, examples, maxlen, batch_size), k)


def validate(model, examples, maxlen, batch_size=256):
    """The loss of examples as ``model.evaluate`` of Keras gives it: ``val_loss``.

    That is the mean cross-entropy, without dropout, plus the penalties on the weights
    as they are: of ``published.STAMP`` unless that fix is on, of ``STAMP`` none. Works
    in batches, like ``evaluate``.

    Args:
        model: a ``STAMP``.
        examples: ``lib.data.sessions.Examples``, as ``Sessions.held_out`` is, or None.
        maxlen, batch_size: as in ``evaluate``.

    Returns:
        ``{"val_loss": nats}``; empty where there is no example.
    """
    if examples is None or not len(examples):
        return {}
    losses = _of_each(model.log_loss, model, examples, maxlen, batch_size)
    penalty = sum(float(each) for each in model.losses)
    return {"val_loss": float(losses.mean(dtype=np.float64)) + penalty}


def _of_each(function, model, examples, maxlen, batch_size):
    """``function(windows, targets)`` of all examples, in batches of one shape."""
    take, n = batch_of(examples, maxlen, model.first_item), len(examples)
    found = []
    for first in range(0, n, batch_size):
        index = np.minimum(np.arange(first, first + batch_size, dtype=np.int32), n - 1)
        found.append(function(*take(index)).numpy()[: n - first])
    return np.concatenate(found)


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
    scores, columns = top_k.best(model(window), min(k, model.n_items))
    return columns.numpy()[0] + model.first_item, scores.numpy()[0]
