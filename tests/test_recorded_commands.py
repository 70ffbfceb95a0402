"""results/README.md names, for every record, the command that makes it."""

import ast
import json
import re
from datetime import datetime
from pathlib import Path

import execute
import papermill
import plan
import pytest

from lib.files import ROOT

RESULTS = ROOT / "results"
ROW = re.compile(r"(?m)^\| `([\w./-]+)` \| `bash ci/run\.sh ([^`]+)` \|$")
ROWS = ROW.findall((RESULTS / "README.md").read_text(encoding="utf-8"))


def planned(arguments):
    """``{name: all parameters}`` of the runs that a command makes, and its options."""
    options = execute.parse_options([*arguments.split(), "--called-from", str(ROOT)])
    found = {}
    for name, notebook, parameters, _ in plan.list_runs(options):
        known = papermill.inspect_notebook(str(notebook))
        defaults = {key: ast.literal_eval(one["default"]) for key, one in known.items()}
        found[name] = {**defaults, **parameters}
    return found, options


def records(names):
    """The records of these names, without the names that have none."""
    paths = {name: RESULTS / name / "result.json" for name in names}
    return {name: json.loads(path.read_text()) for name, path in paths.items()}


def test_every_record_belongs_to_one_row_and_every_row_to_its_records():
    made = [name for _, arguments in ROWS for name in planned(arguments)[0]]
    assert sorted(made) == sorted(p.parent.name for p in RESULTS.glob("*/result.json"))
    for folder, arguments in ROWS:
        prefix = folder[: -len("...")] if folder.endswith("...") else folder
        assert all(name.startswith(prefix) for name in planned(arguments)[0]), folder


@pytest.mark.parametrize(("folder", "arguments"), ROWS, ids=[row[0] for row in ROWS])
def test_the_command_of_a_row_makes_its_records(folder, arguments):
    """Its parameters are theirs; only the folder of the same data may be another."""
    runs, _ = planned(arguments)
    for name, record in records(runs).items():
        asked, used = runs[name], record["parameters"]
        for key in asked.keys() & used.keys():
            wanted, found = asked[key], used[key]
            if key.endswith("data_path"):
                wanted, found = Path(wanted).name, Path(found).name
            assert found == wanted, f"{name}: {key}"
        chosen = plan.parse_yaml(
            (ROOT / arguments.split()[1]).read_text(encoding="utf-8"), folder
        )
        new = {"label"} if "label" not in used else set()  # older than the parameter
        missing = set(chosen) - set(used) - {"notebook", "vary"} - new
        assert not missing, f"{name} does not record {missing}"


def test_records_of_one_data_set_read_the_same_content():
    """So a copy under another path makes the same record."""
    sums = {}
    for path in RESULTS.glob("*/result.json"):
        data = json.loads(path.read_text())["data"]
        sums.setdefault(data["name"], set()).add(data["sha256"])
    assert sorted(sums) == ["diginetica", "ml-1m"]
    assert all(len(found) == 1 for found in sums.values()), sums


@pytest.mark.parametrize(("folder", "arguments"), ROWS, ids=[row[0] for row in ROWS])
def test_jobs_are_as_the_times_of_the_records_say(folder, arguments):
    """Runs that overlap were made by --jobs, runs that do not were made without."""
    runs, options = planned(arguments)
    times = [record["timing"] for record in records(runs).values()]
    if len(times) == 1 or not all("started_at" in time for time in times):
        return  # one run has no neighbour; older records have only the end
    spans = sorted(
        [datetime.fromisoformat(time[f"{end}_at"]) for end in ("started", "finished")]
        for time in times
    )
    overlap = any(b[0] < a[1] for a, b in zip(spans, spans[1:]))
    assert overlap == (options.jobs > 1)
