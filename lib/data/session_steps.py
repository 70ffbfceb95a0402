"""The steps that turn clicks into training and test sessions, as SQL.

The text runs on every engine of ``lib.data.engines``. It starts from the table
``clicks`` with the columns

- ``session, item``: raw ids, whole numbers or texts;
- ``timeframe``: time of the click in ms; ``day``: whole days since 1970;
- ``place``: position in the file, which orders clicks of the same time.

``run`` takes all steps and leaves the tables ``items`` (``item, number``), ``train``
and ``test`` (and ``held_out`` under ``protocol="modelzoo"``); ``flat`` and ``lengths``
are the queries that arrange these in the order of the sessions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import NamedTuple

import numpy as np

from lib.data.engines import Engine
from lib.errors import InputError, check_choice, check_whole

ORDERS = ("timeframe", "file")
PROTOCOLS = ("srgnn", "modelzoo")
MIN_SESSION_CLICKS = 2
MIN_ITEM_CLICKS = 5
TEST_DAYS = 7  # the last week; the day before it belongs to neither part
PARTS = ("train", "held_out", "test")


@dataclass(frozen=True)
class Rules:
    """How clicks become sessions; see ``sessions.load``."""

    order: str = "timeframe"
    protocol: str = "srgnn"
    min_session_clicks: int = MIN_SESSION_CLICKS
    min_item_clicks: int = MIN_ITEM_CLICKS
    train_until: str = ""
    test_from: str = ""
    filters: bool = True

    def __post_init__(self) -> None:
        check_choice("order", self.order, ORDERS)
        check_choice("protocol", self.protocol, PROTOCOLS)
        check_whole("min_session_clicks", self.min_session_clicks, 2)  # one to predict
        check_whole("min_item_clicks", self.min_item_clicks)
        for name in ("train_until", "test_from"):
            if getattr(self, name) and not is_day(getattr(self, name)):
                raise InputError(
                    f'{name}="{getattr(self, name)}": write a day as 2016-05-24.'
                )


class Step(NamedTuple):
    """A step: its description, the table that it makes, and the query of its rows."""

    title: str
    table: str
    query: str


def is_day(text: str) -> bool:
    """Returns whether a text is a day of the calendar, written as ``2016-05-24``."""
    try:
        return bool(datetime.strptime(text, "%Y-%m-%d")) and len(text) == 10
    except ValueError:
        return False


def frequent(column: str, table: str, at_least: int, condition: str = "") -> str:
    """The rows of a table whose value of a column occurs ``at_least`` times."""
    first = f"{condition} AND " if condition else ""
    return f"""SELECT * FROM {table}
WHERE {first}{column} IN (
    SELECT {column} FROM {table}{f" WHERE {condition}" if condition else ""}
    GROUP BY {column} HAVING count(*) >= {at_least})"""


def filter_steps(rules: Rules) -> list[Step]:
    """The steps from ``clicks`` to the clicks that are kept; none without filters."""
    few, rare = rules.min_session_clicks, rules.min_item_clicks
    again = rules.protocol == "srgnn"  # rare items may have left short sessions
    steps, source = [], "clicks"
    for table, column, at_least, more, is_taken in (
        ("long_sessions", "session", few, "", rules.filters),
        ("frequent_items", "item", rare, "", rules.filters),
        ("kept", "session", few, ", again", again),
    ):
        if is_taken:
            title = f"{column}s of {at_least} clicks or more{more}"
            steps.append(Step(title, table, frequent(column, source, at_least)))
            source = table
    return steps


def split_steps(
    rules: Rules, kept: str, train_until: int, test_from: int
) -> list[Step]:
    """The steps from the clicks that are kept to the parts and the numbered items.

    Args:
        rules: of the preparation.
        kept: name of the table of clicks.
        train_until, test_from: days since 1970.
    """

    def numbers(table: str) -> Step:
        query = "SELECT item, row_number() OVER (ORDER BY item) AS number\nFROM "
        query += f"(SELECT DISTINCT item FROM {table}) AS kinds"
        return Step("numbers of the items", "items", query)

    if rules.protocol == "modelzoo":  # sessions that cross midnight are split
        when = (
            f"day <= {train_until}",
            f"day > {train_until} AND day < {test_from}",
            f"day >= {test_from}",
        )
        parts = [
            Step(f"{part} part", part, frequent("session", kept, 2, f"({days})"))
            for part, days in zip(PARTS, when)
        ]
        return [*parts, numbers(kept)]
    by_day = f"""SELECT * FROM {kept}
