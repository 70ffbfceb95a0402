"""Exact solvers of MF: alternating least squares and Gibbs sampling.

With the items fixed, the best row ``w = (p_u, b_u)`` of each user is a ridge regression
on the rows ``z = (q_i, 1)`` of the items that the user has rated; with the users fixed,
likewise for the items. Both solvers compute these normal equations: ``ALS`` takes their
solutions, ``Gibbs`` draws from the normal distributions around them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse
from scipy.stats import norm

from lib.data.ratings import Part
from lib.errors import InputError, check_choice, check_number
from lib.evaluation import metrics
from lib.hardware.tensorflow import tf
from lib.models import mf

BLOCK = 2**16  # places for ratings, padding included, in one batch of equations
UNEVEN = 0.75  # least number of ratings of a row in a batch, relative to the largest
SAVE_EVERY = 10  # sweeps from one checkpoint to the next
POWER, SPREAD, DAMPING = 3, 0.3, 5  # of the start of ALS; SPREAD as a deviation
START = 0.1  # standard deviation of the first factors and biases
BURN_IN = 0.2  # share of the sweeps of Gibbs that are no samples
LEAST = 1e-4  # penalty with which every row has one solution in float32
CHUNK = 2**23  # ratings that are sorted at once; with more, the result is in a file


Prior = tuple[np.ndarray, np.ndarray]  # precision matrix and mean of rows
# Rows, their counts, and padded others and targets, in pieces of at most BLOCK ratings.
Batch = tuple[np.ndarray, np.ndarray, list[tuple[tf.Tensor, tf.Tensor]]]


@dataclass(frozen=True)
class Grouped:
    """Ratings grouped by row (user or item), rows of similar counts side by side.

    Attributes:
        rows: int64 ``(n_rows,)``, the rows by falling count.
        counts: int64 ``(n_rows,)``, their numbers of ratings, in the same order.
        others: int32 ``(n,)``, the other side of each rating, row after row.
        targets: float32 ``(n,)``, the ratings in the same order, less a mean.
        n_others: rows of the other side; the number that stands for none of them.
    """

    rows: np.ndarray
    counts: np.ndarray
    others: np.ndarray
    targets: np.ndarray
    n_others: int

    def batches(self) -> Iterable[Batch]:
        """The batches of similar rows; of many ratings, made again each time."""
        return self._kept if len(self.targets) <= CHUNK else self._make_batches()

    @cached_property
    def _kept(self) -> list[Batch]:
        return list(self._make_batches())

    def _make_batches(self) -> Iterator[Batch]:
        first, start = 0, 0
        while first < len(self.rows):
            longest = int(self.counts[first])
            last = first + max(BLOCK // max(longest, 1), 1)
            shorter = self.counts[first:last] < UNEVEN * longest
            last = first + int(shorter.argmax()) if shorter.any() else last
            counts = self.counts[first:last]
            pieces = [  # a row may be longer than a batch
                self._pad(start + skip, np.clip(counts - skip, 0, BLOCK))
                for skip in range(0, max(longest, 1), BLOCK)
            ]
            yield self.rows[first:last], counts, pieces
            first, start = last, start + int(counts.sum())

    def _pad(self, start: int, counts: np.ndarray) -> tuple[tf.Tensor, tf.Tensor]:
        """Others and targets from ``start`` on, a row for each of ``counts``."""
        filled = np.arange(counts.max()) < counts[:, None]
        place = slice(start, start + int(counts.sum()))
        others = np.full(filled.shape, self.n_others, np.int32)
        targets = np.zeros(filled.shape, np.float32)
        others[filled], targets[filled] = self.others[place], self.targets[place]
        return tf.constant(others), tf.constant(targets)


def group(
    own: np.ndarray,
    other: np.ndarray,
    rating: np.ndarray,
    sizes: tuple[int, int],
    mean: float,
) -> Grouped:
    """Groups ratings by row, in memory for ``CHUNK`` ratings at a time.

    Args:
        own, other, rating: ``(n,)``, perhaps memory-mapped: the row of each rating, the
            row of the other side, and the rating.
        sizes: numbers of rows of both sides; those without ratings are rows too.
        mean: to subtract from the ratings.
    """
    n, (n_rows, n_others) = len(own), sizes
    chunks = [slice(first, first + CHUNK) for first in range(0, n, CHUNK)]
    counts = np.zeros(n_rows, np.int64)
    for chunk in chunks:
        counts += np.bincount(own[chunk], minlength=n_rows)
    rows = np.argsort(-counts, kind="stable")
    place = np.empty(n_rows, np.int32)
    place[rows] = np.arange(n_rows)
    counts = counts[rows]
    others, targets = (_empty(n, dtype) for dtype in (np.int32, np.float32))
    free = np.cumsum(counts) - counts  # the next place of each row's ratings
    for chunk in chunks:
        key = place[own[chunk]]
        each = np.arange(len(key) + 1)  # a transposition sorts in linear time
        matrix = sparse.csr_matrix((key, key, each), (len(key), n_rows)).tocsc()
        here = np.diff(matrix.indptr)
        target = np.repeat(free - matrix.indptr[:-1], here) + each[:-1]
        others[target] = other[chunk][matrix.indices]
        targets[target] = rating[chunk][matrix.indices] - np.float32(mean)
        free += here
    return Grouped(rows, counts, others, targets, n_others)


def _empty(n: int, dtype: Any) -> np.ndarray:
    """An array to fill; a long one is in a temporary file, which ends with it."""
    if n <= CHUNK:
        return np.empty(n, dtype)
    return np.memmap(tempfile.TemporaryFile(), dtype, shape=(n,))


def _spec(rank: int, dtype: Any = tf.float32) -> tf.TensorSpec:
    return tf.TensorSpec([None] * rank, dtype)


@tf.function(input_signature=[_spec(2), _spec(2, tf.int32), _spec(2)])
def sum_products(
    table: tf.Tensor, others: tf.Tensor, targets: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sums ``z z'`` and ``r z`` over the ratings of each row of a batch.

    Traced once, for every shape.

    Args:
        table: ``(n + 1, k)``, a ``z`` for each row of the other side; the last one is
            zero, for padding.
        others, targets: ``(batch, ratings)``: which ``z`` and ``r`` a rating has.

    Returns:
        ``(batch, k, k)`` and ``(batch, k)``.
    """
    z = tf.gather(table, others)
    product = tf.matmul(z, z, transpose_a=True)
    return product, tf.linalg.matvec(z, targets, transpose_a=True)


