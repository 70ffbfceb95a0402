"""Ratings -> split -> (user, item, rating) examples: MovieLens, or one's own table."""

from dataclasses import dataclass, replace

import numpy as np

from lib.data import readers, sources, tables
from lib.errors import InputError, check_choice

SPLITS = ("random", "per_user_last", "global_time", "modelzoo")
STARS = (1.0, 5.0)  # the scale of MovieLens-1M


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

    def __len__(self):
        return len(self.rating)

    def take(self, index):
        """The ratings at ``index``: positions or a mask."""
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
            mean where there is none). Under ``split="modelzoo"`` over *all* rows, test
            included: the leak of the published port.
        split, test_share, seed: how the parts were made.
        name, sha256: the data set, for records.
        scale: the lowest and the highest rating that there can be.
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
    scale: tuple = STARS

    @property
    def n_users(self):
        return len(self.user_ids)

    @property
    def n_items(self):
        return len(self.item_ids)

    def counts(self):
        """The numbers that identify the outcome of preprocessing."""
        return {
            "users": self.n_users,
            "items": self.n_items,
            "train_ratings": len(self.train),
            "test_ratings": len(self.test),
        }

    def validation(self):
        """The same data with a piece of the training part in the place of the test.

        For choosing settings: the test part is not in it. The piece is cut as the test
        part was cut, with the same share; under ``split="modelzoo"``, whose training
        rows have lost the order of the file, evenly from each user.
        """
        fit, held_out = _split(
            self.train, self.split, self.test_share, self.seed + 1, self.name
        )
        mean, user_mean = means(fit, self.n_users)
        return replace(
            self, train=fit, test=held_out, global_mean=mean, user_mean=user_mean
        )


def load(data_path, split="random", test_share=0.2, seed=0, columns=""):
    """Reads MovieLens-1M or a table of ratings, and splits it.

    Args:
        data_path: see ``lib.data.sources``; or a table as ``tables.read_ratings`` takes
            it. The scale of a table is that of its lowest and highest rating.
        split: ``"random"`` draws the test ratings evenly; ``"per_user_last"`` takes the
            last of each user by time; ``"global_time"`` the last of all by time;
            ``"modelzoo"`` the last of each user in the order of the file, as the
            published port does.
        test_share: the test part's share of the ratings.
        seed: of the random split, and of the order in which ``"modelzoo"`` leaves the
            training rows.
        columns: of a table, see ``tables.mapping``.

    Returns:
        A ``Ratings``. Users and items are numbered in the order of their raw ids.

    Raises:
        InputError: the data cannot be found or read, a part would be empty, or the
            split needs a time that the table does not have.
    """
    if not tables.is_table(data_path):
        source = sources.find(sources.MOVIELENS, data_path)
        table, sha256 = readers.read_ratings(source)
        return prepare(table, source.name, sha256, split, test_share, seed)
    table, ids, name, sha256 = tables.read_ratings(data_path, columns)
    if split in ("per_user_last", "global_time") and not table["timestamp"].any():
        raise InputError(
            f'split="{split}": {name} is read without times; say which column has '
            'them, as in columns="time=<column>".'
        )
    scale = float(table["rating"].min()), float(table["rating"].max())
    data = prepare(table, name, sha256, split, test_share, seed)
    return replace(  # all users and items of a table have a rating
        data, user_ids=ids["user"], item_ids=ids["item"], scale=scale
    )


def prepare(table, name, sha256, split="random", test_share=0.2, seed=0):
    """All steps of ``load`` after reading; see there.

    The columns are taken out of the table, so that the parts find their memory free.
    """
    user_ids, user_idx = _numbered(table.pop("user"))
    item_ids, item_idx = _numbered(table.pop("item"))
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


def _numbered(ids):
    """The different ids in order, and the place of each row's id among them."""
    known = np.sort(ids.unique()).astype(np.int64)
    return known, np.searchsorted(known, ids).astype(np.int32)


def _split(rows, split, test_share, seed, name):
    """Returns ``(train, test)``; no choice depends on a rating's value."""
    check_choice("split", split, SPLITS)
    if not 0 < test_share < 1:
        raise InputError(f"test_share={test_share}: give a number between 0 and 1.")
    n = len(rows)
    n_train = n - int(round(test_share * n))
    rng = np.random.RandomState(seed)
    if split == "random":
        train, test = np.split(rng.permutation(n), [n_train])
        train.sort(), test.sort()
    elif split == "global_time":
        order = np.lexsort((rows.item_idx, rows.user_idx, rows.timestamp))
        train, test = order[:n_train], order[n_train:]
    else:
        keys = (rows.user_idx,)
        if split == "per_user_last":
            keys = (rows.item_idx, rows.timestamp, rows.user_idx)
        order = np.lexsort(keys)  # stable: the file's order where there is one key
        count = np.bincount(rows.user_idx)
        first = (np.cumsum(count) - count)[rows.user_idx[order]]
        kept = np.floor((1 - test_share) * count + 1e-9)[rows.user_idx[order]]
        is_train = np.arange(n) - first < kept
        train, test = order[is_train], order[~is_train]
        if split == "modelzoo":
            train = rng.permutation(train)
    if not len(train) or not len(test):
        raise InputError(
            f"{name}: test_share={test_share} of {n} ratings leaves no "
            f"{'test' if len(train) else 'training'} rating: give more ratings or "
            "another share."
        )
    return rows.take(train), rows.take(test)


def means(rows, n_users):
    """The mean rating and that of each user, the former where there is none."""
    mean = float(rows.rating.mean(dtype=np.float64))
    count = np.bincount(rows.user_idx, minlength=n_users)
    total = np.bincount(rows.user_idx, rows.rating, minlength=n_users)
    user_mean = np.where(count > 0, total / np.maximum(count, 1), mean)
    return mean, user_mean.astype(np.float32)
