"""The house stays as README and design say: small, acyclic, true to its word."""

import ast
import base64
import json
import re
import subprocess
import sys

import pytest
import yaml

from lib import comparison
from lib.sources import ROOT

MODULES = sorted((ROOT / "lib").glob("*.py"))
WITHOUT_TENSORFLOW = (
    "sample",
    "sources",
    "sessions",
    "ratings",
    "metrics",
    "baselines",
)
WITHOUT_TENSORFLOW += ("parameters", "results", "provenance", "comparison", "plots")
WITHOUT_TENSORFLOW += ("device", "ascend", "launch_options", "processors")
WITHOUT_TENSORFLOW += ("files", "losses")


def imports_of(path):
    """Names of the lib modules that a module imports, at its top or inside."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "lib":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "lib."
        ):
            found.add(node.module.split(".")[1])
    return found


def test_no_module_is_over_300_lines():
    lengths = {path.name: len(path.read_text().splitlines()) for path in MODULES}
    assert max(lengths.values()) <= 300, lengths


def test_imports_run_one_way():
    arrows = {path.stem: imports_of(path) for path in MODULES}
    while arrows:
        free = {name for name, used in arrows.items() if not used & set(arrows)}
        assert free, f"an import cycle among {sorted(arrows)}"
        arrows = {name: used for name, used in arrows.items() if name not in free}


def test_data_metrics_and_baselines_load_without_tensorflow():
    lines = [f"import lib.{name}" for name in WITHOUT_TENSORFLOW]
    lines.append("import sys; sys.exit('tensorflow' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", "\n".join(lines)]).returncode == 0


def test_lib_imports_from_any_folder(tmp_path):
    command = [sys.executable, "-c", "import lib.metrics"]
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
def test_conda_users_get_the_same_pins(stack):
    environment = yaml.safe_load((ROOT / f"environment{stack}.yml").read_text())
    pip = environment["dependencies"][-1]["pip"]
    pins = [f"-r requirements{stack}.txt", f"-c ci/constraints{stack}.txt", "-e ."]
    assert pip == pins


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md", "results/README.md"])
def test_what_a_readme_names_exists(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    paths = re.findall(r"\]\(([\w./-]+)\)", text)
    paths += re.findall(r"ci/[\w/]+\.(?:sh|yaml)", text)
    assert paths or name.startswith("results")
    for path in paths:
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


def test_the_audit_has_the_steps_that_it_trains():
    for model, steps in comparison.AUDIT.items():
        path = ROOT / f"ci/params/{model}_audit.yaml"
        varied = yaml.safe_load(path.read_text(encoding="utf-8"))["vary"].values()
        assert tuple(changes["label"] for changes in varied) == steps


def test_both_readmes_tell_the_same():
    """Same headings, same commands, same links; only the language differs."""
    english, chinese = (
        (ROOT / name).read_text(encoding="utf-8")
        for name in ("README.md", "README.zh-CN.md")
    )
    for pattern in (r"(?m)^#+ ", r"\]\(([^)]+)\)", r"(?m)^(?:bash|\.venv)\S* \S+ \S+"):
        found = [sorted(re.findall(pattern, text)) for text in (english, chinese)]
        found[0] = [link for link in found[0] if "README" not in link]
        found[1] = [link for link in found[1] if "README" not in link]
        assert found[0] == found[1]
