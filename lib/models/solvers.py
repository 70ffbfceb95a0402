"""Exact solvers of MF: alternating least squares and Gibbs sampling.

With the items fixed, the best row ``w = (p_u, b_u)`` of each user is a ridge regression
on the rows ``z = (q_i, 1)`` of the items that the user has rated; with the users fixed,
likewise for the items. Both solvers compute these normal equations: ``ALS`` takes their
solutions, ``Gibbs`` draws from the normal distributions around them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, cg
from scipy.stats import norm

from lib.data.ratings import Part
from lib.errors import InputError, check_choice, check_number
from lib.evaluation import metrics
from lib.evaluation.rating_baselines import UserItemBias
from lib.hardware.tensorflow import tf
from lib.models import mf

BLOCK = 2**15  # places for ratings, padding included, in one batch of equations
UNEVEN = 0.75  # least number of ratings of a row in a batch, relative to the largest
SAVE_EVERY = 10  # sweeps from one checkpoint to the next
POWER, SPREAD, DAMPING = 4, 0.3, 5  # of the start of ALS; SPREAD as a deviation
START = 0.1  # standard deviation of the first factors and biases
BURN_IN = 0.2  # share of the sweeps of Gibbs that are no samples
LEAST = 1e-4  # penalty with which every row has one solution in float32
CHUNK = 2**23  # ratings that are sorted at once; with more, the result is in a file
EXTENSIONS = ("none", "sets", "times", "both")  # of Gibbs
SPANS, DAY = (2, 8, 32), 86_400  # blocks of times: ratings of a user, and seconds
ITERATIONS = 20  # of conjugate gradients, at most

Prior = tuple[np.ndarray, np.ndarray]  # precision matrix and mean of rows


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

    def batches(self) -> Iterator[tuple[np.ndarray, tf.Tensor, np.ndarray]]:
        """Yields rows, and their others and targets, padded to the largest count."""
        few = len(self.others) <= CHUNK
        for rows, place, filled, others in self._layout if few else self._lay_out():
            targets = np.zeros(filled.shape, np.float32)
            targets[filled] = self.targets[place]
            yield rows, others, targets

    @cached_property
    def _layout(self) -> list[tuple[np.ndarray, slice, np.ndarray, tf.Tensor]]:
        return list(self._lay_out())

    def _lay_out(self) -> Iterator[tuple[np.ndarray, slice, np.ndarray, tf.Tensor]]:
        first, start = 0, 0
        while first < len(self.rows):
            longest = max(int(self.counts[first]), 1)
            counts = self.counts[first : first + max(BLOCK // longest, 1)]
            counts = counts[counts >= min(UNEVEN * longest, counts[0])]
            last, stop = first + len(counts), start + int(counts.sum())
            filled = np.arange(longest) < counts[:, None]
            others = np.full(filled.shape, self.n_others, np.int32)
            others[filled] = self.others[start:stop]
            yield self.rows[first:last], slice(start, stop), filled, tf.constant(others)
            first, start = last, stop


def _empty(n: int, dtype: Any) -> np.ndarray:
    """An array to fill; a long one is in a temporary file, which ends with it."""
    if n <= CHUNK:
        return np.empty(n, dtype)
    return np.memmap(tempfile.TemporaryFile(), dtype, shape=(n,))


def _spec(rank: int, dtype: Any = tf.float32) -> tf.TensorSpec:
    return tf.TensorSpec([None] * rank, dtype)


@tf.function(
    input_signature=[_spec(2), _spec(2, tf.int32), *map(_spec, [2, 1, 2, 2, 2])],
    autograph=False,
)
def solve(
    table: tf.Tensor,
    others: tf.Tensor,
    targets: tf.Tensor,
    weight: tf.Tensor,
    precision: tf.Tensor,
    centre: tf.Tensor,
    noise: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Solves the normal equations of a batch of rows; draws around the solutions.

    ``(n P + Z'Z) w = n P c + Z'(r - b)`` with ``z = (q, 1)``. Traced once, for every
    shape.

    Args:
        table: ``(n + 1, d + 1)``, ``(z, b)`` for each row of the other side; the last
            one is zero, for padding.
        others, targets: ``(batch, ratings)``: which ``(z, b)`` and ``r`` a rating has.
        weight: ``n``, ``(batch,)``, of the prior or penalty.
        precision: ``P``, ``(d, d)``.
        centre: ``c``, ``(batch, d)``.
        noise: normal, or zeros for the solutions themselves, ``(batch, d)``.

    Returns:
        ``(rows, error)``: ``(batch, d)``, the solutions ``w`` plus noise whose
        covariance is the inverse of the left matrix times the variance of ``noise``;
        and the squared error of their ratings, ``(batch,)``.
    """
    z = tf.gather(table, others)
    product = tf.matmul(z, z, transpose_a=True)
    moment = tf.linalg.matvec(z, targets, transpose_a=True)
    left = weight[:, None, None] * precision + product[:, :-1, :-1]
    root = tf.linalg.cholesky(left)
    right = weight[:, None] * tf.matmul(centre, precision)
    right += moment[:, :-1] - product[:, :-1, -1]
    half = tf.linalg.triangular_solve(root, right[..., None]) + noise[..., None]
    rows = tf.linalg.triangular_solve(root, half, adjoint=True)[..., 0]
    full = tf.pad(rows, [[0, 0], [0, 1]], constant_values=1.0)
    error = full * (tf.linalg.matvec(product, full) - 2 * moment)
    return rows, tf.reduce_sum(error, 1) + tf.reduce_sum(tf.square(targets), 1)


