"""Finding and reading raw files: accepted forms, and the sentences of refusals."""

import gzip
import hashlib
import re
from datetime import date
from decimal import Decimal

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import refusal

from lib import files
from lib.data import readers, sources
from lib.data.engines import DuckDB
from lib.errors import InputError

HEADER = "sessionId;userId;itemId;timeframe;eventdate"
CLICKS = ["7;NA;30;500;2016-05-25", "7;12;10;0;2016-05-25", "2;NA;30;9;2016-01-01"]
RATINGS = ["2::10::5::978300760", "1::10::3::978302109", "2::7::1::978301968"]

VIEWS, STARS = sources.DIGINETICA, sources.MOVIELENS
READERS = {VIEWS: readers.read_views, STARS: readers.read_movielens}
LINES = {VIEWS: [HEADER, *CLICKS], STARS: RATINGS}


def put(folder, main_file, content, gz=False):
    """Writes lines or bytes as a file of a data set; returns its path."""
    if not isinstance(content, bytes):
        content = "".join(f"{line}\n" for line in content).encode()
    path = folder / (main_file + ".gz" * gz)
    path.write_bytes(gzip.compress(content) if gz else content)
    return path


def read(folder, main_file):
    """The table that a reader makes, in the order of the file, and its SHA-256."""
    with DuckDB() as engine:
        reading = READERS[main_file](sources.find(main_file, folder), engine)
        name = "clicks" if main_file == VIEWS else "ratings"
        table = engine.sql(f"SELECT * FROM {name} ORDER BY place")
    assert table.pop("place").tolist() == list(range(reading.rows))
    if main_file == VIEWS:
        table["day"] = pd.to_datetime(table["day"], unit="D")
    return table, reading.sha256


# Finding


@pytest.mark.parametrize("main_file", READERS)
def test_wrong_folder_is_named_with_what_to_do(tmp_path, main_file):
    message = refusal(sources.find, main_file, tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in message
    assert "is not a folder" in message
    assert main_file in message
    assert "or use" in message


@pytest.mark.parametrize("main_file", READERS)
def test_folder_without_the_file_is_named_with_what_it_holds(tmp_path, main_file):
    assert "holds nothing" in refusal(sources.find, main_file, tmp_path)
    for name in ("notes.txt", "other.csv"):
        (tmp_path / name).touch()
    message = refusal(sources.find, main_file, tmp_path)
    assert str(tmp_path) in message
    assert "notes.txt, other.csv" in message
    assert f"{main_file}.gz" in message


def test_list_of_what_a_folder_holds_stays_short(tmp_path):
    for number in range(100):
        (tmp_path / f"file-{number:03}").touch()
    message = refusal(sources.find, VIEWS, tmp_path)
    assert "file-004, ..." in message
    assert "file-005" not in message


def test_ml_1m_for_diginetica_says_which_file_to_put_where(monkeypatch):
    monkeypatch.setattr(
        sources, "fetch_movielens", lambda *_: pytest.fail("was called")
    )
    message = refusal(sources.find, VIEWS, "ml-1m")
    assert "train-item-views.csv" in message
    assert "no public link" in message
    assert "into a folder and use its path" in message


def test_ml_1m_for_movielens_is_what_the_download_gives(monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "fetch_movielens", lambda folder: folder / "ml-1m")
    monkeypatch.setattr(sources, "DATA_DIR", tmp_path)
    expected = sources.Source("ml-1m", tmp_path / "ml-1m")
    assert sources.find(STARS, "ml-1m") == expected


def test_relative_path_starts_at_the_root_of_the_repository(tmp_path, monkeypatch):
    for name in ("root", "elsewhere"):
        (tmp_path / name / "mine").mkdir(parents=True)
    put(tmp_path / "root" / "mine", VIEWS, LINES[VIEWS])
    monkeypatch.setattr(files, "ROOT", tmp_path / "root")
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = sources.find(VIEWS, "mine")
    assert found == sources.Source("mine", tmp_path / "root" / "mine")


def test_sample_comes_with_the_code_and_reads_without_a_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "DATA_DIR", tmp_path / "data")
    for main_file in READERS:
        table, _ = read("sample", main_file)
        assert len(table) > 20_000
    assert sources.next_season().is_file()
    assert not (tmp_path / "data").exists()  # nothing is made or unpacked


