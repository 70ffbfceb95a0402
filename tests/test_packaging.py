"""The wheel of lib holds all of lib and declares what lib needs."""

import ast
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from lib.files import ROOT

EXTRAS = ("", "notebooks", "onnx", "test", "dev")


def build_wheel(source, target):
    """Builds a wheel with this environment's setuptools; nothing is downloaded."""
    target.mkdir()
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index"]
    command += ["--no-deps", "--no-build-isolation", "-w", str(target), str(source)]
    subprocess.run(command, check=True)
    (wheel,) = target.glob("*.whl")
    return zipfile.ZipFile(wheel)


def copy_project(target):
    """Copies the sources of a wheel, so that the build writes nothing here."""
    target.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target)
    without = shutil.ignore_patterns("__pycache__", ".*")
    shutil.copytree(ROOT / "lib", target / "lib", ignore=without)
    return target


def content(wheel):
    return {name for name in wheel.namelist() if ".dist-info/" not in name}


def files_of_lib(project):
    found = (path for path in (project / "lib").rglob("*") if path.is_file())
    return {path.relative_to(project).as_posix() for path in found}


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
    (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
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


def test_the_wheel_holds_every_file_of_lib_and_nothing_else(project, wheel):
    assert content(wheel) == files_of_lib(project)


def test_packages_inside_lib_come_along_and_folders_beside_it_do_not(tmp_path):
    project = copy_project(tmp_path / "project")
    for name in ("lib/room/__init__.py", "lib/room/inner/__init__.py"):
        (project / name).parent.mkdir(parents=True)
        (project / name).touch()
    for name in ("lib/py.typed", "lib/room/sample/clicks.csv.gz"):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).touch()
    for name in ("ci/__init__.py", "libs/__init__.py", "results/run.py"):
        (project / name).parent.mkdir()
        (project / name).touch()
    with build_wheel(project, tmp_path / "built") as built:
        assert content(built) == files_of_lib(project)


def test_the_pinned_packages_are_the_declared_ones(needed):
    """The packages of this stack are within the declared bounds."""
    names = {requirement.name for requirement in needed}
    assert {"numpy", "pandas", "jupyterlab", "onnx", "pytest"} < names
    for requirement in needed:
        version = metadata.version(requirement.name)
        assert requirement.specifier.contains(version), (version, str(requirement))


@pytest.mark.skipif(
    sys.version_info < (3, 10), reason="packages_distributions came with Python 3.10"
)
def test_every_package_that_lib_imports_is_declared(needed):
    imported = set()
    for path in (ROOT / "lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    # CANN brings npu_device; psutil is for Windows, pyspark the extra for clusters.
    imported -= {"lib", "npu_device", "psutil", "pyspark"} | sys.stdlib_module_names
    owners = metadata.packages_distributions()
    names = {requirement.name for requirement in needed}
    assert {name for name in imported if not names & set(owners[name])} == set()