def draw_prior(rows: np.ndarray, rng: np.random.Generator, slopes: Any = ()) -> Prior:
    """Draws precision and mean of the rows' normal prior, given the rows.

    The hyperprior is normal-Wishart with scale ``I``, ``d`` degrees of freedom and the
    weight of one row with mean 0 (Salakhutdinov and Mnih 2008, equation 14).

    Args:
        rows: ``(n, d)``.
        rng: of the draw.
        slopes: further rows of this precision, ``(n, d)``, whose mean is 0.

    Returns:
        float32 ``(d, d)`` and ``(d,)``.
    """
    n, d = rows.shape
    mean = rows.mean(axis=0, dtype=np.float64)
    scatter = rows.T @ rows - n * np.outer(mean, mean) * (1 - 1 / (n + 1))
    more = np.reshape(slopes, (-1, d))
    root = np.linalg.cholesky(np.eye(d) + scatter + more.T @ more)
    bartlett = np.tril(rng.standard_normal((d, d)), -1)
    bartlett += np.diag(np.sqrt(rng.chisquare(n + len(more) + d - np.arange(d))))
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
        has_biases = model.use_bias or model.samples
        self.dim = model.latent_dim + bool(has_biases)  # length of a row
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
    def sides(self) -> list[Grouped]:
        """The ratings by user and by item, less their mean."""
        mean = np.float32(self.model.global_mean)
        return [self.group(k, self.part.rating, mean) for k in (0, 1)]

    def group(self, k: int, values: np.ndarray, mean: Any = 0) -> Grouped:
        """Groups ratings by row, in memory for ``CHUNK`` ratings at a time.

        Args:
            k: 0 for the users, 1 for the items.
            values: of each training rating, perhaps memory-mapped like the part.
            mean: to subtract from them.
        """
        step = -1 if k else 1
        own, other = (self.part.user_idx, self.part.item_idx)[::step]
        n, n_rows, n_others = len(own), *(x.shape[0] for x in self.tables[::step])
        chunks = [slice(first, first + CHUNK) for first in range(0, n, CHUNK)]
        counts = np.zeros(n_rows, np.int64)
        for chunk in chunks:
            counts += np.bincount(own[chunk], minlength=n_rows)
        rows = np.argsort(-counts, kind="stable")
        place, counts = np.argsort(rows).astype(np.int32), counts[rows]
        others, targets = _empty(n, np.int32), _empty(n, values.dtype)
        free = np.cumsum(counts) - counts  # the next place of each row's ratings
        for chunk in chunks:
            key = place[own[chunk]]
            each = np.arange(len(key) + 1)  # a transposition sorts in linear time
            matrix = sparse.csr_matrix((key, key, each), (len(key), n_rows)).tocsc()
            here = np.diff(matrix.indptr)
            target = np.repeat(free - matrix.indptr[:-1], here) + each[:-1]
            others[target] = other[chunk][matrix.indices]
            targets[target] = values[chunk][matrix.indices] - mean
            free += here
        return Grouped(rows, counts, others, targets, n_others)

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
        self, k: int, weight: np.ndarray, prior: Prior, noise: np.ndarray
    ) -> float:
        """Solves all rows of a side given the other, or draws around the solutions.

        Args:
            k: 0 for the users, 1 for the items.
            weight, noise: see ``solve``; for all rows.
            prior: precision, relative to that of a rating, and centre of all rows or
                of each row.

        Returns:
            The squared error of all ratings.
        """
        d, rows = self.model.latent_dim, self.tables[1 - k].numpy()
        bias = rows[:, d:]  # no columns without biases, so that there is no 1 either
        parts = rows[:, :d], np.ones_like(bias), bias.sum(axis=1, keepdims=True)
        table = tf.constant(np.pad(np.hstack(parts), ((0, 1), (0, 0))))
        precision, centre = prior[0], np.broadcast_to(prior[1], noise.shape)
        solved, error = np.empty_like(noise), 0.0
        for rows, others, targets in self.sides[k].batches():
            own = weight[rows], precision, centre[rows], noise[rows]
            found, added = solve(table, others, targets, *own)
            solved[rows] = found.numpy()
            error += float(added.numpy().sum(dtype=np.float64))
        self.tables[k].assign(solved)
        return error


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

        Random rows cost three sweeps until they do. With means of items and users taken
        off, ``POWER`` iterations turn random columns into the leading singular vectors.
        Of many ratings, the first are taken.
        """
        part, sizes = self.part.take(slice(CHUNK)), [x.shape[0] for x in self.tables]
        biases = UserItemBias(DAMPING, rounds=1).fit(part, *sizes)
        stars = (part.rating - biases.predict(part)).astype(np.float32)
        matrix = sparse.csr_matrix((stars, (part.user_idx, part.item_idx)), sizes)
        vectors = self.items.numpy()[:, : self.model.latent_dim]
        for _ in range(POWER):
            vectors = np.linalg.qr(matrix.T @ (matrix @ vectors))[0]
        rows = [vectors * (SPREAD * sizes[1] ** 0.5), biases.item_bias[:, None]]
        return np.hstack(rows)[:, : self.dim].astype(np.float32)

    def sweep(self, epoch: int, epochs: int) -> float:
        """Solves for users, then items; returns loss and penalty per rating."""
        if epoch == 0:
            self.items.assign(self._start())
        penalty, paid = self.model.regularization, 0.0
        prior = penalty * np.eye(self.dim, dtype=np.float32), np.zeros(self.dim, "f4")
        for k, names in enumerate(mf.PARTS.values()):
            side, table = self.sides[k], self.tables[k]
            weight = np.empty(len(side.rows), np.float32)
            weight[side.rows] = np.maximum(side.counts, 1)
            none = np.zeros(table.shape, np.float32)
            error = self.solve_rows(k, weight, prior, none)
            rows, d = table.numpy(), self.model.latent_dim
            paid += penalty * float(weight @ np.square(rows).sum(axis=1))
            for name, columns in zip(names, np.split(rows, range(d, self.dim), axis=1)):
                getattr(self.model, name).assign(columns)
        return (error + paid) / len(self.part)


class Gibbs(Solver):
    """Gibbs sampling of Bayesian MF (Salakhutdinov and Mnih 2008).

    A rating is normal around ``mu + b_u + b_i + <p_u, q_i>`` with precision ``alpha``.
    The rows ``(p_u, b_u)`` are normal around a common mean, with a common precision
    matrix, and so are the rows ``(q_i, b_i)``. A sweep draws the users' prior, the
    users, the items' prior, the items and ``alpha``, each given the others.

    After the first ``BURN_IN`` of the sweeps every sweep is a sample: ``mean`` and
    ``variance`` are over all of them. The model keeps ``model.samples`` of them, at
    equal distances, without the effects of times.

    Args:
        extension: ``"sets"`` puts ``Sets`` under the rows of both sides, ``"times"``
            adds ``Times`` to the ratings, ``"both"`` does both.
        model, part, test, device: see ``Solver``.
    """

    name = "gibbs"
    model: mf.SampledMF

    def __init__(self, *args: Any, extension: str = "none") -> None:
        check_choice("extension", extension, EXTENSIONS)
        self.extension = extension
        super().__init__(*args)

    def start(self) -> None:
        """Assigns the first rows, and forgets the samples before."""
        super().start()
        self.alpha, self.noise = tf.Variable(1.0), tf.Variable(0.0)
        # Running means over the samples: of the predictions, of their squares, and of
        # the variance of a rating, which is ``noise``.
        self.mean, self.square_mean = (
            tf.Variable(tf.zeros(len(self.test))) for _ in "ms"
        )
        columns = self.part.user_idx, self.part.item_idx
        has_sets, has_times = (self.extension in (x, "both") for x in EXTENSIONS[1:3])
        self.sets = [Sets(columns, k, self.tables) for k in (0, 1) if has_sets]
        self.times = Times(self.part, self.test) if has_times else None

    def evaluate(self) -> dict[str, float]:
        """RMSE and MAE of the mean over the samples, clipped to the scale, in stars."""
        stars = np.clip(self.mean.numpy(), *self.model.scale)
        return metrics.rating_metrics(stars, self.test.rating)

    def deviation(self) -> np.ndarray:
        """Standard deviation of the ratings to predict: float32 ``(n,)``, in stars."""
        variance = self.square_mean - tf.square(self.mean)
        return np.sqrt(np.maximum(variance.numpy(), 0) + self.noise.numpy())

    def coverage(self) -> dict[str, float]:
        """Shares of the ratings to predict inside their 50, 80 and 95 % intervals."""
        error = np.abs(self.test.rating - self.mean.numpy()) / self.deviation()
        limits = {percent: norm.ppf(0.5 + percent / 200) for percent in (50, 80, 95)}
        return {f"coverage_{p}": float(np.mean(error <= z)) for p, z in limits.items()}

    def sweep(self, epoch: int, epochs: int) -> float:
        """Draws both tables and priors once; returns the squared error per rating."""
        rng = np.random.default_rng([self.model.seed, epoch])
        alpha, n = float(self.alpha.numpy()), len(self.part)
        if self.times:
            targets = self.part.rating - self.model.global_mean - self.times.add_up()[0]
            for side, order in zip(self.sides, self.orders):
                side.targets[:] = targets[order]
        _, error = (self._draw(k, rng, alpha) for k in (0, 1))
        if self.times:
            residual = self.part.rating - self._predict(self.part)
            error = self.times.draw(residual, alpha, rng)
        self.alpha.assign(rng.gamma(1 + n / 2, 1 / (1 + error / 2)))
        first = int(BURN_IN * epochs)
        kept = np.linspace(first, epochs - 1, self.model.samples).round()
        if epoch <= first or epoch in kept:
            place = int(np.searchsorted(kept, epoch))
            users, items = (table.numpy() for table in self.tables)
            prior = draw_prior(users, rng)  # of users whose set is not known
            self.model.keep(place, users, items, *prior, np.float32(alpha))
        stars = self._predict(self.test)
        stars += self.times.add_up()[1] if self.times else 0
        values = stars, np.square(stars), 1 / self.alpha
        for mean, value in zip((self.mean, self.square_mean, self.noise), values):
            mean.assign_add((value - mean) / (max(epoch - first, 0) + 1))
        return error / n

    def _draw(self, k: int, rng: np.random.Generator, alpha: float) -> float:
        """Draws the prior and the rows of a side; returns the squared error."""
        rows = self.tables[k].numpy()
        draw = self.sets[k].draw if self.sets else draw_prior
        precision, centre = draw(rows, rng)
        noise = rng.standard_normal(rows.shape, np.float32) * np.float32(alpha**-0.5)
        prior = precision / np.float32(alpha), centre
        return self.solve_rows(k, np.ones(len(noise), "f4"), prior, noise)

    def _predict(self, part: Part) -> np.ndarray:
        """Predicts ratings by the rows that were drawn last, in stars, not clipped."""
        users, items = (  # (p, b, 1) and (q, 1, b)
            np.insert(table.numpy(), self.dim - k, 1, axis=1)
            for k, table in enumerate(self.tables)
        )
        chunks = (part.take(slice(k, k + BLOCK)) for k in range(0, len(part), BLOCK))
        pairs = ((users[x.user_idx], items[x.item_idx]) for x in chunks)
        stars = np.concatenate([np.einsum("nd,nd->n", *pair) for pair in pairs])
        return stars + np.float32(self.model.global_mean)

    @cached_property
    def orders(self) -> list[np.ndarray]:
        """The positions of the training ratings in the order of each of ``sides``."""
        return [self.group(k, np.arange(len(self.part))).targets for k in (0, 1)]


class Sets(tf.Module):
    """Regression of the rows of a side on the sets of the others that they have rated.

    The mean of the prior of ``(p_u, b_u)`` is ``c + sum_j y_j / sqrt(n)`` over the
    user's ``n`` rated items, as in SVD++ (Koren 2008); of an item, over its users. A
    row ``y`` has mean 0 and ``weight`` times the precision of the prior. Given the
    rows, all ``y`` are drawn at once: the solution of a ridge regression on rows with
    noise (Macau, Simm et al. 2017).

    Args:
        columns: rows of users and of items of the training ratings.
        k: 0 for the users, 1 for the items.
        tables: all rows of users and of items.
    """

    def __init__(self, columns: Any, k: int, tables: list[tf.Variable]) -> None:
        super().__init__()
        own, other = columns[k], columns[1 - k]
        self.slopes = tf.Variable(tf.zeros_like(tables[1 - k]))
        self.weight = tf.Variable(1.0)
        shape = tables[k].shape[0], self.slopes.shape[0]
        value = np.bincount(own)[own].astype(np.float32) ** -0.5
        self.matrix = sparse.csr_matrix((value, (own, other)), shape)

    def draw(self, rows: np.ndarray, rng: np.random.Generator) -> Prior:
        """Draws the prior of the rows: precision, and a centre for each row."""
        slopes, weight = self.slopes.numpy(), self.weight.numpy()
        scaled = weight**0.5 * slopes
        precision, centre = draw_prior(rows - self.matrix @ slopes, rng, scaled)
        root = np.linalg.inv(np.linalg.cholesky(precision))  # of the covariance
        noise = [
            rng.standard_normal(x.shape, np.float32) @ root for x in (rows, slopes)
        ]
        right = self.matrix.T @ (rows - centre + noise[0]) + weight**0.5 * noise[1]

        def multiply(y: np.ndarray) -> np.ndarray:
            y = y.reshape(right.shape)
            return (self.matrix.T @ (self.matrix @ y) + weight * y).ravel()

        operator = LinearOperator((right.size, right.size), multiply, dtype=right.dtype)
        slopes = cg(operator, right.ravel(), maxiter=ITERATIONS)[0].reshape(right.shape)
        spread = float(np.vdot(slopes @ precision, slopes))
        self.weight.assign(rng.gamma(1 + slopes.size / 2, 1 / (1 + spread / 2)))
        self.slopes.assign(slopes)
        return precision, centre + self.matrix @ slopes


class Times(tf.Module):
    """Effects of the time of a rating on its user: a level for each block of times.

    A block is a day of a user, or 2, 8 or 32 of a user's consecutive ratings; a rating
    to predict is in the blocks of the training ratings around it. Levels of a kind of
    block are normal around 0.

    Raises:
        InputError: the ratings have no times.
    """

    def __init__(self, train: Part, test: Part) -> None:
        super().__init__()
        if not (len(train.timestamp) and train.timestamp.any()):
            raise InputError(
                'extension="times" or "both": the ratings have no times; name their '
                'column, as in columns="time=<column>", or choose "sets".'
            )
        self.n, self.blocks = len(train), _number_blocks(train, test)
        self.levels = [tf.Variable(tf.zeros(x.max() + 1)) for x in self.blocks]
        self.precisions = tf.Variable(tf.fill([len(self.blocks)], 1 / START**2))

    def add_up(self) -> tuple[np.ndarray, np.ndarray]:
        """The sum of the levels of each training rating and each one to predict."""
        pairs = zip(self.levels, self.blocks)
        total = sum(levels.numpy()[block] for levels, block in pairs)
        return total[: self.n], total[self.n :]

    def draw(
        self, residual: np.ndarray, alpha: float, rng: np.random.Generator
    ) -> float:
        """Draws all levels and their precisions.

        Args:
            residual: of the training ratings, without any levels; changed.
            alpha: precision of a rating.
            rng: of the draw.

        Returns:
            The squared error that is left.
        """
        residual -= self.add_up()[0]
        precisions = self.precisions.numpy()
        for k, levels in enumerate(self.levels):
            block, n = self.blocks[k, : self.n], levels.shape[0]
            residual += levels.numpy()[block]
            weight = precisions[k] + alpha * np.bincount(block, minlength=n)
            drawn = alpha * np.bincount(block, residual, n) / weight
            drawn = (drawn + rng.standard_normal(n) / np.sqrt(weight)).astype("f4")
            residual -= drawn[block]
            levels.assign(drawn)
            precisions[k] = rng.gamma(1 + n / 2, 1 / (1 + float(drawn @ drawn) / 2))
        self.precisions.assign(precisions)
        return float(np.square(residual, dtype=np.float64).sum())


def _number_blocks(train: Part, test: Part) -> np.ndarray:
    """Numbers the blocks of each kind: ``(kinds, n)``, training ratings first."""
    user, time = (
        np.concatenate([getattr(part, name) for part in (train, test)]).astype(np.int64)
        for name in ("user_idx", "timestamp")
    )
    time -= time.min()
    base = user * (time.max() + len(time))
    known = np.sort((base + time)[: len(train)])
    rank = np.searchsorted(known, base + time) - np.searchsorted(known, base)
    kinds = [*(rank // span for span in SPANS), time // DAY]
    return np.stack([np.unique(base + x, return_inverse=True)[1] for x in kinds])


SOLVERS = {"als": ALS, "gibbs": Gibbs}


def make(
    name: str,
    data: Any,
    device: Any,
    use_bias: bool = True,
    samples: int = 32,
    extension: str = "none",
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
        extension: see ``Gibbs``.
        **settings: other arguments of the model.

    Raises:
        InputError: another name; Gibbs sampling without biases; an extension of another
            solver; or see ``Solver``.
    """
    check_choice("solver", name, ("adam", *SOLVERS))
    sizes = data.n_users, data.n_items, data.global_mean
    parts = data.train, data.test, device
    if name == "gibbs" and use_bias:
        model = mf.SampledMF(*sizes, samples=samples, **settings)
        return model, Gibbs(model, *parts, extension=extension)
    if name == "gibbs" or extension != "none":
        raise InputError(
            f'use_bias={use_bias}, extension="{extension}": solver="gibbs" draws the '
            "biases with the factors, and it alone has extensions; choose use_bias=True"
            ' with solver="gibbs", or extension="none" with solver="adam" or "als".'
        )
    model = mf.MF(*sizes, use_bias=use_bias, **settings)
    return model, ALS(model, *parts) if name == "als" else None
