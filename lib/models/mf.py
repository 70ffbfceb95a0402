"""MF: biased matrix factorization (Koren, Bell and Volinsky 2009)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lib import progress
from lib.data.ratings import Part
from lib.errors import LARGEST, check_choice, check_number, check_whole
from lib.evaluation import metrics
from lib.hardware.tensorflow import tf

STDDEV = 0.01  # of the initial factors; the published 0.05 gives a higher RMSE
PARTS = {  # parts of the model and the names of their weights
    "users": ("p", "user_bias"),
    "items": ("q", "item_bias"),
}
PRIOR = ("precision", "centre", "alpha")  # other weights of a SampledMF

Reader = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


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
        samples: see ``SampledMF``; 0 for one set of weights.

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
        samples: int = 0,
    ) -> None:
        super().__init__()
        for part in frozen:
            check_choice("frozen", part, PARTS)
        check_whole("latent_dim", latent_dim)
        check_whole("samples", samples, lowest=int(isinstance(self, SampledMF)))
        is_allowed = 0 <= regularization <= LARGEST
        allowed = f"from 0 to {LARGEST:g}"
        check_number("regularization", regularization, is_allowed, allowed)
        self.n_users, self.n_items, self.latent_dim = n_users, n_items, latent_dim
        self.global_mean, self.scale = global_mean, scale
        self.samples, self.use_bias = samples, use_bias and not samples
        self.regularization, self.matmul_dtype = regularization, matmul_dtype
        self.seed, self.frozen = seed, frozen

    @property
    def width(self) -> int:
        """Length of the vectors whose product is a rating."""
        return self.latent_dim

    def table(self, name: str, shape: tuple, initializer: Any) -> tf.Variable:
        """Adds a table, trainable unless its part is frozen."""
        trainable = not any(name in PARTS[part] for part in self.frozen)
        return self.add_weight(
            name=name, shape=shape, initializer=initializer, trainable=trainable
        )

    def build(self, input_shape: object) -> None:
        """Makes the tables: factors of small normal numbers, biases of 0."""

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
        """Ratings of pairs, not clipped; adds the penalty to the losses.

        Args:
            pairs: int ``(batch, 2)``, the numbers of users and items.

        Returns:
            float32 ``(batch, 1)``, in stars.
        """
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

    @tf.function(autograph=False)
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

        def read(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            pairs = np.stack([part.user_idx[index], part.item_idx[index]], axis=1)
            return pairs, part.rating[index][:, None]

        return read


class SampledMF(MF):
    """MF that predicts the mean over samples of its weights, as Gibbs sampling draws.

    It is ``mu + <p_u, q_i>`` on long vectors: one block for each sample, with two
    columns for the biases, ``(p_u, b_u, 1)`` and ``(q_i, 1, b_i)``, both divided by the
    square root of the number of samples. The product of two long vectors is then the
    mean of the samples' predictions.

    Args:
        samples: blocks, 1 or more.
        latent_dim: length of a sample's factor vector.
        n_users, n_items, global_mean, regularization, matmul_dtype: see ``MF``.
        seed, scale, frozen: see ``MF``. The biases are in the blocks, whatever
            ``use_bias``.
    """

    @property
    def width(self) -> int:
        """Length of a row of both tables: all blocks."""
        return self.samples * (self.latent_dim + 2)

    def build(self, input_shape: object) -> None:
        """Makes blocks of samples of 0, and the priors that ``keep`` fills."""

        def value(name: str, *shape: int) -> tf.Variable:
            return self.add_weight(
                name=name, shape=shape, initializer="zeros", trainable=False
            )

        d, tables = self.latent_dim + 1, {"p": self.n_users, "q": self.n_items}
        for column, (name, n) in enumerate(tables.items()):
            one = np.eye(d + 1)[d - column] * self.samples**-0.5
            rows = np.tile(one, (n, self.samples)).astype(np.float32)
            initial = tf.keras.initializers.Constant(rows)
            setattr(self, name, self.table(name, rows.shape, initial))
        self.precision = value("precision", self.samples, d, d)  # of the users' prior
        self.centre = value("centre", self.samples, d)  # and its mean
        self.alpha = value("alpha", self.samples)  # precision of a rating
        self.built = True

    def keep(
        self, place: int, users: np.ndarray, items: np.ndarray, *prior: Any
    ) -> None:
        """Puts a sample at ``place`` and, until others follow, at all places after it.

        Args:
            place: from 0.
            users, items: factors and, in the last column, biases.
            prior: precision and mean of the users' rows; precision of a rating.
        """
        d = self.latent_dim
        for table, rows, column in ((self.p, users, d + 1), (self.q, items, d)):
            block = np.insert(rows, column, 1, axis=1) * np.float32(self.samples**-0.5)
            long = np.array(table)
            long[:, place * (d + 2) :] = np.tile(block, self.samples - place)
            table.assign(long)
        for name, value in zip(PRIOR, prior):
            variable = getattr(self, name)
            values = np.array(variable)
            values[place:] = value
            variable.assign(values)


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
    n = len(user_idx)
    if not n:
        return np.zeros(0, np.float32)
    batch_size = min(batch_size, n)
    shape = tf.TensorSpec((batch_size, 2), tf.int32)
    stars, rows = model.stars.get_concrete_function(shape), []
    for first in progress.track(range(0, n, batch_size), "evaluation"):
        index = np.minimum(np.arange(first, first + batch_size), n - 1)
        pairs = np.stack([user_idx[index], item_idx[index]], axis=1)
        rows.append(stars(tf.constant(pairs, tf.int32)).numpy()[: n - first])
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
    A ``SampledMF`` gets the expected row given the items, the prior and the precision
    of a rating, for each of its samples.

    Args:
        model: a trained ``MF`` that has a row for each of the users.
        part: a part of ``lib.data.ratings.Ratings``; users without a rating in it keep
            their rows.
    """
    d, q, mean = model.latent_dim, np.asarray(model.q), np.float32(model.global_mean)
    if isinstance(model, SampledMF):
        p, scale = np.array(model.p), np.float32(model.samples**0.5)
        samples = zip(*(np.asarray(getattr(model, name)) for name in PRIOR))
        for s, (precision, centre, alpha) in enumerate(samples):
            block = slice(s * (d + 2), (s + 1) * (d + 2))
            rows, ridge = scale * q[:, block], precision / alpha
            prior = ridge, ridge @ centre
            users, w = _solve_users(part, rows[:, :-1], rows[:, -1] + mean, prior=prior)
            p[users, block] = np.insert(w, d + 1, 1, axis=1) / scale
        model.p.assign(p)
        return
    z, offset = q, np.full(model.n_items, mean)
    if model.use_bias:
        z = np.concatenate([q, np.ones_like(q[:, :1])], axis=1)
        offset += np.asarray(model.item_bias)[:, 0]
    users, w = _solve_users(part, z, offset, model.regularization)
    for name, rows in zip(PARTS["users"], np.split(w, [d], axis=1)):
        if rows.size:
            table = np.array(getattr(model, name))
            table[users] = rows
            getattr(model, name).assign(table)


def _solve_users(
    part: Part,
    z: np.ndarray,
    offset: np.ndarray,
    penalty: float = 0.0,
    prior: tuple[Any, Any] = (0.0, 0.0),
) -> tuple[np.ndarray, np.ndarray]:
    """The users of ``part`` and their solutions, a row each.

    A user with ``n`` ratings solves ``(Z'Z + n penalty I + A) w = Z'(r - offset) + b``.

    Args:
        part: ratings.
        z, offset: of every item.
        penalty: per rating.
        prior: ``(A, b)``.
    """
    eye = np.eye(z.shape[1], dtype=z.dtype)
    residual = part.rating - offset[part.item_idx]
    order = np.argsort(part.user_idx, kind="stable")
    users, first = np.unique(part.user_idx[order], return_index=True)
    solved = np.zeros((len(users), z.shape[1]), z.dtype)
    for w, rows in zip(solved, np.split(order, first[1:])):
        rated = z[part.item_idx[rows]]
        gram = rated.T @ rated + len(rows) * penalty * eye + prior[0]
        moment = rated.T @ residual[rows] + prior[1]
        w[:] = np.linalg.lstsq(gram, moment, rcond=None)[0]
    return users, solved
