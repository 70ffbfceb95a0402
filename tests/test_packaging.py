"""The wheel of lib holds all of lib and declares what lib needs."""

import ast
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from shared import the_only

from lib.files import ROOT

ROOM = ("room/__init__.py", "room/inner/__init__.py", "room/sample/clicks.csv.gz")
MORE = tuple(f"lib/{name}" for name in ROOM)
EXTRAS = ("", "notebooks", "onnx", "test", "dev")


def build_wheel(source, target):
    """Builds a wheel with this environment's setuptools; nothing is downloaded."""
    target.mkdir()
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index"]
    command += ["--no-deps", "--no-build-isolation", "-w", str(target), str(source)]
    subprocess.run(command, check=True)
    return zipfile.ZipFile(the_only(target.glob("*.whl"), "a wheel"))


def copy_project(target):
    """Copies the sources of a wheel, so that the build writes nothing here.

    A room and a room in it are added, and folders beside lib that are not for a wheel.
    """
    target.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target)
    without = shutil.ignore_patterns("__pycache__", ".*")
    shutil.copytree(ROOT / "lib", target / "lib", ignore=without)
    for name in (*MORE, "ci/__init__.py", "libs/__init__.py", "results/run.py"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).touch()
    return target


def content(wheel):
    """The files of a wheel; one that it holds twice stands here twice."""
    return sorted(name for name in wheel.namelist() if ".dist-info/" not in name)


def files_of_lib(project):
    found = (path for path in (project / "lib").rglob("*") if path.is_file())
    return sorted(path.relative_to(project).as_posix() for path in found)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return copy_project(tmp_path_factory.mktemp("copied") / "project")


@pytest.fixture(scope="module")
def wheel(project):
    with build_wheel(project, project.parent / "built") as opened:
        yield opened


@pytest.fixture(scope="module")
def needed(wheel):
    """The requirements that the wheel declares for this Python, extras included."""
    found = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    name = the_only(found, "METADATA in the wheel")
    text = wheel.read(name).decode("utf-8")
    lines = [line for line in text.splitlines() if line.startswith("Requires-Dist: ")]
    declared = [Requirement(line.partition(": ")[2]) for line in lines]
    return [
        requirement
        for requirement in declared
        if not requirement.extras  # dev names the project's other extras
        and (
            requirement.marker is None
            or any(requirement.marker.evaluate({"extra": extra}) for extra in EXTRAS)
        )
    ]


def test_the_wheel_holds_every_file_of_lib_once_and_nothing_else(project, wheel):
    assert content(wheel) == files_of_lib(project)
    assert {"lib/py.typed", *MORE} < set(content(wheel))


def test_the_pinned_packages_are_the_declared_ones(needed):
    """The packages of this stack are within the declared bounds."""
    names = {requirement.name for requirement in needed}
    assert {"numpy", "pandas", "jupyterlab", "onnx", "pytest"} < names
    for requirement in needed:
        version = metadata.version(requirement.name)
        is_within = requirement.specifier.contains(version)
        assert is_within, f"pyproject.toml: {requirement}; installed is {version}"


@pytest.mark.skipif(
    sys.version_info < (3, 10), reason="packages_distributions came with Python 3.10"
)
def test_every_package_that_lib_imports_is_declared(needed):
    imported = {}
    for path in (ROOT / "lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found = []
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found = [node.module]
            for name in found:
                place = f"{path.relative_to(ROOT)}:{node.lineno}"
                imported.setdefault(name.split(".")[0], place)
    # CANN brings npu_device; psutil is for Windows, pyspark the extra for clusters.
    known = {"lib", "npu_device", "psutil", "pyspark"} | sys.stdlib_module_names
    owners = metadata.packages_distributions()
    names = {requirement.name for requirement in needed}
    undeclared = {
        name: place
        for name, place in imported.items()
        if name not in known and not names & set(owners.get(name, ()))
    }
    assert not undeclared, "write it to the dependencies in pyproject.toml"