# What is accepted


def test_views_are_read_in_the_order_of_the_file(tmp_path):
    path = put(tmp_path, VIEWS, LINES[VIEWS])
    table, sha256 = read(tmp_path, VIEWS)
    days = pd.to_datetime(["2016-05-25", "2016-05-25", "2016-01-01"])
    assert table["session"].tolist() == [7, 7, 2]
    assert table["item"].tolist() == [30, 10, 30]
    assert table["timeframe"].tolist() == [500, 0, 9]
    assert table["day"].tolist() == days.tolist()
    assert list(table) == ["session", "item", "timeframe", "day"]
    assert table.dtypes.iloc[:3].eq("int64").all()
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_ratings_are_read_in_the_order_of_the_file(tmp_path):
    path = put(tmp_path, STARS, LINES[STARS])
    table, sha256 = read(tmp_path, STARS)
    rows = [[int(field) for field in line.split("::")] for line in RATINGS]
    assert list(table) == ["user", "item", "rating", "timestamp"]
    assert table.to_numpy().tolist() == rows
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_number_beyond_32_bits_is_read_as_it_is(tmp_path):
    late = [*RATINGS[:-1], "::".join([*RATINGS[-1].split("::")[:3], str(2**40)])]
    put(tmp_path, STARS, late)
    assert read(tmp_path, STARS)[0]["timestamp"].iloc[-1] == 2**40


@pytest.mark.parametrize("main_file", READERS)
def test_plain_and_gz_give_the_same_table_and_sha256(tmp_path, main_file):
    for name in ("plain", "packed"):
        (tmp_path / name).mkdir()
        put(tmp_path / name, main_file, LINES[main_file], gz=name == "packed")
    plain, sha256 = read(tmp_path / "plain", main_file)
    packed, packed_sha256 = read(tmp_path / "packed", main_file)
    pd.testing.assert_frame_equal(plain, packed)
    assert sha256 == packed_sha256


def shuffled(line):
    one, two, three, four, five = line.split(";")
    return ";".join([five, three, one, "more", four, two])


SAME_CONTENT = {
    "older header": lambda lines: [
        "session_id;user_id;item_id;timeframe;eventdate",
        *lines[1:],
    ],
    "other order of columns": lambda lines: [shuffled(line) for line in lines],
    "no user": lambda lines: [re.sub("^([^;]*);[^;]*", r"\1", line) for line in lines],
    "user not in UTF-8": lambda lines: (
        "\n".join(lines).replace(";NA;", ";é;").encode("latin-1")
    ),
    "UTF-8 BOM": lambda lines: ["\ufeff" + lines[0], *lines[1:]],
    "Windows line ends": lambda lines: [line + "\r" for line in lines],
    "old Macintosh line ends": lambda lines: ["\r".join(lines)],
    "blank lines": lambda lines: [lines[0], "", *lines[1:], "", "  "],
    "no end of the last line": lambda lines: "\n".join(lines).encode(),
}


@pytest.mark.parametrize("change", SAME_CONTENT.values(), ids=SAME_CONTENT)
def test_views_in_another_form_give_the_same_table(tmp_path, change):
    put(tmp_path, VIEWS, LINES[VIEWS])
    expected, _ = read(tmp_path, VIEWS)
    put(tmp_path, VIEWS, change(LINES[VIEWS]))
    pd.testing.assert_frame_equal(read(tmp_path, VIEWS)[0], expected)


