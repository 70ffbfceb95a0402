"""docs/solutions.md answers each exercise, with code that fits its notebook."""

import ast
import builtins
import json
import re
import textwrap

import pytest

from lib.files import ROOT

PAGE = (ROOT / "docs" / "solutions.md").read_text(encoding="utf-8")
SECTIONS = re.split(r"^## ", PAGE, flags=re.M)
NUMBERED = re.compile(r"^(\d+)\. ", flags=re.M)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def section(notebook):
    (found,) = (s for s in SECTIONS if s.startswith(notebook.name[:2]))
    return found


def cells(notebook, kind):
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


def snippets(text):
    found = re.findall(r"^ *```python\n(.*?)^ *```", text, flags=re.M | re.S)
    return map(textwrap.dedent, found)


def defined_and_read(source):
    """The names that some code binds, and those that it reads."""
    nodes = list(ast.walk(ast.parse(source)))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    read = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    bound = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    for node in nodes:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).split(".")[0])
    return bound, read


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_exercise_has_an_answer(notebook):
    (exercises,) = (s for s in cells(notebook, "markdown") if "## On your own" in s)
    asked = exercises.split("## On your own")[1].split("\n## ")[0]
    heading, answers = section(notebook).split("\n", 1)
    assert NUMBERED.findall(answers) == NUMBERED.findall(asked)
    anchor = re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-"))
    assert f"(../docs/solutions.md#{anchor})" in asked, "the exercises link the answers"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_code_of_an_answer_uses_only_names_of_its_notebook(notebook):
    shown, _ = defined_and_read("\n".join(cells(notebook, "code")))
    known = shown | {*dir(builtins), "display"}
    for snippet in snippets(section(notebook)):
        bound, read = defined_and_read(snippet)
        if notebook.stem.startswith("05"):  # its second answer goes to notebook 03
            (other,) = (ROOT / "notebooks").glob("03_*.ipynb")
            known |= defined_and_read("\n".join(cells(other, "code")))[0]
        known |= bound  # a later answer may use an earlier one
        assert read <= known, f"{sorted(read - known)} in:\n{snippet}"
