"""The architecture of lib: seven rooms, imports in one direction, TensorFlow apart."""

import ast
import json
import subprocess
import sys
import textwrap
from graphlib import CycleError, TopologicalSorter

import count_code
import pytest

from lib.files import ROOT

# A module imports from its own room and from the floors below.
FLOORS = (
    ("errors",),
    ("files", "progress"),
    ("data", "hardware"),
    ("evaluation",),
    ("models",),
    ("training",),
    ("records", "serving"),
)
ROOMS = {"data", "models", "evaluation", "hardware", "training", "records", "serving"}
UPWARD = {}  # an import that leaves the rule: the reason
WITHOUT_TENSORFLOW = ("data", "evaluation", "records")
ONE_IMPORTER = {}  # a module that only one other imports: the reason to keep it apart


def modules(lib):
    """Name, without ``lib.``, and path of every module; packages are left out."""
    return {
        ".".join(path.relative_to(lib).with_suffix("").parts): path
        for path in sorted(lib.rglob("*.py"))
        if path.name != "__init__.py"
    }


def statements(tree, at_import):
    """The import statements of a module; ``at_import``: not those in functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif not (at_import and isinstance(node, (ast.FunctionDef, ast.Lambda))):
            yield from statements(node, at_import)


def imported(text, known, at_import=False):
    """What a module imports: modules of lib without ``lib.``, others by package."""
    found = set()
    for node in statements(ast.parse(text), at_import):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            package, _, inside = name.partition(".")
            if package != "lib":
                found.add(package)
            elif inside in known:
                found.add(inside)
            else:
                found.add(inside.rpartition(".")[0])
    return found - {""}


def arrows(lib, at_import=False):
    """Which module imports what."""
    known = modules(lib)
    return {
        name: imported(path.read_text(encoding="utf-8"), known, at_import)
        for name, path in known.items()
    }


def wrong_arrows(lib):
    """Imports of a room on the same floor or above."""
    floor = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
    found = []
    for name, names in arrows(lib).items():
        room = name.split(".")[0]
        for other in names & set(modules(lib)):
            target = other.split(".")[0]
            if target != room and floor[target] >= floor[room]:
                found.append((name, other))
    return sorted(found)


def cycle(lib):
    """The modules of a circle of imports; none where there is none."""
    try:
        list(TopologicalSorter(arrows(lib)).static_order())
    except CycleError as error:
        return error.args[1]
    return []


def loads_tensorflow(lib):
    """Modules that should not load TensorFlow when they are imported, and do."""
    edges = arrows(lib, at_import=True)

    def reached(name, seen):
        for other in edges.get(name, set()) - seen:
            seen.add(other)
            reached(other, seen)
        return seen

    chosen = [name for name in edges if name.split(".")[0] in WITHOUT_TENSORFLOW]
    return [name for name in chosen if reached(name, set()) & {"tensorflow", "keras"}]


def users():
    """Module -> the files of lib, ci and notebooks that import it."""
    known, found = modules(ROOT / "lib"), {}
    sources = {name: path.read_text("utf-8") for name, path in known.items()}
    for path in (ROOT / "ci").rglob("*.py"):
        sources[path] = path.read_text("utf-8")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
        sources[path] = "\n".join(code)
    for user, text in sources.items():
        for name in imported(text, known) & set(known):
            found.setdefault(name, set()).add(user)
    return found


def test_lib_is_seven_rooms_and_three_modules():
    rooms = {name.split(".")[0] for name in modules(ROOT / "lib")}
    assert rooms == ROOMS | {"errors", "files", "progress"}
    without = [r for r in sorted(ROOMS) if not (ROOT / f"lib/{r}/__init__.py").exists()]
    assert not without, f"rooms of lib without an __init__.py: {without}"


def test_imports_run_one_way():
    found = wrong_arrows(ROOT / "lib")
    advice = "move what is needed to a floor below, or give the reason in UPWARD"
    assert found == sorted(UPWARD), f"(module, what it imports): {advice}"


def test_no_imports_run_in_a_circle():
    found = cycle(ROOT / "lib")
    assert not found, f"each imports the next: lib.{' -> lib.'.join(found)}"


def test_data_evaluation_and_records_load_no_tensorflow():
    found = loads_tensorflow(ROOT / "lib")
    assert not found, "import TensorFlow inside the function that needs it"
    names = [n for n in modules(ROOT / "lib") if n.split(".")[0] in WITHOUT_TENSORFLOW]
    assert names
    lines = ["import sys"]
    for name in names:
        lines.append(f"import lib.{name}")
        lines.append(f"if 'tensorflow' in sys.modules: sys.exit('with lib.{name}')")
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True
    )
    assert done.returncode == 0, f"TensorFlow came, or no module: {done.stderr}"


def test_a_module_that_only_one_other_imports_lives_inside_it():
    known = modules(ROOT / "lib")
    alone = {
        name: user
        for name, (user, *more) in users().items()
        if not more and user in known
    }
    advice = "make each part of the module that imports it, or say why in ONE_IMPORTER"
    assert set(alone) == set(ONE_IMPORTER), f"{alone}: {advice}"


def test_every_module_is_used():
    idle = sorted(set(modules(ROOT / "lib")) - set(users()))
    assert not idle, "no file of lib or ci and no notebook imports these: remove them"


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("data/a.py", "from lib.models import stamp", wrong_arrows),
        ("data/a.py", "def f():\n    from lib.models.stamp import STAMP", wrong_arrows),
        ("hardware/a.py", "import lib.data.b", wrong_arrows),
        ("data/b.py", "from lib.data import a", cycle),
        ("data/b.py", "import lib.data.b", cycle),
        ("records/a.py", "from lib.hardware import device", loads_tensorflow),
        (
            "evaluation/a.py",
            "try:\n    import keras\nfinally:\n    1",
            loads_tensorflow,
        ),
    ],
)
def test_a_wrong_import_is_found(name, text, fault, tmp_path):
    files = {
        "data/a.py": "from lib.data import b",
        "data/b.py": "def f():\n    import tensorflow",
        "hardware/device.py": "from lib.hardware import tensorflow",
        "hardware/tensorflow.py": "import tensorflow as tf",
        "models/stamp.py": "from lib.hardware.device import select_device",
    }
    for path, code in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(code)
    assert not fault(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    assert fault(tmp_path)


def test_no_function_has_more_than_40_lines_of_code():
    long, n_functions = [], 0
    for path in sorted((ROOT / "lib").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                n_functions += 1
                part = textwrap.dedent(ast.get_source_segment(text, node, padded=True))
                place = f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}"
                if (n := count_code.code_lines(part)) > 40:
                    long.append(f"{place} has {n} lines of code")
    assert n_functions > 400
    assert not long, "take a part out that has a name of its own"


def test_every_graph_of_lib_is_traced_as_it_is_written():
    """AutoGraph called a method once in thousands of runs without its model as self.

    TensorFlow 2.21: 'TfMethodTarget' object has no attribute 'neighbours'. No graph of
    lib has a Python loop or branch over tensors, which is what AutoGraph is for.
    """
    rewritten = []
    for path in sorted((ROOT / "lib").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        plain = {
            id(node.func)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            for option in node.keywords
            if option.arg == "autograph" and ast.unparse(option.value) == "False"
        }
        for node in ast.walk(tree):
            is_graph = isinstance(node, ast.Attribute) and node.attr == "function"
            if is_graph and id(node) not in plain:
                rewritten.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not rewritten, "write tf.function(autograph=False)"


def test_code_is_counted_without_comments_blank_lines_and_docstrings(tmp_path):
    text = '"""A\n\nmodule."""\n\n# why\nX = """no\ndocstring"""\n\n\ndef f():\n'
    text += '    """A function."""\n    return X  # of it\n'
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "a.py").write_text(text)
    (tmp_path / "b.py").write_text("import a\n")
    assert count_code.count(tmp_path) == {"": 1, "room": 4}
