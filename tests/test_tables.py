"""Any table of clicks or ratings is read correctly, or refused in one sentence."""

import gzip

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.data import ratings, readers, session_steps, sessions, tables
from lib.data.engines import DuckDB
from lib.errors import InputError

CLICKS = pd.DataFrame(
    {
        "visit": ["b", "b", "a", "a", "a"],
        "sku": ["x-1", "007", "007", "é", "x-1"],
        "at": [1464134400, 1464134460, 1464220800, 1464220801, 1464220802],
        "note": ["", "plain", 'with "quotes"', "a,b", ""],
    }
)
COLUMNS = "session=visit, item=sku, time=at"


def parquet(path, query, **tables):
    """Writes the rows of a query as Parquet; frames are tables of the query."""
    with DuckDB() as engine:
        for name, table in tables.items():
            engine.register(name, table)
        engine.save(query, path)
    return path


def read_clicks(path, columns=""):
    """What is read, in the order of the file, and the name of the data."""
    with DuckDB() as engine:
        reading = readers.read_clicks(path, engine, columns)
        clicks = engine.sql("SELECT * FROM clicks ORDER BY place")
    assert clicks["place"].tolist() == list(range(reading.rows))
    return clicks, reading


def written(folder, table, name):
    """Writes a table in the format that its name says."""
    path, plain = folder / name, name.replace(".gz", "")
    if name.endswith(".parquet"):
        return parquet(path, "SELECT * FROM t", t=table)
    separator = "\t" if plain.lower().endswith(".tsv") else ","
    text = table.to_csv(sep=separator, index=False).encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


def times(kind):
    moment = pd.to_datetime(CLICKS["at"], unit="s")
    later = moment + pd.Timedelta(hours=2)
    return {
        "seconds": CLICKS["at"],
        "milliseconds": CLICKS["at"] * 1000,
        "ISO": moment.dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "ISO, another zone": later.dt.strftime("%Y-%m-%d %H:%M:%S+02:00"),
        "ISO, hours of a zone": later.dt.strftime("%Y-%m-%d %H:%M:%S+02"),
        "ISO, zone without colon": later.dt.strftime("%Y-%m-%dT%H:%M:%S +0200"),
        "ISO, UTC": moment.dt.strftime("%Y-%m-%d %H:%M:%S UTC"),
        "ISO, small letters": moment.dt.strftime("%Y-%m-%dt%H:%M:%S.000z"),
        "ISO, no zone": moment.dt.strftime("%Y-%m-%d %H:%M:%S.%f"),
        "ISO, decimal comma": moment.dt.strftime("%Y-%m-%dT%H:%M:%S,%f"),
    }[kind]


TIMES = ["seconds", "milliseconds", "ISO", "ISO, another zone", "ISO, hours of a zone"]
TIMES += ["ISO, zone without colon", "ISO, UTC", "ISO, small letters", "ISO, no zone"]
TIMES += ["ISO, decimal comma"]


FORMATS = ("clicks.csv", "clicks.csv.gz", "clicks.tsv", "clicks.TSV", "clicks.parquet")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", TIMES)
def test_every_format_and_every_time_says_the_same(tmp_path, name, kind):
    path = written(tmp_path, CLICKS.assign(at=times(kind)), name)
    clicks, reading = read_clicks(path, COLUMNS)
    assert reading.name == name
    assert str(reading) == f"{name}: 5 rows in the file, 5 read, 0 refused"
    assert clicks["item"].tolist() == CLICKS["sku"].tolist()
    np.testing.assert_array_equal(clicks["timeframe"], CLICKS["at"] * 1000)
    days = pd.to_datetime(clicks["day"], unit="D").dt.strftime("%Y-%m-%d")
    assert days.tolist() == ["2016-05-25"] * 2 + ["2016-05-26"] * 3
    assert clicks["session"].tolist() == CLICKS["visit"].tolist()


