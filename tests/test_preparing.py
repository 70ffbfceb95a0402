"""Preparing data on disk: the arrays of ``load``, resumed by step, whole or absent."""

import errno
import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec

import duckdb
import numpy as np
import pytest

from lib.data import prepared, preparing, ratings, sessions
from lib.data.engines import DuckDB
from lib.errors import InputError
from lib.files import ROOT

COMMAND = [sys.executable, str(ROOT / "ci" / "prepare.py")]


def silently(line):
    """A ``show`` that shows nothing."""


def prepare(out, *args, data="sample", show=silently, **options):
    """Prepares the sample, silently."""
    return preparing.prepare(data, out, *args, show=show, **options)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A small log of clicks."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("log") / "log.csv"
    rows = [
        f"{session},{item},{1_464_000_000 + 7200 * session + place}"
        for session in range(200)
        for place, item in enumerate(rng.integers(0, 20, 1 + session % 6))
    ]
    path.write_text("\n".join(["session,item,time", *rows, ""]))
    return path


@pytest.fixture(scope="module")
def whole(log, tmp_path_factory):
    """The arrays of ``log``."""
    return arrays(prepare(tmp_path_factory.mktemp("whole") / "out", data=log))


def arrays(folder, kind="sessions"):
    """The arrays of a folder in memory."""
    found = prepared.load(folder, kind).arrays
    return {name: np.array(array) for name, array in found.items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def assert_nothing_is_left(out):
    assert not out.exists()
    assert not out.with_name(f"{out.name}.unfinished").exists()


# The arrays are those of load


@pytest.mark.parametrize(
    "rules", [{}, {"order": "file", "min_item_clicks": 8, "min_session_clicks": 3}]
)
def test_prepared_sessions_are_those_that_load_makes(rules, tmp_path):
    loaded = sessions.load("sample", **rules)
    data = sessions.load(prepare(tmp_path / "out", **rules))
    assert data.counts() == loaded.counts()
    for name in ("name", "sha256", "unordered_clicks", "unordered_sessions"):
        assert getattr(data, name) == getattr(loaded, name), name
    np.testing.assert_array_equal(data.item_ids, loaded.item_ids)
    for part in ("train", "test"):
        for name in ("items", "offsets", "days"):
            found, expected = (getattr(getattr(d, part), name) for d in (data, loaded))
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)
    record = json.loads((tmp_path / "out/prepared.json").read_text())
    assert record["counts"].items() >= loaded.counts().items()
    assert record["rules"].items() >= rules.items()


@pytest.mark.parametrize("split", ["global_time", "per_user_last", "by_pair"])
def test_prepared_ratings_are_those_that_load_makes(split, tmp_path):
    loaded = ratings.load("sample", split, 0.3)
    out = prepare(tmp_path / "out", "ratings", split=split, test_share=0.3)
    data = ratings.load(out)
    assert data.counts() == loaded.counts()
    assert (data.split, data.test_share) == (split, 0.3)
    for part in ("train", "test"):
        for name in ("user_idx", "item_idx", "rating"):
            found, expected = (getattr(getattr(d, part), name) for d in (data, loaded))
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)
    for name in ("user_ids", "item_ids", "user_mean", "global_mean", "scale"):
        np.testing.assert_array_equal(getattr(data, name), getattr(loaded, name))


CLICKS = [  # sessions of texts; "c" has one click, and "b" ends on the last day
    *(("a", f"thing {i % 3}", f"2016-05-{1 + i % 9:02}T10:00:0{i}Z") for i in range(6)),
    *(("b", f"thing {i % 3}", f"2016-05-20T10:00:0{i}Z") for i in range(6)),
    ("c", "thing 1", "2016-05-01T10:00:00Z"),
]


def test_a_folder_of_tables_with_columns_of_any_names_is_prepared(tmp_path):
    (tmp_path / "log").mkdir()
    for number, rows in enumerate((CLICKS[:4], CLICKS[4:])):
        text = "".join(f"{s},{i},{t}\n" for s, i, t in rows)
        (tmp_path / f"log/{number}.csv").write_text(f"visit,sku,at\n{text}")
    options = {"columns": "session=visit, item=sku, time=at", "min_item_clicks": 1}
    out = prepare(tmp_path / "out", data=tmp_path / "log", **options)
    found = arrays(out)
    loaded = sessions.load(tmp_path / "log", **options)
    assert (
        list(found["item_ids"])
        == list(loaded.item_ids)
        == [
            "thing 0",
            "thing 1",
            "thing 2",
        ]
    )
    np.testing.assert_array_equal(found["train_items"], loaded.train.items)
    assert list(found["test_items"]) == [1, 2, 3, 1, 2, 3]
    assert found["test_days"] == [np.datetime64("2016-05-20")]


# Resuming


def interrupted_after(table):
    """A ``show`` that stops the preparation when a table is complete."""

    def show(line):
        if line.startswith(f"  {table}") and " rows, " in line:
            raise KeyboardInterrupt

    return show


