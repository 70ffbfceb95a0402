"""The bench of preparing data: made-up logs, turns that resume, arrays compared."""

import json
import sys

import duckdb
import pytest

ROWS = 3000


@pytest.mark.parametrize("kind", ["sessions", "ratings"])
def test_a_made_up_log_depends_on_its_seed_alone(kind, worker, tmp_path):
    write, logs = worker("made_up").write, []
    for name, seed in (("a.parquet", 1), ("b.csv", 1), ("c.parquet", 2)):
        write(kind, ROWS, tmp_path / name, seed)
        logs.append(duckdb.sql(f"FROM '{tmp_path / name}'").fetchall())
    assert len(logs[0]) == len(logs[2]) == ROWS
    assert logs[0] == logs[1]
    assert logs[0] != logs[2]
    assert len(list(tmp_path.iterdir())) == 3


def test_items_follow_zipfs_law_and_sessions_have_one_click_and_more(worker, tmp_path):
    worker("made_up").write("sessions", 200_000, tmp_path / "log.parquet")
    table = f"'{tmp_path / 'log.parquet'}'"
    counts = duckdb.sql(
        f"SELECT count(*) AS n FROM {table} GROUP BY item ORDER BY n DESC LIMIT 3"
    ).fetchall()
    (first,), (second,), (third,) = counts
    assert first / second == pytest.approx(1.71, abs=0.15)  # ln 2 / ln 1.5
    assert second / third == pytest.approx(1.41, abs=0.15)
    lengths = f"SELECT count(*) AS n FROM {table} GROUP BY session"
    numbers = duckdb.sql(f"SELECT avg(n), min(n), max(n) FROM ({lengths})")
    ((mean, least, most),) = numbers.fetchall()
    assert mean == pytest.approx(5, rel=0.05)
    assert (least, most > 20) == (1, True)


@pytest.fixture
def bench(worker, tmp_path, monkeypatch):
    """A bench of DuckDB and pandas on a small log, whose items are few."""
    monkeypatch.setattr(worker("made_up"), "N_ITEMS", 50)
    module = worker("measure_data")
    ways = {label: module.WAYS[label] for label in ("DuckDB", "DuckDB, CSV", "pandas")}
    monkeypatch.setattr(module, "WAYS", ways)
    about = {
        "device": "a processor",
        "cores": 2,
        "memory_gb": 8,
        "versions": {"python": "3"},
    }
    return lambda: module.Bench(tmp_path / "data.json", tmp_path / "logs", about, 1)


@pytest.mark.parametrize("kind", ["sessions", "ratings"])
def test_all_ways_write_the_same_arrays_and_a_turn_is_measured_once(
    kind, bench, tmp_path, monkeypatch
):
    bench().prepare(kind, ROWS)
    turns = json.loads((tmp_path / "data.json").read_text())["turns"]
    assert [turn["label"] for turn in turns] == ["DuckDB", "DuckDB, CSV", "pandas"]
    assert [turn["failed"] for turn in turns] == [None] * 3
    assert len({turn["arrays"] for turn in turns}) == 1
    for turn in turns:
        assert turn["peak_mb"] >= turn["private_mb"] > 20
        assert turn["seconds"] > 0
        assert turn["cpu_seconds"] > 0
    again = bench()
    monkeypatch.setattr(again, "measure", None)
    again.prepare(kind, ROWS)
    text = (tmp_path / "data.txt").read_text()
    assert text.count("equal") == 3
    assert "DIFFERENT" not in text
    again.turns[-1]["arrays"] = "others"
    assert again.format().count("DIFFERENT") == 3


def test_a_turn_that_fails_is_shown_and_does_not_end_the_measurement(bench, capsys):
    measured = bench()
    command = [sys.executable, "-c", "raise MemoryError('too large')"]
    key = {"kind": "sessions", "size": 5, "label": "pandas", "round": 0}
    measured.measure(key, command)
    assert "failed: MemoryError: too large" in capsys.readouterr().out
    assert "MemoryError: too large" in measured.format()


@pytest.mark.parametrize(("orphaned", "others"), [(0, 50.0), (3, 20.0), (9, 0.0)])
def test_children_that_nobody_waited_for_are_no_others(
    worker, monkeypatch, orphaned, others
):
    measure = worker("measure")
    ticks = measure.os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(measure, "processor_time", lambda: (0, 5 * ticks, 10 * ticks))
    shares = measure.compute_shares((0, 0, 0), orphaned)
    assert shares == {"stolen_percent": 0.0, "others_percent": others}