def test_a_column_may_hold_many_spellings_of_iso_8601(tmp_path):
    same = ["2016-05-25T10:51Z", "2016-05-25 10:51 UTC", "2016-05-25 12:51 +0200"]
    same += ["2016-05-25T10:51:00,0z", "2016-05-25 05:21-05:30", "2016-05-25 10:51"]
    path = tmp_path / "c.csv"
    rows = [f"{n};1;{time}" for n, time in enumerate(same)]
    path.write_text("\n".join(["session;item;time", *rows]))
    assert set(read_clicks(path)[0]["timeframe"]) == {1464173460000}


@pytest.mark.parametrize("name", ["c.csv", "c.parquet"])
def test_a_column_orders_clicks_of_the_same_time(tmp_path, name):
    """Those at the same place in it keep the order of the file."""
    table = pd.DataFrame({"session": 1, "time": 1464134400, "item": [1, 2, 3, 4]})
    path = written(tmp_path, table.assign(position=[20, 3, 3, -1.5]), name)
    assert read_clicks(path)[0]["item"].tolist() == [1, 2, 3, 4]
    clicks, _ = read_clicks(path, "order=position")
    assert clicks["item"].tolist() == [4, 2, 3, 1]
    with pytest.raises(InputError, match='no column "place" for the order'):
        read_clicks(path, "order=place")


def test_parquet_keeps_its_own_types(tmp_path):
    table = CLICKS.assign(
        at=pd.to_datetime(CLICKS["at"], unit="s"), sku=[5, 3, 3, 9, 5]
    )
    clicks, _ = read_clicks(written(tmp_path, table, "c.parquet"), COLUMNS)
    assert clicks["item"].dtype == np.int64
    assert clicks["item"].tolist() == [5, 3, 3, 9, 5]
    assert clicks["timeframe"][0] == 1464134400000


@pytest.mark.parametrize("kind", ["VARCHAR", "ENUM ('x', 'y')", "BLOB"])
def test_texts_of_parquet_are_read_however_they_are_stored(tmp_path, kind):
    path = parquet(
        tmp_path / "c.parquet",
        f"SELECT CAST(item AS {kind}) AS item, CAST('a' AS VARCHAR) AS session, "
        "CAST('2016-05-25T10:51:09Z' AS VARCHAR) AS time FROM t",
        t=pd.DataFrame({"item": ["x", "y", "x"]}),
    )
    clicks, _ = read_clicks(path)
    assert clicks["item"].tolist() == ["x", "y", "x"]
    assert set(clicks["timeframe"]) == {1464173469000}


@pytest.mark.parametrize("bad", [[1], [0, 2]])
def test_a_missing_time_is_named_with_its_row(tmp_path, bad):
    table = pd.DataFrame({"session": [1, 1, 2], "item": [1, 2, 1], "n": range(3)})
    path = parquet(
        tmp_path / "c.parquet",
        f"SELECT *, CASE WHEN n NOT IN ({', '.join(map(str, bad))}) "
        "THEN '2016-05-25' END AS time FROM t",
        t=table,
    )
    with pytest.raises(InputError, match=rf"row {bad[0] + 1}, .*time") as caught:
        read_clicks(path)
    assert ("and 1 more" in str(caught.value)) == (len(bad) == 2)


@pytest.mark.parametrize("kind", ["BIGINT", "DOUBLE", "TIMESTAMP", "DATE", "VARCHAR"])
@pytest.mark.parametrize("rest", ["'2016-05-25'", "NULL"])
def test_a_column_of_times_may_begin_with_a_missing_one(tmp_path, kind, rest):
    rest = "1464134400" if kind in ("BIGINT", "DOUBLE") and rest != "NULL" else rest
    path = parquet(
        tmp_path / "c.parquet",
        f"SELECT 1 AS session, n AS item, CASE WHEN n > 0 THEN CAST({rest} AS {kind}) "
        "END AS time FROM t",
        t=pd.DataFrame({"n": range(3)}),
    )
    with pytest.raises(InputError, match="row 1, column time: found '', .*Unix") as e:
        read_clicks(path)
    assert ("and 2 more" in str(e.value)) == (rest == "NULL")


