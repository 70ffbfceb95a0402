"""Pins, environments and the set-up stay as their comments say."""

import os
import re
import subprocess
import sys

import cards
import pytest
import yaml
from shared import match_in, refusal

from lib.errors import InputError
from lib.files import ROOT


def test_lib_imports_from_any_folder(tmp_path):
    command = [sys.executable, "-c", "import lib.evaluation.metrics"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    advice = "install the project in this environment: pip install -e . --no-deps"
    assert done.returncode == 0, f"{done.stderr}{advice}"


def test_every_pin_is_exact_and_says_what_it_is_for():
    files = [*ROOT.glob("requirements*.txt"), *ROOT.glob("ci/**/requirements*.txt")]
    assert len(files) == 6, sorted(path.relative_to(ROOT).as_posix() for path in files)
    for path in files:
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if line and not line.startswith("#"):
                place = f"{path.relative_to(ROOT)}:{number}: {line}"
                is_pin = re.fullmatch(r"[\w.-]+==[\w.]+  # \S.{6,}", line)
                assert is_pin, f"{place}: write name==version  # what it is for"


@pytest.mark.parametrize("stack", ["", "-ascend"])
def test_constraints_hold_every_pin(stack):
    """A pin that is missing there came after the constraints were made."""
    lines = (ROOT / f"requirements{stack}.txt").read_text().lower().splitlines()
    pins = {line.split()[0] for line in lines if line and line[0] != "#"}
    name = f"ci/constraints{stack}.txt"
    without = sorted(pins - set((ROOT / name).read_text("utf-8").splitlines()))
    assert not without, f"{name} lacks these pins of requirements{stack}.txt"


def test_the_ascend_stack_has_the_packages_that_canns_compiler_asks_for():
    text = (ROOT / "ci/constraints-ascend.txt").read_text()
    names = "absl-py attrs cffi cython decorator numpy pathlib2 protobuf psutil pyyaml"
    for name in f"{names} requests scipy sympy".split():
        assert re.search(rf"(?m)^{name}==", text), f"ci/constraints-ascend.txt: {name}"


def test_the_set_up_says_when_libpython_is_missing(tmp_path):
    """It looks where Python keeps its libraries, and where the loader is told to."""
    python = tmp_path / "python"  # a Python whose libraries would be in tmp_path/lib
    python.write_text(
        f"""#!/bin/sh
{{ echo 'import sys, sysconfig'
echo 'sysconfig.get_config_var = {{"LIBDIR": "{tmp_path}/lib"}}.get'
echo 'sys.base_prefix = "{tmp_path}/nowhere"'; cat; }} | {sys.executable} -
"""
    )
    python.chmod(0o755)
    text = (ROOT / "ci/setup.sh").read_text(encoding="utf-8")
    pattern = r"(?ms)^check_libpython\(\) \{$.*?^\}$"
    function = match_in(pattern, text, "ci/setup.sh")

    def said(**environment):
        command = [
            "bash",
            "-euc",
            f"{function[0]}\ncheck_libpython {python}; echo done",
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **environment}
        )
        assert done.stdout.endswith("done\n"), done.stderr  # a sentence, no failure
        return done.stdout[: -len("done\n")]

    assert "no libpython3.9.so" in said()
    assert "PYTHON39" in said(LD_LIBRARY_PATH="")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/libpython3.9.so").touch()
    assert said(LD_LIBRARY_PATH=f"/x:{tmp_path}/elsewhere") == ""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/libpython3.9.so").touch()
    assert said() == ""


@pytest.mark.parametrize("stack", ["", "-ascend"])
def test_conda_users_get_the_same_pins(stack):
    environment = yaml.safe_load((ROOT / f"environment{stack}.yml").read_text())
    pip = environment["dependencies"][-1]["pip"]
    pins = [f"-r requirements{stack}.txt", f"-c ci/constraints{stack}.txt", "-e ."]
    assert pip == pins, f"environment{stack}.yml: the last entry, pip"


def test_the_asserts_of_tests_and_of_their_helpers_are_executed():
    """Under ``python -O`` too, because pytest rewrites them where it knows of them."""
    nothing = ()
    with pytest.raises(AssertionError):
        assert nothing
    command, pipe = [sys.executable, "-c", "raise SystemExit(1)"], subprocess.PIPE
    failed = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
    with pytest.raises(AssertionError):
        cards.outputs(failed)

    class Long(InputError):
        def __str__(self):
            return "a sentence\nand a second line"

    def refuse():
        raise Long("")

    with pytest.raises(AssertionError):
        refusal(refuse)
