"""Diginetica's preprocessing, against literal loops and the published counts."""

import json
import random
from collections import Counter, defaultdict
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.data import readers, session_steps, sessions, sources
from lib.data.engines import DuckDB
from lib.errors import InputError
from lib.files import ROOT

FIRST_DAY = np.datetime64("2016-01-01")
LAST_DAY, CUT = 20, 13  # days from the first; the test part is what comes after the cut


class Click(NamedTuple):
    session: int
    item: int
    timeframe: int
    day: int


def table(clicks):
    columns = np.array(clicks, np.int64).reshape(-1, 4).T
    frame = pd.DataFrame(dict(zip(Click._fields, columns)))
    frame["day"] = (FIRST_DAY + columns[3]).astype(np.int64)
    return frame


ENGINE = DuckDB()  # one for all: a new one takes longer than what is tested


def register(clicks):
    """Makes a frame the table of clicks, in the order of its rows."""
    ENGINE.register("clicks", clicks.assign(place=np.arange(len(clicks))))


def prepare(clicks, **options):
    rules = session_steps.Rules(**options)
    register(table(clicks))
    if "filters" not in options:
        rules = session_steps.with_filters(ENGINE, rules)
    reading = readers.Reading("name", "sha256", len(clicks))
    return sessions.prepare(ENGINE, reading, rules)


# Whatever else is drawn: each part has examples of items 17 and 42; item 55 has fewer
# than five clicks once the day of the cut is gone; 66 and 77 are new in the validation
# and in the test part; and there is a session of one click.
BACKBONE = [
    (0, [(17, 0), (42, 1), (17, 2), (42, 3), (17, 4), (42, 5), (17, 6)]),
    (1, [(55, 0), (55, 1), (55, 2), (55, 3)]),
    (3, [(17, 0)]),
    (CUT - 1, [(42, 1), (17, 0), *[(66, 0)] * 5]),
    (CUT, [(55, 0), (17, 1)]),
    (LAST_DAY, [(42, 0), (17, 1), *[(77, 0)] * 5]),
]


@st.composite
def logs(draw):
    """Clicks in any row order; many ties of the time frame, many rare items."""
    click = st.sampled_from(list(product([42, 900, 305, 7_000_000_000], range(4))))
    day = st.sampled_from([0, 1, 5, 6, CUT - 1, CUT, CUT + 1, LAST_DAY])
    some = st.tuples(day, st.lists(click, min_size=1, max_size=7))
    drawn = BACKBONE + draw(st.lists(some, max_size=7))
    shuffle = random.Random(draw(st.integers(0, 2**32))).shuffle
    numbers = [10 + 3 * number for number in range(len(drawn))]
    shuffle(numbers)
    midnight = draw(st.booleans())  # the later clicks of a session, on the next day
    rows = [
        Click(number, item, at, min(day + (midnight and at > 1), LAST_DAY))
        for number, (day, clicks) in zip(numbers, drawn)
        for item, at in clicks
    ]
    shuffle(rows)
    return rows


# The steps once more, written for reading


def by_session(clicks):
    """Lists of clicks, in the order of the session numbers."""
    groups = defaultdict(list)
    for click in clicks:
        groups[click.session].append(click)
    return [groups[number] for number in sorted(groups)]


def without_short_sessions(clicks):
    length = Counter(click.session for click in clicks)
    return [click for click in clicks if length[click.session] >= 2]


def without_rare_items(clicks):
    count = Counter(click.item for click in clicks)
    return [click for click in clicks if count[click.item] >= 5]


def literal_srgnn(clicks, order):
    """Sessions of raw item ids: ``(train, test)``."""
    clicks = without_rare_items(without_short_sessions(clicks))
    clicks = without_short_sessions(clicks)
    cut = max(click.day for click in clicks) - 7
    train, test = [], []
    for session in by_session(clicks):
        if order == "timeframe":
            session = sorted(session, key=lambda click: click.timeframe)
        items, day = [click.item for click in session], max(c.day for c in session)
        if day < cut:
            train.append(items)
        elif day > cut:
            test.append(items)
    known = {item for items in train for item in items}
    test = [[item for item in items if item in known] for items in test]
    return train, [items for items in test if len(items) >= 2]