IDS = {  # Parquet's types and values, and the ids that they are
    "UBIGINT": (["18446744073709551615", "5"], ["18446744073709551615", "5"]),
    "UINTEGER": (["4294967295", "5"], [4294967295, 5]),
    "HUGEINT": (["-1", "7"], [-1, 7]),
    "DECIMAL(20, 0)": (["12", "7"], [12, 7]),
    "DOUBLE": (["13.0", "7"], [13, 7]),
    "FLOAT": (["-1", "16777216"], [-1, 16777216]),
    "TINYINT": (["-1", "7"], [-1, 7]),
    "VARCHAR": (["007", "7"], ["007", "7"]),
}


@pytest.mark.parametrize("kind", IDS)
@pytest.mark.parametrize("column", ["item", "session"])
def test_numbers_of_parquet_are_the_ids_that_they_stand_for(tmp_path, kind, column):
    values, expected = IDS[kind]
    other = "session" if column == "item" else "item"
    path = parquet(
        tmp_path / "c.parquet",
        f"SELECT CAST(v AS {kind}) AS {column}, 1 AS {other}, 1464134400 AS time "
        "FROM t",
        t=pd.DataFrame({"v": values}),
    )
    assert read_clicks(path)[0][column].tolist() == expected


@pytest.mark.parametrize(
    ("kind", "value"),
    [("DOUBLE", "1.5"), ("DOUBLE", "inf"), ("DOUBLE", "nan")]
    + [("DECIMAL(9, 2)", "1.25"), ("BOOLEAN", "true"), ("DATE", "2020-01-01")]
    + [("DOUBLE", "1e300"), ("INTEGER[]", "[1]"), ("VARCHAR", "NULL")],
)
def test_values_of_parquet_that_are_no_ids_are_refused(tmp_path, kind, value):
    path = parquet(
        tmp_path / "c.parquet",
        f"SELECT CAST(v AS {kind}) AS item, 1 AS session, 1464134400 AS time FROM t",
        t=pd.DataFrame({"v": [value]}),
    )
    with pytest.raises(InputError, match="c.parquet, row 1, column item: .*an id"):
        read_clicks(path)


IDS_OF_ANY_KIND = st.one_of(
    st.integers(-(10**17), 10**17).map(str),
    st.integers(10**18, 10**25).map(str),
    st.integers(0, 999).map("{:05}".format),
    st.text(st.characters(blacklist_categories=["Cs", "Cc", "Z"]), min_size=1),
    st.text('a1 ,;"\u00a0\t', min_size=1).filter(str.strip),
).filter(lambda text: text not in readers.MISSING)


@given(ids=st.lists(IDS_OF_ANY_KIND, min_size=1, max_size=30))
@pytest.mark.parametrize("column", ["item", "session"])
def test_ids_of_any_kind_come_back(column, ids, tmp_path_factory):
    table = pd.DataFrame({"session": 1, "item": 1, "time": 1464134400}, range(len(ids)))
    path = written(
        tmp_path_factory.mktemp("ids"), table.assign(**{column: ids}), "c.csv"
    )
    assert read_clicks(path)[0][column].map(str).tolist() == ids


def test_whole_numbers_are_numbers_and_leading_zeros_stay(tmp_path):
    table = pd.DataFrame({"session": 1, "item": ["10", "9"], "time": 1464134400})
    clicks, _ = read_clicks(written(tmp_path, table, "c.csv"))
    assert clicks["item"].tolist() == [10, 9]
    table["item"] = ["10", "09"]
    clicks, _ = read_clicks(written(tmp_path, table, "c.csv"))
    assert clicks["item"].tolist() == ["10", "09"]


def log(rng, n_sessions=400, first="2020-01-01"):
    """Clicks of sessions on 30 days: the mapping's own column names, items as text."""
    lengths = rng.integers(1, 6, n_sessions)
    session = np.repeat(np.arange(n_sessions), lengths)
    start = np.datetime64(first, "s") + rng.integers(0, 30 * 86400, n_sessions)
    time = start[session] + np.arange(len(session)) % 7
    item = [f"i{n}" for n in rng.integers(0, 40, len(session))]
    order = rng.permutation(len(session))
    table = pd.DataFrame({"session": session, "item": item, "time": time})
    return table.iloc[order].assign(time=lambda t: t["time"].astype(str))


