"""Sessions ready for training: read, filtered, split by date, items numbered.

``load`` takes Diginetica, any table of clicks, or a folder that was prepared. The steps
are SQL, see ``session_steps``; notebook 02 shows them one by one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lib import progress
from lib.data import prepared, readers, session_steps, sources
from lib.data.engines import DuckDB
from lib.data.examples import Examples
from lib.data.session_steps import TEST_DAYS, Rules
from lib.errors import InputError

PORT_DAY = 16946  # 2016-05-25: the published port validates on this day of Diginetica
PORT_DAYS: dict[str, Any] = {"train_until": "2016-05-24", "test_from": "2016-05-26"}


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
        reading: rows in the file and rows read, as a sentence.
        unordered_clicks, unordered_sessions: clicks whose time does not decide their
            order, because the session has a click on another item at the same time,
            and the number of such sessions. They keep the order of the file.
    """

    train: Examples
    test: Examples
    item_ids: np.ndarray
    name: str
    sha256: str
    held_out: Examples | None = None
    reading: str = ""
    unordered_clicks: int = 0
    unordered_sessions: int = 0

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


@progress.timed("reading the clicks")
def load(
    data_path: sources.PathLike,
    order: str = "timeframe",
    protocol: str = "srgnn",
    columns: str = "",
    **rules: Any,
) -> Sessions:
    """Reads and preprocesses Diginetica's item views, or a table of clicks.

    A copy of Diginetica that is filtered already, see ``session_steps.is_filtered``, is
    not filtered again; a table always is.

    Args:
        data_path: see ``lib.data.sources``; or a table, see ``readers.read_clicks``; or
            a folder that was prepared, whose arrays are then mapped into memory and
            whose rules stand.
        order: ``"timeframe"`` sorts the clicks of a session by their time (ties keep
            the order of the file); ``"file"`` leaves them in the order of the file, as
            the code of the KDD 2018 paper did.
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
    chosen = Rules(order, protocol, **rules)
    if prepared.is_prepared(data_path):
        return _load_prepared(data_path)
    with DuckDB() as engine:
        reading = readers.read("sessions", data_path, engine, columns)
        if not reading.is_table:
            if protocol == "modelzoo" and not any(map(rules.get, PORT_DAYS)):
                query = f"SELECT count(*) FROM clicks WHERE day = {PORT_DAY}"
                chosen = replace(chosen, **(PORT_DAYS if engine.row(query)[0] else {}))
            chosen = session_steps.with_filters(engine, chosen)
        return prepare(engine, reading, chosen)


def prepare(engine: DuckDB, reading: readers.Reading, rules: Rules) -> Sessions:
    """Takes the steps of ``load`` after reading.

    Args:
        engine: holds the table ``clicks``, see ``session_steps``; it is used up.
        reading: the clicks' name and SHA-256, for records.
        rules: of the preparation.

    Raises:
        InputError: the days of the split are in the wrong order, or a part would have
            no example.
    """
    days = engine.row("SELECT min(day), max(day) FROM clicks")
    engine.connection.execute("SET preserve_insertion_order = false")
    session_steps.run(engine, rules)
    parts, ties = {}, np.zeros(2, int)
    for part in session_steps.PARTS:
        if part != "held_out" or rules.protocol == "modelzoo":
            parts[part], tied = _examples(engine, part, rules)
            ties += tied
    for part in ("train", "test"):
        if not len(parts[part]):
            raise session_steps.nothing_left(reading.name, part, rules, *days)
    ids = engine.arrays("SELECT item FROM items ORDER BY number")["item"]
    return Sessions(
        item_ids=np.array(ids.tolist()),
        name=reading.name,
        sha256=reading.sha256,
        reading=str(reading),
        unordered_clicks=int(ties[0]),
        unordered_sessions=int(ties[1]),
        **parts,
    )


def _examples(
    engine: DuckDB, part: str, rules: Rules
) -> tuple[Examples, tuple[int, int]]:
    """The examples of a part, and its clicks and sessions that no time orders."""
    columns = f"items.number AS number, {part}.timeframe AS timeframe"
    clicks = engine.arrays(session_steps.flat(part, rules, columns))
    lengths = engine.arrays(session_steps.lengths(part))
    offsets = np.concatenate([[0], np.cumsum(lengths["clicks"])])
    days = np.asarray(lengths["day"], np.int64).astype("datetime64[D]")
    ties = (0, 0)
    if rules.order == "timeframe":
        ties = session_steps.count_ties(clicks["number"], clicks["timeframe"], offsets)
    return Examples.from_sessions(clicks["number"], offsets, days), ties


def _load_prepared(folder: sources.PathLike) -> Sessions:
    data = prepared.load(folder, "sessions")
    parts: dict[str, Any] = {
        part: Examples.from_sessions(
            *(data.arrays[f"{part}_{name}"] for name in ("items", "offsets", "days"))
        )
        for part in ("train", "test")
    }
    unordered = ("unordered_clicks", "unordered_sessions")
    parts.update({name: data.counts.get(name, 0) for name in unordered})
    return Sessions(
        item_ids=data.arrays["item_ids"], name=data.name, sha256=data.sha256, **parts
    )


def _drop_unknown_items(examples: Examples, known: np.ndarray) -> Examples:
    """Drops clicks on items not in ``known``, then sessions left with one click."""
    session = np.repeat(np.arange(examples.n_sessions), np.diff(examples.offsets))
    is_known = np.isin(examples.items, np.unique(known))
    lengths = np.bincount(session[is_known], minlength=examples.n_sessions)
    is_kept = lengths >= 2
    items = examples.items[is_known & is_kept[session]]
    offsets = np.concatenate([[0], np.cumsum(lengths[is_kept])])
    return Examples.from_sessions(items, offsets, examples.days[is_kept])
