"""Prepare ratings: number users and items, split into training and test part."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lib.data import readers, sources, tables
from lib.errors import InputError, check_choice, check_number, check_seed

SPLITS = ("random", "per_user_last", "global_time", "modelzoo")
STARS = (1.0, 5.0)  # the scale of MovieLens-1M
COUNTED = 2**23  # ratings whose users are counted at once


@dataclass(frozen=True)
class Part:
    """Ratings as parallel arrays of length ``n``.

    Attributes:
        user_idx, item_idx: int32, from 0.
        rating: float32, in stars.
        timestamp: int64, Unix seconds.
    """

    user_idx: np.ndarray
    item_idx: np.ndarray
    rating: np.ndarray
    timestamp: np.ndarray

    def __len__(self) -> int:
        return len(self.rating)

    def take(self, index: np.ndarray) -> Part:
        """Selects the ratings at ``index``: positions or a mask."""
        columns = (self.user_idx, self.item_idx, self.rating, self.timestamp)
        return Part(*(column[index] for column in columns))


@dataclass(frozen=True)
class Ratings:
    """A data set ready for training.

    Attributes:
        train, test: the two parts.
        user_ids, item_ids: the raw id of each user and item number.
        global_mean: mean rating of the training part, in stars.
        user_mean: float32 ``(n_users,)``, mean training rating of each user (the global
            mean for users without one). Under ``split="modelzoo"`` the test ratings are
            included: the leak of the published port.
        split, test_share, seed: how the parts were made.
        name, sha256: the data set, for records.
        scale: the lowest and the highest possible rating, in stars.
    """

    train: Part
    test: Part
    user_ids: np.ndarray
    item_ids: np.ndarray
    global_mean: float
    user_mean: np.ndarray
    split: str
    test_share: float
    seed: int
    name: str
    sha256: str
    scale: tuple[float, float] = STARS

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        return len(self.item_ids)

    def counts(self) -> dict[str, int]:
        """Counts that identify the result of preprocessing."""
        return {
            "users": self.n_users,
            "items": self.n_items,
            "train_ratings": len(self.train),
            "test_ratings": len(self.test),
        }

    def validation(self) -> Ratings:
        """Splits the training part into training and validation ratings.

        For choosing settings without the test part: the result has the validation
        ratings as its ``test``. They are split off as the test part was, with the same
        share. Under ``split="modelzoo"`` they are random ratings of each user, because
        the training rows are no longer in the order of the file.
        """
        train, validation = _split(
            self.train, self.split, self.test_share, self.seed + 1, self.name
        )
        mean, user_mean = means(train, self.n_users)
        return replace(
            self, train=train, test=validation, global_mean=mean, user_mean=user_mean
        )


def load(
    data_path: sources.PathLike,
    split: str = "random",
    test_share: float = 0.2,
    seed: int = 0,
    columns: str = "",
) -> Ratings:
    """Reads MovieLens-1M or a table of ratings, and splits it.

    Args:
        data_path: see ``lib.data.sources``; or a table, see ``tables.read_ratings``,
            whose scale goes from its lowest to its highest rating.
        split: ``"random"`` draws the test ratings at random; ``"per_user_last"`` takes
            the last of each user by time; ``"global_time"`` the last of all by time;
            ``"modelzoo"`` the last of each user in the order of the file, as the
            published port does.
        test_share: the test part's share of the ratings, between 0 and 1.
        seed: of the random split, and of the order of the training rows under
            ``"modelzoo"``.
        columns: column names of a table, see ``tables.mapping``.

    Returns:
        A ``Ratings``. Users and items are numbered in the order of their raw ids.

    Raises:
        InputError: the data cannot be found or read, an argument has a value that is
            not allowed, a part would be empty, or the split needs a time that the table
            does not have.
    """
    if not tables.is_table(data_path):
        source = sources.find(sources.MOVIELENS, data_path)
        table, sha256 = readers.read_ratings(source)
        return prepare(table, source.name, sha256, split, test_share, seed)
    table, ids, name, sha256 = tables.read_ratings(data_path, columns)
    if split in ("per_user_last", "global_time") and not table["timestamp"].any():
        raise InputError(
            f'split="{split}": {name} is read without times; name their column, '
            'as in columns="time=<column>".'
        )
    scale = float(table["rating"].min()), float(table["rating"].max())
    data = prepare(table, name, sha256, split, test_share, seed)
    return replace(  # all users and items of a table have a rating
        data, user_ids=ids["user"], item_ids=ids["item"], scale=scale
    )


def prepare(
    table: pd.DataFrame,
    name: str,
    sha256: str,
    split: str = "random",
    test_share: float = 0.2,
    seed: int = 0,
) -> Ratings:
    """Runs all steps of ``load`` after reading; see there.

    Removes the columns from ``table``, so that their memory is free for the parts.
    """
    check_seed(seed)
    user_ids, user_idx = _number_ids(table.pop("user"))
    item_ids, item_idx = _number_ids(table.pop("item"))
    rows = Part(
        user_idx,
        item_idx,
        table.pop("rating").to_numpy(np.float32),
        table.pop("timestamp").to_numpy(np.int64),
    )
    if split != "modelzoo":  # a total order: nothing depends on the order of the file
        rows = rows.take(np.lexsort((rows.item_idx, rows.timestamp, rows.user_idx)))
    train, test = _split(rows, split, test_share, seed, name)
    mean, user_mean = means(train, len(user_ids))
    if split == "modelzoo":
        _, user_mean = means(rows, len(user_ids))
    return Ratings(
        train, test, user_ids, item_ids, mean, user_mean,
        split, test_share, seed, name, sha256,
    )  # fmt: skip


def _number_ids(ids: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sorted unique ids, and the place of each row's id among them."""
    unique_ids = np.sort(ids.unique()).astype(np.int64)
    return unique_ids, np.searchsorted(unique_ids, ids).astype(np.int32)