def test_sessions_of_a_table_are_filtered_and_split_as_asked(tmp_path):
    table = log(np.random.default_rng(0))
    path = written(tmp_path, table, "log.csv")
    days = {"train_until": "2020-01-15", "test_from": "2020-01-20"}
    data = sessions.load(
        path, min_session_clicks=3, min_item_clicks=10, columns="", **days
    )
    assert data.name == "log.csv"
    assert set(data.item_ids) <= set(table["item"])
    lengths = np.diff(data.train.offsets)
    assert lengths.min() >= 3
    assert data.train.days.max() <= np.datetime64("2020-01-15")
    assert data.test.days.min() >= np.datetime64("2020-01-20")
    clicks = table["session"].value_counts()
    kept = table[table["session"].map(clicks) >= 3]
    often = kept["item"].value_counts()
    assert set(data.item_ids) <= set(often[often >= 10].index)
    # Each session's clicks stand in the order of time, as raw ids.
    longest = int(np.argmax(lengths))
    items = data.train.items[data.train.offsets[longest] :][: lengths[longest]]
    found = data.item_ids[items - 1].tolist()
    of_session = kept.sort_values(["session", "time", "item"]).groupby("session")
    orders = [
        [item for item in part["item"] if item in set(data.item_ids)]
        for _, part in of_session
    ]
    assert found in orders


@pytest.mark.parametrize("protocol", session_steps.PROTOCOLS)
def test_every_item_number_of_a_table_has_a_raw_id(tmp_path, protocol):
    table = log(np.random.default_rng(1))
    path = written(tmp_path, table, "log.csv")
    data = sessions.load(path, protocol=protocol)
    assert (len(data.item_ids), data.train.items.min()) == (data.n_items, 1)
    assert data.item_ids.tolist() == sorted(set(data.item_ids))
    count = table["item"].value_counts()
    trained = count[data.item_ids[data.train.items - 1]]
    assert (trained >= session_steps.MIN_ITEM_CLICKS).all()


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        (
            {"min_session_clicks": 1},
            "min_session_clicks=1: choose a whole number, 2",
        ),
        ({"train_until": "May 2020"}, 'train_until="May 2020": write a day as 2016-'),
        ({"test_from": "2020-02-30"}, 'test_from="2020-02-30": write a day as 2016-'),
        (
            {"train_until": "2020-01-09", "test_from": "2020-01-09"},
            "the test part must begin after the training part ends",
        ),
        ({"train_until": "2019-01-01"}, "no training example is left"),
        ({"min_item_clicks": 10**6}, "items of 1000000 or more"),
    ],
)
def test_rules_that_leave_nothing_are_refused(tmp_path, rules, sentence):
    path = written(tmp_path, log(np.random.default_rng(2)), "log.csv")
    with pytest.raises(InputError, match=sentence):
        sessions.load(path, **rules)


RATINGS = pd.DataFrame(
    {
        "who": ["ann", "ann", "bo", "bo", "bo", "cy"],
        "what": [3, 4, 3, 4, 5, 5],
        "stars": [0.5, 4.5, 3, 2.5, 5, 1],
        "when": ["2020-01-01"] * 5 + ["2020-01-02"],
    }
)
NAMES = "user=who, item=what, rating=stars"


@pytest.mark.parametrize("name", ["r.csv", "r.tsv.gz", "r.parquet"])
def test_ratings_of_a_table_keep_ids_scale_and_time(tmp_path, name):
    path = written(tmp_path, RATINGS, name)
    data = ratings.load(
        path, "global_time", test_share=0.2, columns=f"{NAMES}, time=when"
    )
    assert data.user_ids.tolist() == ["ann", "bo", "cy"]
    assert data.item_ids.tolist() == [3, 4, 5]
    assert data.scale == (0.5, 5.0)
    assert data.user_ids[data.test.user_idx].tolist() == ["cy"]
    train = data.train
    rows = zip(data.user_ids[train.user_idx], train.item_idx, train.rating)
    assert ("bo", 1, 2.5) in list(rows)
    with pytest.raises(InputError, match='split="global_time": r.* without times'):
        ratings.load(path, "global_time", columns=NAMES)