def literal_modelzoo(clicks):
    """Sessions of labels from 0, and the raw ids: ``(train, test, ids)``."""
    clicks = without_rare_items(without_short_sessions(clicks))
    ids = sorted({click.item for click in clicks})
    clicks = sorted(clicks, key=lambda click: (click.day, click.session))
    cut = max(click.day for click in clicks) - 7
    train = by_session([click for click in clicks if click.day < cut])
    test = by_session([click for click in clicks if click.day > cut])
    parts = [
        [[ids.index(click.item) for click in session] for session in part]
        for part in (train, test)
    ]
    return (*parts, ids)


def literal_examples(parts):
    return [(items[:k], items[k]) for items in parts for k in range(1, len(items))]


# What the library made, in the same form


def examples(part, ids):
    return [
        (ids[part.prefix(k) - 1].tolist(), ids[target - 1])
        for k, target in enumerate(part.targets)
    ]


def items_of_sessions(part, ids):
    bounds = zip(part.offsets[:-1], part.offsets[1:])
    return [ids[part.items[first:last] - 1].tolist() for first, last in bounds]


def assert_same(one, other):
    assert one.item_ids.tolist() == other.item_ids.tolist()
    assert one.n_items == other.n_items
    for part in ("train", "test"):
        for name, values in vars(getattr(one, part)).items():
            np.testing.assert_array_equal(
                values, getattr(getattr(other, part), name), f"{part}.{name}"
            )


# The whole of it


@settings(max_examples=40)
@given(clicks=logs(), order=st.sampled_from(session_steps.ORDERS))
def test_srgnn_gives_every_prefix_of_every_session_once_with_its_next_item(
    clicks, order
):
    data = prepare(clicks, order=order)
    train, test = literal_srgnn(clicks, order)
    assert items_of_sessions(data.train, data.item_ids) == train
    assert items_of_sessions(data.test, data.item_ids) == test
    assert examples(data.train, data.item_ids) == literal_examples(train)
    assert examples(data.test, data.item_ids) == literal_examples(test)
    assert data.counts() == {
        "train_sessions": len(train),
        "train_examples": len(literal_examples(train)),
        "test_sessions": len(test),
        "test_examples": len(literal_examples(test)),
        "items": len({item for items in train for item in items}),
    }


@settings(max_examples=40)
@given(clicks=logs())
def test_modelzoo_gives_what_the_published_steps_give(clicks):
    data = prepare(clicks, order="file", protocol="modelzoo")
    train, test, ids = literal_modelzoo(clicks)
    assert data.item_ids.tolist() == ids
    labels = np.arange(len(ids))
    assert examples(data.train, labels) == literal_examples(train)
    assert examples(data.test, labels) == literal_examples(test)


@pytest.mark.parametrize("one_click_sessions", [0, 1])
def test_modelzoo_drops_rare_items_even_where_no_session_has_one_click(
    one_click_sessions,
):
    clicks = [Click(0, 17, at, 0) for at in range(4)] + [Click(0, 5, 4, 0)]
    clicks += [Click(1, 17, 0, LAST_DAY), Click(1, 17, 1, LAST_DAY)]
    clicks += [Click(2, 17, 0, 0)] * one_click_sessions
    assert prepare(clicks, order="file", protocol="modelzoo").item_ids.tolist() == [17]


@given(clicks=logs())
def test_srgnn_numbers_the_items_of_the_training_part_from_1_without_a_gap(clicks):
    data = prepare(clicks)
    assert set(data.train.items.tolist()) == set(range(1, data.n_items + 1))
    assert len(data.item_ids) == data.n_items
    assert (np.diff(data.item_ids) > 0).all()


@given(clicks=logs())
def test_modelzoo_numbers_the_items_of_the_whole_log_from_1_without_a_gap(clicks):
    data = prepare(clicks, order="file", protocol="modelzoo")
    assert len(data.item_ids) == data.n_items
    assert (np.diff(data.item_ids) > 0).all()
    numbers = [part.items for part in (data.train, data.held_out, data.test)]
    assert set(np.concatenate(numbers)) <= set(range(1, data.n_items + 1))
    kept = without_rare_items(without_short_sessions(clicks))
    assert set(data.item_ids.tolist()) == {click.item for click in kept}


