"""The house stays as README and design say: small, acyclic, true to its word."""

import base64
import json
import os
import re
import subprocess
import sys

import pytest
import yaml

from lib.files import ROOT
from lib.hardware import launch_options


def test_lib_imports_from_any_folder(tmp_path):
    command = [sys.executable, "-c", "import lib.evaluation.metrics"]
    assert subprocess.run(command, cwd=tmp_path).returncode == 0


def test_every_pin_is_exact_and_says_what_it_is_for():
    lines = [
        line
        for stack in ("", "-ascend")
        for line in (ROOT / f"requirements{stack}.txt").read_text().splitlines()
    ]
    for line in lines:
        if line and not line.startswith("#"):
            assert re.fullmatch(r"[\w.-]+==[\w.]+  # \S.{10,}", line), line


@pytest.mark.parametrize("stack", ["", "-ascend"])
def test_constraints_hold_every_pin(stack):
    """A pin that is missing there came after the constraints were made."""
    lines = (ROOT / f"requirements{stack}.txt").read_text().lower().splitlines()
    pins = {line.split()[0] for line in lines if line and line[0] != "#"}
    assert pins <= set((ROOT / f"ci/constraints{stack}.txt").read_text().splitlines())


def test_the_ascend_stack_has_the_packages_that_canns_compiler_asks_for():
    text = (ROOT / "ci/constraints-ascend.txt").read_text()
    names = "absl-py attrs cffi cython decorator numpy pathlib2 protobuf psutil pyyaml"
    for name in f"{names} requests scipy sympy".split():
        assert re.search(rf"(?m)^{name}==", text), name


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
    function = re.search(r"(?ms)^check_libpython\(\) \{$.*?^\}$", text)[0]

    def said(**environment):
        command = ["bash", "-euc", f"{function}\ncheck_libpython {python}; echo done"]
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
    assert pip == pins


PAGES = [("README.md", "README.zh-CN.md"), ("docs/ascend.md", "docs/ascend.zh-CN.md")]
TEXTS = [name for pair in PAGES for name in pair] + ["results/README.md"]


def anchors(path):
    """The anchors that a page offers: its headings as GitHub writes them in links."""
    headings = re.findall(r"(?m)^#+ (.+)$", path.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings}


@pytest.mark.parametrize("name", TEXTS)
def test_what_a_text_names_exists(name):
    """Links lead to a file, and to a heading in it; commands name files."""
    page = ROOT / name
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", text)
    assert links or name.startswith("results")
    for path, anchor in links:
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), anchor
    for path in re.findall(r"ci/[\w/]+\.(?:sh|yaml)", text):
        assert (ROOT / path).exists(), path


def test_the_figure_of_the_readmes_is_the_notebooks():
    notebook = json.loads((ROOT / "notebooks/03_stamp.ipynb").read_text("utf-8"))
    drawn = [
        base64.b64decode(output["data"]["image/png"])
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert (ROOT / "docs/stamp_sample.png").read_bytes() in drawn


def facts(name):
    """What must be the same in both languages of a page.

    Headings by their depth, links, commands without their comments, the cells of every
    table by their number, and the code in every table: names, options, paths.
    """
    text = (ROOT / name).read_text(encoding="utf-8")
    prose = re.sub(r"(?ms)^```.*?^```$", "", text)
    rows = re.findall(r"(?m)^\|.*\|$", prose)
    blocks = re.findall(r"(?ms)^```\w+$.*?^```$", text)
    links = re.findall(r"\]\(([^)]+)\)", text)
    return {
        "headings": re.findall(r"(?m)^#+ ", prose),
        "links": sorted(
            link.replace(".zh-CN", "").partition("#")[0]
            for link in links
            if not re.search(r"README|^ascend[.]", link)  # one page names the other
        ),
        "commands": [re.sub(r" +#.*", "", block) for block in blocks],
        "cells": [len(re.findall(r"(?<!\\)\|", row)) for row in rows],
        "code": [sorted(set(re.findall(r"`([^`]+)`", row))) for row in rows],
    }


@pytest.mark.parametrize(("english", "chinese"), PAGES)
def test_both_languages_tell_the_same(english, chinese):
    found, translated = facts(english), facts(chinese)
    for what, values in found.items():
        assert translated[what] == values, what


def test_every_launch_option_and_published_params_file_is_documented():
    text = (ROOT / "docs/ascend.md").read_text(encoding="utf-8")
    for name in launch_options.NAMES:
        assert f"`--{name}=" in text, name
        assert f"--set {name}=" in text, name
    for path in (ROOT / "ci/params").glob("*_1p.yaml"):
        assert f"ci/params/{path.name}" in text, path
