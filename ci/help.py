"""Prints the help of a command of ci/, before any package is installed.

That is the comment at the top of the command and, if it calls a program of ci/ that has
a function ``parse_options``, the options of that program. Nothing else is executed.
"""

from __future__ import annotations

import ast
import contextlib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main(command: Path) -> None:
    """Prints the comment and the options of a shell command."""
    text = command.read_text(encoding="utf-8")
    comment = re.match(r"#!.*\n((?:#.*\n)*)", text)
    print(re.sub(r"(?m)^# ?", "", comment.group(1) if comment else ""))
    for name in dict.fromkeys(re.findall(r"ci/[\w/]+\.py", text)):
        print_options(ROOT / name)


def print_options(program: Path) -> None:
    """Prints the options of a program that has a function ``parse_options``."""
    sys.path[:0] = [str(program.parent), str(ROOT)]
    tree = ast.parse(program.read_text(encoding="utf-8"))
    defined = {getattr(node, "name", ""): node for node in tree.body}
    if "parse_options" not in defined:
        return
    space: dict = {}
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            with contextlib.suppress(
                ImportError
            ):  # a package that is not installed yet
                exec(compile(ast.Module([node], []), program, "exec"), space)
    module = ast.Module([defined["parse_options"]], [])
    flags = annotations.compiler_flag  # its annotations are not evaluated
    exec(compile(module, program, "exec", flags), space)
    with contextlib.suppress(SystemExit):  # argparse ends the program after its help
        space["parse_options"](["--help"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
