"""Spark on a cluster of two workers writes the arrays that DuckDB writes."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from lib.data import prepared, preparing
from lib.files import ROOT

# A cluster on this machine: two workers, each a process with a core and 1 GB.
MASTER = "local-cluster[2,1,1024]"
PREPARE = """
import pathlib, sys
from lib.data.preparing import prepare, start_spark
folder, master = sys.argv[1:]
with start_spark(master, "600MB", pathlib.Path(folder)):
    for kind, rules in {rules}.items():
        log, out = folder + "/" + kind + ".csv", folder + "/spark-" + kind
        prepare(log, out, kind, "spark", "600MB", **rules)
"""
RULES = {
    "sessions": {"order": "timeframe"},
    "ratings": {"columns": "rating=rating, time=time", "split": "per_user_last"},
}
# A few hundred rows: compiling the queries would take longer than running them.
SETTINGS = (
    "spark.sql.codegen.wholeStage false\nspark.sql.shuffle.partitions 2\n"
    "spark.sql.adaptive.enabled false\nspark.default.parallelism 2\n"
)
JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"


@pytest.fixture
def spark():
    """Skips where Spark cannot run."""
    missing = [] if find_spec("pyspark") else ["pyspark"]
    missing += [] if shutil.which("java") else ["Java 17"]
    if missing:
        pytest.skip(f"NOT TESTED: Spark, on a cluster or at all: no {missing[0]} here")


def write_logs(folder):
    """Writes clicks with text ids and ratings; some are at the same time."""
    rng = np.random.default_rng(1)
    clicks = [
        f"s{session % 97}-{session},thing {item},{1_464_000_000 + 7200 * session}"
        for session in range(150)
        for item in rng.integers(0, 20, 1 + session % 6)
    ]
    ratings = [
        f"{user},{item},{rating / 2},{1_464_000_000 + item // 2}"
        for user in range(60)
        for item, rating in enumerate(rng.integers(1, 11, 5 + user % 7))
    ]
    rng.shuffle(ratings)
    for kind, header, rows in (
        ("sessions", "session,item,time", clicks),
        ("ratings", "user,item,rating,time", ratings),
    ):
        (folder / f"{kind}.csv").write_text("\n".join([header, *rows, ""]))


def test_a_cluster_of_two_workers_writes_the_arrays_that_duckdb_writes(spark, tmp_path):
    write_logs(tmp_path)
    (tmp_path / "spark-defaults.conf").write_text(SETTINGS)
    env = {"SPARK_CONF_DIR": str(tmp_path), "JAVA_TOOL_OPTIONS": JAVA}
    done = subprocess.run(
        [sys.executable, "-c", PREPARE.format(rules=RULES), str(tmp_path), MASTER],
        env={**os.environ, **env, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for kind, rules in RULES.items():
        log, out = tmp_path / f"{kind}.csv", tmp_path / kind
        preparing.prepare(log, out, kind, show=lambda _: None, **rules)
        expected = prepared.load(out, kind)
        found = prepared.load(tmp_path / f"spark-{kind}", kind)
        assert found[1:] == expected[1:]  # counts, rules and the source
        for name, array in expected.arrays.items():
            assert found.arrays[name].dtype == array.dtype
            np.testing.assert_array_equal(found.arrays[name], array, err_msg=name)
