"""Prepare sessions: filter the clicks, split them by date, number the items.

``load`` runs every step, on Diginetica or on any table of clicks; each step is a
function, so that notebook 02 can show them one by one. Clicks are a table with the
columns ``session, item, timeframe, day`` as ``readers.read_views`` returns it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from lib.data import readers, sources, tables
from lib.data.examples import Examples
from lib.errors import InputError, check_choice, check_whole

ORDERS = ("timeframe", "file")
PROTOCOLS = ("srgnn", "modelzoo")
MIN_SESSION_CLICKS = 2
MIN_ITEM_CLICKS = 5
TEST_DAYS = 7  # the last week; the day before it belongs to neither part
PORT_DAY = "2016-05-25"  # the day of Diginetica on which the published port validates
PORT_DAYS = {"train_until": "2016-05-24", "test_from": "2016-05-26"}


@dataclass(frozen=True)
class Sessions:
    """A data set ready for training.

    Attributes:
        train, test: the two parts, as ``Examples``.
        item_ids: raw ids ``(n_items,)``; ``item_ids[i - 1]`` is that of item number
            ``i``. Numbers are 1 to ``n_items``; 0 stands for padding.
        name, sha256: the data set, for records.
        held_out: under ``protocol="modelzoo"``, the sessions between the two parts, on
            which the port computes its ``val_loss``; else None.
    """

    train: Examples
    test: Examples
    item_ids: np.ndarray
    name: str
    sha256: str
    held_out: Examples | None = None

    @property
    def n_items(self) -> int:
        """The number of items that can be predicted."""
        return len(self.item_ids)

    def counts(self) -> dict[str, int]:
        """Counts that identify the result of preprocessing."""
        return {
            "train_sessions": self.train.n_sessions,
            "train_examples": len(self.train),
            "test_sessions": self.test.n_sessions,
            "test_examples": len(self.test),
            "items": self.n_items,
        }

    def validation(self, days: int = TEST_DAYS) -> Sessions:
        """Splits the training part into training and validation sessions.

        For choosing settings without the test part: the result has the validation
        sessions as its ``test``. Items without a click in the smaller training part are
        dropped from the validation sessions; all items keep their numbers.

        Args:
            days: number of the last training days that become validation days.

        Raises:
            InputError: one of the two parts would have no example.
        """
        train = self.train
        is_late = train.days > train.days.max() - np.timedelta64(days, "D")
        train, late = train.select(~is_late), train.select(is_late)
        validation = _drop_unknown_items(late, train.items)
        if not len(train) or not len(validation):
            raise InputError(
                f"{self.name}: holding out the last {days} days of training leaves no "
                f"{'validation' if len(train) else 'training'} example: hold out "
                "another number of days, or add clicks."
            )
        return replace(self, train=train, test=validation)


def load(
    data_path: sources.PathLike,
    order: str = "timeframe",
    protocol: str = "srgnn",
    columns: str = "",
    **rules: Any,
) -> Sessions:
    """Reads and preprocesses Diginetica's item views, or a table of clicks.

    A copy of Diginetica that is filtered already, see ``is_filtered``, is not filtered
    again; a table always is.

    Args:
        data_path: see ``lib.data.sources``; or a table, see ``tables.read_clicks``.
        order: ``"timeframe"`` sorts the clicks of a session by their time (ties by
            item); ``"file"`` leaves them in the order of the file, as the code of the
            KDD 2018 paper did.
        protocol: ``"srgnn"`` (Wu et al. 2019) predicts the items of the training part
            only. ``"modelzoo"`` follows the published Ascend port: it predicts every
            item that the filters leave; on Diginetica it splits at a fixed day,
            ``PORT_DAY``, and validates on it. For a table or a log without that day,
            the rules below apply and ``held_out`` is the time between the two parts.
            The port's order of clicks is ``order="file"``.
        columns: column names of a table, see ``tables.mapping``.
        **rules: ``min_session_clicks`` (2 or more) and ``min_item_clicks`` (1 or
            more): sessions and items with fewer clicks are dropped. ``train_until`` and
            ``test_from``: the last day of the training part and the first of the test
            part, as ``2016-05-24``. By default the last seven days are the test part,
            and the day before them belongs to neither part.

    Raises:
        InputError: the data cannot be found or read, a rule has a value that is not
            allowed, or a part would have no example.
    """
    if not tables.is_table(data_path):
        source = sources.find(sources.DIGINETICA, data_path)
        clicks, sha256 = readers.read_views(source)
        if protocol == "modelzoo" and (clicks["day"] == PORT_DAY).any():
            rules = rules if any(map(rules.get, PORT_DAYS)) else {**rules, **PORT_DAYS}
        return prepare(clicks, source.name, sha256, order, protocol, **rules)
    clicks, raw_ids, name, sha256 = tables.read_clicks(data_path, columns)
    data = prepare(clicks, name, sha256, order, protocol, filters=True, **rules)
    return replace(data, item_ids=raw_ids[data.item_ids])


def prepare(
    clicks: pd.DataFrame,
    name: str,
    sha256: str,
    order: str = "timeframe",
    protocol: str = "srgnn",
    filters: bool | None = None,
    min_session_clicks: int = MIN_SESSION_CLICKS,
    min_item_clicks: int = MIN_ITEM_CLICKS,
    train_until: str = "",
    test_from: str = "",
) -> Sessions:
    """Runs all steps of ``load`` after reading.

    Args:
        clicks: a table of clicks.
        name, sha256: the data set, for records.
        filters: drop short sessions and rare items; None: unless ``is_filtered``, or
            always under ``protocol="modelzoo"``, as the port does.
        order, protocol, min_session_clicks, min_item_clicks, train_until, test_from:
            see ``load``.

    Raises:
        InputError: a rule has a value that is not allowed, or a part would have no
            example.
    """
    check_choice("order", order, ORDERS)
    check_choice("protocol", protocol, PROTOCOLS)
    if min_session_clicks < 2:
        raise InputError(
            f"min_session_clicks={min_session_clicks}: a session needs 2 clicks or "
            "more: one to predict, and one to predict it from."
        )
    check_whole("min_item_clicks", min_item_clicks)
    if filters is None:
        filters = protocol == "modelzoo" or not is_filtered(clicks)
    if filters:
        clicks = drop_short_sessions(clicks, min_session_clicks)
        clicks = drop_rare_items(clicks, min_item_clicks)
    if protocol == "srgnn":  # rare items may have left short sessions
        clicks = drop_short_sessions(clicks, min_session_clicks)
    parts, item_ids = _split(clicks, order, protocol, train_until, test_from)
    examples = {
        part: make_examples(table, np.searchsorted(item_ids, table["item"]) + 1)
        for part, table in parts.items()
    }
    for part, label in (("train", "training"), ("test", "test")):
        if not len(examples[part]):
            raise InputError(
                f"{name}: after the filters (sessions of {min_session_clicks} clicks "
                f"or more, items of {min_item_clicks} or more) and the split by date "
                f"no {label} example is left: add clicks, so that they span more than "
                f"{TEST_DAYS + 1} days, or choose other thresholds and days."
            )
    return Sessions(item_ids=item_ids, name=name, sha256=sha256, **examples)


def _split(
    clicks: pd.DataFrame, order: str, protocol: str, train_until: str, test_from: str
) -> tuple[dict[str, pd.DataFrame], np.ndarray]:
    """Splits the clicks as the protocol does.

    Returns:
        The clicks of each part by its attribute's name in ``Sessions``, and the sorted
        raw ids of the items that can be predicted.
    """
    if protocol == "srgnn":
        clicks = sort_clicks(clicks, order)
        train, _, test = split_by_day(clicks, "session", train_until, test_from)
        item_ids = np.unique(train["item"])
        test = drop_short_sessions(test[test["item"].isin(item_ids)])
        return {"train": train, "test": test}, item_ids
    clicks = clicks.sort_values(["day", "session"], kind="stable")
    parts = [
        drop_short_sessions(sort_clicks(part, order))
        for part in split_by_day(clicks, "click", train_until, test_from)
    ]
    item_ids = np.unique(clicks["item"])
    return dict(zip(("train", "held_out", "test"), parts)), item_ids


def is_filtered(clicks: pd.DataFrame) -> bool:
    """Returns True if no session has one click, i.e. the log was filtered before.

    A raw log has many one-click sessions. Filtering twice would drop items that the
    first time kept, because an item loses clicks when short sessions are dropped.
    """
    return bool((_count_occurrences(clicks["session"]) > 1).all())


def drop_short_sessions(
    clicks: pd.DataFrame, min_clicks: int = MIN_SESSION_CLICKS
) -> pd.DataFrame:
    """Keeps the sessions of at least ``min_clicks`` clicks."""
    return clicks[_count_occurrences(clicks["session"]) >= min_clicks]


def drop_rare_items(
    clicks: pd.DataFrame, min_clicks: int = MIN_ITEM_CLICKS
) -> pd.DataFrame:
    """Keeps the items of at least ``min_clicks`` clicks."""
    return clicks[_count_occurrences(clicks["item"]) >= min_clicks]


def _count_occurrences(column: pd.Series) -> np.ndarray:
    """Counts for each row how many rows have its value: int64 ``(n,)``."""
    codes, values = pd.factorize(column.to_numpy())
    return np.bincount(codes, minlength=len(values))[codes]


def sort_clicks(clicks: pd.DataFrame, order: str = "timeframe") -> pd.DataFrame:
    """Sorts by session, and with ``order="timeframe"`` by time and item within it."""
    check_choice("order", order, ORDERS)
    keys = ("item", "timeframe", "session") if order == "timeframe" else ("session",)
    return clicks.iloc[np.lexsort([clicks[key].to_numpy() for key in keys])]


def split_by_day(
    clicks: pd.DataFrame,
    by: str = "session",
    train_until: str = "",
    test_from: str = "",
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Splits the clicks at the day that is ``TEST_DAYS`` before the last one.

    Args:
        clicks: a table of clicks.
        by: ``"session"`` assigns a session to the day of its last click; ``"click"``
            splits a session that crosses midnight.
        train_until, test_from: other days to split at, as ``2016-05-24``.

    Returns:
        ``(before, between, after)``: the clicks up to ``train_until``, those between,
        and those from ``test_from`` on.

    Raises:
        InputError: a day is not a date, or the two are in the wrong order.
    """
    if not len(clicks):
        return clicks, clicks, clicks
    cut = clicks["day"].max() - pd.Timedelta(days=TEST_DAYS)
    last = _parse_day("train_until", train_until, cut - pd.Timedelta(days=1))
    first = _parse_day("test_from", test_from, cut + pd.Timedelta(days=1))
    if not last < first:
        raise InputError(
            f"train_until={last:%Y-%m-%d}, test_from={first:%Y-%m-%d}: the "
            "test part must begin after the training part ends."
        )
    day = clicks["day"].to_numpy()
    if by == "session":
        codes, sessions = pd.factorize(clicks["session"].to_numpy())
        session_day = np.full(len(sessions), np.datetime64("1678-01-01", "ns"))
        np.maximum.at(session_day, codes, day)
        day = session_day[codes]
    early, late = day <= last.to_datetime64(), day >= first.to_datetime64()
    return clicks[early], clicks[~early & ~late], clicks[late]