@pytest.mark.parametrize("form", list(SAME_CONTENT)[4:])
def test_ratings_in_another_form_give_the_same_table(tmp_path, form):
    put(tmp_path, STARS, LINES[STARS])
    expected, _ = read(tmp_path, STARS)
    put(tmp_path, STARS, SAME_CONTENT[form](LINES[STARS]))
    pd.testing.assert_frame_equal(read(tmp_path, STARS)[0], expected)


# Whole files that are refused


@pytest.mark.parametrize("main_file", READERS)
@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("content", [b"", b"\n \r\n"])
def test_empty_file_is_refused(tmp_path, main_file, gz, content):
    path = put(tmp_path, main_file, content, gz)
    message = refusal(read, tmp_path, main_file)
    assert str(path) in message
    assert "is empty" in message


@pytest.mark.parametrize("end", ["", "\n", "\r\n\r\n"])
def test_header_without_rows_is_refused(tmp_path, end):
    path = put(tmp_path, VIEWS, (HEADER + end).encode())
    message = refusal(read, tmp_path, VIEWS)
    assert str(path) in message
    assert "a header and no row" in message


@pytest.mark.parametrize("name", ["sessionId", "itemId", "timeframe", "eventdate"])
def test_missing_column_is_named_with_those_found(tmp_path, name):
    path = put(tmp_path, VIEWS, [HEADER.replace(name, "other"), *CLICKS])
    message = refusal(read, tmp_path, VIEWS)
    assert f'{path}: no column "{name}"' in message
    assert HEADER.replace(name, "other").replace(";", ", ") in message


@pytest.mark.parametrize("separator", [",", "\t", "|"])
def test_another_separator_gives_the_same_table(tmp_path, separator):
    put(tmp_path, VIEWS, LINES[VIEWS])
    expected, _ = read(tmp_path, VIEWS)
    put(tmp_path, VIEWS, [line.replace(";", separator) for line in LINES[VIEWS]])
    pd.testing.assert_frame_equal(read(tmp_path, VIEWS)[0], expected)


@pytest.mark.parametrize(
    "first",
    ["userId,movieId,rating,timestamp", "1,10,5,978300760", "UserID::MovieID", "1\t10"],
)
def test_ratings_in_another_format_are_refused_at_line_1(tmp_path, first):
    path = put(tmp_path, STARS, [first, *RATINGS])
    message = refusal(read, tmp_path, STARS)
    fields = len(first.split("::"))
    assert f"{path}, line 1: {fields} fields separated by '::', expected 4" in message
    assert repr(first)[1:-1] in message


@pytest.mark.parametrize("main_file", READERS)
def test_gzip_cut_short_anywhere_is_refused(tmp_path, main_file):
    path = put(tmp_path, main_file, LINES[main_file], gz=True)
    whole = path.read_bytes()
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        message = refusal(read, tmp_path, main_file)
        assert f"{path} is cut short or is not a gzip file" in message


@pytest.mark.parametrize("main_file", READERS)
def test_file_that_is_not_gzip_is_refused(tmp_path, main_file):
    path = put(tmp_path, main_file, LINES[main_file])
    path = path.rename(tmp_path / f"{main_file}.gz")
    message = refusal(read, tmp_path, main_file)
    assert f"{path} is cut short or is not a gzip file" in message


@pytest.mark.parametrize("main_file", READERS)
def test_damaged_gzip_is_refused_or_read_right(tmp_path, main_file):
    path = put(tmp_path, main_file, LINES[main_file], gz=True)
    whole = path.read_bytes()
    expected, _ = read(tmp_path, main_file)
    n_refused = 0
    for place in range(len(whole)):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]
        )
        try:
            table, _ = read(tmp_path, main_file)
        except InputError:
            n_refused += 1
        else:  # the byte was part of the time stamp and the like
            pd.testing.assert_frame_equal(table, expected)
    assert n_refused > len(whole) // 2


