"""Follow the cells that a kernel runs, so that no record mixes two runs.

In a kernel, any cell can be run at any time: a model can be older than the parameters
that a record names, and an interrupted cell leaves old values behind.
"""

from __future__ import annotations

import symtable
from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

from lib.errors import InputError
from lib.progress import find_shell

CHECK = "parameters.check("  # the cell with this call begins a run
_FAILED = "failed_cells"  # attribute of IPython's shell: numbers of cells


def watch() -> None:
    """Remembers from now on which cells end in an error or are interrupted."""
    shell = find_shell()
    if shell and not hasattr(shell, _FAILED):
        setattr(shell, _FAILED, set())

        def note(result: Any) -> None:
            if result.info.store_history and not result.success:
                getattr(shell, _FAILED).add(len(shell.user_ns["In"]) - 1)

        shell.events.register("post_run_cell", note)


def check_order() -> None:
    """Checks that the running cell uses results of the newest parameters alone.

    Raises:
        InputError: a name that it uses, directly or through other cells, was assigned
            before the parameters were last checked, or by a cell that did not finish.
    """
    shell = find_shell()
    if not shell:
        return
    failed = getattr(shell, _FAILED, ())
    stale = find_stale(shell.user_ns.get("In", ()), failed)
    if stale:
        name, number = stale
        older = "was run before the parameters were last checked"
        reason = "did not finish" if number in failed else older
        raise InputError(
            f"{name} comes from cell [{number}], which {reason}: run the cells in "
            "order, from the one with the parameters on."
        )


def find_stale(
    cells: Sequence[str], failed: Collection[int] = ()
) -> tuple[str, int] | None:
    """Finds a name that the last cell should not use.

    Args:
        cells: the sources by execution number, as IPython's ``In``.
        failed: the numbers of cells that did not finish.

    Returns:
        ``(name, number of the cell that assigned it)``, or None.
    """
    names = [_find_names(cell) for cell in cells]
    first = max((n for n, cell in enumerate(cells) if CHECK in cell), default=0)

    @cache
    def find_makers(number: int) -> dict[str, int]:
        """The names that a cell uses, each with the cell that assigned it before."""
        makers = {
            name: max((n for n in range(1, number) if name in names[n][0]), default=0)
            for name in sorted(names[number][1])
        }
        return {name: maker for name, maker in makers.items() if maker}

    @cache
    def depends_on_parameters(number: int) -> bool:
        makers = find_makers(number).values()
        uses = names[number][1] & names[first][0]
        return bool(uses) or any(map(depends_on_parameters, makers))

    waiting = [len(cells) - 1] if first else []
    for number in waiting:  # which grows meanwhile
        for name, maker in find_makers(number).items():
            if maker in failed or (maker < first and depends_on_parameters(maker)):
                return name, maker
            if maker >= first and maker not in waiting:
                waiting.append(maker)
    return None


def _find_names(source: str) -> tuple[set[str], set[str]]:
    """The global names that a cell assigns, and those that it uses from other cells."""
    try:
        cell = symtable.symtable(source, "cell", "exec")
    except (SyntaxError, ValueError):  # the cell failed
        return set(), set()
    symbols = cell.get_symbols()
    made = {s.get_name() for s in symbols if s.is_assigned() or s.is_imported()}
    tables, used = [cell], set()
    for table in tables:  # which grows by those of functions and classes
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (table is cell or symbol.is_global()):
                used.add(symbol.get_name())
        tables += table.get_children()
    return made, used - made
