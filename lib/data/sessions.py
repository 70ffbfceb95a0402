"""Clicks -> filtered sessions -> split by date -> (prefix, next item).

``load`` runs every step, on Diginetica or on a table of one's own; the steps are
functions of their own, so that notebook 02 can show them one by one. Clicks are a table
with the columns ``session, item, timeframe, day`` as ``readers.read_views`` returns it.
"""

from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import pandas as pd

from lib.data import readers, sources, tables
from lib.errors import InputError, check_choice


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

    def select(self, keep):
        """The sessions for which the mask ``keep``, bool ``(n_sessions,)``, is True."""
        lengths = np.diff(self.offsets)
        offsets = np.concatenate([[0], np.cumsum(lengths[keep])])
        items = self.items[np.repeat(keep, lengths)]
        return Examples.of(items, offsets, self.days[keep])


ORDERS = ("timeframe", "file")
PROTOCOLS = ("srgnn", "modelzoo")
MIN_SESSION_CLICKS = 2
MIN_ITEM_CLICKS = 5
TEST_DAYS = 7  # the last week; the day before it belongs to neither part
PORT_DAY = "2016-05-25"  # Diginetica's, on which the published port validates
PORT_DAYS = {"train_until": "2016-05-24", "test_from": "2016-05-26"}


@dataclass(frozen=True)
class Sessions:
    """A data set ready for training.

    Attributes:
        train, test: the two parts, as ``Examples``.
        item_ids: the raw id of item number ``i`` at position ``i``. Numbers are 1 to
            ``n_items``; 0 is padding, and its entry is -1, or an empty text. Under
            ``protocol="modelzoo"`` they are 0 to ``n_items - 1``, as in the original.
        n_items: how many items can be predicted.
        name, sha256: the data set, for records.
        held_out: under ``protocol="modelzoo"``, the days between the two parts, on
            which the port computes its ``val_loss``; else None.
    """

    train: Examples
    test: Examples
    item_ids: np.ndarray
    n_items: int
    name: str
    sha256: str
    held_out: Examples = None

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
        ids = self.item_ids[-self.n_items :]
        parts = {"train": self.train, "test": self.test, "held_out": self.held_out}
        parts = {k: p and replace(p, items=p.items + shift) for k, p in parts.items()}
        return replace(self, item_ids=_with_padding(ids) if first else ids, **parts)

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
        fit, held_out = train.select(~late), train.select(late)
        held_out = _only_known(held_out, fit.items)
        if not len(fit) or not len(held_out):
            raise InputError(
                f"{self.name}: holding out the last {days} days of training leaves no "
                f"{'validation' if len(fit) else 'training'} example: give another "
                "number of days or more clicks."
            )
        return replace(self, train=fit, test=held_out)


def load(data_path, order="timeframe", protocol="srgnn", columns="", **rules):
    """Reads and preprocesses Diginetica's item views, or a table of clicks.

    Diginetica without any session of one click counts as filtered before, see
    ``is_filtered``; a table is always filtered.

    Args:
        data_path: see ``lib.data.sources``; or a table as ``tables.read_clicks`` takes
            it.
        order: ``"timeframe"`` sorts the clicks of a session by their time (ties by
            item); ``"file"`` leaves them as they stand in the file, as the code of the
            KDD 2018 paper did.
        protocol: ``"srgnn"`` (Wu et al. 2019: items of the training part only) or
            ``"modelzoo"`` (the published Ascend port: one label per item of the whole
            file, from 0). On Diginetica it splits at a fixed day, ``PORT_DAY``, and
            validates on it; where a log has no such day, or is a table, the rules below
            apply, and ``held_out`` is what lies between the two parts. The port's
            in-session order is ``order="file"``.
        columns: of a table, see ``tables.mapping``.
        **rules: ``min_session_clicks`` (2 or more) and ``min_item_clicks``, what a
            session and an item need to stay; ``train_until`` and ``test_from``, the
            last day of the training part and the first of the test part, as
            ``2016-05-24``. Where they are empty, the last seven days are the test part
            and the day before them is in neither.

    Returns:
        A ``Sessions``.

    Raises:
        InputError: the data cannot be found or read, a rule is not allowed, or nothing
            is left of the data.
    """
    if not tables.is_table(data_path):
        source = sources.find(sources.DIGINETICA, data_path)
        clicks, sha256 = readers.read_views(source)
        if protocol == "modelzoo" and (clicks["day"] == PORT_DAY).any():
            rules = rules if any(map(rules.get, PORT_DAYS)) else {**rules, **PORT_DAYS}
        return prepare(clicks, source.name, sha256, order, protocol, **rules)
    clicks, raw_ids, name, sha256 = tables.read_clicks(data_path, columns)
    data = prepare(clicks, name, sha256, order, protocol, filters=True, **rules)
    ids = raw_ids[data.item_ids[-data.n_items :]]
    return replace(data, item_ids=ids if protocol == "modelzoo" else _with_padding(ids))


