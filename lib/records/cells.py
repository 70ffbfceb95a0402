"""Follow the cells that a kernel runs, so that no record mixes two runs.

In a kernel, any cell can be run at any time: a model can be older than the parameters
that a record names, and an interrupted cell leaves old values behind.
"""

from __future__ import annotations

import symtable
from collections.abc import Collection, Iterator, Sequence
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
    if not first:
        return None

    def find_makers(number: int) -> Iterator[tuple[str, int]]:
        for name in sorted(names[number][1]):
            for earlier in range(number - 1, 0, -1):
                if name in names[earlier][0]:
                    yield name, earlier
                    break

    @cache
    def depends_on_parameters(number: int) -> bool:
        return bool(names[number][1] & names[first][0]) or any(
            depends_on_parameters(maker) for _, maker in find_makers(number)
        )

    waiting, seen = [len(cells) - 1], set()
    while waiting:
        for name, maker in find_makers(waiting.pop()):
            if maker in failed or (maker < first and depends_on_parameters(maker)):
                return name, maker
            if maker >= first and maker not in seen:
                seen.add(maker)
                waiting.append(maker)
    return None


def _find_names(source: str) -> tuple[set[str], set[str]]:
    """The global names that a cell assigns, and those that it uses from other cells."""
    try:
        table = symtable.symtable(source, "cell", "exec")
    except (SyntaxError, ValueError):  # the cell failed
        return set(), set()
    symbols = table.get_symbols()
    made = {s.get_name() for s in symbols if s.is_assigned() or s.is_imported()}
    return made, set(_find_global_names(table)) - made


def _find_global_names(table: symtable.SymbolTable) -> Iterator[str]:
    is_module = table.get_type() == "module"
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (is_module or symbol.is_global()):
            yield symbol.get_name()
    for child in table.get_children():
        yield from _find_global_names(child)
