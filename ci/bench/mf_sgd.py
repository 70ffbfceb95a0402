"""Biased MF by SGD, rating by rating, compiled by numba: a floor for time to an RMSE.

A worker in the peers' environment. Equations 4 and 5 of Koren, Bell and Volinsky 2009;
the learning rate falls linearly to 0.
"""

import time

import numba
import numpy as np
import work

from lib.data import ratings
from lib.evaluation import metrics


@numba.njit(fastmath=True)
def epoch(user, item, rating, order, p, q, b_u, b_i, rate, regularization):
    for t in order:
        u, i = user[t], item[t]
        error = rating[t] - b_u[u] - b_i[i]
        for f in range(p.shape[1]):
            error -= p[u, f] * q[i, f]
        b_u[u] += rate * (error - regularization * b_u[u])
        b_i[i] += rate * (error - regularization * b_i[i])
        for f in range(p.shape[1]):
            p_f, q_f = p[u, f], q[i, f]
            p[u, f] += rate * (error * q_f - regularization * p_f)
            q[i, f] += rate * (error * p_f - regularization * q_f)


def prepare(
    latent_dim, epochs, learning_rate, regularization, data_path="ml-1m", test_share=0.1
):
    data = ratings.load(data_path, test_share=test_share)
    train, test = data.train, data.test
    centred = train.rating - np.float32(data.global_mean)

    def one_round():
        rng = np.random.default_rng(0)
        sizes = (data.n_users, data.n_items)
        p, q = (rng.normal(0, 0.05, (n, latent_dim)).astype("f4") for n in sizes)
        b_u, b_i = (np.zeros(n, np.float32) for n in sizes)
        curve, seconds = [], 0.0
        for k in range(epochs):
            started = time.perf_counter()
            order = rng.permutation(len(train))
            rate = np.float32(learning_rate * (1 - k / epochs))
            weight = np.float32(regularization)
            where = (train.user_idx, train.item_idx)
            epoch(*where, centred, order, p, q, b_u, b_i, rate, weight)
            seconds += time.perf_counter() - started
            product = (p[test.user_idx] * q[test.item_idx]).sum(axis=1)
            product += data.global_mean + b_u[test.user_idx] + b_i[test.item_idx]
            rmse = metrics.rmse(np.clip(product, 1, 5), test.rating)
            curve.append([round(seconds, 3), round(rmse, 4)])
        return epochs * len(train), seconds, {"rmse": curve[-1][1], "curve": curve}

    return one_round


if __name__ == "__main__":
    work.serve(prepare)