def prepare(
    clicks,
    name,
    sha256,
    order="timeframe",
    protocol="srgnn",
    filters=None,
    min_session_clicks=MIN_SESSION_CLICKS,
    min_item_clicks=MIN_ITEM_CLICKS,
    train_until="",
    test_from="",
):
    """All steps of ``load`` after reading; ``filters=None`` asks ``is_filtered``."""
    check_choice("order", order, ORDERS)
    check_choice("protocol", protocol, PROTOCOLS)
    if min_session_clicks < 2:
        raise InputError(
            f"min_session_clicks={min_session_clicks}: a session needs 2 clicks or "
            "more: one to predict, and one to predict it from."
        )
    days = train_until, test_from
    if filters is None:
        filters = protocol == "modelzoo" or not is_filtered(clicks)
    if filters:
        clicks = drop_short_sessions(clicks, min_session_clicks)
        clicks = drop_rare_items(clicks, min_item_clicks)
    if protocol == "srgnn":
        clicks = sort_clicks(drop_short_sessions(clicks, min_session_clicks), order)
        train, _, test = split_by_day(clicks, "session", *days)
        item_ids = np.unique(train["item"])
        part = expand(train, np.searchsorted(item_ids, train["item"]) + 1)
        test = drop_short_sessions(test[test["item"].isin(item_ids)])
        test_part = expand(test, np.searchsorted(item_ids, test["item"]) + 1)
        item_ids, n_items, held_out = _with_padding(item_ids), len(item_ids), None
    else:
        clicks = clicks.sort_values(["day", "session"], kind="stable")
        item_ids = np.unique(clicks["item"])
        n_items = len(item_ids)
        parts = []
        for rows in split_by_day(clicks, "click", *days):
            rows = drop_short_sessions(sort_clicks(rows, order))
            parts.append(expand(rows, np.searchsorted(item_ids, rows["item"])))
        part, held_out, test_part = parts
    if not len(part) or not len(test_part):
        raise InputError(
            f"{name}: after the filters (sessions of {min_session_clicks} clicks or "
            f"more, items of {min_item_clicks} or more) and the split by date no "
            f"{'test' if len(part) else 'training'} example is left: give more clicks, "
            f"spread over more than {TEST_DAYS + 1} days, or other thresholds and days."
        )
    return Sessions(part, test_part, item_ids, n_items, name, sha256, held_out)


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
    check_choice("order", order, ORDERS)
    keys = ("item", "timeframe", "session") if order == "timeframe" else ("session",)
    return clicks.iloc[np.lexsort([clicks[key].to_numpy() for key in keys])]


def split_by_day(clicks, by="session", train_until="", test_from=""):
    """Cuts the clicks at the day that is ``TEST_DAYS`` before the last one.

    Args:
        clicks: a table of clicks.
        by: ``"session"`` puts a whole session where its last click is; ``"click"`` cuts
            a session that crosses a day.
        train_until, test_from: other days to cut at, as ``2016-05-24``.

    Returns:
        ``(before, between, after)``: the clicks up to ``train_until``, those between,
        and those from ``test_from`` on.
    """
    if not len(clicks):
        return clicks, clicks, clicks
    cut = clicks["day"].max() - pd.Timedelta(days=TEST_DAYS)
    train_until = _day("train_until", train_until, cut - pd.Timedelta(days=1))
    test_from = _day("test_from", test_from, cut + pd.Timedelta(days=1))
    if not train_until < test_from:
        raise InputError(
            f"train_until={train_until:%Y-%m-%d}, test_from={test_from:%Y-%m-%d}: the "
            "test part must begin after the training part ends."
        )
    day = clicks["day"].to_numpy()
    if by == "session":
        codes, sessions = pd.factorize(clicks["session"].to_numpy())
        last = np.full(len(sessions), np.datetime64("1678-01-01", "ns"))
        np.maximum.at(last, codes, day)
        day = last[codes]
    early, late = day <= train_until.to_datetime64(), day >= test_from.to_datetime64()
    return clicks[early], clicks[~early & ~late], clicks[late]


def _day(name, text, otherwise):
    if text and not is_day(text):
        raise InputError(f'{name}="{text}": write a day as 2016-05-24.')
    return pd.Timestamp(text) if text else otherwise


def is_day(text):
    """Whether a text is a day of the calendar, written as ``2016-05-24``."""
    try:
        return bool(datetime.strptime(text, "%Y-%m-%d")) and len(text) == 10
    except ValueError:
        return False


def _with_padding(ids):
    """Ids with that of item number 0 before them: -1, or an empty text."""
    padding = "" if ids.dtype.kind == "U" else -1
    return np.concatenate([np.array([padding], ids.dtype), ids])


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


def _only_known(examples, known):
    """Drops clicks on items outside ``known``, then sessions left with one click."""
    session = np.repeat(np.arange(examples.n_sessions), np.diff(examples.offsets))
    clicks = pd.DataFrame({"session": session, "item": examples.items})
    clicks["day"] = examples.days[session].astype("datetime64[ns]")
    clicks = drop_short_sessions(clicks[clicks["item"].isin(np.unique(known))])
    return expand(clicks, clicks["item"])
