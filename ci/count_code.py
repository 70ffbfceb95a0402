"""Counts the lines of code of lib, without blank lines, comments and docstrings."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


def code_lines(text: str) -> int:
    """Returns the number of lines of a module that hold code."""
    docstrings = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return sum(
        bool(line.strip()) and line.strip()[0] != "#" and number not in docstrings
        for number, line in enumerate(text.split("\n"), 1)
    )


def count(folder: Path = ROOT / "lib") -> dict[str, int]:
    """Counts lines of code by room; modules beside the rooms are in room ``""``."""
    rooms = {}
    for path in sorted(folder.rglob("*.py")):
        room = path.parent.relative_to(folder).as_posix().strip(".")
        lines = code_lines(path.read_text(encoding="utf-8"))
        rooms[room] = rooms.get(room, 0) + lines
    return rooms


if __name__ == "__main__":
    rooms = count()
    shown = ", ".join(f"{room or 'beside'} {lines}" for room, lines in rooms.items())
    print(f"lib/: {sum(rooms.values()):,} lines of code ({shown})")