@tf.function(input_signature=[_spec(rank) for rank in (3, 2, 0, 1, 2, 1, 2)])
def solve(
    product: tf.Tensor,
    moment: tf.Tensor,
    alpha: tf.Tensor,
    weight: tf.Tensor,
    precision: tf.Tensor,
    centre: tf.Tensor,
    noise: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Solves the normal equations of a batch; draws around the solutions.

    ``(n P + alpha Z'Z) w = n P c + alpha Z'(r - b)``, with ``z = (q, 1)`` and ``b`` the
    last column of what ``sum_products`` multiplied. Traced once, for every shape.

    Args:
        product, moment: of ``sum_products``, with ``k = d + 1``.
        alpha: scalar, precision of a rating.
        weight: ``n``, ``(batch,)``, of the prior or penalty.
        precision: ``P``, ``(d, d)``.
        centre: ``c``, ``(d,)``.
        noise: standard normal, or zeros for the solutions themselves, ``(batch, d)``.

    Returns:
        ``(rows, error)``: ``(batch, d)``, the solutions ``w`` plus ``noise`` with the
        inverse of the left matrix as covariance, and ``(batch,)``, the squared error of
        these rows less the sum of ``r^2``.
    """
    weight = weight[:, None]
    root = weight[..., None] * precision + alpha * product[:, :-1, :-1]
    root = tf.linalg.cholesky(root)
    right = alpha * (moment[:, :-1] - product[:, :-1, -1])
    right += weight * tf.linalg.matvec(precision, centre)
    half = tf.linalg.triangular_solve(root, right[..., None]) + noise[..., None]
    rows = tf.linalg.triangular_solve(root, half, adjoint=True)[..., 0]
    full = tf.pad(rows, [[0, 0], [0, 1]], constant_values=1.0)
    error = tf.linalg.matvec(product, full) - 2 * moment
    return rows, tf.reduce_sum(full * error, axis=1)


def draw_prior(rows: np.ndarray, rng: np.random.Generator) -> Prior:
    """Draws precision and mean of the rows' normal prior, given the rows.

    The hyperprior is normal-Wishart with scale ``I``, ``d`` degrees of freedom and the
    weight of one row with mean 0 (Salakhutdinov and Mnih 2008, equation 14).

    Args:
        rows: ``(n, d)``.
        rng: of the draw.

    Returns:
        float32 ``(d, d)`` and ``(d,)``.
    """
    n, d = rows.shape
    mean = rows.mean(axis=0, dtype=np.float64)
    scatter = rows.T @ rows - n * np.outer(mean, mean) * (1 - 1 / (n + 1))
    root = np.linalg.cholesky(np.eye(d) + scatter)
    bartlett = np.tril(rng.standard_normal((d, d)), -1)
    bartlett += np.diag(np.sqrt(rng.chisquare(n + d - np.arange(d))))
    factor = np.linalg.solve(root.T, bartlett)  # of the precision
    centre = mean * n / (n + 1)
    centre += np.linalg.solve(factor.T, rng.standard_normal(d)) / np.sqrt(n + 1)
    return (factor @ factor.T).astype(np.float32), centre.astype(np.float32)


class Solver(tf.Module):
    """Trains a model by sweeps: all users given the items, then all items.

    It is the ``solver`` of ``lib.training.fit.fit``, which saves its variables with
    those of the model. A sweep depends on them, its number and the model's seed only.

    Args:
        model: an ``MF``, for ``Gibbs`` a ``SampledMF``.
        part: the training ratings.
        test: the ratings to predict.
        device: the ``lib.hardware.device.Device`` that computes.

    Raises:
        InputError: the device or the model does not go with exact solvers.
    """

    name = ""

    def __init__(self, model: mf.MF, part: Part, test: Part, device: Any) -> None:
        super().__init__()
        if device.kind == "npu" or device.workers > 1 or model.frozen:
            raise InputError(
                f'solver="{self.name}" solves for all users and items on one CPU or '
                'GPU, since an NPU has no Cholesky factorisation: choose solver="adam",'
                ' or device="cpu" with one worker and nothing frozen.'
            )
        self.model, self.part, self.test = model, part, test
        model.build(None)
        has_biases = model.use_bias or isinstance(model, mf.SampledMF)
        self.dim = model.latent_dim + int(has_biases)  # length of a row
        self.users, self.items = self.tables = [
            tf.Variable(tf.zeros((n, self.dim))) for n in (model.n_users, model.n_items)
        ]
        self.start()

    def start(self) -> None:
        """Assigns the first rows."""
        rng = np.random.default_rng(self.model.seed)
        for table in self.tables:
            table.assign(START * rng.standard_normal(table.shape, np.float32))

    @cached_property  # so that the time it takes counts as training
    def sides(self) -> tuple[Grouped, Grouped]:
        """The ratings by user and by item."""
        n, mean = (self.model.n_users, self.model.n_items), self.model.global_mean
        user, item, stars = self.part.user_idx, self.part.item_idx, self.part.rating
        by_user = group(user, item, stars, n, mean)
        return by_user, group(item, user, stars, n[::-1], mean)

    @cached_property
    def square(self) -> float:
        """Sum of the squared ratings, less the mean."""
        values = self.sides[0].targets
        parts = (values[k : k + CHUNK] for k in range(0, len(values), CHUNK))
        return sum(float(np.square(part, dtype=np.float64).sum()) for part in parts)

    def fit(self, epochs: range, monitor: Any) -> None:
        """Does the sweeps of ``epochs`` and reports to ``lib.training.fit.Monitor``."""
        monitor.set_model(self.model)
        if not epochs.start:  # the call may be repeated
            self.start()
        save = monitor.save  # a sweep may take less time than saving the model
        for epoch in epochs:
            done = epoch + 1
            is_due = done % SAVE_EVERY == 0 or done == epochs.stop
            monitor.save = save if is_due else None
            monitor.on_epoch_begin(epoch)
            logs = {"loss": self.sweep(epoch, epochs.stop)}
            monitor.on_train_batch_end(0, logs)
            monitor.on_epoch_end(epoch, logs)

    def evaluate(self) -> dict[str, float]:
        """Measures RMSE and MAE on the ratings to predict, in stars."""
        return mf.evaluate(self.model, self.test)

    def sweep(self, epoch: int, epochs: int) -> float:
        """Does sweep ``epoch`` of ``epochs``, from 0; returns the loss per rating."""
        raise NotImplementedError

    def solve_rows(
        self, k: int, weight: np.ndarray, prior: Prior, noise: np.ndarray, alpha: float
    ) -> float:
        """Solves all rows of a side given the other, or draws around the solutions.

        Args:
            k: 0 for the users, 1 for the items.
            weight, noise: see ``solve``; for all rows.
            prior: precision and centre.
            alpha: see ``solve``.

        Returns:
            The squared error of all ratings.
        """
        table = _make_table(self.tables[1 - k].numpy(), self.model.latent_dim)
        own, error = [tf.constant(value) for value in prior], self.square
        solved = np.empty_like(noise)
        for rows, _, pieces in self.sides[k].batches():
            sums = sum_products(table, *pieces[0])
            for piece in pieces[1:]:
                more = sum_products(table, *piece)
                sums = [before + added for before, added in zip(sums, more)]
            values = tf.constant(alpha, tf.float32), tf.constant(weight[rows])
            found, added = solve(*sums, *values, *own, tf.constant(noise[rows]))
            solved[rows] = found.numpy()
            error += float(added.numpy().sum(dtype=np.float64))
        self.tables[k].assign(solved)
        return error


def _make_table(rows: np.ndarray, latent_dim: int) -> tf.Tensor:
    """Returns the factors that multiply a row of the other side, a 1, and the bias.

    A last row of zeros pads. Without biases there is no 1, and the bias is 0.
    """
    n, dim = rows.shape
    table = np.zeros((n + 1, dim + 1), np.float32)
    table[:n, :latent_dim] = rows[:, :latent_dim]
    if dim > latent_dim:
        table[:n, latent_dim], table[:n, -1] = 1, rows[:, -1]
    return tf.constant(table)


class ALS(Solver):
    """Alternating least squares: minimises the loss that Adam trains ``mf.MF`` on.

    The penalty is paid for every rating (Zhou et al. 2008).

    Raises:
        InputError: the penalty is too small for unique solutions.
    """

    name = "als"

    def __init__(self, model: mf.MF, part: Part, test: Part, device: Any) -> None:
        super().__init__(model, part, test, device)
        allowed = f'{LEAST:g} or more with solver="als"'
        value = model.regularization
        check_number("regularization", value, value >= LEAST, allowed)

    def _start(self) -> np.ndarray:
        """Rows of the items that span the main directions of the ratings.

        Random rows cost three sweeps until they do. With means of users and items
        taken off (shrunken by ``DAMPING`` ratings), ``POWER`` iterations turn random
        columns into the leading singular vectors. Of many ratings, those of the users
        with the most are taken.
        """
        side, n_items = self.sides[0], self.model.n_items
        n_users = int(np.searchsorted(np.cumsum(side.counts), CHUNK, side="right"))
        counts = side.counts[:n_users]
        starts = np.concatenate([[0], np.cumsum(counts)])
        item, stars = side.others[: starts[-1]], side.targets[: starts[-1]]
        user = np.repeat(np.arange(n_users), counts)
        total, n = (np.bincount(item, x, n_items) for x in (stars, None))
        bias = total / (n + DAMPING)
        stars = stars - bias[item]
        level = np.bincount(user, stars, n_users) / (counts + DAMPING)
        stars = (stars - level[user]).astype(np.float32)
        matrix = sparse.csr_matrix((stars, item, starts), (n_users, n_items))
        vectors = self.items.numpy()[:, : self.model.latent_dim]
        for _ in range(POWER):
            vectors = np.linalg.qr(matrix.T @ (matrix @ vectors))[0]
        rows = np.hstack([vectors * (SPREAD * n_items**0.5), bias[:, None]])
        return rows[:, : self.dim].astype(np.float32)

    def sweep(self, epoch: int, epochs: int) -> float:
        if epoch == 0:
            self.items.assign(self._start())
        penalty, paid = self.model.regularization, 0.0
        precision = penalty * np.eye(self.dim, dtype=np.float32)
        for k, side in enumerate(self.sides):
            weight = np.empty(len(side.rows), np.float32)
            weight[side.rows] = np.maximum(side.counts, 1)
            none = np.zeros((len(weight), self.dim), np.float32)
            error = self.solve_rows(k, weight, (precision, none[0]), none, 1.0)
            squares = np.square(self.tables[k].numpy()).sum(axis=1)
            paid += penalty * float(weight @ squares)
        for rows, names in zip(self.tables, mf.PARTS.values()):
            factors, *biases = tf.split(rows, [self.model.latent_dim, -1], axis=1)
            getattr(self.model, names[0]).assign(factors)
            if self.model.use_bias:
                getattr(self.model, names[1]).assign(biases[0])
        return (error + paid) / len(self.part)


class Gibbs(Solver):
    """Gibbs sampling of Bayesian MF (Salakhutdinov and Mnih 2008).

    A rating is normal around ``mu + b_u + b_i + <p_u, q_i>`` with precision ``alpha``.
    The rows ``(p_u, b_u)`` are normal around a common mean, with a common precision
    matrix, and so are the rows ``(q_i, b_i)``. A sweep draws the users' prior, the
    users, the items' prior, the items and ``alpha``, each given the others.

    After the first ``BURN_IN`` of the sweeps every sweep is a sample: ``mean`` and
    ``variance`` are over all of them. The model keeps ``model.samples`` of them, at
    equal distances.

    """

    name = "gibbs"
    model: mf.SampledMF

    def __init__(
        self, model: mf.SampledMF, part: Part, test: Part, device: Any
    ) -> None:
        self.alpha = tf.Variable(1.0)
        super().__init__(model, part, test, device)
        # Running means over the samples: of the predictions, of their squares, and of
        # the variance of a rating.
        self.mean, self.square_mean = (tf.Variable(tf.zeros(len(test))) for _ in "ms")
        self.noise = tf.Variable(0.0)

    def start(self) -> None:
        super().start()
        self.alpha.assign(1.0)

    def evaluate(self) -> dict[str, float]:
        stars = np.clip(self.mean.numpy(), *self.model.scale)
        return metrics.rating_metrics(stars, self.test.rating)

    def deviation(self) -> np.ndarray:
        """Standard deviation of the ratings to predict: float32 ``(n,)``, in stars."""
        variance = self.square_mean - tf.square(self.mean)
        return np.sqrt(np.maximum(variance.numpy(), 0) + self.noise.numpy())

    def coverage(self) -> dict[str, float]:
        """Shares of the ratings to predict inside their 50, 80 and 95 % intervals."""
        error = np.abs(self.test.rating - self.mean.numpy()) / self.deviation()
        return {
            f"coverage_{percent}": float(
                np.mean(error <= norm.ppf(0.5 + percent / 200))
            )
            for percent in (50, 80, 95)
        }

    def sweep(self, epoch: int, epochs: int) -> float:
        rng = np.random.default_rng([self.model.seed, epoch])
        alpha, n = float(self.alpha.numpy()), len(self.part)
        prior, _ = self._draw(0, rng, alpha)
        _, error = self._draw(1, rng, alpha)
        self.alpha.assign(rng.gamma(1 + n / 2, 1 / (1 + error / 2)))
        first = int(BURN_IN * epochs)
        kept = np.linspace(first, epochs - 1, self.model.samples).round()
        if epoch <= first or epoch in kept:
            place = max(int((np.unique(kept) <= epoch).sum()) - 1, 0)
            rows = self.users.numpy(), self.items.numpy()
            self.model.keep(place, *rows, *prior, np.float32(alpha))
        self._update_means(max(epoch - first, 0) + 1)
        return error / n

    def _draw(
        self, k: int, rng: np.random.Generator, alpha: float
    ) -> tuple[Prior, float]:
        """Draws the prior and the rows of a side; returns it and the squared error."""
        prior = draw_prior(self.tables[k].numpy(), rng)
        noise = rng.standard_normal(self.tables[k].shape, np.float32)
        return prior, self.solve_rows(k, np.ones(len(noise), "f4"), prior, noise, alpha)

    def _update_means(self, k: int) -> None:
        """Adds sample ``k``, from 1, to the running means."""
        users = tf.gather(self.users, self.test.user_idx)
        items = tf.gather(self.items, self.test.item_idx)
        product = tf.reduce_sum(users[:, :-1] * items[:, :-1], axis=1)
        stars = self.model.global_mean + product + users[:, -1] + items[:, -1]
        values = stars, tf.square(stars), 1 / self.alpha
        for mean, value in zip((self.mean, self.square_mean, self.noise), values):
            mean.assign_add((value - mean) / k)


SOLVERS = {"als": ALS, "gibbs": Gibbs}


def make(
    name: str,
    data: Any,
    device: Any,
    use_bias: bool = True,
    samples: int = 32,
    **settings: Any,
) -> tuple[mf.MF, Solver | None]:
    """Makes a model and its solver.

    Args:
        name: ``"adam"``, for which there is no solver, since ``fit`` has it;
            ``"als"`` or ``"gibbs"``.
        data: a ``lib.data.ratings.Ratings``.
        device: see ``Solver``.
        use_bias: see ``MF``.
        samples: see ``SampledMF``, the model of ``"gibbs"``.
        **settings: other arguments of the model.

    Raises:
        InputError: another name; Gibbs sampling without biases; or see ``Solver``.
    """
    check_choice("solver", name, ("adam", *SOLVERS))
    sizes = data.n_users, data.n_items, data.global_mean
    if name != "gibbs":
        model = mf.MF(*sizes, use_bias=use_bias, **settings)
    elif use_bias:
        model = mf.SampledMF(*sizes, samples=samples, **settings)
    else:
        raise InputError(
            'use_bias=False: solver="gibbs" draws the biases with the factors; choose '
            'True, or solver="adam" or "als".'
        )
    if name == "adam":
        return model, None
    return model, SOLVERS[name](model, data.train, data.test, device)
