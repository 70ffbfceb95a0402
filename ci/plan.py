"""Plans runs of notebooks from the command line and params files, for execute.py.

The rows that the bench measures are planned in ``bench/cases.py``.
"""

import ast
import hashlib
import itertools
import math
import re
import sys
from pathlib import Path

import papermill
import yaml

from lib import files
from lib.errors import InputError
from lib.records.parameters import groups

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
MOST_RUNS = 1000  # of one params file
MAIN_JOB = ("01", "02", "03", "04", "05")


def list_runs(options):
    """Lists and checks all runs of the options of ``execute.py``; a mistake exits.

    Returns:
        A list of ``(name, notebook, parameters, whether a list made many of one)``.
    """
    overrides = read_overrides(options.set)
    if options.params:
        wanted = read_params_file(find_params_file(options.params, options.called_from))
    else:
        wanted = find_notebooks(options.only.split(",") if options.only else MAIN_JOB)
    known = set()
    for _, notebook, _ in wanted:
        known |= {*read_defaults(notebook), *groups(read_defaults(notebook))}
    for key in overrides:
        if key not in known:
            stems = ", ".join(notebook.stem for _, notebook, _ in wanted)
            sys.exit(
                f'unknown parameter "{key}"; known to {stems}: '
                f"{', '.join(sorted(known))}"
            )
    checked = [check(*run, overrides) for run in wanted]
    expanded = [
        (name, notebook, gather_groups(notebook, parameters), listed)
        for run in checked
        for name, notebook, parameters, listed in expand(*run)
    ]
    if len({name for name, *_ in expanded}) < len(expanded):
        sys.exit(f"{options.params or '--only'}: the same run twice; name each once")
    return expanded


def read_overrides(texts):
    """``{key: value}`` of texts like ``epochs=3``."""
    overrides = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            sys.exit(f"--set {text}: write it as key=value, for example --set epochs=3")
        overrides[key] = parse_yaml(value, f"--set {text}")
    return overrides


def find_params_file(params, called_from):
    """The path of a params file, from where the command was called or from here."""
    for path in (Path(called_from, params), ROOT / params):
        if path.is_file():
            return path
    known = list_names((ROOT / "ci/params").glob("*.yaml"))
    sys.exit(f"--params {params}: no such file; ci/params has {known}")


def read_params_file(path):
    """``(name, notebook, parameters)`` of a params file, one for each of ``vary``."""
    try:
        parameters = parse_yaml(path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"{path}: cannot be read ({error})")
    if not isinstance(parameters, dict) or "notebook" not in parameters:
        sys.exit(f'{path}: a params file starts with "notebook: <name>"')
    known = sorted(NOTEBOOKS.glob("*.ipynb"))
    wanted = f"{parameters.pop('notebook')}.ipynb"
    notebook = NOTEBOOKS / wanted
    if notebook not in known:
        sys.exit(
            f"{path}: there is no notebook {wanted}; there are {list_names(known)}"
        )
    vary = parameters.pop("vary", {"": {}})
    if not isinstance(vary, dict) or not all(
        isinstance(changes, dict) for changes in vary.values()
    ):
        sys.exit(f'{path}: "vary" holds "<title>: {{<parameter>: <value>}}" lines')
    return [
        (f"{path.stem}{'-' if title else ''}{title}", notebook, parameters | changes)
        for title, changes in vary.items()
    ]


def find_notebooks(wanted):
    """``(name, notebook, parameters)`` of notebooks that are named by number."""
    found = []
    for number in wanted:
        number = number.strip().split("_")[0]
        notebooks = sorted(NOTEBOOKS.glob(f"{number}_*.ipynb"))
        if not notebooks:
            known = list_names(NOTEBOOKS.glob("*.ipynb"))
            sys.exit(f"--only {number}: no such notebook; there are {known}")
        # What was run is what 05 shows; opened by hand, it shows results/.
        parameters = {"records": "output"} if number == "05" else {}
        found.append((notebooks[0].stem, notebooks[0], parameters))
    return found


