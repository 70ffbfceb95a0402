"""Prints the help of a command of ci/, before any package is installed.

That is the comment at the top of the command and, if it calls a program of ci/ that has
a function ``parse_options``, the options of that program.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from unittest.mock import MagicMock

ROOT = Path(__file__).resolve().parents[1]


class StandIns:
    """Imports a mock in place of each package of ours that is not installed."""

    def __init__(self) -> None:
        paths = [path for room in ("ci", "lib") for path in (ROOT / room).rglob("*.py")]
        code = "\n".join(path.read_text(encoding="utf-8") for path in paths)
        self.names = set(re.findall(r"(?m)^ *(?:from|import) (\w+)", code))

    def find_spec(self, name: str, path: object = None, target: object = None):
        is_ours = name.partition(".")[0] in self.names
        return ModuleSpec(name, self, is_package=True) if is_ours else None

    def create_module(self, spec: ModuleSpec) -> MagicMock:
        return MagicMock()

    def exec_module(self, module: MagicMock) -> None:
        """Executes nothing: a mock has every name."""


def main(command: Path) -> None:
    """Prints the comment and the options of a shell command."""
    text = command.read_text(encoding="utf-8")
    comment = re.match(r"#!.*\n((?:#.*\n)*)", text)
    print(re.sub(r"(?m)^# ?", "", comment.group(1) if comment else ""), flush=True)
    sys.meta_path.append(StandIns())
    for name in dict.fromkeys(re.findall(r"ci/([\w/]+)\.py", text)):
        program = ROOT / "ci" / f"{name}.py"
        if "def parse_options(" in program.read_text(encoding="utf-8"):
            sys.path[:0] = [str(program.parent), str(ROOT / "ci"), str(ROOT)]
            module = importlib.import_module(program.stem)
            with contextlib.suppress(SystemExit):  # argparse ends after its help
                module.parse_options(["--help"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
