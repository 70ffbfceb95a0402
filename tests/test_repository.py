"""Files around the code stay true: citation, changelog, hooks, workflow, forms."""

import json
import re
from pathlib import Path

import yaml
from shared import match_in
from test_documentation import missing, read

import lib

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = ".github/workflows/test.yml"
SET_UP = "ci/environment.sh"
HOOKS = ".pre-commit-config.yaml"


def load(name):
    return yaml.safe_load(read(name))


def test_the_rooms_that_contributors_and_users_read_of_are_those_of_lib():
    rooms = {path.parent.name for path in (ROOT / "lib").glob("*/__init__.py")}
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        listed = match_in(r"seven \w+: ([^.;]+)", read(name), name)[1]
        assert set(re.findall(r"`(\w+)`", listed)) == rooms, name


def test_both_readmes_list_every_notebook_in_order():
    notebooks = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    for name in ("README.md", "README.zh-CN.md"):
        listed = re.findall(r"(?m)^\| \[\d\d_.*?\]\(notebooks/(\S+)\)", read(name))
        assert listed == notebooks, f"{name}: the table of notebooks"


# Clicks of a session, ratings of a person, titles of movies, items with a score.
ROWS = re.compile(
    r"(?m)clicked item|^then +item|\] -> \d|near: |^rated \d|^ *[\d.]+ +item \d"
    r"|\(\d{4}\) \[|session +item\b|session \d+\b.*: +\[|^session: "
)


def cells_with_rows(path):
    """The tags of each cell of a notebook whose output looks like rows of the data."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            plain = output.get("data", {}).get("text/plain", [])
            if ROWS.search("".join([*output.get("text", []), *plain])):
                yield cell["metadata"].get("tags", [])


def test_a_recorded_notebook_shows_no_row_of_the_data():
    recorded = [*(ROOT / "results").rglob("notebook.ipynb")]
    assert len(recorded) > 100
    shown = [path for path in recorded if [*cells_with_rows(path)]]
    assert not shown, "the terms of the data forbid it: tag such cells shows-data"


def test_a_cell_that_prints_rows_is_left_out_of_records():
    tags = {
        path.name: [*cells_with_rows(path)]
        for path in (ROOT / "notebooks").glob("*.ipynb")
    }
    assert sum(map(len, tags.values())) > 10
    for name, found in tags.items():
        assert all("shows-data" in each for each in found), f"{name}: tag shows-data"


def test_the_guide_for_contributors_has_lines_that_fit_a_terminal():
    for number, line in enumerate(read("CONTRIBUTING.md").splitlines(), 1):
        assert len(line) <= 100, f"CONTRIBUTING.md:{number} has {len(line)} characters"


def test_the_citation_names_this_version_and_project():
    citation = load("CITATION.cff")
    settings = read("pyproject.toml")
    project = match_in(r'(?m)^name = "(.+)"', settings, "pyproject.toml")[1]
    assert citation["version"] == lib.__version__
    assert citation["title"].startswith(f"{project}:")
    assert citation["authors"] == [{"name": f"The {project} contributors"}]
    assert f'\nlicense = "{citation["license"]}"\n' in settings


def test_the_changelog_knows_this_version():
    """It has a section, or is said to be in preparation where all is unreleased."""
    text = read("CHANGELOG.md")
    sections = re.findall(r"(?m)^## \[(.+)\]", text)
    prepared = re.findall(r"`lib\.__version__` is (\S+?),?\s", text)
    assert sections[:1] == ["Unreleased"]
    assert lib.__version__ in sections or prepared == [lib.__version__]


def test_hooks_have_the_pinned_ruff_and_run_tests_that_exist():
    hooks = {
        hook["id"]: hook for repo in load(HOOKS)["repos"] for hook in repo["hooks"]
    }
    pin = match_in(r"(?m)^ruff==\S+", read("requirements.txt"), "requirements.txt")
    for name in ("ruff-check", "ruff-format"):
        assert hooks[name]["additional_dependencies"] == [pin[0]], f"{HOOKS}: {name}"
    assert missing(f"```bash\n{hooks['notebooks']['entry']}\n```\n") == []


def test_the_workflow_runs_the_test_command_on_the_versions_that_set_up_allows():
    job = load(WORKFLOW)["jobs"]["test"]
    pattern = r"(?m)^ *((?:3[\d.]+ \| )+)ascend([\d.]+)\)"
    case = match_in(pattern, read(SET_UP), SET_UP)
    current, ascend = case.group(1).split(" | ")[:-1], case.group(2)
    assert job["strategy"]["matrix"]["python"] == current
    python = "${{ matrix.python }}"
    assert job["env"] == {"PYTHON": f"python{python}", "PYTHON39": f"python{ascend}"}
    installed = [step["with"].get("python-version", "") for step in job["steps"][:2]]
    assert installed[1].split("\n") == [ascend, python, ""]
    assert job["steps"][-1]["run"] == "bash ci/test.sh"


def test_the_workflow_builds_the_book_and_keeps_it():
    *_, build, upload = load(WORKFLOW)["jobs"]["book"]["steps"]
    assert build["run"] == "bash ci/book.sh"
    assert upload["with"]["path"] == "output/book"


def test_the_workflow_runs_on_changes_and_weekly_and_may_only_read():
    workflow = load(WORKFLOW)
    events = workflow[True]  # YAML 1.1 reads the key "on" as a truth value
    assert {"push", "pull_request", "schedule"} <= set(events)
    cron = events["schedule"][0]["cron"]
    assert re.fullmatch(r"\d+ \d+ \* \* \d", cron), "once a week: minute hour * * day"
    assert workflow["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in workflow["jobs"].values())
    for action in re.findall(r"uses: (\S+)", read(WORKFLOW)):
        assert re.fullmatch(r"actions/[\w-]+@v\d+", action), f"{WORKFLOW}: {action}"


def test_a_bug_report_asks_for_the_record_the_device_and_the_command():
    form = load(".github/ISSUE_TEMPLATE/bug_report.yml")["body"]
    required = {part["id"] for part in form if part["validations"]["required"]}
    assert {"record", "device", "command"} <= required
    assert "result.json" in str(form)
