"""The commands of ci/ explain themselves and clean up, and never more than they say."""

import ast
import os
import re
import shutil
import subprocess
import sys

import pytest

from lib.files import ROOT

SOURCED = {"environment", "setup", "help"}
COMMANDS = sorted(
    path.stem for path in ROOT.glob("ci/*.sh") if path.stem not in SOURCED
)


@pytest.fixture
def clone(tmp_path):
    """A clone without environments; a function that runs one of its commands."""
    for name in ("ci", "lib", "notebooks"):
        ignored = shutil.ignore_patterns("__pycache__", "params", "sample")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)

    def run(command, *words, status=0):
        path = os.pathsep.join(["/usr/bin", "/bin"])
        environment = {"PATH": path, "PYTHON": sys.executable, "HOME": str(tmp_path)}
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        done = subprocess.run(
            ["bash", str(tmp_path / f"ci/{command}.sh"), *words],
            capture_output=True, text=True, env=environment, cwd="/",
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    run.folder = tmp_path
    return run


def list_files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def options(program):
    """The options of a program that its help shows, as its code names them."""
    text = program.read_text(encoding="utf-8")
    calls = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call)]
    added = [c for c in calls if getattr(c.func, "attr", "") == "add_argument"]
    public = [c for c in added if "SUPPRESS" not in ast.unparse(c)]
    words = [w.value for c in public for w in c.args if isinstance(w, ast.Constant)]
    found = [word for word in words if word.startswith("--")]
    assert found or "ArgumentParser" not in text, f"no option of {program} is found"
    return found


def test_the_options_of_the_bench_are_found():
    assert {"--rounds", "--only"} <= set(options(ROOT / "ci/bench/measure.py"))
    assert "--sizes" in options(ROOT / "ci/bench/measure_data.py")
    assert "--with-peers" not in options(ROOT / "ci/bench/measure.py")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_installs_nothing_and_names_the_options(clone, command):
    before = list_files(clone.folder)
    for word in ("--help", "-h"):
        shown = clone(command, word)
        assert len(shown.splitlines()[0]) > 20
    assert list_files(clone.folder) == before
    script = (ROOT / f"ci/{command}.sh").read_text()
    for name in set(re.findall(r"ci/[\w/]+\.py", script)):
        for option in options(ROOT / name):
            assert re.search(rf"{option}(?![\w-])", shown), f"{name} takes {option}"


def test_clean_says_what_takes_how_much_and_removes_what_it_is_told_to(clone):
    sizes = {".venv/big": 3, ".venv-ascend/a": 1, "output/0/run/result.json": 1}
    sizes |= {"data/ml-1m/ratings.dat": 2, "data/ml-1m.zip": 1, "data/mine/c.csv": 1}
    sizes |= {"lib/__pycache__/a.pyc": 1, ".pytest_cache/x": 1}
    for name, megabytes in sizes.items():
        path = clone.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * megabytes * 2**20)
    before = list_files(clone.folder)
    listed = dict(re.findall(r"(?m)^(\S+) +([\d.]+M)", clone("clean")))
    assert {name: float(size[:-1]) // 1 for name, size in listed.items()} == {
        ".venv": 3, ".venv-ascend": 1, "output": 1, "downloads": 3, "caches": 2,
    }  # fmt: skip
    assert list_files(clone.folder) == before
    assert "removed .venv-ascend" in clone("clean", ".venv-ascend")
    gone = {".venv-ascend", ".venv-ascend/a"}
    assert list_files(clone.folder) == [name for name in before if name not in gone]
    for wrong in ("lib", "data", "../x", ".venv-ascend", "output/0", ""):
        before = list_files(clone.folder)
        assert "nothing of that name" in clone("clean", wrong, status=1)
        assert list_files(clone.folder) == before
    clone("clean", "all")
    left = {name for name in sizes if (clone.folder / name).exists()}
    assert left == {"output/0/run/result.json", "data/mine/c.csv"}


def test_jupyterlab_opens_copies_and_keeps_those_that_are_there(clone):
    """With a stand-in of JupyterLab that prints its words."""
    setup = clone.folder / "ci/setup.sh"
    setup.write_text('cd "$(dirname "$0")/.."\nvenv=$PWD/.venv\n')
    jupyter = clone.folder / ".venv/bin/jupyter"
    jupyter.parent.mkdir(parents=True)
    jupyter.write_text('#!/bin/sh\necho "$@"\n')
    jupyter.chmod(0o755)
    copies = clone.folder / "output/notebooks"
    linked = clone.folder / "notebooks/12_linked.ipynb"
    linked.write_text("[a](../docs/running.md), [b](03_stamp.ipynb), [c](https://x.y)")
    words = clone("lab", "--no-browser").split()
    root = ["--allow-root"] if os.getuid() == 0 else []
    folder = "--LabApp.default_url=/lab/tree/output/notebooks"
    assert words == ["lab", folder, *root, "--no-browser"]
    assert (copies / linked.name).read_text() == (
        "[a](../../docs/running.md), [b](03_stamp.ipynb), [c](https://x.y)"
    )
    for path in (linked, copies / linked.name):
        path.unlink()
    originals = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert [path.name for path in sorted(copies.iterdir())] == [
        p.name for p in originals
    ]
    (copies / originals[0].name).write_text("saved by its reader")
    clone("lab")
    assert (copies / originals[0].name).read_text() == "saved by its reader"
    text = originals[1].read_text().replace("](../", "](../../")
    assert (copies / originals[1].name).read_text() == text
