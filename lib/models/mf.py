"""MF: biased matrix factorization (Koren, Bell and Volinsky 2009)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lib import progress
from lib.data.ratings import Part
from lib.errors import LARGEST, check_choice, check_number, check_whole
from lib.evaluation import metrics
from lib.hardware.device import host
from lib.hardware.tensorflow import tf

STDDEV = 0.01  # of the initial factors; the published 0.05 gives a higher RMSE
PARTS = {  # parts of the model and the names of their weights
    "users": ("p", "user_bias"),
    "items": ("q", "item_bias"),
}

Reader = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


class MF(tf.keras.Model):
    """Predicts a rating: ``mu + b_u + b_i + <p_u, q_i>`` (equation 4 of the paper).

    Trained on the squared error plus, for every rating seen,
    ``regularization * (b_u^2 + b_i^2 + |p_u|^2 + |q_i|^2)`` (equation 5).

    Args:
        n_users, n_items: sizes of the tables.
        global_mean: ``mu``, the mean rating of the training part, in stars.
        latent_dim: length of a factor vector.
        use_bias: False gives ``mu + <p_u, q_i>``.
        regularization: weight of the penalty per rating.
        matmul_dtype: type in which the factors are multiplied; the sum is float32.
        seed: of the initial factors.
        scale: lowest and highest rating, in stars.
        frozen: names in ``PARTS`` of the parts that are not trained.

    Raises:
        InputError: an argument has a value that is not allowed.

    Inputs:
        int32 ``(batch, 2)``: user and item numbers, from 0.

    Returns:
        float32 ``(batch, 1)``, in stars, not clipped to the scale.
    """

    training_loss = "mse"  # for compile; the penalty is added by call

    def __init__(
        self,
        n_users: int,
        n_items: int,
        global_mean: float,
        latent_dim: int = 32,
        use_bias: bool = True,
        regularization: float = 0.02,
        matmul_dtype: str = "float32",
        seed: int = 0,
        scale: tuple[float, float] = (1.0, 5.0),
        frozen: Sequence[str] = (),
    ) -> None:
        super().__init__()
        for part in frozen:
            check_choice("frozen", part, PARTS)
        check_whole("latent_dim", latent_dim)
        is_allowed = 0 <= regularization <= LARGEST
        allowed = f"from 0 to {LARGEST:g}"
        check_number("regularization", regularization, is_allowed, allowed)
        self.n_users, self.n_items, self.latent_dim = n_users, n_items, latent_dim
        self.global_mean, self.use_bias, self.scale = global_mean, use_bias, scale
        self.regularization, self.matmul_dtype = regularization, matmul_dtype
        self.seed, self.frozen = seed, frozen

    def table(self, name: str, shape: tuple, initializer: Any) -> tf.Variable:
        """Adds a table, trainable unless its part is frozen."""
        trainable = not any(name in PARTS[part] for part in self.frozen)
        return self.add_weight(
            name=name, shape=shape, initializer=initializer, trainable=trainable
        )

    def build(self, input_shape: object) -> None:
        def normal(number: int) -> Any:
            seed = 100 * self.seed + number
            return tf.keras.initializers.RandomNormal(stddev=STDDEV, seed=seed)

        self.p = self.table("p", (self.n_users, self.latent_dim), normal(1))
        self.q = self.table("q", (self.n_items, self.latent_dim), normal(2))
        if self.use_bias:
            self.user_bias = self.table("user_bias", (self.n_users, 1), "zeros")
            self.item_bias = self.table("item_bias", (self.n_items, 1), "zeros")
        self.built = True

    def call(self, pairs: tf.Tensor) -> tf.Tensor:
        user, item = pairs[:, 0], pairs[:, 1]
        p, q = tf.gather(self.p, user), tf.gather(self.q, item)  # (batch, dim)
        product = tf.cast(p, self.matmul_dtype) * tf.cast(q, self.matmul_dtype)
        rating = tf.reduce_sum(tf.cast(product, tf.float32), 1, keepdims=True)
        rows = [p, q]
        if self.use_bias:
            rows += [tf.gather(self.user_bias, user), tf.gather(self.item_bias, item)]
            rating += rows[2] + rows[3]
        penalty = 2 * tf.add_n([tf.nn.l2_loss(row) for row in rows])  # sum of squares
        n = tf.cast(tf.shape(pairs)[0], tf.float32)
        self.add_loss(self.regularization * penalty / n)
        return rating + self.global_mean

    @tf.function
    def stars(self, pairs: tf.Tensor) -> tf.Tensor:
        """Ratings of pairs, clipped to the scale: float32 ``(batch,)``."""
        return tf.clip_by_value(self(pairs)[:, 0], *self.scale)

    def example_reader(self, part: Part) -> Reader:
        """Returns a function that reads a batch of ratings.

        Args:
            part: a part of ``lib.data.ratings.Ratings``.

        Returns:
            ``read(index) -> (pairs, ratings)`` for an int ``(batch,)``: int32
            ``(batch, 2)``, as the model takes them, and float32 ``(batch, 1)``, in
            stars.
        """
        with host():
            pairs = tf.constant(np.stack([part.user_idx, part.item_idx], axis=1))
            rating = tf.constant(part.rating[:, None])

        @host()
        def read(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return tf.gather(pairs, index), tf.gather(rating, index)

        return read


def predict(
    model: MF, user_idx: np.ndarray, item_idx: np.ndarray, batch_size: int = 16_384
) -> np.ndarray:
    """Predicts ratings of pairs, clipped to the scale: float32 ``(n,)``, in stars.

    Args:
        model: a trained ``MF``.
        user_idx, item_idx: int32 ``(n,)``.
        batch_size: of every batch; the last one repeats its last pair, and the
            repetitions are removed from the result.
    """
    pairs = np.stack([user_idx, item_idx], axis=1).astype(np.int32)
    n = len(pairs)
    if not n:
        return np.zeros(0, np.float32)
    batch_size = min(batch_size, n)
    shape = tf.TensorSpec((batch_size, 2), tf.int32)
    stars, rows = model.stars.get_concrete_function(shape), []
    for first in progress.track(range(0, n, batch_size), "evaluation"):
        index = np.minimum(np.arange(first, first + batch_size), n - 1)
        rows.append(stars(tf.constant(pairs[index])).numpy()[: n - first])
    return np.concatenate(rows)


def evaluate(model: MF, part: Part) -> dict[str, float]:
    """Measures RMSE and MAE of the clipped predictions on a part, in stars."""
    predicted = predict(model, part.user_idx, part.item_idx)
    return metrics.rating_metrics(predicted, part.rating)


def fold_in(model: MF, part: Part) -> None:
    """Solves the rows of users for their ratings alone; the items stay as they are.

    With the items fixed, equation 5 is a ridge regression for each user, solved
    exactly: with the rows ``z = (q_i, 1)`` of the user's ``n`` rated items,
    ``(Z'Z + n * regularization * I) w = Z'(r - mu - b_i)`` and ``w = (p_u, b_u)``.

    Args:
        model: a trained ``MF`` that has a row for each of the users.
        part: a part of ``lib.data.ratings.Ratings``; users without a rating in it keep
            their rows.
    """
    q, p = np.asarray(model.q), np.array(model.p)
    z, residual = q, part.rating - np.float32(model.global_mean)
    if model.use_bias:
        z = np.concatenate([q, np.ones((len(q), 1), np.float32)], axis=1)
        residual = residual - np.asarray(model.item_bias)[part.item_idx, 0]
        user_bias = np.array(model.user_bias)
    order = np.argsort(part.user_idx, kind="stable")
    users, first = np.unique(part.user_idx[order], return_index=True)
    for user, rows in zip(users, np.split(order, first[1:])):
        rated = z[part.item_idx[rows]]
        ridge = len(rows) * model.regularization * np.eye(z.shape[1], dtype=z.dtype)
        gram, moment = rated.T @ rated + ridge, rated.T @ residual[rows]
        w = np.linalg.lstsq(gram, moment, rcond=None)[0]
        p[user] = w[: model.latent_dim]
        if model.use_bias:
            user_bias[user] = w[model.latent_dim :]
    model.p.assign(p)
    if model.use_bias:
        model.user_bias.assign(user_bias)