@given(clicks=logs(), seed=st.integers(0, 99))
def test_row_order_of_the_file_does_not_matter_where_the_times_tell_it(clicks, seed):
    clicks = [click._replace(timeframe=at) for at, click in enumerate(clicks)]
    data = prepare(clicks)
    assert (data.unordered_clicks, data.unordered_sessions) == (0, 0)
    random.Random(seed).shuffle(clicks)
    assert_same(prepare(clicks), data)


def test_ties_of_the_time_frame_keep_the_order_of_the_file():
    """An order by item would tell a model which item comes next."""
    rows = [Click(0, item, 5, 0) for item in (900, 17, 305)] + [Click(0, 42, 4, 0)]
    rows += [Click(1, item, at, LAST_DAY) for at, item in enumerate((42, 17, 900, 305))]
    data = prepare(rows, filters=False)
    assert items_of_sessions(data.train, data.item_ids) == [[42, 900, 17, 305]]
    assert (data.unordered_clicks, data.unordered_sessions) == (3, 1)


@given(clicks=logs())
def test_clicks_that_the_times_do_not_order_are_counted(clicks):
    data = prepare(clicks)
    train, test = literal_srgnn(clicks, "timeframe")
    n_clicks, concerned = 0, set()
    known = {item for items in train for item in items}
    kept = without_rare_items(without_short_sessions(clicks))
    cut = max(click.day for click in without_short_sessions(kept)) - 7
    for session in by_session(without_short_sessions(kept)):
        day = max(click.day for click in session)
        if day > cut:
            session = [click for click in session if click.item in known]
        if day != cut and len(session) >= 2:
            at = defaultdict(list)
            for click in session:
                at[click.timeframe].append(click.item)
            tied = [items for items in at.values() if len(set(items)) > 1]
            n_clicks += sum(map(len, tied))
            concerned |= {session[0].session} if tied else set()
    assert data.unordered_clicks == n_clicks
    assert data.unordered_sessions == len(concerned)
    in_sql = [ENGINE.row(session_steps.ties(part)) for part in ("train", "test")]
    assert [sum(each) for each in zip(*in_sql)] == [n_clicks, len(concerned)]


# Steps


def step(column, clicks, at_least):
    """The rows of the SQL that keeps what is frequent, in the order of the file."""
    register(clicks)
    query = session_steps.frequent(column, "clicks", at_least)
    return ENGINE.sql(f"{query} ORDER BY place").drop(columns="place")


@pytest.mark.parametrize("column", ["session", "item"])
@given(clicks=logs(), at_least=st.integers(1, 6))
def test_what_is_rare_is_dropped_and_once_is_enough(column, clicks, at_least):
    kept = step(column, table(clicks), at_least)
    count = Counter(getattr(click, column) for click in clicks)
    often = [click for click in clicks if count[getattr(click, column)] >= at_least]
    pd.testing.assert_frame_equal(kept, table(often))
    pd.testing.assert_frame_equal(step(column, kept, at_least), kept)


@given(clicks=logs(), order=st.sampled_from(session_steps.ORDERS))
def test_outcome_written_back_as_raw_clicks_gives_the_same_sessions(clicks, order):
    data = prepare(clicks, order=order)
    rows, number = [], 0
    for part in (data.train, data.test):
        parts = items_of_sessions(part, data.item_ids)
        for items, day in zip(parts, (part.days - FIRST_DAY).astype(int).tolist()):
            number += 1
            rows += [Click(number, item, at, day) for at, item in enumerate(items)]
    assert_same(prepare(rows, order=order), data)


@given(clicks=logs())
def test_the_port_splits_clicks_by_their_day_and_the_others_sessions(clicks):
    last = {g[0].session: max(click.day for click in g) for g in by_session(clicks)}
    for protocol in session_steps.PROTOCOLS:
        rules = session_steps.Rules(protocol=protocol, filters=False)
        register(table(clicks))
        session_steps.run(ENGINE, rules, keep_all=True)
        late = "late" if protocol == "srgnn" else "test"
        parts = [ENGINE.sql(f"SELECT place FROM {t}")["place"] for t in ("train", late)]
        for rows, fits in zip(parts, (range(CUT), range(CUT + 1, LAST_DAY + 1))):
            for click in map(clicks.__getitem__, rows):
                day = last[click.session] if protocol == "srgnn" else click.day
                assert day in fits


