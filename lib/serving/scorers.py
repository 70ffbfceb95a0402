"""Trained models as plain TensorFlow modules that compute recommendations.

The equations are those of ``lib.models.stamp`` and ``lib.models.mf``; the weights are
``tf.Variable`` copies in float32, so that a SavedModel of a scorer needs neither Keras
nor this repository.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lib.errors import InputError
from lib.hardware.tensorflow import tf
from lib.models import mf, stamp, top_k
from lib.serving.trained import CLASSES, Trained

NO_SCORE = float("-inf")  # of an item that must not be recommended


def scorer_for(trained: Trained, needed: type = tf.keras.Model) -> Any:
    """Makes the scorer of a trained model: a ``SessionScorer`` or a ``UserScorer``.

    Raises:
        InputError: the model is no ``needed``, or of a class that is not kept: scores
            of the published ports are others.
    """
    kind = type(trained.model)
    if kind not in CLASSES.values() or not issubclass(kind, needed):
        allowed = [name for name, each in CLASSES.items() if issubclass(each, needed)]
        raise InputError(
            f"{trained.source} is a {kind.__module__}.{kind.__name__}: this needs a "
            f"{' or '.join(allowed)} of lib.models."
        )
    is_stamp = issubclass(kind, stamp.STAMP)
    return (SessionScorer if is_stamp else UserScorer)(trained.model)


class Scorer(tf.Module):
    """Computes scores as one matrix product: queries with a 1 appended, and a table.

    The last column of the table is the part of an item's score that does not depend on
    the query: 0 in STAMP, the item's bias in MF. The table is padded to whole blocks of
    ``top_k.BLOCK`` rows with at least one row whose score is always minus infinity.

    Args:
        items: float32 ``(n_items, d)``.
        bias: float32 ``(n_items, 1)``, or one number.

    Attributes:
        n_items: size of the catalogue; columns from here on are no items.
        table: float32 ``(n_rows, d + 1)``.
    """

    def __init__(self, items: np.ndarray, bias: np.ndarray | float) -> None:
        super().__init__()
        self.n_items, d = items.shape
        n_rows = top_k.BLOCK * (self.n_items // top_k.BLOCK + 1)
        table = np.zeros((n_rows, d + 1), np.float32)
        table[: self.n_items, :d], table[: self.n_items, d:] = items, bias
        table[self.n_items :, d] = NO_SCORE
        self.table = tf.Variable(table, trainable=False)

    def scores(self, query: tf.Tensor) -> tf.Tensor:
        """Scores of every row of the table: ``(batch, n_rows)``."""
        query = tf.pad(query, [[0, 0], [0, 1]], constant_values=1.0)
        return tf.matmul(query, self.table, transpose_b=True)

    def pick(
        self,
        query: tf.Tensor,
        is_known: tf.Tensor,
        seen: tf.Tensor | None,
        k: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Picks the best columns of each query.

        Args:
            query: float32 ``(batch, d)``.
            is_known: bool ``(batch,)``; where False, the row stays empty.
            seen: int32 ``(n, 2)``, pairs of row and column to exclude, or None.
            k: int32 scalar.

        Returns:
            ``(scores, columns)``, each ``(batch, min(k, n_items))``, best first. Places
            without an item hold minus infinity and ``n_items``.
        """
        scores = self.scores(query)
        if seen is not None:
            no_score = tf.fill(tf.shape(seen)[:1], NO_SCORE)
            scores = tf.tensor_scatter_nd_update(scores, seen, no_score)
        best, columns = top_k.find_best(scores, tf.minimum(k, self.n_items))
        best = tf.where(is_known[:, None], best, NO_SCORE)
        return best, tf.where(best > NO_SCORE, columns, self.n_items)


class SessionScorer(Scorer):
    """STAMP: sessions of item numbers in, columns out; item ``i`` is column ``i - 1``.

    Args:
        model: a trained ``stamp.STAMP``.
    """

    def __init__(self, model: stamp.STAMP) -> None:
        super().__init__(np.asarray(model.items()), 0)
        self.scale, self.maxlen = model.scale, model.maxlen
        weights = {**model.named_weights, "embedding": model.vectors()}
        self.weights = {
            name: tf.Variable(np.asarray(weight), trainable=False)
            for name, weight in weights.items()
        }

    def query(self, windows: tf.Tensor) -> tf.Tensor:
        """See ``stamp.query``."""
        return stamp.query(self.weights, windows, self.scale)

    def find_best(
        self,
        items: tf.Tensor,
        lengths: tf.Tensor,
        exclude_seen: bool | tf.Tensor,
        k: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Finds the best items after each session.

        Args:
            items: int32 ``(n_clicks,)``, numbers of known items, session after session.
            lengths: int32 ``(batch,)``, clicks of each; where 0, its row stays empty.
            exclude_seen: True excludes the items of a session; a bool, or a scalar
                tensor to decide when the graph runs.
            k: int32 scalar.

        Returns:
            See ``pick``.
        """
        padded = tf.pad(items, [[1, 0]])  # never empty
        stop = 1 + tf.cumsum(lengths)
        position = tf.expand_dims(stop, 1) - self.maxlen + tf.range(self.maxlen)
        is_click = position >= tf.expand_dims(stop - lengths, 1)  # (batch, maxlen)
        windows = tf.where(is_click, tf.gather(padded, tf.maximum(position, 0)), 0)
        seen = None
        if exclude_seen is not False:
            column = tf.where(exclude_seen, items - 1, self.n_items)
            row = tf.repeat(tf.range(tf.shape(lengths)[0]), lengths)
            seen = tf.stack([row, column], axis=1)
        return self.pick(self.query(windows), lengths > 0, seen, k)


class UserScorer(Scorer):
    """MF: user numbers in, columns out; column ``j`` is item ``j``.

    Items are ranked by the predicted rating before it is clipped, because ratings
    beyond the end of the scale would tie; the scores are clipped.

    Args:
        model: a trained ``mf.MF``.
    """

    def __init__(self, model: mf.MF) -> None:
        bias = np.asarray(model.item_bias) if model.use_bias else 0
        super().__init__(np.asarray(model.q), bias)
        level = np.zeros((model.n_users, 1), np.float32) + model.global_mean
        if model.use_bias:
            level += np.asarray(model.user_bias)
        self.users = tf.Variable(np.asarray(model.p), trainable=False)
        self.level = tf.Variable(level.astype(np.float32), trainable=False)
        self.scale = tuple(float(stars) for stars in model.scale)

    def query(self, users: tf.Tensor) -> tf.Tensor:
        """The factors of users: ``(batch, d)``."""
        return tf.gather(self.users, users)

    def stars(self, scores: tf.Tensor, users: tf.Tensor) -> tf.Tensor:
        """Scores as ratings in stars; minus infinity does not change."""
        rating = tf.clip_by_value(scores + tf.gather(self.level, users), *self.scale)
        return tf.where(scores > NO_SCORE, rating, NO_SCORE)

    def find_best(
        self, users: tf.Tensor, seen: tf.Tensor, k: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Finds the best items of each user.

        Args:
            users: int32 ``(batch,)``; where negative, the row stays empty.
            seen: int32 ``(n, 2)``, pairs of row and item to exclude.
            k: int32 scalar.

        Returns:
            See ``pick``; scores are ratings in stars.
        """
        known = tf.maximum(users, 0)
        scores, columns = self.pick(self.query(known), users >= 0, seen, k)
        return self.stars(scores, known), columns
