"""MF by LIBMF, cornac and LensKit; a worker in the environment of the peers.

Each trains for a number of iterations at once, in one thread, and is then judged: none
of them tells its accuracy on the way.
"""

import os
import time

import numpy as np
import pandas as pd
import work

from lib.data import ratings
from lib.evaluation import metrics


def libmf(data, latent_dim, iterations, regularization):
    """LIBMF; the product is here because the ``predict`` of its binding errs."""
    from libmf import mf

    train = data.train
    rows = np.stack([train.user_idx, train.item_idx, train.rating], axis=1)
    options = {"k": latent_dim, "nr_iters": iterations, "nr_threads": 1, "quiet": True}
    options.update(lambda_p2=regularization, lambda_q2=regularization)
    options.update(lambda_p1=0.0, lambda_q1=0.0)
    started = time.perf_counter()
    model = mf.MF(**options)
    model.fit(rows)
    seconds = time.perf_counter() - started
    p, q = model.p_factors(), model.q_factors()
    user, item = data.test.user_idx, data.test.item_idx
    is_known = (user < len(p)) & (item < len(q))  # tables end at the last one in train
    user, item = np.minimum(user, len(p) - 1), np.minimum(item, len(q) - 1)
    stars = (p[user] * q[item]).sum(axis=1)
    return seconds, np.where(is_known & np.isfinite(stars), stars, data.global_mean)


def cornac(data, latent_dim, iterations, regularization, learning_rate=0.01):
    """Cornac's C++ MF; the time to make its data set is not counted."""
    from cornac.data import Dataset
    from cornac.models import MF

    train = data.train
    columns = train.user_idx, train.item_idx, train.rating
    triples = list(zip(*(column.tolist() for column in columns)))
    dataset = Dataset.from_uir(triples, seed=0)
    model = MF(
        k=latent_dim,
        max_iter=iterations,
        lambda_reg=regularization,
        learning_rate=learning_rate,
        num_threads=1,
        seed=0,
    )
    started = time.perf_counter()
    model.fit(dataset)
    seconds = time.perf_counter() - started
    users = np.array([dataset.uid_map.get(u, -1) for u in range(data.n_users)])
    items = np.array([dataset.iid_map.get(i, -1) for i in range(data.n_items)])
    user, item = users[data.test.user_idx], items[data.test.item_idx]
    stars = (model.u_factors[user] * model.i_factors[item]).sum(axis=1)
    stars = np.where((user >= 0) & (item >= 0), stars, 0) + model.global_mean
    stars += np.where(user >= 0, model.u_biases[user], 0)
    return seconds, stars + np.where(item >= 0, model.i_biases[item], 0)


def lenskit(data, latent_dim, iterations, regularization):
    """LensKit's ALS; the time to make its data set is not counted."""
    threads = dict.fromkeys(("LK_NUM_THREADS", "LK_NUM_BACKEND_THREADS"), "1")
    os.environ.update(threads, OMP_NUM_THREADS="1")
    from lenskit.als import BiasedMFScorer
    from lenskit.data import ItemList, from_interactions_df

    train = data.train
    columns = train.user_idx, train.item_idx, train.rating
    names = "user_id", "item_id", "rating"
    dataset = from_interactions_df(pd.DataFrame(dict(zip(names, columns))))
    model = BiasedMFScorer(
        features=latent_dim, epochs=iterations, regularization=regularization
    )
    started = time.perf_counter()
    model.train(dataset)
    seconds = time.perf_counter() - started
    stars = np.full(len(data.test), data.global_mean)
    test = data.test
    for user in np.unique(test.user_idx):
        rows = np.flatnonzero(test.user_idx == user)
        scores = model(user, ItemList(test.item_idx[rows])).scores()
        stars[rows] = np.nan_to_num(scores, nan=data.global_mean)
    return seconds, stars


def prepare(program, data_path="ml-1m", test_share=0.1, iterations=10, **options):
    """A worker of ``program``: the name of a function above."""
    data = ratings.load(data_path, test_share=test_share)
    train = {"libmf": libmf, "cornac": cornac, "lenskit": lenskit}[program]

    def one_round():
        seconds, stars = train(data, iterations=iterations, **options)
        rmse = metrics.rmse(np.clip(stars, 1, 5), data.test.rating)
        found = {"rmse": rmse, "curve": [[round(seconds, 3), round(rmse, 4)]]}
        return iterations * len(data.train), seconds, found

    return one_round


if __name__ == "__main__":
    work.serve(prepare)
