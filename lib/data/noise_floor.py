"""The noise floor of the embedded sample: the lowest RMSE that any model can reach.

``tools/make_sample.py`` draws the ratings from the model below; the numbers come from
``numpy.random.RandomState``, whose streams never change between NumPy releases.
"""

from __future__ import annotations

import math

import numpy as np

SEED = 2016
N_GENRES = 6
RATING_NOISE = 0.8  # standard deviation, in stars, before rounding to whole stars


def rating_model(
    rng: np.random.RandomState, n_users: int = 500, n_movies: int = 270
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the true scores of the sample: ``3.6 + b_u + b_i + p_u . q_i``.

    Returns:
        ``(score, genre)``: stars before noise and rounding, ``(n_users, n_movies)``;
        the number of each movie's genre, ``(n_movies,)``.
    """
    genre = np.arange(n_movies) % N_GENRES
    angle = 2 * math.pi * genre / N_GENRES  # users like neighbouring genres alike
    depth = 0.8 + 0.4 * rng.random_sample(n_movies)  # how typical of its genre
    q = depth * np.stack([np.cos(angle), np.sin(angle)])  # (2, movies)
    p = 0.5 * rng.standard_normal((n_users, 2))
    score = 3.6 + 0.35 * rng.standard_normal(n_users)[:, None]
    score = score + 0.35 * rng.standard_normal(n_movies)[None, :]
    return score + p @ q, genre


def rating_noise_floor(
    user_ids: np.ndarray, movie_ids: np.ndarray, seed: int = SEED
) -> float:
    """Computes the RMSE of the best possible prediction of the sample's ratings.

    A model that knew the true scores could still predict neither the noise nor the
    rounding. Its best prediction is the mean of the five stars, weighted by their
    probabilities under the normal distribution around the score.

    Args:
        user_ids, movie_ids: raw ids of the ratings to be predicted, shape ``(n,)``.
        seed: the seed of the sample.

    Returns:
        The root of the mean variance of those ratings, in stars.
    """
    rng = np.random.RandomState(seed + 1)
    score, _ = rating_model(rng)
    ids = np.sort(rng.permutation(400)[: score.shape[1]]) + 1
    score = score[np.asarray(user_ids) - 1, np.searchsorted(ids, movie_ids)]
    edges = (np.array([1.5, 2.5, 3.5, 4.5])[:, None] - score) / RATING_NOISE
    below = np.vectorize(lambda z: 0.5 * math.erfc(-z / math.sqrt(2)))(edges)
    share = np.diff(below, axis=0, prepend=0, append=1)  # (5 stars, n)
    stars = np.arange(1, 6)[:, None]
    mean = (share * stars).sum(axis=0)
    variance = (share * (stars - mean) ** 2).sum(axis=0)
    return float(np.sqrt(variance.mean()))