@pytest.mark.parametrize("split", ratings.SPLITS)
def test_ratings_of_a_pair_are_counted_and_in_one_part(tmp_path, split):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "user": rng.integers(0, 12, 300),
            "item": rng.integers(0, 12, 300),
            "rating": rng.integers(1, 6, 300),
            "time": 1_464_134_400 + rng.integers(0, 10**6, 300),
        }
    )
    path = written(tmp_path, table, "r.csv")
    data = ratings.load(path, split, 0.3, columns="time=time")
    repeated = int(table.duplicated(["user", "item"]).sum())
    assert data.counts()["repeated_ratings"] == repeated > 50
    assert f"{repeated} of a pair that was rated before" in data.reading
    for parts in (data, data.validation()):
        pairs = [set(zip(p.user_idx, p.item_idx)) for p in (parts.train, parts.test)]
        assert pairs[1]
        assert not pairs[0] & pairs[1]
    assert len(data.train) + len(data.test) == 300


def test_a_constant_rating_is_refused(tmp_path):
    path = written(tmp_path, RATINGS.assign(stars=4), "r.csv")
    with pytest.raises(InputError, match="every rating is 4, and nothing can be lear"):
        ratings.load(path, columns=NAMES)


@pytest.mark.parametrize("load", [sessions.load, ratings.load])
def test_an_empty_path_is_no_table(load):
    with pytest.raises(InputError, match='"" is not a folder'):
        load("")


BAD = {
    "no column": ("session,item\n1,2\n", 'no column "time" for the time'),
    "two columns": ("session,item,time,item\n1,2,1464134400,3\n", "two columns|item"),
    "no row": ("session,item,time\n", "holds a header and no row"),
    "nothing": ("", "is empty: copy"),
    "no item": ("session,item,time\n1,2,1464134400\n1,,1464134400\n", "line 3, column"),
    "blank item": ("session,item,time\n1, ,1464134400\n", "found ' ', expected an id"),
    "no session": ("session,item,time\n,2,1464134400\n", "found '', expected an id"),
    "NULL": ("session,item,time\n1,2,1464134400\nNULL,2,1464134400\n", "line 3"),
    "backslash N": ("session,item,time\n1,\\N,1464134400\n", "column item"),
    "no time": ("session,item,time\n1,2,\n", "expected Unix seconds"),
    "a word": ("session,item,time\n1,2,1464134400\n1,3,noon\n", "'noon', expected"),
    "a word after": ("session,item,time\n1,2,2016-05-25 10:51:09 CXT\n", "CXT', expec"),
    "a local date": ("session,item,time\n1,2,25/05/2016\n", "'25/05/2016', expected"),
    "no such day": ("session,item,time\n1,2,2016-02-30\n", "'2016-02-30', expected"),
    "kinds mixed": (
        "session,item,time\n1,2,1464134400\n1,3,1464134400000\n",
        "one kind in the whole column",
    ),
    "before 1970": ("session,item,time\n1,2,-5\n", "from 1970 to 2099"),
    "after 2099": ("session,item,time\n1,2,99999999999999999\n", "from 1970 to"),
    "not a number": ("session,item,time\n1,2,1464134400\n1,2,nan\n", "line 3, column"),
    "infinite": ("session,item,time\n1,2,1464134400\n1,2,inf\n", "line 3, column"),
    "a long row": (
        "session,item,time\n1,2,1464134400\n1,2,1464134400,7,8\n",
        "line 3: 5 fields separated by ',', expected 3",
    ),
    "an open quote": ('session,item,time\n1,"2,1464134400\n', "line 2: .*quote"),
    "zero bytes": ("session,item,time\n1,\0,1464134400\n", "log.csv, line 2"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_table_is_named_with_its_row_and_column(tmp_path, case):
    text, sentence = BAD[case]
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=sentence) as caught:
        read_clicks(path)
    assert "log.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("log.xlsx", b"PK", "log.xlsx: a table ends in .csv, .tsv, .txt, "),
        ("log.csv", "session,item,time".encode("utf-16"), "holds zero bytes: save it"),
        ("log.csv.gz", b"no gzip", "is cut short or is not a gzip file"),
        ("log.parquet", b"PAR1 and no more", "is not a sound Parquet file"),
        (
            "log.csv",
            "session,item,time\n1,é,1".encode("latin-1"),
            "log.csv, line 2: .*not utf-8",
        ),
    ],
)
def test_a_file_that_is_not_what_its_name_says(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        read_clicks(tmp_path / name)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="none.csv cannot be read: No such file"):
        sessions.load(tmp_path / "none.csv")


