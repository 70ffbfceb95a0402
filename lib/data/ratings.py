"""Prepare ratings: number users and items, split into training and test part."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lib import progress
from lib.data import prepared, rating_steps, readers, sources, tables
from lib.data.engines import DuckDB
from lib.errors import InputError, check_choice, check_number, check_seed

SPLITS = ("random", *rating_steps.SPLITS, "modelzoo")
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

    def take(self, index: np.ndarray | slice) -> Part:
        """Selects the ratings at ``index``: positions, a mask or a slice."""
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
        reading: rows in the file and rows read, as a sentence.
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
    reading: str = ""

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


@progress.timed("reading the ratings")
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
            ``"by_pair"`` ratings drawn by whole-number arithmetic on user and item, the
            same on every engine, see ``rating_steps``; ``"modelzoo"`` the last of each
            user in the order of the file, as the published port does.
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
    if prepared.is_prepared(data_path):
        return _load_prepared(data_path)
    with DuckDB() as engine:
        if not tables.is_table(data_path):
            source = sources.find(sources.MOVIELENS, data_path)
            reading = readers.read_movielens(source, engine)
            return prepare(engine, reading, split, test_share, seed)
        reading = readers.read_ratings(data_path, engine, columns)
        low, high, last = engine.row(
            "SELECT min(rating), max(rating), max(timestamp) FROM ratings"
        )
        if split in ("per_user_last", "global_time") and not last:
            raise InputError(
                f'split="{split}": {reading.name} is read without times; name their '
                'column, as in columns="time=<column>".'
            )
        data = prepare(engine, reading, split, test_share, seed)
    return replace(data, scale=(float(low), float(high)))


def prepare(
    engine: DuckDB, reading: readers.Reading, split: str, test_share: float, seed: int
) -> Ratings:
    """Takes the steps of ``load`` after reading; see there.

    Args:
        engine: holds the table ``ratings``, see ``rating_steps``.
        reading: the ratings' name and SHA-256, for records.
        split, test_share, seed: see ``load``.
    """
    check_seed(seed)
    check_split(split, test_share)
    rating_steps.number(engine)
    ids = [
        engine.arrays(f"SELECT {name} FROM {name}s ORDER BY number")[name]
        for name in ("user", "item")
    ]
    rows = _fetch(
        engine, f"SELECT * FROM numbered ORDER BY {rating_steps.order(split)}"
    )
    train, test = _split(rows, split, test_share, seed, reading.name, engine)
    mean, user_mean = means(train, len(ids[0]))
    if split == "modelzoo":
        _, user_mean = means(rows, len(ids[0]))
    user_ids, item_ids = (np.array(each.tolist()) for each in ids)
    return Ratings(
        train, test, user_ids, item_ids, mean, user_mean, split, test_share, seed,
        reading.name, reading.sha256, reading=str(reading),
    )  # fmt: skip


def check_split(split: str, test_share: float) -> None:
    """Raises InputError unless a split and its share are allowed."""
    check_choice("split", split, SPLITS)
    check_number("test_share", test_share, 0 < test_share < 1, "between 0 and 1")


def _fetch(engine: DuckDB, query: str) -> Part:
    columns = engine.arrays(query)
    return Part(
        columns["user_idx"].astype(np.int32),
        columns["item_idx"].astype(np.int32),
        columns["rating"].astype(np.float32),
        columns["timestamp"].astype(np.int64),
    )


def _split(
    rows: Part,
    split: str,
    test_share: float,
    seed: int,
    name: str,
    engine: DuckDB | None = None,
) -> tuple[Part, Part]:
    """Returns ``(train, test)``; the split does not depend on the ratings' values."""
    n = len(rows)
    rng = np.random.RandomState(seed)
    if split == "random":
        train, test = np.split(rng.permutation(n), [n - int(round(test_share * n))])
        parts = rows.take(np.sort(train)), rows.take(np.sort(test))
    elif split == "modelzoo":  # the last of each user in the order of the file
        order = np.argsort(rows.user_idx, kind="stable")
        count = np.bincount(rows.user_idx)
        first = (np.cumsum(count) - count)[rows.user_idx[order]]
        n_kept = np.floor((1 - test_share) * count + 1e-9)[rows.user_idx[order]]
        is_train = np.arange(n) - first < n_kept
        train = rng.permutation(order[is_train])
        parts = rows.take(train), rows.take(order[~is_train])
    elif engine is None:  # a part of ratings in memory
        with DuckDB() as engine:
            columns = pd.DataFrame(vars(rows)).assign(place=np.arange(n))
            engine.register("numbered", columns)
            return _split(rows, split, test_share, seed, name, engine)
    else:
        engine.table("parts", rating_steps.split(split, test_share, n, seed))
        query = "SELECT * FROM parts WHERE is_test = {} ORDER BY "
        query += rating_steps.order(split)
        parts = _fetch(engine, query.format(0)), _fetch(engine, query.format(1))
    if not len(parts[0]) or not len(parts[1]):
        raise InputError(
            f"{name}: test_share={test_share} of {n} ratings leaves no "
            f"{'test' if len(parts[0]) else 'training'} rating: add ratings or choose "
            "another share."
        )
    return parts


def _load_prepared(folder: sources.PathLike) -> Ratings:
    data = prepared.load(folder, "ratings")
    train, test = (
        Part(
            data.arrays[f"{part}_users"],
            data.arrays[f"{part}_items"],
            data.arrays[f"{part}_ratings"],
            np.broadcast_to(np.int64(0), len(data.arrays[f"{part}_ratings"])),
        )  # no times are kept
        for part in ("train", "test")
    )
    user_ids, item_ids = data.arrays["user_ids"], data.arrays["item_ids"]
    rules = data.rules
    low, high = rules.get("scale", STARS)
    return Ratings(
        train, test, user_ids, item_ids, *means(train, len(user_ids)),
        split=str(rules.get("split", "")),
        test_share=float(rules.get("test_share", 0)),
        seed=int(rules.get("seed", 0)),
        name=data.name, sha256=data.sha256, scale=(float(low), float(high)),
    )  # fmt: skip


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
