"""MF as this repository trains it, and the floor under it; a worker of the bench."""

import importlib
import tempfile
import time
from unittest.mock import patch

import numpy as np
import work
from train_from_disk import MemoryWatch

from lib.data import ratings
from lib.hardware.tensorflow import tf
from lib.models import mf, optimizers, published, solvers
from lib.training import pipeline
from lib.training.fit import fit, set_seed
from lib.training.schedule import Schedule


def prepare(
    kind,
    data_path="ml-1m",
    test_share=0.1,
    device="auto",
    precision="float32",
    threads=1,
    **options,
):
    """Makes the round of a kind.

    The kind is one of ``published``, ``naive``, ``best``, ``als``, ``steps``,
    ``repeated``, ``floor``, ``huge``, ``huge als``, ``huge gibbs``.
    """
    port = kind == "published"  # it has no loss scale
    opened = work.open_device(device, precision, threads, loss_scale=not port)
    set_seed(0)
    if kind == "huge":
        return train_in_fit(make_ratings(**options), mf.MF, 2**20, opened)
    if kind.startswith("huge"):
        return sweep(make_ratings(**options), kind.split()[1], opened)
    data = ratings.load(data_path, test_share=test_share)
    if kind == "published":  # what the published script computes, our way
        return train_in_fit(data, published.MF, 512, opened)
    if kind == "naive":  # its own way: fit over arrays, a call for every step
        return train_as_published(data)
    if kind == "steps":
        return train_in_fit(data, mf.MF, opened=opened, **options)
    if kind == "repeated":  # a step without its reading
        options["batches"] = repeat_first_batch
        return train_in_fit(data, mf.MF, opened=opened, **options)
    if kind == "floor":
        return run_floor(data, **options)
    if kind == "als":
        return solve_to_rmse(data, opened, **options)
    if kind.startswith("sweep"):
        return sweep(data, kind.split()[1], opened)
    return train_to_rmse(data, opened, **options)


def make_model(data, model_class, matmul_dtype="float32", **options):
    sizes = (data.n_users, data.n_items)
    if model_class is mf.MF:
        sizes += (data.global_mean,)
    return model_class(*sizes, matmul_dtype=matmul_dtype, **options)


def train_in_fit(data, model_class, batch_size, opened, batches=pipeline.batches):
    """The second of two epochs of ``fit``, each one call; the first one compiles."""
    model = make_model(data, model_class, opened.cast_dtype)
    schedule = Schedule(batch_size, epochs=2, steps_per_execution=0)
    n = batch_size * schedule.plan(len(data.train)).steps

    def one_round():
        with patch.object(pipeline, "batches", batches):
            history, timing = fit(model, data.train, schedule, opened, verbose=False)
        found = {"loss": round(history[-1]["loss"], 4)}
        return n, n / timing["examples_per_second"], found

    return one_round


def repeat_first_batch(read, plan, *_):
    """A dataset like that of ``pipeline.batches``, but of one batch."""
    batch = read(np.arange(plan.schedule.batch_size))
    return tf.data.Dataset.from_tensors(batch).repeat()


def train_as_published(data, batch_size=512):
    """The published script's loop: Keras' own pipeline, optimizer and single steps."""
    model, n = make_model(data, published.MF), len(data.train) // 4096 * 512
    pairs = np.stack([data.train.user_idx, data.train.item_idx], axis=1)[:n]
    adam = tf.keras.optimizers.Adam(learning_rate=1e-3)
    model.compile(adam, loss="mse")

    def one_round():
        started = time.perf_counter()
        model.fit(pairs, data.train.rating[:n], batch_size=batch_size, verbose=0)
        return n, time.perf_counter() - started

    return one_round


def train_to_rmse(
    data, opened, latent_dim, batch_size, epochs, learning_rate, regularization
):
    """A whole training from new weights: RMSE on test against training seconds.

    The clock runs from the model's first weight on, compilation included, and stands
    still while the RMSE is measured, after every epoch.
    """
    options = {"latent_dim": latent_dim, "regularization": regularization}
    schedule = Schedule(
        batch_size, epochs, learning_rate, "cosine", steps_per_execution=0
    )
    n = epochs * batch_size * schedule.plan(len(data.train)).steps

    def one_round():
        curve, started = [], time.perf_counter()
        model = make_model(data, mf.MF, **options)

        def evaluate():
            nonlocal started
            now = time.perf_counter()
            measured = mf.evaluate(model, data.test)
            curve.append([round(now - started, 3), round(measured["rmse"], 4)])
            started += time.perf_counter() - now
            return measured

        fit(model, data.train, schedule, opened, evaluate=evaluate, verbose=False)
        seconds, rmse = curve[-1]
        return n, seconds, {"rmse": rmse, "curve": curve}

    return one_round


