"""InputError: raised for invalid input; the message says how to correct it."""

from __future__ import annotations

from collections.abc import Iterable

LONGEST = 1200  # characters of a message


class InputError(ValueError):
    """Invalid input: the message says what is wrong, where, and what to do.

    A notebook shows the message alone, without a traceback. The message may quote any
    input: unprintable characters are escaped, and the middle of a very long message is
    left out.
    """

    def __init__(self, message: str) -> None:
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
        if len(text) > LONGEST:
            text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 3 :]}"
        super().__init__(text)

    def _render_traceback_(self) -> list[str]:  # what IPython prints
        return [f"{type(self).__name__}: {self}"]


def check_choice(name: str, value: object, allowed: Iterable[object]) -> None:
    """Checks that ``value`` is one of ``allowed``.

    Raises:
        InputError: it is not; the message lists the allowed values.
    """
    choices = list(allowed)
    if value not in choices:
        listed = ", ".join(f'"{choice}"' for choice in choices)
        raise InputError(f'{name}="{value}": allowed are {listed}.')