def test_day_of_a_session_is_that_of_its_last_click():
    rows = [Click(1, 17, at, at) for at in range(9)]
    rows += [Click(2, 17, 0, LAST_DAY - 1), Click(2, 17, 1, LAST_DAY)]
    data = prepare(rows)
    assert data.train.days.tolist() == [(FIRST_DAY + 8).item()]
    assert data.test.days.tolist() == [(FIRST_DAY + LAST_DAY).item()]


# Leaks


@given(clicks=logs(), days=st.integers(1, 7))
def test_items_unseen_in_training_are_never_in_test_or_validation(clicks, days):
    data = prepare(clicks)
    for each in (data, data.validation(days)):
        assert set(each.test.items.tolist()) <= set(each.train.items.tolist())


@pytest.mark.parametrize("protocol", session_steps.PROTOCOLS)
@given(clicks=logs(), days=st.integers(1, 7))
def test_validation_holds_out_the_last_days_of_training_and_nothing_of_test(
    protocol, clicks, days
):
    data = prepare(clicks, protocol=protocol)
    validation = data.validation(days)
    fit, held_out = [], []
    last = data.train.days.max()
    numbers = np.arange(1, data.n_items + 1)
    for items, day in zip(items_of_sessions(data.train, numbers), data.train.days):
        (fit if day <= last - days else held_out).append(items)
    known = {item for items in fit for item in items}
    held_out = [[item for item in items if item in known] for items in held_out]
    held_out = [items for items in held_out if len(items) >= 2]
    assert items_of_sessions(validation.train, numbers) == fit
    assert items_of_sessions(validation.test, numbers) == held_out
    assert examples(validation.train, numbers) == literal_examples(fit)
    assert examples(validation.test, numbers) == literal_examples(held_out)
    assert validation.train.days.max() < validation.test.days.min()
    assert validation.test.days.max() < data.test.days.min()
    assert validation.item_ids is data.item_ids
    assert validation.n_items == data.n_items


@given(clicks=logs())
def test_clicks_of_the_test_week_change_nothing_in_training(clicks):
    kept = [click for click in clicks if click.day <= CUT]
    quiet = kept + [Click(1, 17, at, LAST_DAY) for at in (0, 1)]
    # Not of an item that would reach five clicks by that: the filters see all days.
    busy = quiet + [Click(2, 17, at, LAST_DAY) for at in range(4)]
    one, other = prepare(quiet), prepare(busy)
    assert examples(one.train, one.item_ids) == examples(other.train, other.item_ids)
    np.testing.assert_array_equal(one.item_ids, other.item_ids)
    assert len(other.test) > len(one.test)


# Errors


@pytest.mark.parametrize("protocol", session_steps.PROTOCOLS)
def test_unknown_order_is_refused_with_those_allowed(protocol):
    with pytest.raises(InputError, match='order="time": .*"timeframe", "file"'):
        prepare([], order="time", protocol=protocol)


def test_unknown_protocol_is_refused_with_those_allowed():
    with pytest.raises(InputError, match='protocol="x": .*"srgnn", "modelzoo"'):
        prepare([], protocol="x")


