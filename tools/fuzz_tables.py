"""Fuzz tables of clicks and ratings: read, train for one epoch, recommend.

Each seed makes one table: its format, separators, quotes, size, ids and times are
drawn, and in every third table one row is spoilt. A table must end in the counts and
the values that plain Python finds in its rows, or, if it is spoilt or too small, in
one sentence. Run ``python tools/fuzz_tables.py`` after a change to ``lib.data``: it
prints the seeds that fail, and ``--keep`` leaves their tables in a folder.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import shutil
import sys
import tempfile
import traceback
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np

from lib.data import ratings, readers, sessions
from lib.data.engines import DuckDB
from lib.errors import InputError
from lib.hardware.device import select_device
from lib.models import mf, stamp
from lib.serving import recommend, trained
from lib.training.fit import fit, set_seed
from lib.training.schedule import Schedule

SIZES = (0, 1, 2, 9, 60, 400, 3_000, 20_000, 100_000)
SIZE_ODDS = (0.02, 0.02, 0.02, 0.08, 0.22, 0.3, 0.24, 0.08, 0.02)
START = 1_577_836_800  # 2020-01-01
DAY = 86_400
ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz",
    "ab \u00a0\u3000_-.\n",  # blanks
    "a\"'`,;|:\t",  # separators and quotes
    "áßжщ中文日本🙂e\u0301\u200b",
    "%_\\*?{}[]$#/<>&=",
)


@dataclass
class Table:
    """A made-up table.

    Attributes:
        path: the file, or the folder of its files.
        kind: ``"clicks"`` or ``"ratings"``.
        columns: the parameter that names its columns.
        rows: ``(session or user, item, time in ms or rating)`` in the order of the
            files, ids as texts.
        fault: what is spoilt; empty if nothing is.
        line: of the file, from 1, where it is spoilt.
        notes: what was drawn, for the report.
    """

    path: Path
    kind: str
    columns: str
    rows: list = field(default_factory=list)
    fault: str = ""
    line: int = 0
    notes: tuple = ()


# Making a table


def draw_ids(rng, n):
    """Draws ``n`` different ids of one kind, as texts; returns them and the kind."""
    kind = rng.choice(["small", "whole", "unsigned", "zeros", "text", "mixed"])
    ids = {}
    while len(ids) < n:
        number = int(rng.integers(0, 50 * n + 2))
        if kind == "small":
            text = str(number)
        elif kind == "whole":
            text = str((-1) ** number * number * 10 ** int(rng.integers(0, 12)))
        elif kind == "unsigned":
            text = str(2**64 - 1 - number)
        elif kind == "zeros":
            text = f"{number:09}"
        else:
            letters = ALPHABETS[rng.integers(len(ALPHABETS))]
            size = rng.integers(1, 12)
            text = "".join(letters[k] for k in rng.integers(0, len(letters), size))
            text += str(number) if kind == "mixed" or len(ids) > 5 else ""
        if text.strip(readers.BLANKS + "\0") not in readers.MISSING:
            ids[text] = None
    return list(ids), str(kind)


def draw_rows(rng, kind, size):
    """Draws the rows of a table; returns them and the kinds of both ids."""
    owners, owner_kind = draw_ids(rng, max(1, size // int(rng.integers(2, 9))))
    items, item_kind = draw_ids(rng, max(1, int(size ** rng.uniform(0.2, 0.8))))
    owner = rng.integers(0, len(owners), size)
    item = np.minimum(rng.geometric(3 / (len(items) + 3), size), len(items)) - 1
    if kind == "ratings":
        low, step = rng.choice([(1, 1), (0.5, 0.5), (0, 25), (-10, 2.5)])
        third = (low + step * rng.integers(0, 5, size)).tolist()
    else:
        first = rng.integers(0, 30 * DAY, len(owners))
        third = 1000 * (START + first[owner] + rng.integers(0, 3600, size))
        third = third.tolist()
    rows = [
        (owners[o], items[i], value)
        for o, i, value in zip(owner.tolist(), item.tolist(), third)
    ]
    return rows, (owner_kind, item_kind)


def write_time(ms, form):
    """A time in one of the usual spellings."""
    moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=ms)
    plain = moment.strftime("%Y-%m-%d %H:%M:%S")
    return {
        "seconds": str(ms // 1000),
        "decimal seconds": f"{ms // 1000}.0",
        "milliseconds": str(ms),
        "ISO": plain.replace(" ", "T") + "Z",
        "bare": plain,
        "UTC": plain + " UTC",
        "offset": (moment + timedelta(hours=2)).strftime("%Y-%m-%d %H:%M:%S+02:00"),
        "short offset": plain + "+00",
        "fraction": plain.replace(" ", "T") + ".000Z",
    }[form]


FORMS = ("seconds", "decimal seconds", "milliseconds", "ISO", "bare", "UTC", "offset")
FORMS += ("short offset", "fraction")
FAULTS = {  # what becomes of a row of a text file, as fields
    "an empty item": lambda row: [row[0], "", *row[2:]],
    "a missing session": lambda row: ["NULL", *row[1:]],
    "a wrong third value": lambda row: [*row[:2], "soon", *row[3:]],
    "a field too many": lambda row: [*row, "7"],
    "a field too few": lambda row: row[:-1],
    "a byte that is not UTF-8": lambda row: [row[0], row[1] + "\udcff", *row[2:]],
    "a stray quote": lambda row: [*row[:-1], STRAY + row[-1]],
}
STRAY = "\ue000"  # becomes a quote once the others are written; the row may be read


def write_text(rng, path, header, rows, separator, fault):
    """Writes a text file; ``fault`` spoils one of its rows: returns its line."""
    spoilt = int(rng.integers(len(rows))) if fault and rows else -1
    end = str(rng.choice(["\n", "\r\n"]))
    lines = [] if header is None else [header]
    for number, row in enumerate(rows):
        lines.append(FAULTS[fault](row) if number == spoilt else row)
    text = io.StringIO(newline="")
    if separator == "::":
        text.write("".join("::".join(fields) + end for fields in lines))
    else:
        quoting = csv.QUOTE_ALL if rng.random() < 0.2 else csv.QUOTE_MINIMAL
        writer = csv.writer(
            text, delimiter=separator, lineterminator=end, quoting=quoting
        )
        writer.writerows(lines)
    fields = lines[: spoilt + (header is not None)]
    within = sum(field.count("\n") for row in fields for field in row)
    line = len(fields) + within + 1 if spoilt >= 0 else 0
    text = text.getvalue().replace(STRAY, '"')
    content = text.encode("utf-8", "surrogateescape")
    content = b"\xef\xbb\xbf" * (rng.random() < 0.1) + content
    content += end.encode() * int(rng.integers(0, 3)) * (rng.random() < 0.1)
    content = content.rstrip(b"\r\n") if rng.random() < 0.1 else content
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return line


def write_parquet(rng, path, names, rows, kind):
    """Writes a Parquet file; whole numbers and times get types of their own."""
    import pandas as pd

    columns = list(zip(*rows)) if rows else [[], [], []]
    types = ["VARCHAR", "VARCHAR", "DOUBLE" if kind == "ratings" else "BIGINT"]
    for place in (0, 1):
        whole = all(str(text).lstrip("-").isdecimal() for text in columns[place])
        plain = whole and all(str(int(text)) == text for text in columns[place])
        if plain and rows and rng.random() < 0.7:
            is_signed = max(map(int, columns[place])) < 2**63
            types[place] = "BIGINT" if is_signed else "UBIGINT"
    frame = pd.DataFrame({f"c{k}": list(column) for k, column in enumerate(columns)})
    as_type = [f"CAST(c{k} AS {each})" for k, each in enumerate(types)]
    if kind == "clicks" and rng.random() < 0.5:
        as_type[2] = "epoch_ms(CAST(c2 AS BIGINT))"
    chosen = ", ".join(f'{each} AS "{name}"' for each, name in zip(as_type, names))
    with DuckDB() as engine:
        engine.register("made", frame)
        engine.save(f"SELECT {chosen} FROM made", path)


def make(seed: int, folder: Path) -> Table:
    """Makes the table of a seed below a folder."""
    rng = np.random.default_rng(seed)
    kind = str(rng.choice(["clicks", "clicks", "ratings"]))
    size = int(rng.choice(SIZES, p=SIZE_ODDS))
    size = int(rng.integers(size // 2, size + 1))
    rows, id_kinds = draw_rows(rng, kind, size)
    first, third = ("session", "time") if kind == "clicks" else ("user", "rating")
    names = [first, "item", third]
    if rng.random() < 0.7:
        names = ["the " + first, "SKU", "Wert"]
    columns = ", ".join(f"{m}={n}" for m, n in zip((first, "item", third), names))
    ending = str(rng.choice([".csv", ".csv", ".tsv", ".txt", ".dat", ".parquet"]))
    parts = int(rng.integers(2, 4)) if rng.random() < 0.2 and size > 60 else 1
    fault = str(rng.choice(list(FAULTS))) if seed % 3 == 2 and size else ""
    form = str(rng.choice(FORMS))
    separator = {".csv": str(rng.choice([",", ";", "|"])), ".dat": "::"}.get(
        ending, "\t"
    )
    if ending == ".dat" and any(
        mark in text for row in rows for text in row[:2] for mark in (":", "\t", "\n")
    ):
        ending, separator = ".csv", ","  # a format without quotes cannot hold them
    packed = ".gz" if ending != ".parquet" and rng.random() < 0.25 else ""
    path = folder / f"table-{seed}"
    pieces = [path.with_name(path.name + ending + packed)]
    if parts > 1:
        path.mkdir(parents=True)
        pieces = [path / f"part-{n}{ending}{packed}" for n in range(parts)]
    bounds = np.linspace(0, len(rows), parts + 1).astype(int)
    extra = ending != ".parquet" and rng.random() < 0.5
    spoilt = int(rng.integers(parts))
    line = 0
    by_number = ending in (".dat", ".txt") and rng.random() < 0.5 and size > 0
    for number, piece in enumerate(pieces):
        chosen = rows[bounds[number] : bounds[number + 1]]
        if ending == ".parquet":
            write_parquet(rng, piece, names, chosen, kind)
            continue
        fields = []
        for owner, item, value in chosen:
            text = write_time(value, form) if kind == "clicks" else f"{value:g}"
            note = [f'say "{item}", 5" wide'] if extra and separator != "::" else []
            fields.append([owner, item, text, *(note or ["x"] * extra)])
        header = None if by_number else [*names, *["note"] * extra]
        own = fault if number == spoilt else ""
        line += write_text(rng, piece, header, fields, separator, own)
    if by_number:
        columns = f"{first}=1, item=2, {third}=3"
    notes = (kind, size, ending + packed, separator, parts, *id_kinds, form)
    whole = path if parts > 1 else pieces[0]
    return Table(whole, kind, columns, rows, fault if line else "", line, notes)


# What plain Python finds


def expect_sessions(rows):
    """The sessions of both parts as lists of ids; None if a part has no example."""
    few = lambda rows, place, least: [  # noqa: E731
        row for row, n in zip(rows, count(rows, place)) if n >= least
    ]
    rows = few(few(few(rows, 0, 2), 1, 5), 0, 2)
    if not rows:
        return None
    last = max(row[2] for row in rows) // (1000 * DAY)
    clicks, ends = defaultdict(list), defaultdict(int)
    for owner, item, ms in sorted(rows, key=lambda row: row[2]):  # stable
        clicks[owner].append(item)
        ends[owner] = max(ends[owner], ms // (1000 * DAY))
    train = [clicks[owner] for owner in clicks if ends[owner] <= last - 8]
    known = {item for each in train for item in each}
    late = [clicks[owner] for owner in clicks if ends[owner] >= last - 6]
    test = [[item for item in each if item in known] for each in late]
    test = [each for each in test if len(each) > 1]
    return (train, test) if train and test else None


def count(rows, place):
    """How often the value of each row occurs."""
    seen = Counter(row[place] for row in rows)
    return [seen[row[place]] for row in rows]


def found_sessions(data):
    """The same of loaded sessions."""
    ids = list(map(str, data.item_ids.tolist()))
    parts = []
    for part in (data.train, data.test):
        items = [ids[number - 1] for number in part.items.tolist()]
        ends = part.offsets.tolist()
        parts.append([items[a:b] for a, b in zip(ends, ends[1:])])
    return tuple(parts)


def found_ratings(data):
    """All ratings of loaded data, with raw ids."""
    users, items = (
        list(map(str, ids.tolist())) for ids in (data.user_ids, data.item_ids)
    )
    return [
        (users[u], items[i], float(value))
        for part in (data.train, data.test)
        for u, i, value in zip(
            part.user_idx.tolist(), part.item_idx.tolist(), part.rating.tolist()
        )
    ]


# The way of a table


def check(condition, claim):
    """Raises AssertionError also under ``python -O``."""
    if not condition:
        raise AssertionError(claim)


def read(table: Table):
    """Loads a table and checks it against its rows; None if it was refused."""
    load = sessions.load if table.kind == "clicks" else ratings.load
    is_clicks = table.kind == "clicks"
    expected = expect_sessions(table.rows) if is_clicks else None
    n = len(table.rows)
    values = {row[2] for row in table.rows}
    is_enough = bool(expected)
    if not is_clicks:  # ratings of a pair are in one part, which may leave none
        has_repeats = len({row[:2] for row in table.rows}) < n
        is_enough = 0 < round(0.2 * n) < n and len(values) > 1
        is_enough = None if is_enough and has_repeats and n < 60 else is_enough
    try:
        data = load(table.path, columns=table.columns)
    except InputError as error:
        sentence = str(error)
        check(sentence and "\n" not in sentence, f"not one sentence: {sentence!r}")
        check(table.fault or is_enough is not True, f"refused: {sentence}")
        where = f"line {table.line}"
        check(
            not table.fault or where in sentence, f"{table.fault}, {where}: {sentence}"
        )
        return None
    check(table.fault in ("", "a stray quote"), f"{table.fault} was read")
    check(is_enough is not False, "too small a table was read")
    check(f"{n:,} rows in the file, {n:,} read" in data.reading, data.reading)
    if is_clicks:
        for found, wanted in zip(found_sessions(data), expected):
            check(sorted(found) == sorted(wanted), "other sessions")
    else:
        wanted = [(user, item, float(np.float32(v))) for user, item, v in table.rows]
        check(sorted(found_ratings(data)) == sorted(wanted), "other ratings")
        check(data.scale == (min(values), max(values)), f"scale {data.scale}")
        pairs = [
            zip(p.user_idx.tolist(), p.item_idx.tolist())
            for p in (data.train, data.test)
        ]
        check({*pairs[0]}.isdisjoint({*pairs[1]}), "a pair in both parts")
    return data


def train(data, kind: str) -> None:
    """Trains for one epoch and asks for recommendations."""
    set_seed(0)
    device = select_device("cpu", "must_keep_origin_dtype")
    n = len(data.train)
    schedule = Schedule(min(64, n), 1, 0.01, steps_per_epoch=min(n // min(64, n), 9))
    if kind == "clicks":
        model = stamp.STAMP(data.n_items, 4, 6)
        user_ids, question = (), data.item_ids[data.train.items[:3] - 1].tolist()
    else:
        model = mf.MF(data.n_users, data.n_items, data.global_mean, 4, scale=data.scale)
        user_ids, question = data.user_ids, data.user_ids[0].item()
    history, _ = fit(model, data.train, schedule, device, verbose=False)
    check(np.isfinite(history[0]["loss"]), history)
    ours = trained.Trained(model, data.item_ids, user_ids, "made up")
    answer = recommend.recommend(ours, question, 20)
    check(len(answer.ids) == min(20, data.n_items), answer)
    check({*answer.ids} <= {*data.item_ids.tolist()}, "an id that is no item's")
    check(np.isfinite(answer.scores).all(), answer)


def run(seed: int, folder: Path, with_training: bool = True) -> str:
    """Takes one table all the way; returns how it ended in a word."""
    table = make(seed, folder)
    data = read(table)
    if data is None:
        return "refused"
    if with_training:
        train(data, table.kind)
    return "right"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", default="0-299", help="first and last seed")
    parser.add_argument("--keep", type=Path, help="folder for tables that fail")
    parser.add_argument("--read", action="store_true", help="read, do not train")
    asked = parser.parse_args()
    first, last = map(int, asked.seeds.split("-"))
    ended = Counter()
    for seed in range(first, last + 1):
        with tempfile.TemporaryDirectory() as folder:
            try:
                ended[run(seed, Path(folder), not asked.read)] += 1
            except Exception:
                ended["failed"] += 1
                lines = traceback.format_exc().splitlines()
                with tempfile.TemporaryDirectory() as again:
                    table = make(seed, Path(again))
                print(f"seed {seed}: {table.notes} {table.fault}\n  {lines[-1][:300]}")
                if asked.keep:
                    shutil.copytree(folder, asked.keep, dirs_exist_ok=True)
    print(", ".join(f"{n} {how}" for how, n in sorted(ended.items())))
    return bool(ended["failed"])


if __name__ == "__main__":
    sys.exit(main())