def _split(
    rows: Part, split: str, test_share: float, seed: int, name: str
) -> tuple[Part, Part]:
    """Returns ``(train, test)``; the split does not depend on the ratings' values."""
    check_choice("split", split, SPLITS)
    check_number("test_share", test_share, 0 < test_share < 1, "between 0 and 1")
    n = len(rows)
    n_train = n - int(round(test_share * n))
    rng = np.random.RandomState(seed)
    if split == "random":
        train, test = np.split(rng.permutation(n), [n_train])
        train, test = np.sort(train), np.sort(test)
    elif split == "global_time":
        order = np.lexsort((rows.item_idx, rows.user_idx, rows.timestamp))
        train, test = order[:n_train], order[n_train:]
    else:
        by_time = [rows.item_idx, rows.timestamp] if split == "per_user_last" else []
        order = np.lexsort(
            [*by_time, rows.user_idx]
        )  # stable: else by the file's order
        count = np.bincount(rows.user_idx)
        first = (np.cumsum(count) - count)[rows.user_idx[order]]
        n_kept = np.floor((1 - test_share) * count + 1e-9)[rows.user_idx[order]]
        is_train = np.arange(n) - first < n_kept
        train, test = order[is_train], order[~is_train]
        if split == "modelzoo":
            train = rng.permutation(train)
    if not len(train) or not len(test):
        raise InputError(
            f"{name}: test_share={test_share} of {n} ratings leaves no "
            f"{'test' if len(train) else 'training'} rating: add ratings or choose "
            "another share."
        )
    return rows.take(train), rows.take(test)


def means(rows: Part, n_users: int) -> tuple[float, np.ndarray]:
    """Computes the mean rating and that of each user.

    Returns:
        ``(mean, user_mean)``, in stars; ``user_mean`` is float32 ``(n_users,)``, the
        overall mean for users without a rating.
    """
    mean = float(rows.rating.mean(dtype=np.float64))
    count, total = np.zeros(n_users, np.int64), np.zeros(n_users)
    for first in range(0, len(rows), COUNTED):  # bincount makes 64-bit copies
        user = rows.user_idx[first : first + COUNTED]
        count += np.bincount(user, minlength=n_users)
        weights = rows.rating[first : first + COUNTED]
        total += np.bincount(user, weights, minlength=n_users)
    user_mean = np.where(count > 0, total / np.maximum(count, 1), mean)
    return mean, user_mean.astype(np.float32)