def _parse_day(name: str, text: str, default: pd.Timestamp) -> pd.Timestamp:
    if text and not is_day(text):
        raise InputError(f'{name}="{text}": write a day as 2016-05-24.')
    return pd.Timestamp(text) if text else default


def is_day(text: str) -> bool:
    """Tells whether a text is a day of the calendar, written as ``2016-05-24``."""
    try:
        return bool(datetime.strptime(text, "%Y-%m-%d")) and len(text) == 10
    except ValueError:
        return False


def make_examples(clicks: pd.DataFrame, numbers: np.ndarray) -> Examples:
    """Makes the examples of clicks.

    Args:
        clicks: a table in which the rows of a session are adjacent and in click order.
        numbers: the item number of each row.
    """
    session = clicks["session"].to_numpy()
    first = np.flatnonzero(np.diff(session, prepend=session[:1] - 1))
    offsets = np.append(first, len(session))
    days = clicks["day"].to_numpy().astype("datetime64[D]")
    last = np.maximum.reduceat(days, first) if len(first) else days
    return Examples.from_sessions(np.asarray(numbers), offsets, last)


def _drop_unknown_items(examples: Examples, known: np.ndarray) -> Examples:
    """Drops clicks on items not in ``known``, then sessions left with one click."""
    session = np.repeat(np.arange(examples.n_sessions), np.diff(examples.offsets))
    clicks = pd.DataFrame({"session": session, "item": examples.items})
    clicks["day"] = examples.days[session].astype("datetime64[ns]")
    clicks = drop_short_sessions(clicks[clicks["item"].isin(np.unique(known))])
    return make_examples(clicks, clicks["item"])