WHERE session IN (
    SELECT session FROM {kept}
    GROUP BY session HAVING max(day) {{}})"""
    known = "SELECT * FROM late\nWHERE item IN (SELECT item FROM items)"
    test = frequent("session", "known", 2)
    return [
        Step("training sessions", "train", by_day.format(f"<= {train_until}")),
        Step("sessions of the last days", "late", by_day.format(f">= {test_from}")),
        numbers("train"),
        Step("clicks on items of the training part", "known", known),
        Step("test sessions of 2 clicks or more", "test", test),
    ]


def flat(part: str, rules: Rules, columns: str = "items.number AS number") -> str:
    """The item numbers of a part, session after session, each in the asked order."""
    keys = ["session"]
    if rules.order == "timeframe":
        keys.append("timeframe")
    if rules.protocol == "modelzoo":  # the port sorts the log by day first
        keys.append("day")
    return (
        f"SELECT {columns} FROM {part} JOIN items "
        f"ON {part}.item = items.item "
        f"ORDER BY {', '.join(f'{part}.{key}' for key in [*keys, 'place'])}"
    )


def lengths(part: str) -> str:
    """The number of clicks and the last day of each session of a part, in order."""
    return (
        f"SELECT count(*) AS clicks, max(day) AS day FROM {part} "
        "GROUP BY session ORDER BY session"
    )


def ties(table: str) -> str:
    """Clicks that the times do not order: on several items at one time of a session.

    ``count_ties`` counts the same in arrays, in less memory.
    """
    return (
        "SELECT coalesce(sum(clicks), 0) AS clicks, count(DISTINCT session) AS "
        f"sessions FROM (SELECT session, count(*) AS clicks FROM {table} "
        "GROUP BY session, timeframe HAVING min(item) <> max(item)) AS tied"
    )


def count_ties(
    items: np.ndarray, times: np.ndarray, offsets: np.ndarray
) -> tuple[int, int]:
    """Counts clicks that the times do not order, and their sessions.

    Args:
        items, times: of the clicks of flat sessions that are in the order of time.
        offsets: position of each session's first click, and the number of clicks.
    """
    is_first = np.ones(len(items), bool)  # of the clicks of one time
    is_first[1:] = np.diff(times) != 0
    is_first[offsets[:-1]] = True
    first = np.maximum.accumulate(np.where(is_first, np.arange(len(items)), 0))
    tied = np.isin(first, first[items != items[first]])
    sessions = np.searchsorted(offsets, np.flatnonzero(tied), side="right")
    return int(tied.sum()), len(np.unique(sessions))


def counts(table: str) -> str:
    """The clicks, sessions and items of a table."""
    return (
        "SELECT count(*) AS clicks, count(DISTINCT session) AS sessions, "
        f"count(DISTINCT item) AS items FROM {table}"
    )


def is_filtered(engine: Engine) -> bool:
    """Returns True if no session has one click, i.e. the log was filtered before.

    A raw log has many one-click sessions. Filtering twice would drop items that the
    first time kept, because an item loses clicks when short sessions are dropped.
    """
    each = "SELECT count(*) AS clicks FROM clicks GROUP BY session"
    fewest = engine.sql(f"SELECT min(clicks) AS fewest FROM ({each}) AS each_session")
    return not (fewest["fewest"] == 1).any()


def split_days(engine: Engine, kept: str, rules: Rules) -> tuple[int, int]:
    """Returns the last day of training and the first of the test, as days since 1970.

    Raises:
        InputError: they are in the wrong order.
    """
    last = engine.sql(f"SELECT coalesce(max(day), 0) AS day FROM {kept}")["day"][0]
    cut = date(1970, 1, 1) + timedelta(int(last) - TEST_DAYS)
    train_until = rules.train_until or str(cut - timedelta(1))
    test_from = rules.test_from or str(cut + timedelta(1))
    if not train_until < test_from:
        raise InputError(
            f"train_until={train_until}, test_from={test_from}: the test part must "
            "begin after the training part ends."
        )
    first = date(1970, 1, 1)
    days = [(date.fromisoformat(day) - first).days for day in (train_until, test_from)]
    return days[0], days[1]


def run(engine: Engine, rules: Rules, keep_all: bool = False) -> list[Step]:
    """Takes all steps, and returns them.

    Args:
        engine: holds the table ``clicks``.
        rules: of the preparation.
        keep_all: keep ``clicks`` and the tables between; else each is dropped once no
            later step reads it.

    Raises:
        InputError: the days of the split are in the wrong order.
    """
    done, kept = filter_steps(rules), ["clicks"]
    for step in done:
        engine.table(step.table, step.query)
        kept.append(step.table)
        if not keep_all:
            engine.drop(kept[-2])
    last = split_steps(rules, kept[-1], *split_days(engine, kept[-1], rules))
    for number, step in enumerate(last):
        engine.table(step.table, step.query)
        later = " ".join(step.query for step in last[number + 1 :])
        read = {*re.findall(r"\w+", step.query)} - {*re.findall(r"\w+", later)}
        if not keep_all:
            engine.drop(*{kept[-1], "late", "known"} & read)
    return done + last


def nothing_left(
    name: str, part: str, rules: Rules, first: int | None, last: int | None
) -> InputError:
    """The refusal of clicks of the days ``first`` to ``last``: a part is empty."""
    span = "there is no click"
    if first is not None and last is not None:
        begin, end = (date(1970, 1, 1) + timedelta(int(d)) for d in (first, last))
        span = f"the clicks are of {begin} to {end}"
        if end.year < 1990:
            span += ", which is hardly meant: is the time another column or another "
            span += "unit?"
    return InputError(
        f"{name}: after the filters (sessions of {rules.min_session_clicks} clicks or "
        f"more, items of {rules.min_item_clicks} or more) and the split by date no "
        f"{'training' if part == 'train' else part} example is left: {span}; add "
        f"clicks, so that they span more than {TEST_DAYS + 1} days, or choose other "
        "thresholds and days."
    )


def with_filters(engine: Engine, rules: Rules) -> Rules:
    """The rules for a copy of Diginetica: one that was filtered is left as it is."""
    filters = rules.protocol == "modelzoo" or not is_filtered(engine)
    return replace(rules, filters=filters)
