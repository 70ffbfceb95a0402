"""Diginetica: raw clicks -> filtered sessions -> split by date -> (prefix, next item).

``load`` runs every step; the steps are functions of their own, so that notebook 02 can
show them one by one. Clicks are a table with the columns ``session, item, timeframe,
day`` as ``readers.read_views`` returns it.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lib import readers, sources
from lib.errors import InputError

ORDERS = ("timeframe", "file")
PROTOCOLS = ("srgnn", "modelzoo")
MIN_SESSION_CLICKS = 2
MIN_ITEM_CLICKS = 5
TEST_DAYS = 7  # the last week; the day before it belongs to neither part


@dataclass(frozen=True)
class Examples:
    """Sessions as one flat array; example ``k`` is "these clicks, then that item".

    A session of ``c`` clicks holds ``c - 1`` examples: every prefix with the click
    after it. Nothing is copied: memory grows with the clicks.

    Attributes:
        items: int32 ``(n_clicks,)``, item numbers, session after session.
        offsets: int64 ``(n_sessions + 1,)``, where each session starts; the last entry
            is ``n_clicks``.
        days: datetime64[D] ``(n_sessions,)``, the day of each session's last click.
        start: int32 ``(n_examples,)``, where the prefix of an example starts in
            ``items``.
        target: int32 ``(n_examples,)``, where its next item stands; the prefix ends
            before it.
    """

    items: np.ndarray
    offsets: np.ndarray
    days: np.ndarray
    start: np.ndarray
    target: np.ndarray

    @classmethod
    def of(cls, items, offsets, days):
        """Makes examples from flat sessions, each of two clicks or more."""
        n_examples = np.diff(offsets) - 1
        start = np.repeat(offsets[:-1], n_examples)
        position = np.arange(len(start)) - np.repeat(
            np.cumsum(n_examples) - n_examples, n_examples
        )
        return cls(
            items=items.astype(np.int32),
            offsets=offsets.astype(np.int64),
            days=days,
            start=start.astype(np.int32),
            target=(start + position + 1).astype(np.int32),
        )

    def __len__(self):
        return len(self.target)

    @property
    def n_sessions(self):
        return len(self.offsets) - 1

    @property
    def targets(self):
        """Item numbers to be predicted, int32 ``(n_examples,)``."""
        return self.items[self.target]

    def prefix(self, k):
        """The clicks before the next item of example ``k``, oldest first."""
        return self.items[self.start[k] : self.target[k]]


@dataclass(frozen=True)
class Sessions:
    """A data set ready for training.

    Attributes:
        train, test: the two parts, as ``Examples``.
        item_ids: int64, the raw id of item number ``i`` at position ``i``. Numbers are
            1 to ``n_items``; 0 is padding, and its entry is -1. Under
            ``protocol="modelzoo"`` they are 0 to ``n_items - 1``, as in the original.
        n_items: how many items can be predicted.
        name, sha256: the data set, for records.
    """

    train: Examples
    test: Examples
    item_ids: np.ndarray
    n_items: int
    name: str
    sha256: str

    def counts(self):
        """The numbers that identify the outcome of preprocessing."""
        return {
            "train_sessions": self.train.n_sessions,
            "train_examples": len(self.train),
            "test_sessions": self.test.n_sessions,
            "test_examples": len(self.test),
            "items": self.n_items,
        }

    def numbered_from(self, first):
        """The same sessions with item numbers from ``first``, 0 or 1."""
        shift = first - (len(self.item_ids) - self.n_items)
        if not shift:
            return self
        train, test = (
            replace(p, items=p.items + shift) for p in (self.train, self.test)
        )
        ids = np.array([*[-1] * first, *self.item_ids[-self.n_items :]], np.int64)
        return replace(self, train=train, test=test, item_ids=ids)

    def validation(self, days=TEST_DAYS):
        """The same data with the end of the training part in the place of the test.

        For choosing settings: the test part is not in it. Items that are left without
        a training click are dropped from the validation sessions but keep their
        numbers.

        Args:
            days: how many of the last training days are held out.

        Raises:
            InputError: no session is left in one of the two pieces.
        """
        train = self.train
        late = train.days > train.days.max() - np.timedelta64(days, "D")
        fit, held_out = _select(train, ~late), _select(train, late)
        held_out = _only_known(held_out, fit.items)
        if not len(fit) or not len(held_out):
            raise InputError(
                f"{self.name}: holding out the last {days} days of training leaves no "
                f"{'validation' if len(fit) else 'training'} example: give another "
                "number of days or more clicks."
            )
        return replace(self, train=fit, test=held_out)


def load(data_path, order="timeframe", protocol="srgnn"):
    """Reads and preprocesses Diginetica's item views.

    A log without any session of one click counts as filtered before, see
    ``is_filtered``.

    Args:
        data_path: see ``lib.sources``.
        order: ``"timeframe"`` sorts the clicks of a session by their time (ties by
            item); ``"file"`` leaves them as they stand in the file, as the code of the
            KDD 2018 paper did.
        protocol: ``"srgnn"`` (Wu et al. 2019: items of the training part only) or
            ``"modelzoo"`` (the published Ascend port: one label per item of the whole
            file, from 0; the split day itself is its validation part). The port's
            in-session order is ``order="file"``.

    Returns:
        A ``Sessions``.

    Raises:
        InputError: the data cannot be found or read, or nothing is left of it.
    """
    source = sources.find(sources.DIGINETICA, data_path)
    clicks, sha256 = readers.read_views(source)
    return prepare(clicks, source.name, sha256, order=order, protocol=protocol)


def prepare(clicks, name, sha256, order="timeframe", protocol="srgnn"):
    """All steps of ``load`` after reading; see there."""
    _allow("order", order, ORDERS)
    _allow("protocol", protocol, PROTOCOLS)
    if protocol == "modelzoo" or not is_filtered(clicks):
        clicks = drop_rare_items(drop_short_sessions(clicks))
    if protocol == "srgnn":
        clicks = sort_clicks(drop_short_sessions(clicks), order)
        train, _, test = split_by_day(clicks, by="session")
        item_ids = np.unique(train["item"])
        numbers = np.searchsorted(item_ids, train["item"]) + 1
        part = expand(train, numbers)
        test = drop_short_sessions(test[test["item"].isin(item_ids)])
        test_part = expand(test, np.searchsorted(item_ids, test["item"]) + 1)
        item_ids, n_items = np.concatenate([[-1], item_ids]), len(item_ids)
    else:
        clicks = clicks.sort_values(["day", "session"], kind="stable")
        item_ids = np.unique(clicks["item"])
        n_items = len(item_ids)
        train, _, test = split_by_day(clicks, by="click")
        parts = []
        for rows in (train, test):
            rows = drop_short_sessions(sort_clicks(rows, order))
            parts.append(expand(rows, np.searchsorted(item_ids, rows["item"])))
        part, test_part = parts
    if not len(part) or not len(test_part):
        raise InputError(
            f"{name}: after the filters (sessions of {MIN_SESSION_CLICKS} clicks or "
            f"more, items of {MIN_ITEM_CLICKS} or more) and the split by date no "
            f"{'test' if len(part) else 'training'} example is left: give more clicks, "
            f"spread over more than {TEST_DAYS + 1} days."
        )
    return Sessions(part, test_part, item_ids, n_items, name, sha256)


def is_filtered(clicks):
    """True where no session has one click: the filters have been here before.

    A raw log is full of one-click sessions. A second pass over a filtered one would
    drop items that the first pass kept, because an item loses clicks when the short
    sessions go; so ``load`` filters once, and its own outcome, loaded again, stays as
    it is. The ``modelzoo`` protocol filters always, as the original does.
    """
    return bool((_occurrences(clicks["session"]) > 1).all())


def drop_short_sessions(clicks, min_clicks=MIN_SESSION_CLICKS):
    """Keeps the sessions of at least ``min_clicks`` clicks."""
    return clicks[_occurrences(clicks["session"]) >= min_clicks]


def drop_rare_items(clicks, min_clicks=MIN_ITEM_CLICKS):
    """Keeps the items of at least ``min_clicks`` clicks."""
    return clicks[_occurrences(clicks["item"]) >= min_clicks]


def _occurrences(column):
    codes, values = pd.factorize(column.to_numpy())
    return np.bincount(codes, minlength=len(values))[codes]


def sort_clicks(clicks, order="timeframe"):
    """Sorts by session, and within it by time frame (ties by item) or not at all."""
    _allow("order", order, ORDERS)
    keys = ("item", "timeframe", "session") if order == "timeframe" else ("session",)
    return clicks.iloc[np.lexsort([clicks[key].to_numpy() for key in keys])]


def _allow(parameter, value, allowed):
    if value not in allowed:
        listed = " and ".join(f'"{each}"' for each in allowed)
        raise InputError(f'{parameter}="{value}": allowed are {listed}.')


def split_by_day(clicks, by="session", test_days=TEST_DAYS):
    """Cuts the clicks at the day ``test_days`` before the last one.

    Args:
        clicks: a table of clicks.
        by: ``"session"`` puts a whole session where its last click is; ``"click"`` cuts
            a session that crosses the day.
        test_days: the length of the last part, in days.

    Returns:
        ``(before, on, after)``: the clicks before, on and after that day.
    """
    day = clicks["day"].to_numpy()
    if by == "session":
        codes, sessions = pd.factorize(clicks["session"].to_numpy())
        last = np.full(len(sessions), np.datetime64("1678-01-01", "ns"))
        np.maximum.at(last, codes, day)
        day = last[codes]
    cut = clicks["day"].max() - pd.Timedelta(days=test_days)
    cut = cut.to_datetime64()
    return clicks[day < cut], clicks[day == cut], clicks[day > cut]


def expand(clicks, numbers):
    """Turns clicks, session after session, into ``Examples``.

    Args:
        clicks: a table in which the rows of a session stand together, in click order.
        numbers: the item number of each row.
    """
    session = clicks["session"].to_numpy()
    first = np.flatnonzero(np.diff(session, prepend=session[:1] - 1))
    offsets = np.append(first, len(session))
    days = clicks["day"].to_numpy().astype("datetime64[D]")
    last = np.maximum.reduceat(days, first) if len(first) else days
    return Examples.of(np.asarray(numbers), offsets, last)


def _select(examples, keep):
    """The sessions for which ``keep`` is True."""
    lengths = np.diff(examples.offsets)
    offsets = np.concatenate([[0], np.cumsum(lengths[keep])])
    items = examples.items[np.repeat(keep, lengths)]
    return Examples.of(items, offsets, examples.days[keep])


def _only_known(examples, known):
    """Drops clicks on items outside ``known``, then sessions left with one click."""
    session = np.repeat(np.arange(examples.n_sessions), np.diff(examples.offsets))
    clicks = pd.DataFrame({"session": session, "item": examples.items})
    clicks["day"] = examples.days[session].astype("datetime64[ns]")
    clicks = drop_short_sessions(clicks[clicks["item"].isin(np.unique(known))])
    return expand(clicks, clicks["item"])