def rows(n, note="text"):
    """Lines of clicks with a column that nobody maps."""
    return [f"{k // 3},{k % 7},{1464134400 + k},{note} {k}" for k in range(n)]


HEADER = "session,item,time,note"
STRAY = {  # what is done to a line in the middle: its number if it cannot be read
    "a quote in a field": (lambda line: line.replace("text", 'te"xt'), None),
    "a quote opens": (lambda line: line.replace("text", '"text'), 501),
    "a quote is the field": (lambda line: line.split("text")[0] + '"', 501),
    "a line break in quotes": (lambda line: line.split("text")[0] + '"a\nb"', None),
    "a blank line": (lambda line: line + "\n", None),
    "blanks": (lambda line: line + "\n   \t", None),
    "a carriage return more": (lambda line: line + "\r", None),
}


@pytest.mark.parametrize("case", STRAY)
@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
def test_a_stray_quote_or_line_end_loses_no_row(tmp_path, case, again):
    """In a column that nobody maps; a quoted field swallows lines without a word."""
    change, line = STRAY[case]
    lines = [HEADER, *rows(2000)]
    for place in (500, 900)[: 1 + again]:
        lines[place] = change(lines[place])
    path = tmp_path / "log.csv"
    path.write_bytes("\n".join(lines).encode())
    if line:
        with pytest.raises(InputError, match=f"log.csv, line {line}: .*quote"):
            read_clicks(path)
        return
    clicks, reading = read_clicks(path)
    assert reading.rows == 2000
    assert clicks["timeframe"].tolist() == [
        (1464134400 + k) * 1000 for k in range(2000)
    ]


@pytest.mark.parametrize("separator", [",", ";", "|", "\t"])
@pytest.mark.parametrize("bad", ["1,2", "1,2,1464134400,x,y", '1,2,"14', "1,2,soon,x"])
def test_lines_within_quotes_and_blank_lines_count(tmp_path, separator, bad):
    lines = [HEADER, *rows(3), '1,2,1464134400,"a\nb\n"', "", *rows(3), bad, *rows(9)]
    text = "\n".join(lines).replace(",", separator)
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(InputError, match="log.csv, line 12[,:]"):
        read_clicks(tmp_path / "log.csv")


def test_an_engine_reads_a_good_file_after_a_bad_one(tmp_path):
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    lines = [HEADER, *rows(9)]
    good.write_text("\n".join(lines))
    bad.write_text("\n".join([*lines[:4], "1,2", *lines[4:]]))
    with DuckDB() as engine:
        for path in (good, bad, good):
            if path == bad:
                with pytest.raises(InputError, match="bad.csv, line 5: 2 fields"):
                    readers.read_clicks(path, engine)
            else:
                assert readers.read_clicks(path, engine).rows == 9


@pytest.mark.parametrize("column", ["item", "note"])
def test_a_byte_that_is_not_utf_8_costs_no_row_or_its_line_is_named(tmp_path, column):
    lines = [HEADER, *rows(900)]
    lines[700] = (
        lines[700].replace(",0,", ",é,") if column == "item" else lines[700] + "é"
    )
    lines[700] = lines[700] if "é" in lines[700] else "1,é,1464134400,x"
    (tmp_path / "log.csv").write_bytes("\n".join(lines).encode("latin-1"))
    if column == "note":
        assert read_clicks(tmp_path / "log.csv")[1].rows == 900
        return
    with pytest.raises(InputError, match="log.csv, line 701: .*not utf-8"):
        read_clicks(tmp_path / "log.csv")