LONG = [Click(1, 17, at, 0) for at in range(9)]
NOTHING_LEFT = {
    "no click": ([], "training"),
    "sessions of one click": ([Click(n, 17, 0, n) for n in range(20)], "training"),
    "rare items": (
        [Click(n // 2, n, n, n) for n in range(20)] + [Click(99, 0, 0, 0)],
        "training",
    ),
    "one day": (LONG, "training"),
    "no more than a week": (LONG + [Click(2, 17, at, 7) for at in (0, 1)], "training"),
    "test of one click": (LONG + [Click(2, 17, 0, 8), Click(3, 17, 0, 8)], "training"),
}


@pytest.mark.parametrize("protocol", session_steps.PROTOCOLS)
@pytest.mark.parametrize(
    ("clicks", "part"), NOTHING_LEFT.values(), ids=NOTHING_LEFT.keys()
)
def test_nothing_left_is_refused(clicks, part, protocol):
    with pytest.raises(InputError, match=f"^name: .* no {part} example is left"):
        prepare(clicks, protocol=protocol)


def test_test_part_of_items_unseen_in_training_is_refused():
    unseen = [Click(2, 42, at, LAST_DAY) for at in range(9)]
    with pytest.raises(InputError, match="no test example is left"):
        prepare(LONG + unseen)


@pytest.mark.parametrize(("days", "part"), [(30, "training"), (0, "validation")])
def test_validation_without_an_example_is_refused(days, part):
    test = [Click(2, 17, at, LAST_DAY) for at in (0, 1)]
    with pytest.raises(InputError, match=f"{days} days .* no {part} example"):
        prepare(LONG + test).validation(days)


# Files


def test_load_reads_finds_and_prepares(tmp_path):
    clicks = [
        Click(2 * number, item, at, day)
        for number, (day, items) in enumerate(BACKBONE)
        for item, at in items
    ]
    lines = ["sessionId;userId;itemId;timeframe;eventdate"]
    lines += [f"{s};NA;{i};{t};{FIRST_DAY + d}" for s, i, t, d in clicks]
    (tmp_path / "train-item-views.csv").write_text("\n".join(lines))
    for options in ({}, {"order": "file"}, {"protocol": "modelzoo"}):
        loaded = sessions.load(tmp_path, **options)
        assert_same(loaded, prepare(clicks, **options))
        assert loaded.name == tmp_path.name
        assert len(loaded.sha256) == 64


def test_the_published_protocol_validates_on_its_own_day_of_diginetica(tmp_path):
    """Whatever the last day is, where the log has that day and no other is given."""
    port, days = np.datetime64("2016-05-25"), range(-3, 21)

    def load(without=(), **rules):
        lines = ["sessionId;userId;itemId;timeframe;eventdate"]
        lines += [
            f"{number + 100};NA;{item};{item};{port + number}"
            for number in set(days) - set(without)
            for item in (17, 42, 55)
        ]
        (tmp_path / "train-item-views.csv").write_text("\n".join(lines))
        data = sessions.load(tmp_path, "file", "modelzoo", **rules)
        parts = data.train, data.held_out, data.test
        return [[(day - port).astype(int) for day in part.days] for part in parts]

    assert load() == [[-3, -2, -1], [0], list(range(1, 21))]
    assert load(without=[0])[1] == [13]  # a week before the last day
    assert load(train_until="2016-05-26", test_from="2016-05-30")[1] == [2, 3, 4]
    assert load(train_until="", test_from="") == load()


def test_the_day_between_is_numbered_like_the_other_parts():
    """Its sessions, by raw ids, are those of the log's filtered clicks of that day."""
    with DuckDB() as engine:
        readers.read_views(sources.find(sources.DIGINETICA, "sample"), engine)
        clicks = engine.sql("SELECT * FROM clicks ORDER BY place")
    clicks = step("item", step("session", clicks, 2), 5)
    between = clicks[clicks["day"] == clicks["day"].max() - 7]
    groups = between.groupby("session")["item"].apply(list)
    data = sessions.load("sample", "file", "modelzoo")
    assert len(data.held_out)
    held_out = items_of_sessions(data.held_out, data.item_ids)
    assert held_out == [items for items in groups if len(items) >= 2]
    assert sessions.load("sample").held_out is None


def test_real_diginetica_is_split_as_the_records_say(real_data):
    data = sessions.load(real_data / "diginetica", "file", "modelzoo")
    path = ROOT / "results" / "stamp_full_1p/default/seed-0" / "result.json"
    recorded = json.loads(path.read_text(encoding="utf-8"))["data"]
    assert data.counts() == recorded["counts"]
    assert data.sha256 == recorded["sha256"]
    assert set(data.held_out.days) == {np.datetime64("2016-05-25")}
    assert (len(data.held_out), data.held_out.n_sessions) == (8_097, 2_132)


def test_real_diginetica_gives_the_published_counts(real_data):
    data = sessions.load(real_data / "diginetica")
    assert data.counts() == {
        "train_sessions": 186_670,
        "train_examples": 719_470,
        "test_sessions": 15_963,
        "test_examples": 60_858,
        "items": 43_097,
    }


def test_the_published_protocol_takes_either_order():
    by_time = sessions.load("sample", "timeframe", "modelzoo")
    by_file = sessions.load("sample", "file", "modelzoo")
    assert by_time.counts() == by_file.counts()
    np.testing.assert_array_equal(by_time.train.offsets, by_file.train.offsets)
    assert (by_time.train.items != by_file.train.items).any()
