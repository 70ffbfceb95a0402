"""MF: biased matrix factorization (Koren, Bell and Volinsky 2009)."""

import numpy as np

from lib.errors import check_choice
from lib.evaluation import metrics
from lib.hardware.device import host
from lib.hardware.tensorflow import tf
from lib.models import top_k

FACTOR_STDDEV = 0.01  # smaller than the published 0.05, with which the RMSE ends higher
PARTS = {"users": ("p", "user_bias"), "items": ("q", "item_bias")}  # and their weights


class MF(tf.keras.Model):
    """Predicts a rating: ``mu + b_u + b_i + <p_u, q_i>`` (equation 4 of the paper).

    Trained on the squared error plus, for every rating seen,
    ``regularization * (b_u^2 + b_i^2 + |p_u|^2 + |q_i|^2)`` (equation 5).

    Args:
        n_users, n_items: sizes of the tables.
        global_mean: ``mu``, the mean rating of the training part, in stars.
        latent_dim: length of a factor vector.
        use_bias: False leaves ``mu + <p_u, q_i>``.
        regularization: weight of the penalty per rating.
        matmul_dtype: type in which the factors are multiplied; the sum is float32.
        seed: of the initial weights.
        scale: lowest and highest rating, in stars.
        frozen: parts that training leaves as they are, of ``PARTS``.

    Inputs:
        int32 ``(batch, 2)``: user and item numbers, from 0.

    Returns:
        float32 ``(batch, 1)``, in stars, not clipped to the scale.
    """

    def __init__(
        self,
        n_users,
        n_items,
        global_mean,
        latent_dim=32,
        use_bias=True,
        regularization=0.02,
        matmul_dtype="float32",
        seed=0,
        scale=(1.0, 5.0),
        frozen=(),
    ):
        super().__init__()
        for part in frozen:
            check_choice("frozen", part, PARTS)
        self.scale, self.frozen = scale, frozen
        self.n_users, self.n_items, self.latent_dim = n_users, n_items, latent_dim
        self.global_mean, self.use_bias = global_mean, use_bias
        self.regularization, self.matmul_dtype = regularization, matmul_dtype
        self.seed = seed

    def build(self, input_shape):
        def table(name, shape, number=0):
            normal = tf.keras.initializers.RandomNormal(
                stddev=FACTOR_STDDEV, seed=100 * self.seed + number
            )
            return self.add_weight(
                name=name,
                shape=shape,
                initializer=normal if number else "zeros",
                trainable=not any(name in PARTS[part] for part in self.frozen),
            )

        users, items, dim = self.n_users, self.n_items, self.latent_dim
        self.p, self.q = table("p", (users, dim), 1), table("q", (items, dim), 2)
        if self.use_bias:
            self.user_bias = table("user_bias", (users, 1))
            self.item_bias = table("item_bias", (items, 1))
        self.built = True

    def call(self, pairs):
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
    def stars(self, pairs):
        """Ratings of pairs, clipped to the scale: float32 ``(batch,)``."""
        return tf.clip_by_value(self(pairs)[:, 0], *self.scale)


def batch_of(part):
    """Returns ``take(index) -> (pairs, ratings)`` for a batch of ``ratings.Part``."""
    with host():
        pairs = tf.constant(np.stack([part.user_idx, part.item_idx], axis=1))
        rating = tf.constant(part.rating[:, None])

    @host()
    def take(index):
        return tf.gather(pairs, index), tf.gather(rating, index)

    return take


def predict(model, user_idx, item_idx, batch_size=16_384):
    """Predicted ratings of pairs, clipped to the scale: float32 ``(n,)``, in stars.

    Args:
        model: a trained ``MF``.
        user_idx, item_idx: int32 ``(n,)``.
        batch_size: every batch has this size; the last one is filled up and cut again.
    """
    pairs = np.stack([user_idx, item_idx], axis=1).astype(np.int32)
    n = len(pairs)
    batch_size = min(batch_size, n)
    shape = tf.TensorSpec((batch_size, 2), tf.int32)
    stars, rows = model.stars.get_concrete_function(shape), []
    for first in range(0, n, batch_size):
        index = np.minimum(np.arange(first, first + batch_size), n - 1)
        rows.append(stars(tf.constant(pairs[index])).numpy()[: n - first])
    return np.concatenate(rows)


def evaluate(model, part):
    """RMSE and MAE of the clipped predictions on a ``ratings.Part``, in stars."""
    predicted = predict(model, part.user_idx, part.item_idx)
    return metrics.errors(predicted, part.rating)


def fold_in(model, part):
    """Sets the rows of users from their ratings alone; the items stay as they are.

    With the items fixed, equation 5 is a ridge regression for each user, solved
    exactly: with the rows ``z = (q_i, 1)`` of the ``n`` items rated,
    ``(Z'Z + n * regularization * I) w = Z'(r - mu - b_i)`` and ``w = (p_u, b_u)``.

    Args:
        model: a trained ``MF`` that has a row for each of the users.
        part: ``ratings.Part``; users without a rating in it keep their rows.
    """
    q, p = np.asarray(model.q), np.array(model.p)
    z, left = q, part.rating - np.float32(model.global_mean)
    if model.use_bias:
        z = np.concatenate([q, np.ones((len(q), 1), np.float32)], axis=1)
        left = left - np.asarray(model.item_bias)[part.item_idx, 0]
        user_bias = np.array(model.user_bias)
    order = np.argsort(part.user_idx, kind="stable")
    users, first = np.unique(part.user_idx[order], return_index=True)
    for user, rows in zip(users, np.split(order, first[1:])):
        own = z[part.item_idx[rows]]
        ridge = len(rows) * model.regularization * np.eye(z.shape[1], dtype=z.dtype)
        solved = np.linalg.lstsq(own.T @ own + ridge, own.T @ left[rows], rcond=None)[0]
        p[user] = solved[: model.latent_dim]
        if model.use_bias:
            user_bias[user] = solved[model.latent_dim :]
    model.p.assign(p)
    if model.use_bias:
        model.user_bias.assign(user_bias)


def recommend(model, user, seen, k=10):
    """The ``k`` items with the highest predicted rating that a user has not rated.

    Args:
        model: a trained ``MF``.
        user: a user number.
        seen: item numbers to leave out.
        k: how many.

    Returns:
        ``(item numbers, ratings)``, best first; ratings are in stars and clipped.
    """
    items = np.setdiff1d(np.arange(model.n_items), seen)
    rating = predict(model, np.full_like(items, user), items)
    rating, columns = top_k.best(rating[None], min(k, len(items)))
    return items[columns.numpy()[0]], rating.numpy()[0]