@pytest.fixture
def stored(monkeypatch):
    """The names of the tables that are computed and stored."""
    names, save = [], DuckDB.save

    def noted(self, query, path):
        names.append(path.stem)
        return save(self, query, path)

    monkeypatch.setattr(DuckDB, "save", noted)
    return names


@pytest.mark.parametrize("table", ["clicks", "kept", "known", "test_flat"])
def test_an_interrupted_preparation_resumes_after_its_last_step(
    table, tmp_path, stored, log, whole
):
    stored.clear()
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare(out, data=log, show=interrupted_after(table))
    assert not out.exists()
    before = len(stored)
    assert before > 0
    prepare(out, data=log)
    assert len(stored) > before
    assert len({*stored}) == len(stored)  # none was computed twice
    assert_same(arrays(out), whole)
    assert list(tmp_path.iterdir()) == [out]


def test_steps_of_other_rules_or_of_other_data_are_not_used(tmp_path, stored):
    log = tmp_path / "log.csv"
    rows = "".join(f"{s},{i},{t}\n" for s, i, t in CLICKS)
    log.write_text(f"session,item,time\n{rows}")
    out = tmp_path / "out"

    def run(**options):
        stored.clear()
        return prepare(out, data=log, min_item_clicks=1, **options)

    with pytest.raises(KeyboardInterrupt):
        run(show=interrupted_after("items"))
    with pytest.raises(KeyboardInterrupt):
        run(show=interrupted_after("items"), order="file")
    assert "clicks" in stored
    log.write_text(log.read_text().replace("thing 2", "thing 9"))
    run(order="file")
    assert "clicks" in stored
    assert list(arrays(out)["item_ids"]) == ["thing 0", "thing 1", "thing 9"]


def test_a_killed_preparation_resumes(tmp_path, log, whole):
    """Killed within a step: what it had written does not count."""
    out = tmp_path / "out"
    command = [*COMMAND, "--data", str(log), "--out", str(out)]
    script = (
        "import sys, os, runpy; from lib.data.engines import DuckDB\n"
        "save = DuckDB.save\n"
        "def dies(self, query, path):\n"
        "    if path.stem == 'train':\n"
        "        (self.folder / 'train.parquet').write_bytes(b'half')\n"
        "        os.kill(os.getpid(), 9)\n"
        "    save(self, query, path)\n"
        "DuckDB.save = dies; sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", script, *command[1:]], env=env)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    assert out.with_name("out.unfinished").exists()
    prepare(out, data=log)
    assert_same(arrays(out), whole)


# Refusals


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def full_for_duckdb(*_):
    raise duckdb.IOException('Could not write file "x": No space left on device')


def full_for_spilling(*_):
    raise duckdb.OutOfMemoryException(
        "Out of Memory Error: failed to offload data block of size 256.0 KiB.\nThis "
        "limit was set by the 'max_temp_directory_size' setting."
    )


@pytest.mark.parametrize("fault", [full, full_for_duckdb, full_for_spilling])
def test_a_disk_that_becomes_full_is_one_sentence_and_nothing_is_half_written(
    fault, tmp_path, monkeypatch, log, whole
):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(DuckDB, "save", fault)
        with pytest.raises(InputError, match="no space left: free some"):
            prepare(out, data=log)
    assert_nothing_is_left(out)
    with monkeypatch.context() as patch:
        patch.setattr(prepared, "write_array", full)
        with pytest.raises(InputError, match="resumes after the last complete step"):
            prepare(out, data=log)
    assert not out.exists()
    assert_same(arrays(prepare(out, data=log)), whole)