# Single lines that are refused

WHOLE, DAY = "expected a whole number, 0 or more", "expected a date such as 2016-05-25"
VAST = "1e100978300760"  # the fast parsers of floats in pandas read beyond their table
BAD_CLICKS = {
    "session not a number": ("x;NA;30;5;2016-05-25", "column sessionId", "'x'", WHOLE),
    "item not a number": ("7;NA;3O;500;2016-05-25", "column itemId", "'3O'", WHOLE),
    "time not a number": ("7;NA;3;soon;2016-05-25", "column timeframe", WHOLE),
    "time that crashes pandas": (f"7;NA;3;{VAST};2016-05-25", "timeframe", WHOLE),
    "item missing": ("7;NA;;500;2016-05-25", "column itemId", "''", WHOLE),
    "item NA": ("7;NA;NA;500;2016-05-25", "column itemId", "'NA'", WHOLE),
    "item with a fraction": ("7;NA;3.5;5;2016-05-25", "column itemId", "'3.5'", WHOLE),
    "item infinite": ("7;NA;inf;5;2016-05-25", "column itemId", "'inf'", WHOLE),
    "item in Arabic digits": ("7;NA;٣;5;2016-05-25", "column itemId", "'٣'", WHOLE),
    "session negative": ("-7;NA;30;5;2016-05-25", "column sessionId", "'-7'", WHOLE),
    "item negative": ("7;NA;-30;5;2016-05-25", "column itemId", "'-30'", WHOLE),
    "item beyond 63 bits": (f"7;NA;{2**63};5;2016-05-25", "column itemId", WHOLE),
    "item beyond 64 bits": (f"7;NA;{2**64};5;2016-05-25", "column itemId", WHOLE),
    "zero byte": ("7;NA;3\x001;5;2016-05-25", "column itemId", WHOLE),
    "date missing": ("7;NA;30;500;", "column eventdate", "''", DAY),
    "date NA": ("7;NA;30;500;NA", "column eventdate", "'NA'", DAY),
    "date of another order": ("7;NA;3;5;25-05-2016", "column eventdate", DAY),
    "date with a time": ("7;NA;3;5;2016-05-25 10:00", "column eventdate", DAY),
    "date with month 13": ("7;NA;3;5;2016-13-01", "column eventdate", DAY),
    "date not in the calendar": ("7;NA;3;5;2016-02-30", "column eventdate", DAY),
    "date of the far future": ("7;NA;3;5;9999-01-01", "column eventdate", DAY),
    "date called now": ("7;NA;3;5;now", "column eventdate", "'now'", DAY),
    "date called NaT": ("7;NA;3;5;NaT", "column eventdate", "'NaT'", DAY),
    "too few fields": ("7;NA;30;500", "4 fields", "expected 5", "7;NA;30;500"),
    "one field": ("hello", "1 fields", "expected 5", "hello"),
    "too many fields": ("7;NA;30;500;2016-05-25;9", "6 fields", "expected 5"),
    "separator at the end": ("7;NA;30;500;2016-05-25;", "6 fields", "expected 5"),
    "other separator": ("7,NA,30,500,2016-05-25", "1 fields", "separated by ';'"),
}
STAR = "expected a whole number from 1 to 5"
BAD_RATINGS = {
    "user not a number": ("x::10::5::9", "column user", "'x'", WHOLE),
    "item not a number": ("1::Heat::5::9", "column item", "'Heat'", WHOLE),
    "item negative": ("1::-10::5::9", "column item", "'-10'", WHOLE),
    "time missing": ("1::10::5::", "column timestamp", "''", WHOLE),
    "time negative": ("1::10::5::-9", "column timestamp", "'-9'", WHOLE),
    "time beyond 63 bits": (f"1::10::5::{2**63}", "column timestamp", WHOLE),
    "time that crashes pandas": (f"1::10::5::{VAST}", "timestamp", WHOLE),
    "rating 0": ("1::10::0::9", "column rating", "'0'", STAR),
    "rating 6": ("1::10::6::9", "column rating", "'6'", STAR),
    "rating negative": ("1::10::-1::9", "column rating", "'-1'", STAR),
    "rating with a fraction": ("1::10::3.5::9", "column rating", "'3.5'", STAR),
    "rating not a number": ("1::10::good::9", "column rating", "'good'", STAR),
    "zero byte": ("1::10::5\x00::9", "column rating", STAR),
    "too few fields": ("1::10::5", "3 fields", "expected 4", "1::10::5"),
    "too many fields": ("1::10::5::9::1", "5 fields", "expected 4"),
    "one colon": ("1:10:5:9", "1 fields", "expected 4"),
    "something between two colons": ("1:7:10::5::9", "3 fields", "expected 4"),
    "colon at the end": ("1::10::5::9:", "column timestamp", "'9:'", WHOLE),
    "other separator": ("1,10,5,9", "1 fields", "separated by '::'"),
}
BAD_LINES = [
    pytest.param(main_file, bad, said, id=f"{main_file}: {name}")
    for main_file, cases in {VIEWS: BAD_CLICKS, STARS: BAD_RATINGS}.items()
    for name, (bad, *said) in cases.items()
]


