"""Prepare ratings: number users and items, split into training and test part."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lib import progress
from lib.data import prepared, rating_steps, readers, sources
from lib.data.engines import DuckDB, Engine
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
        return Part(*(column[index] for column in vars(self).values()))


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
        repeated: ratings of a pair of user and item that was rated before. All ratings
            of a pair are in one part.
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
    repeated: int = 0

    @property
    def n_users(self) -> int:
        """Number of users of both parts."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Number of items of both parts."""
        return len(self.item_ids)

    def counts(self) -> dict[str, int]:
        """Counts that identify the result of preprocessing."""
        counts = {
            "users": self.n_users,
            "items": self.n_items,
            "train_ratings": len(self.train),
            "test_ratings": len(self.test),
        }
        return (
            {**counts, "repeated_ratings": self.repeated} if self.repeated else counts
        )

    def validation(self) -> Ratings:
        """Splits the training part into training and validation ratings.

        For choosing settings without the test part: the result has the validation
        ratings as its ``test``. They are split off as the test part was, with the same
        share. Under ``split="modelzoo"`` they are random ratings of each user, because
        the training rows are no longer in the order of the file.
        """
        train, validation = _split(
            self.train, self.split, self.test_share, self.seed + 1, self.name,
            bool(self.repeated),
        )  # fmt: skip
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
        data_path: see ``lib.data.sources``; or a table, see ``readers.read_ratings``,
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
        reading = readers.read("ratings", data_path, engine, columns)
        scale = find_scale(engine, reading, split)
        data = prepare(engine, reading, split, test_share, seed)
    return replace(data, scale=scale)


def find_scale(
    engine: Engine, reading: readers.Reading, split: str
) -> tuple[float, float]:
    """Returns the lowest and the highest possible rating.

    Raises:
        InputError: the split needs times, and the ratings have none; or all ratings
            are the same.
    """
    low, high, last = engine.sql(
        "SELECT min(rating) AS low, max(rating) AS high, max(timestamp) AS last "
        "FROM ratings"
    ).iloc[0]
    if split in ("per_user_last", "global_time") and not last:
        raise InputError(
            f'split="{split}": {reading.name} is read without times; name their '
            'column, as in columns="time=<column>".'
        )
    if low == high:
        raise InputError(
            f"{reading.name}: every rating is {low:g}, and nothing can be learned from "
            "a constant: give ratings that differ."
        )
    return (float(low), float(high)) if reading.is_table else STARS


def nothing_left(name: str, part: str, test_share: float, n: int) -> InputError:
    """The refusal of a split that leaves a part empty."""
    return InputError(
        f"{name}: test_share={test_share} of {n} ratings leaves no "
        f"{'training' if part == 'train' else part} rating: add ratings or choose "
        "another share."
    )


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
    pairs = "SELECT DISTINCT user_idx, item_idx FROM numbered"
    repeated = len(rows) - engine.row(f"SELECT count(*) FROM ({pairs})")[0]
    note = f", {repeated:,} of a pair that was rated before" if repeated else ""
    train, test = _split(
        rows, split, test_share, seed, reading.name, bool(repeated), engine
    )
    mean, user_mean = means(train, len(ids[0]))
    if split == "modelzoo":
        _, user_mean = means(rows, len(ids[0]))
    user_ids, item_ids = (np.array(each.tolist()) for each in ids)
    return Ratings(
        train, test, user_ids, item_ids, mean, user_mean, split, test_share, seed,
        reading.name, reading.sha256, reading=f"{reading}{note}", repeated=repeated,
    )  # fmt: skip


def check_split(split: str, test_share: float) -> None:
    """Raises InputError unless a split and its share are allowed."""
    check_choice("split", split, SPLITS)
    check_number("test_share", test_share, 0 < test_share < 1, "between 0 and 1")


def _fetch(engine: DuckDB, query: str) -> Part:
    columns, types = engine.arrays(query), (np.int32, np.int32, np.float32, np.int64)
    return Part(*(columns[n].astype(t) for n, t in zip(Part.__annotations__, types)))


def _split(
    rows: Part,
    split: str,
    test_share: float,
    seed: int,
    name: str,
    repeats: bool,
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
        with DuckDB() as own:
            columns = pd.DataFrame(vars(rows)).assign(place=np.arange(n))
            own.register("numbered", columns)
            return _split(rows, split, test_share, seed, name, repeats, own)
    else:
        query = rating_steps.split(engine, split, test_share, n, seed, repeats)
        engine.table("parts", query)
        query = "SELECT * FROM parts WHERE is_test = {} ORDER BY "
        query += rating_steps.order(split)
        parts = _fetch(engine, query.format(0)), _fetch(engine, query.format(1))
    if repeats:
        parts = _join_pairs(*parts)
    for part, kept in zip(("train", "test"), parts):
        if not len(kept):
            raise nothing_left(name, part, test_share, n)
    return parts


def _join_pairs(train: Part, test: Part) -> tuple[Part, Part]:
    """Moves test ratings of a pair that training has too, see ``rating_steps``."""
    pairs = [part.user_idx * np.int64(2**31) + part.item_idx for part in (train, test)]
    is_known = np.isin(pairs[1], pairs[0])
    columns = zip(vars(train).values(), vars(test.take(is_known)).values())
    return Part(*(np.concatenate(both) for both in columns)), test.take(~is_known)


def _load_prepared(folder: sources.PathLike) -> Ratings:
    data = prepared.load(folder, "ratings")

    def part(name: str) -> Part:  # no times are kept
        columns = (f"{name}_{each}" for each in ("users", "items", "ratings"))
        users, items, stars = map(data.arrays.__getitem__, columns)
        return Part(users, items, stars, np.broadcast_to(np.int64(0), len(stars)))

    train = part("train")
    user_ids, item_ids = data.arrays["user_ids"], data.arrays["item_ids"]
    rules = data.rules
    low, high = rules.get("scale", STARS)
    return Ratings(
        train, part("test"), user_ids, item_ids, *means(train, len(user_ids)),
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