def parse_yaml(text, where):
    """What a YAML text says: plain values; a tag that would run code is an error."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        line = str(error).replace("\n", " ") or "nested too deeply"
        sys.exit(f"{where}: no YAML of plain values ({line[:200]})")


def expand(name, notebook, parameters):
    """One run for every combination of the values that stand in lists.

    Yields ``(name, notebook, parameters, whether there is a list)``.
    """
    lists = {key: v for key, v in parameters.items() if isinstance(v, list)}
    if math.prod(map(len, lists.values())) > MOST_RUNS:
        sys.exit(f"{name}: its lists make more than {MOST_RUNS} runs; shorten them")
    for values in itertools.product(*lists.values()):
        chosen = dict(zip(lists, values))
        label = "-".join([name, *(f"{key}={value}" for key, value in chosen.items())])
        label = re.sub(r"[^\w .,=+-]", "_", label)[:150]  # it names files
        yield label, notebook, {**parameters, **chosen}, bool(lists)


def hash_inputs(parameters):
    """Hashes the content of every file and folder that the parameters name.

    ``output_dir`` is no input. A run whose files were replaced is another run.
    """
    digest = hashlib.sha256()
    for name, value in sorted(parameters.items()):
        if name == "output_dir" or not isinstance(value, str) or not value.strip():
            continue
        try:
            path = files.resolve(value)
        except InputError:
            continue  # no path
        if "*" in path.name:
            paths = path.parent.glob(path.name)
        else:
            paths = path.rglob("*") if path.is_dir() else [path]
        for file in sorted(filter(Path.is_file, paths)):
            digest.update(f"{name} {file.name} {file.stat().st_size} ".encode())
            with open(file, "rb") as content:
                for block in iter(lambda: content.read(2**20), b""):
                    digest.update(block)
    return digest.hexdigest()


def list_names(paths):
    return ", ".join(sorted(path.name for path in paths))


def read_defaults(notebook):
    """Reads ``{name: default}`` from the parameters cell of a notebook."""
    known = papermill.inspect_notebook(str(notebook))
    return {name: ast.literal_eval(about["default"]) for name, about in known.items()}


def flatten_groups(notebook, parameters):
    """Replaces each group, such as ``ascend``, by its entries."""
    inside = groups(read_defaults(notebook))
    flat = {}
    for name, value in parameters.items():
        if name not in inside.values():
            flat[name] = value
            continue
        entries = [entry for entry, group in inside.items() if group == name]
        if not isinstance(value, dict) or not value.keys() <= set(entries):
            sys.exit(
                f'{name}: write "{{<name>: <value>}}"; the names are '
                f"{', '.join(entries)}"
            )
        flat.update(value)
    return flat


def gather_groups(notebook, parameters):
    """Puts the entries of a group into it, as the parameters cell has them."""
    inside = groups(read_defaults(notebook))
    cell = {}
    for name, value in parameters.items():
        if name in inside:
            cell.setdefault(inside[name], {})[name] = value
        else:
            cell[name] = value
    return cell


def check(name, notebook, parameters, overrides):
    """Adds the overrides that the notebook knows; refuses a params file that errs."""
    defaults = read_defaults(notebook)
    known = {*defaults, *groups(defaults)}
    overrides = {key: value for key, value in overrides.items() if key in known}
    parameters = flatten_groups(notebook, parameters)
    parameters |= flatten_groups(notebook, overrides)
    for key, value in parameters.items():
        if key not in known:
            sys.exit(
                f'{name}: unknown parameter "{key}"; {notebook.stem} has '
                f"{', '.join(defaults)}"
            )
        values = value if isinstance(value, list) and value else [value]
        if not all(isinstance(one, (bool, int, float, str)) for one in values):
            sys.exit(f"{name}: {key}: give a number, a text, true, false, or a list")
    return name, notebook, parameters