def test_a_real_full_disk_is_refused_too(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(tmp_path)]
    script = '"$@" && exec "$PYTHON" "$PROGRAM" --data sample --out "$OUT"'
    env = {"PYTHON": sys.executable, "PROGRAM": COMMAND[1], "OUT": f"{tmp_path}/out"}
    run = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script]
    try:
        done = subprocess.run(
            [*run, "-", *mount], capture_output=True, text=True,
            env={**os.environ, **env, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    except OSError:
        pytest.skip("this system has no unshare")
    if "permi" in done.stderr or "unshare" in done.stderr:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "free" in done.stderr


def test_a_disk_with_too_little_room_is_refused_before_anything_is_read(
    tmp_path, monkeypatch
):
    usage = type("usage", (), {"free": 1e5})
    monkeypatch.setattr(preparing.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(DuckDB, "__init__", None)
    with pytest.raises(InputError, match="0.0 GB free, and preparing about .* rows"):
        prepare(tmp_path / "out")
    assert_nothing_is_left(tmp_path / "out")


def test_the_rows_of_a_file_are_estimated_within_a_tenth(tmp_path):
    rows = 300_000
    numbers = np.random.default_rng(0).integers(0, 10**9, rows)
    (tmp_path / "a.csv").write_text("item\n" + "\n".join(map(str, numbers)))
    assert preparing.estimate_rows(tmp_path / "a.csv") == pytest.approx(rows, rel=0.1)
    subprocess.run(["gzip", "-k", str(tmp_path / "a.csv")], check=True)
    packed = tmp_path / "a.csv.gz"
    assert preparing.estimate_rows(packed) == pytest.approx(rows, rel=0.1)
    query = f"COPY (SELECT i FROM range({rows}) AS t(i)) TO '{tmp_path}/a.parquet'"
    duckdb.connect().execute(query)
    assert preparing.estimate_rows(tmp_path / "a.parquet") == rows


class JavaError(Exception):
    """As py4j's: its repr lacks what Java said."""

    def __repr__(self):
        return "Py4JJavaError('An error occurred while calling o1.parquet.')"


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("java.lang.OutOfMemoryError: Java heap space", "memory=1GB is too little"),
        ("java.io.IOException: No space left on device", "no space left: free some"),
    ],
)
def test_an_error_of_java_is_one_sentence(said, sentence, tmp_path):
    refusals = preparing.refusals(tmp_path / "out.unfinished", "1GB")
    with pytest.raises(InputError, match=sentence), refusals:
        raise JavaError(f"Job aborted due to stage failure: {said}")


def test_too_little_memory_is_one_sentence(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="memory=1MB is too little"):
        prepare(out, memory="1MB")
    assert_nothing_is_left(out)


@pytest.mark.parametrize("memory", ["", "1", "GB", "-1GB", "0MB", "1e3GB", "1 PB"])
def test_a_memory_that_is_none_is_refused(memory, tmp_path):
    with pytest.raises(InputError, match="write it as 1GB or 800MB"):
        prepare(tmp_path / "out", memory=memory)


def test_two_preparations_do_not_work_on_one_folder(tmp_path, log):
    out, refused = tmp_path / "out", []

    def show(line):
        if line.startswith("  kept:"):
            with pytest.raises(InputError, match="another preparation is at work"):
                prepare(out, data=log)
            refused.append(True)

    prepare(out, data=log, show=show)
    assert refused
    arrays(out)


def test_a_folder_that_exists_is_not_overwritten(tmp_path):
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(InputError, match="exists already: remove it, or choose"):
        prepare(tmp_path)
    assert (tmp_path / "kept").read_text() == "mine"


@pytest.mark.parametrize(
    ("args", "rules", "says"),
    [
        ((), {"epochs": 3}, 'rule of sessions="epochs": allowed are "order"'),
        ((), {"protocol": "modelzoo"}, 'allowed are "srgnn"'),
        ((), {"order": "item"}, 'order="item"'),
        ((), {"min_item_clicks": "five"}, "min_item_clicks='five'"),
        ((), {"min_session_clicks": "two"}, "min_session_clicks='two'"),
        (("ratings",), {"split": "random"}, 'allowed are "per_user_last"'),
        (("ratings",), {"test_share": 2}, "test_share=2"),
        (("films",), {}, 'kind="films": allowed are "sessions", "ratings"'),
        ((), {"engine": "hive"}, 'engine="hive": allowed are "duckdb", "spark"'),
        ((), {"min_item_clicks": 10**6}, "no training example is left"),
    ],
)
def test_a_wrong_argument_is_one_sentence(args, rules, says, tmp_path):
    with pytest.raises(InputError) as refusal:
        prepare(tmp_path / "out", *args, **rules)
    assert says in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_spark_without_its_package_or_java_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")  # no Java
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    for _ in range(1 + bool(find_spec("pyspark"))):
        with pytest.raises(InputError, match="ci/requirements-spark.txt, Java 17 or"):
            prepare(tmp_path / "out", engine="spark")
        assert_nothing_is_left(tmp_path / "out")
        monkeypatch.delitem(sys.modules, "pyspark.sql")


# The command


def test_help_needs_no_package_and_sets_nothing_up(tmp_path):
    copy = tmp_path / "ci"
    copy.mkdir()
    for name in ("prepare.sh", "prepare.py"):
        (copy / name).write_bytes((ROOT / "ci" / name).read_bytes())
    env = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": ""}
    done = subprocess.run(
        ["bash", str(copy / "prepare.sh"), "--help"],
        capture_output=True, text=True, env=env, check=True,
    )  # fmt: skip
    assert "bash ci/prepare.sh" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ci"]


def test_the_command_prepares_and_refuses(tmp_path):
    env = {**os.environ, "PYTHONPATH": ""}
    rules = ["--set", "min_item_clicks=8", "--set", "train_until=2016-05-20"]
    command = [*COMMAND, "--data", "sample", "--out", "out", *rules]

    def run(*more):
        return subprocess.run(
            [*command, *more], cwd=tmp_path, env=env, capture_output=True, text=True
        )

    assert run().returncode == 0
    assert prepared.load(tmp_path / "out", "sessions").rules["min_item_clicks"] == 8
    again = run()
    assert again.returncode == 1
    assert again.stderr.endswith(
        "exists already: remove it, or choose another --out.\n"
    )
    wrong = run("--set", "min_item_clicks")
    assert wrong.returncode == 1
    assert "Traceback" not in wrong.stderr