def solve_to_rmse(data, opened, latent_dim, epochs, regularization):
    """ALS from new weights: RMSE on test against seconds, as in ``train_to_rmse``.

    Its functions are new in every round, so that each one traces them; the seconds
    until a first call returns are also told apart.
    """

    def one_round():
        importlib.reload(solvers)
        started = time.perf_counter()
        one, two = tf.zeros((1, 1)), tf.zeros((1, 2))
        ratings_of = tf.zeros((2, 3)), tf.zeros((1, 1), tf.int32), one
        solvers.solve(*ratings_of, tf.ones(1), tf.eye(2), two, two)[0].numpy()
        tracing = time.perf_counter() - started
        model = make_model(
            data, mf.MF, latent_dim=latent_dim, regularization=regularization
        )
        solver, curve = solvers.ALS(model, data.train, data.test, opened), []
        for k in range(epochs):
            solver.sweep(k, epochs)
            now = time.perf_counter()
            rmse = solver.evaluate()["rmse"]
            curve.append([round(now - started, 3), round(rmse, 4)])
            started += time.perf_counter() - now
        seconds, rmse = curve[-1]
        found = {"rmse": rmse, "curve": curve, "tracing_s": round(tracing, 3)}
        return epochs * len(data.train), seconds, found

    return one_round


def sweep(data, name, opened, latent_dim=32):
    """One sweep of a solver after a first one, which groups the ratings and traces."""
    few = SyntheticRatings(data.train, data.n_users, data.n_items, data.global_mean)
    options = {"samples": 1, "latent_dim": latent_dim, "regularization": 0.07}
    _, solver = solvers.make(name, few, opened, **options)
    started = time.perf_counter()
    solver.sweep(0, 2)
    first_s = round(time.perf_counter() - started, 1)

    def one_round():
        watch, started = MemoryWatch(), time.perf_counter()
        loss = solver.sweep(1, 2)
        seconds = time.perf_counter() - started
        watch.ended.set()
        found = {"loss": loss, "first_s": first_s}
        found["private_mb"] = watch.peaks["RssAnon"]
        return len(data.train), seconds, found

    return one_round


def run_floor(data, batch_size, latent_dim=32, steps=50):
    """What no step of dense Adam can do without, in one compiled loop.

    It looks up both rows of every rating, sums rows of that size into two tables of
    gradients, and takes one pass of Adam over both tables.
    """
    shapes = [(n, latent_dim + 1) for n in (data.n_users, data.n_items)]
    tables = [[tf.Variable(tf.zeros(shape)) for _ in range(3)] for shape in shapes]
    index = [
        tf.constant(part[:batch_size])
        for part in (data.train.user_idx, data.train.item_idx)
    ]

    @tf.function
    def loop():
        for _ in tf.range(steps):
            for (weight, moment, velocity), rows, (n, _) in zip(tables, index, shapes):
                looked_up = tf.gather(weight, rows)
                gradient = tf.math.unsorted_segment_sum(looked_up, rows, n)
                constants = (1e-3, 0.9, 0.999, 1e-7)
                optimizers.apply_adam(
                    weight, moment, velocity, gradient, 1.0, *constants
                )
        return tables[0][0][0, 0]  # to wait for

    return lambda: work.timed(loop, steps * batch_size)


def make_ratings(n_ratings=100_000_000, n_users=1_000_000, n_items=100_000):
    """Synthetic ratings, memory-mapped: biases of users and items, and noise."""
    rng = np.random.default_rng(0)
    biases = [rng.normal(0, 0.5, n).astype(np.float32) for n in (n_users, n_items)]
    user, item, rating = columns = [
        np.memmap(tempfile.TemporaryFile(), dtype, shape=(n_ratings,))  # noqa: SIM115
        for dtype in (np.int32, np.int32, np.float32)
    ]
    for first in range(0, n_ratings, 2**24):  # no copy of the whole
        part = slice(first, min(first + 2**24, n_ratings))
        size = part.stop - first
        user[part] = rng.integers(0, n_users, size, dtype=np.int32)
        item[part] = rng.integers(0, n_items, size, dtype=np.int32)
        rating[part] = 0.5 * rng.standard_normal(size, dtype=np.float32)
        rating[part] += biases[0][user[part]] + biases[1][item[part]]
    train = ratings.Part(*columns, np.empty(0, np.int64))
    return SyntheticRatings(train, n_users, n_items)


class SyntheticRatings:
    """As much of ``lib.data.ratings.Ratings`` as training asks for."""

    def __init__(self, train, n_users, n_items, global_mean=0.0):
        self.train, self.n_users, self.n_items = train, n_users, n_items
        self.global_mean, self.test = global_mean, train.take(slice(0, 1))


if __name__ == "__main__":
    work.serve(prepare)