@pytest.mark.parametrize("name", ["clicks.csv", "c.tsv.gz", "c.dat", "u.data", "c.txt"])
@pytest.mark.parametrize("separator", [",", "\t", "::", ";", "|"])
def test_a_file_without_a_header_line_is_read_by_numbers(tmp_path, name, separator):
    text = "\n".join(separator.join(line.split(",")) for line in rows(9)).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    clicks, reading = read_clicks(path, "time=3, item=2, session=1")
    assert reading.rows == 9
    assert clicks["item"].tolist() == [k % 7 for k in range(9)]
    with pytest.raises(InputError, match='header line .*columns="session=1, item=2'):
        read_clicks(path)


def test_names_of_columns_may_have_blanks_around_them(tmp_path):
    text = 'session , "item", time\n1,2,1464134400\n'
    (tmp_path / "log.csv").write_text("\ufeff" + text)
    assert read_clicks(tmp_path / "log.csv")[0]["item"].tolist() == [2]


@pytest.mark.parametrize("ending", ["csv", "tsv.gz", "parquet"])
def test_files_of_a_folder_are_one_table_in_the_order_of_their_names(tmp_path, ending):
    whole = pd.DataFrame({"session": 1, "item": range(90), "time": 1464134400})
    for part in (2, 0, 1):
        piece = whole[30 * part : 30 * part + 30]
        written(tmp_path, piece, f"part-{part}.{ending}")
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".part-0.csv.crc").write_text("no table")
    for path in (tmp_path, f"{tmp_path}/part-*.{ending}"):
        clicks, reading = read_clicks(path)
        assert clicks["item"].tolist() == list(range(90))
        assert reading.rows == 90
    _, fewer = read_clicks(f"{tmp_path}/part-[01].*")
    assert fewer.rows == 60
    assert fewer.sha256 != reading.sha256
    with pytest.raises(InputError, match="no file of a table"):
        read_clicks(f"{tmp_path}/none-*.csv")


def test_files_of_a_folder_may_have_their_columns_in_any_order(tmp_path):
    (tmp_path / "a.csv").write_text("session,item,time\n1,x,1464134400\n")
    (tmp_path / "b.tsv").write_text("time\titem\tsession\n1464134401\t7\t2\n")
    clicks, _ = read_clicks(tmp_path)
    assert clicks["item"].tolist() == ["x", "7"]
    assert clicks["session"].tolist() == [1, 2]
    (tmp_path / "c.csv").write_text(
        "session,item,time\n1,x,1464134400\n1,,1464134400\n"
    )
    with pytest.raises(InputError, match="c.csv, line 3, column item"):
        read_clicks(tmp_path)


def test_a_file_is_no_pattern_even_if_its_name_looks_like_one(tmp_path):
    path = tmp_path / "log[1].csv"
    path.write_text("session,item,time\n1,2,1464134400\n")
    (tmp_path / "log1.csv").write_text("session,item,time\n1,3,1464134400\n")
    assert read_clicks(path)[0]["item"].tolist() == [2]


@pytest.mark.parametrize("time", ["20200121", "5000"])
def test_times_that_are_hardly_meant_are_named(tmp_path, time):
    lines = ["session,item,time", *(f"{k // 2},{k % 3},{time}" for k in range(60))]
    (tmp_path / "log.csv").write_text("\n".join(lines))
    with pytest.raises(InputError, match="of 1970-0.* another column or another unit"):
        sessions.load(tmp_path / "log.csv")


@pytest.mark.parametrize(
    "text", ["visit", "session=", "=visit", "click=visit", "item=a, item=b"]
)
def test_a_mapping_says_each_column_once(text):
    with pytest.raises(InputError, match="write session=<column>, item=<column>"):
        tables.mapping(text, tables.CLICKS)


@given(st.binary(max_size=200), st.sampled_from(["c.csv", "c.tsv", "c.parquet"]))
def test_any_bytes_end_in_a_table_or_a_sentence(tmp_path_factory, content, name):
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(b"session,item,time\n" + content if "csv" in name else content)
    try:
        clicks, _ = read_clicks(path)
    except InputError:
        return
    assert len(clicks)
    assert not clicks.isna().any().any()