@pytest.mark.parametrize(("main_file", "bad", "said"), BAD_LINES)
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("blanks", [[], ["", "  ", ""]], ids=["dense", "blank lines"])
def test_first_bad_line_is_named_and_what_is_wrong(
    tmp_path, main_file, bad, said, end, blanks
):
    good = LINES[main_file]
    lines = [*good[:2], *blanks, *good[2:], bad, good[-1], "also bad", *good[-2:]]
    number = lines.index(bad) + 1
    path = put(tmp_path, main_file, [line + end.rstrip("\n") for line in lines])
    message = refusal(read, tmp_path, main_file)
    for part in (f"{path}, line {number}", *said, "repair or remove the line"):
        assert part in message


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of pandas
@pytest.mark.parametrize(("main_file", "bad", "said"), BAD_LINES)
def test_one_bad_line_at_the_end_is_enough(tmp_path, main_file, bad, said):
    path = put(tmp_path, main_file, [*LINES[main_file], bad], gz=True)
    message = refusal(read, tmp_path, main_file)
    for part in (f"{path}, line {len(LINES[main_file]) + 1}", *said):
        assert part in message


# Any damage at all

DAMAGE = st.one_of(
    st.text('0123456789;:.-+eE \t\r\n"#NaT\x00\x0b\x1c\ufeffé', max_size=6),
    st.sampled_from(["NA", "nan", "NaT", "now", "1e3", "inf", "True", "1_0", "0x1"]),
    st.sampled_from(["2016-02-30", "2016-5-2", "-1", "0", "6", str(2**63), "9" * 30]),
    st.text(max_size=4),
)


@st.composite
def damaged(draw, lines, separator):
    """The text of a file in which one field or piece of a line is something else."""
    lines = list(lines)
    number = draw(st.integers(0, len(lines) - 1))
    if draw(st.booleans()):
        fields = lines[number].split(separator)
        fields[draw(st.integers(0, len(fields) - 1))] = draw(DAMAGE)
        lines[number] = separator.join(fields)
    else:
        line, places = lines[number], st.integers(0, len(lines[number]))
        first, last = sorted([draw(places), draw(places)])
        lines[number] = line[:first] + draw(DAMAGE) + line[last:]
    end = draw(st.sampled_from(["\n", "\r\n"]))
    return end.join(lines) + draw(st.sampled_from(["", end]))


def whole_number(text):
    number = Decimal(text.strip())
    assert number == int(number) >= 0
    return int(number)


