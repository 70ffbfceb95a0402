"""Trained models as plain TensorFlow: what recommendations are computed with.

The equations are those of ``lib.models.stamp`` and ``lib.models.mf``; the weights are
``tf.Variable`` copies, in float32, so that what is saved needs neither Keras nor this
repository.
"""

import numpy as np

from lib.hardware.tensorflow import tf
from lib.models import stamp, top_k

NO_SCORE = float("-inf")  # of an item that must not be recommended


def of(trained):
    """The scorer of a ``lib.serving.trained.Trained``."""
    if isinstance(trained.model, stamp.STAMP):
        return SessionScorer(trained.model, trained.maxlen)
    return UserScorer(trained.model)


class Scorer(tf.Module):
    """Scores are one matrix product: queries with 1 at their end, against a table.

    The table's last column is what an item's score holds whoever asks: 0 in STAMP, the
    item's bias in MF. It has rows to spare, at least one, that no query reaches: their
    last entry is minus infinity. With them the table is a whole number of blocks.

    Attributes:
        n_items: size of the catalogue; a column from here on stands for no item.
        table: float32 ``(n_rows, d + 1)``.
    """

    def fill(self, items, bias):
        """Makes the table of ``items``, ``(n_items, d)``, and ``bias``, a column."""
        n_items, d = items.shape
        n_rows = top_k.BLOCK * (n_items // top_k.BLOCK + 1)
        table = np.zeros((n_rows, d + 1), np.float32)
        table[:n_items, :d], table[:n_items, d:] = items, bias
        table[n_items:, d] = NO_SCORE
        self.n_items = n_items
        self.table = tf.Variable(table, trainable=False)

    def scores(self, query):
        """Scores of every row of the table: ``(batch, n_rows)``."""
        query = tf.pad(query, [[0, 0], [0, 1]], constant_values=1.0)
        return tf.matmul(query, self.table, transpose_b=True)

    def pick(self, query, asked, seen, k):
        """The best columns of each query.

        Args:
            query: float32 ``(batch, d)``.
            asked: bool ``(batch,)``; False leaves a row empty.
            seen: int32 ``(n, 2)``, pairs of row and column to be left out; None for
                none.
            k: int32 scalar.

        Returns:
            ``(scores, columns)``, each ``(batch, min(k, n_items))``, best first. Places
            for which no item is left hold minus infinity and ``n_items``.
        """
        scores = self.scores(query)
        if seen is not None:
            no_score = tf.fill(tf.shape(seen)[:1], NO_SCORE)
            scores = tf.tensor_scatter_nd_update(scores, seen, no_score)
        found, columns = top_k.best(scores, tf.minimum(k, self.n_items))
        found = tf.where(asked[:, None], found, NO_SCORE)
        return found, tf.where(found > NO_SCORE, columns, self.n_items)


class SessionScorer(Scorer):
    """STAMP: sessions of item numbers in, columns out; item ``i`` is column ``i - 1``.

    Args:
        model: a trained ``stamp.STAMP``.
        maxlen: width of its window.
    """

    look_up, attend = stamp.STAMP.look_up, stamp.STAMP.attend
    query = stamp.STAMP.query
    weights = ("embedding", "w0", "w1", "w2", "w3", "b")
    weights += ("kernel_s", "bias_s", "kernel_t", "bias_t")

    def __init__(self, model, maxlen):
        super().__init__()
        self.attention, self.scale, self.maxlen = model.attention, model.scale, maxlen
        for name in self.weights:
            if hasattr(model, name):
                value = np.asarray(getattr(model, name))
                setattr(self, name, tf.Variable(value, trainable=False))
        self.fill(np.asarray(model.items()), 0)

    def best(self, items, lengths, exclude_seen, k):
        """The best items after each session.

        Args:
            items: int32 ``(n_clicks,)``, known items' numbers, session after session.
            lengths: int32 ``(batch,)``, clicks of each; where 0, its row stays empty.
            exclude_seen: True leaves out what a session holds; a bool, or a scalar
                tensor that decides when the graph runs.
            k: int32 scalar.

        Returns:
            See ``pick``.
        """
        padded = tf.pad(items, [[1, 0]])  # never empty
        stop = 1 + tf.cumsum(lengths)
        windows = stamp.windows(padded, stop - lengths, stop, self.maxlen)
        seen = None
        if exclude_seen is not False:
            column = tf.where(exclude_seen, items - 1, self.n_items)
            row = tf.repeat(tf.range(tf.shape(lengths)[0]), lengths)
            seen = tf.stack([row, column], axis=1)
        return self.pick(self.query(windows), lengths > 0, seen, k)


class UserScorer(Scorer):
    """MF: user numbers in, columns out; column ``j`` is item ``j``.

    Items are ranked by the predicted rating before it is clipped, so those beyond the
    end of the scale do not tie; scores are clipped to the scale.

    Args:
        model: a trained ``mf.MF``.
    """

    def __init__(self, model):
        super().__init__()
        bias = np.asarray(model.item_bias) if model.use_bias else 0
        self.fill(np.asarray(model.q), bias)
        level = np.zeros((model.n_users, 1), np.float32) + model.global_mean
        if model.use_bias:
            level += np.asarray(model.user_bias)
        self.users = tf.Variable(np.asarray(model.p), trainable=False)
        self.level = tf.Variable(level.astype(np.float32), trainable=False)
        self.scale = tuple(float(stars) for stars in model.scale)

    def query(self, users):
        """The factors of users: ``(batch, d)``."""
        return tf.gather(self.users, users)

    def stars(self, found, users):
        """Scores as ratings; minus infinity stays."""
        rating = tf.clip_by_value(found + tf.gather(self.level, users), *self.scale)
        return tf.where(found > NO_SCORE, rating, NO_SCORE)

    def best(self, users, seen, k):
        """The best items of each user.

        Args:
            users: int32 ``(batch,)``; where negative, the row stays empty.
            seen: int32 ``(n, 2)``, pairs of row and item to be left out.
            k: int32 scalar.

        Returns:
            See ``pick``; scores are ratings in stars.
        """
        known = tf.maximum(users, 0)
        found, columns = self.pick(self.query(known), users >= 0, seen, k)
        return self.stars(found, known), columns
