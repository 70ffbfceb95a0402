"""Files around the code stay true: contributing, citation, hooks, workflow, forms."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml

import lib

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = ".github/workflows/test.yml"
HOOKS = ".pre-commit-config.yaml"
CURRENT_STACK = sys.version_info >= (3, 10)


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def load(name):
    return yaml.safe_load(read(name))


def commands(text):
    """The shell commands of a Markdown text as lists of words, without comments."""
    blocks = re.findall(r"(?ms)^```bash\n(.*?)^```", text)
    lines = "\n".join(blocks).replace("&&", "\n").splitlines()
    lines += re.findall(r"`((?:bash|\.venv)[^`\n]* [^`\n]+)`", text)
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def missing(text):
    """Words of the commands of a text that name what the repository does not have."""
    scripts = "".join(path.read_text("utf-8") for path in (ROOT / "ci").glob("*.*"))
    found = []
    for program, *words in commands(text):
        name = Path(program).name
        if program.startswith(".venv/bin/") and CURRENT_STACK:
            found += (
                [] if shutil.which(name, path=Path(sys.executable).parent) else [name]
            )
        for word in words:
            if re.match(r"(ci|tests|notebooks)/", word) and "NN_" not in word:
                found += [] if list(ROOT.glob(word)) else [word]
        if program == "bash":
            options = [word for word in words if word.startswith("--")]
            found += [word for word in options if not re.search(rf"{word}\b", scripts)]
        if "-k" in words:
            file, name = words[words.index("-k") - 1], words[words.index("-k") + 1]
            named = re.search(rf"(?:def test|class )\w*{name}", read(file))
            found += [] if named else [name]
    return found


def test_commands_for_contributors_exist():
    text = read("CONTRIBUTING.md")
    assert len(commands(text)) > 15
    assert missing(text) == []


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("bash ci/tests.sh", "ci/tests.sh"),
        ("bash ci/run.sh --record --keep-all", "--keep-all"),
        (".venv/bin/python -m pytest tests/test_mf.py -k no_such", "no_such"),
        ("cp -n notebooks/*.html output/", "notebooks/*.html"),
    ],
)
def test_a_command_that_does_not_exist_is_found(command, fault):
    assert missing(f"```bash\n{command}\n```\n") == [fault]


def test_links_for_contributors_exist():
    for path in re.findall(r"\]\(([\w./-]+)\)", read("CONTRIBUTING.md")):
        assert (ROOT / path).exists(), path


def test_contributors_are_told_where_a_parameter_has_its_rule():
    sources = [
        path.read_text("utf-8") for path in (ROOT / "lib").rglob("parameters.py")
    ]
    rules = any(re.search(r"(?m)^RULES = ", source) for source in sources)
    assert ("`RULES`" in read("CONTRIBUTING.md")) == rules


def test_the_rooms_that_contributors_and_users_read_of_are_those_of_lib():
    rooms = {path.parent.name for path in (ROOT / "lib").glob("*/__init__.py")}
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        listed = re.search(r"seven \w+: ([^.;]+)", read(name)).group(1)
        assert set(re.findall(r"`(\w+)`", listed)) == rooms, name


def test_the_citation_names_this_version_and_project():
    citation = load("CITATION.cff")
    project = re.search(r'(?m)^name = "(.+)"', read("pyproject.toml")).group(1)
    assert citation["version"] == lib.__version__
    assert citation["title"].startswith(f"{project}:")
    assert citation["authors"] == [{"name": f"The {project} contributors"}]
    assert f'license = "{citation["license"]}"' in read("pyproject.toml")


def test_the_changelog_knows_this_version():
    assert lib.__version__ in read("CHANGELOG.md")


def test_hooks_have_the_pinned_ruff_and_run_tests_that_exist():
    hooks = {
        hook["id"]: hook for repo in load(HOOKS)["repos"] for hook in repo["hooks"]
    }
    pin = re.search(r"(?m)^ruff==\S+", read("requirements.txt")).group()
    for name in ("ruff-check", "ruff-format"):
        assert hooks[name]["additional_dependencies"] == [pin]
    assert missing(f"```bash\n{hooks['notebooks']['entry']}\n```\n") == []


def test_the_workflow_runs_the_test_command_on_the_versions_that_set_up_allows():
    job = load(WORKFLOW)["jobs"]["test"]
    case = re.search(r"(?m)^ *((?:3[\d.]+ \| )+)ascend([\d.]+)\)", read("ci/setup.sh"))
    current, ascend = case.group(1).split(" | ")[:-1], case.group(2)
    assert job["strategy"]["matrix"]["python"] == current
    python = "${{ matrix.python }}"
    assert job["env"] == {"PYTHON": f"python{python}", "PYTHON39": f"python{ascend}"}
    installed = [step["with"].get("python-version", "") for step in job["steps"][:2]]
    assert installed[1].split("\n") == [ascend, python, ""]
    assert job["steps"][-1]["run"] == "bash ci/test.sh"


def test_the_workflow_runs_on_changes_and_weekly_and_may_only_read():
    workflow = load(WORKFLOW)
    events = workflow[True]  # YAML 1.1 reads the key "on" as a truth value
    assert {"push", "pull_request", "schedule"} <= set(events)
    minute, hour, day, month, weekday = events["schedule"][0]["cron"].split()
    assert (day, month) == ("*", "*")
    assert weekday.isdigit()
    assert workflow["permissions"] == {"contents": "read"}
    assert "permissions" not in workflow["jobs"]["test"]
    for action in re.findall(r"uses: (\S+)", read(WORKFLOW)):
        assert re.fullmatch(r"actions/[\w-]+@v\d+", action)


def test_a_bug_report_asks_for_the_record_the_device_and_the_command():
    form = load(".github/ISSUE_TEMPLATE/bug_report.yml")["body"]
    required = {part["id"] for part in form if part["validations"]["required"]}
    assert {"record", "device", "command"} <= required
    assert "result.json" in str(form)