def read_literally(text, main_file):
    """The table as a slow and simple reader sees it; any exception where it cannot."""
    lines = re.split("\r\n|\r|\n", text.removeprefix("\ufeff"))
    rows = [line for line in lines if line.strip(" \t")]
    rows = [line.split(";" if main_file == VIEWS else "::") for line in rows]
    assert {len(row) for row in rows} == {5 if main_file == VIEWS else 4}
    if main_file == STARS:
        table = [[whole_number(field) for field in row] for row in rows]
        assert all(1 <= row[2] <= 5 for row in table)
        return table
    header = [name.strip().replace("_id", "Id") for name in rows[0]]
    at = [header.index(name) for name in HEADER.split(";") if name != "userId"]
    rows = [[row[place] for place in at] for row in rows[1:]]
    return [
        [*map(whole_number, row[:3]), pd.Timestamp(date(*map(int, row[3].split("-"))))]
        for row in rows
    ]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of pandas
@pytest.mark.parametrize("main_file", READERS)
@settings(max_examples=100)
@given(data=st.data())
def test_damaged_line_ends_in_an_input_error_or_in_the_right_table(
    tmp_path_factory, main_file, data
):
    folder = tmp_path_factory.getbasetemp() / f"damaged-{main_file}"
    folder.mkdir(exist_ok=True)
    text = data.draw(damaged(LINES[main_file], ";" if main_file == VIEWS else "::"))
    path = put(folder, main_file, text.encode("utf-8", "surrogatepass"))
    refused = None
    try:
        table, _ = read(folder, main_file)
    except InputError as error:
        refused = str(error)
    if refused is None:
        assert table.to_numpy().tolist() == read_literally(text, main_file)
    else:
        assert str(path) in refused


# Side files


def test_side_file_that_is_not_there_is_none(tmp_path):
    put(tmp_path, VIEWS, LINES[VIEWS])
    source = sources.find(VIEWS, tmp_path)
    assert readers.read_side_file(source, "product-categories.csv") is None


@pytest.mark.parametrize("gz", [False, True])
def test_side_file_is_a_table_of_text(tmp_path, gz):
    put(tmp_path, VIEWS, LINES[VIEWS])
    put(tmp_path, "products.csv", b"\xef\xbb\xbfitemId;name\r\n1;a,b\r\n\r\n2;\r\n", gz)
    source = sources.find(VIEWS, tmp_path)
    table = readers.read_side_file(source, "products.csv")
    assert table.to_dict("list") == {"itemId": ["1", "2"], "name": ["a,b", ""]}


def test_side_file_of_movielens_is_latin_1(tmp_path):
    put(tmp_path, STARS, LINES[STARS])
    put(tmp_path, "movies.dat", "1::Misérables, Les (1995)::Drama\n".encode("latin-1"))
    source = sources.find(STARS, tmp_path)
    table = readers.read_side_file(source, "movies.dat", ["id", "title", "genres"])
    assert table.to_numpy().tolist() == [["1", "Misérables, Les (1995)", "Drama"]]


BAD_SIDE_FILES = {
    "too few fields": (["a;b", "1;2", "", "3"], "line 4: 1 fields"),
    "too many fields": (["a;b", "1;2;3"], "line 2: 3 fields"),
    "header only": (["a;b"], "a header and no row"),
    "empty": ([""], "is empty"),
}


@pytest.mark.parametrize(
    ("lines", "said"), BAD_SIDE_FILES.values(), ids=BAD_SIDE_FILES.keys()
)
def test_bad_side_file_is_refused_with_the_line(tmp_path, lines, said):
    put(tmp_path, VIEWS, LINES[VIEWS])
    path = put(tmp_path, "products.csv", lines)
    source = sources.find(VIEWS, tmp_path)
    message = refusal(readers.read_side_file, source, "products.csv")
    assert str(path) in message
    assert said in message


def test_notebook_shows_the_sentence_of_an_input_error_alone():
    assert InputError("a sentence")._render_traceback_() == ["InputError: a sentence"]
