"""Check the names and types of a notebook's parameters.

The parameters cell itself says which parameters there are and of which type; the values
are checked by the functions that use them. papermill only warns of a name that a
notebook does not have; ``check`` ends the run.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from lib.errors import InputError, check_choice
from lib.files import ROOT
from lib.hardware.launch_options import LaunchOptions
from lib.records import cells

INJECTED = "# Parameters\n"  # begins the cell that papermill adds
LAUNCH = {field.name: field.default for field in fields(LaunchOptions)}
_KINDS = {kind.__name__: kind for kind in (bool, int, float, str, dict)}


class Parameters(Mapping[str, Any]):
    """The checked parameters of a notebook: read-only, as attributes and as a mapping.

    Args:
        values: ``{name: value}``, in the order of the parameters cell.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    def __getitem__(self, name: str) -> Any:
        return self.__dict__[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)

    def __len__(self) -> int:
        return len(self.__dict__)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f'the parameters cell assigns no "{name}".')

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name} is read-only; change it in the parameters cell.")


def check(namespace: Mapping[str, Any], **allowed: Sequence[Any]) -> Parameters:
    """Checks the parameters of a notebook; call it right after the parameters cell.

    The parameters are what that cell assigns. A parameter has the type of its
    annotation, or of its default without one. A dict with entries, as in
    ``rate_options: dict = {"schedule": "constant"}``, is a group: each entry is a
    parameter, an entry that is left out keeps its default, and papermill may set an
    entry by its own name. ``ascend``, the launch options of an Ascend, stays a dict.

    A whole number is accepted for a float, a number for a text, and 0 or 1 for a bool.

    Args:
        namespace: the notebook's ``globals()``. It is not changed.
        allowed: the values that a parameter may have in this notebook, for example
            ``variant=("paper", "stmp")``.

    Returns:
        The parameters in the order of the cell.

    Raises:
        InputError: no parameters cell was run, papermill passed an unknown name, a
            value has the wrong type or is not allowed, or the notebook belongs to
            another clone of the repository than ``lib``.
    """
    cells.watch()
    _check_clone()
    declared, injected = _read_cells(namespace)
    entries = groups({name: default for name, (_, default) in declared.items()})
    for name in injected:
        if name in LAUNCH and entries.get(name) == "ascend":
            text = json.dumps(namespace[name])
            if type(LAUNCH[name]) is bool:
                text = str(namespace[name]).lower()  # papermill's -p true is a text
            raise InputError(
                f"{name} is a launch option of an Ascend: with papermill write "
                f'-y "ascend: {{{name}: {text}}}".'
            )
        if name not in declared and name not in entries:
            names = ", ".join(declared)
            raise InputError(f'unknown parameter "{name}": this notebook has {names}.')
    values: dict[str, Any] = {}
    for name, (kind, default) in declared.items():
        value = _convert(name, namespace[name], kind)
        if kind is dict:
            direct = {key: namespace[key] for key in default if key in injected}
            defaults = LAUNCH if name == "ascend" else default
            value = _convert_entries(name, {**default, **value, **direct}, defaults)
        is_group = name != "ascend" and name in entries.values()
        values.update(value if is_group else {name: value})
    for name, literals in allowed.items():
        if name in values:
            check_choice(name, values[name], literals)
    return Parameters(values)


def groups(defaults: Mapping[str, Any]) -> dict[str, str]:
    """Returns ``{entry: group}`` of the parameters that are entries of a dict.

    Args:
        defaults: ``{name: default}`` of a parameters cell.
    """
    entries = dict.fromkeys(LAUNCH, "ascend") if "ascend" in defaults else {}
    for name, default in defaults.items():
        if isinstance(default, dict) and name != "ascend":
            entries.update(dict.fromkeys(default, name))
    return entries


def _check_clone() -> None:
    """Raises InputError where the notebook's clone is not the one that lib is from."""
    here = Path.cwd()
    marks = [folder / "lib/records/parameters.py" for folder in (here, *here.parents)]
    clone = next((mark.parents[2] for mark in marks if mark.is_file()), ROOT)
    if not clone.samefile(ROOT):
        raise InputError(
            f"this notebook is in {clone}, but its kernel imports lib from {ROOT}: "
            f"start it with {clone}/.venv, which ci/run.sh makes."
        )


def _read_cells(
    namespace: Mapping[str, Any],
) -> tuple[dict[str, tuple[type, Any]], list[str]]:
    """``{name: (type, default)}`` of the newest parameters cell, and injected names.

    The parameters cell holds nothing but assignments of literals, one of them to
    ``output_dir``. papermill's cells count where they were run after it. nbval, which
    keeps no history of cells, and a script leave annotations only.
    """
    injected: list[str] = []
    for source in reversed(namespace.get("In", [])):
        try:
            body = ast.parse(source).body
        except (SyntaxError, ValueError):  # a cell that failed, or with null bytes
            continue
        declared = _read_literals(body)
        if source.startswith(INJECTED):
            targets = (getattr(node, "targets", []) for node in body)
            injected += [target.id for each in targets for target in each]
        elif "output_dir" in declared:
            return declared, injected
    annotated = namespace.get("__annotations__", {})
    if "output_dir" in annotated:
        return {k: (kind, namespace[k]) for k, kind in annotated.items()}, injected
    raise InputError(
        "no parameters cell was run in this kernel: run the cell that assigns "
        "output_dir first; all its values must be literals."
    )


def _read_literals(body: Iterable[Any]) -> dict[str, tuple[type, Any]]:
    """``{name: (type, default)}``; empty unless all statements assign literals."""
    declared: dict[str, tuple[type, Any]] = {}
    try:
        for node in body:
            default = ast.literal_eval(node.value)
            kind = getattr(getattr(node, "annotation", None), "id", "")
            for target in getattr(node, "targets", None) or [node.target]:
                declared[target.id] = _KINDS.get(kind, type(default)), default
    except (AttributeError, TypeError, ValueError):
        return {}
    return declared


def _convert(name: str, value: Any, kind: Any) -> Any:
    """Converts a value to the type of its parameter; InputError if it cannot."""
    is_number = type(value) in (int, float) and abs(value) < 10**300
    is_switch = type(value) is int and value in (0, 1)
    if (kind in (float, str) and is_number) or (kind is bool and is_switch):
        value = kind(value)  # -p data_dump_step 10; --static=1 of the published scripts
    if type(value) is not kind or kind not in _KINDS.values():
        expected = kind.__name__ if kind in _KINDS.values() else "a plain value"
        raise InputError(
            f"{name}={value!r}: expected {expected}, found {type(value).__name__}; see "
            "the comment beside it in the parameters cell."
        )
    if kind is float and not math.isfinite(value):  # JSON cannot hold it
        raise InputError(f"{name}={value!r}: expected a finite number.")
    return value


def _convert_entries(
    name: str, entries: Mapping[Any, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Converts the entries of a dict parameter to the types of their defaults."""
    converted = {}
    for key, value in entries.items():
        if defaults and key not in defaults:
            names = ", ".join(defaults)
            raise InputError(f'{name}: unknown entry "{key}"; it may have {names}.')
        kind = type(defaults.get(key, value))
        if type(key) is not str or kind is dict:
            raise InputError(
                f"{name}: {{{key!r}: {value!r}}}: a key is a text, its value a number, "
                "a text, True or False."
            )
        converted[key] = _convert(f"{name}: {key}", value, kind)
    return converted
