"""InputError: raised for invalid input; the message says how to correct it."""

from __future__ import annotations

from collections.abc import Iterable

LONGEST = 1200  # characters of a message
LARGEST = 1e37  # number that a model may take: float32 holds it and its inverse


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


def check_number(name: str, value: object, is_allowed: bool, allowed: str) -> None:
    """Checks a number; ``allowed`` describes the allowed ones, as in ``"above 0"``.

    Raises:
        InputError: ``is_allowed`` is False.
    """
    if not is_allowed:
        raise InputError(f"{name}={value!r}: allowed are numbers {allowed}.")


def check_whole(
    name: str, value: object, lowest: int = 1, highest: int = 2**31 - 1
) -> None:
    """Checks that ``value`` is a whole number from ``lowest`` to ``highest``.

    Raises:
        InputError: it is not.
    """
    if type(value) is not int or not lowest <= value <= highest:
        raise InputError(
            f"{name}={value!r}: choose a whole number, {lowest} or more, at most "
            f"{highest}."
        )


def check_seed(seed: object) -> None:
    """Checks a seed. Models multiply it, and 32 bits must hold the product.

    Raises:
        InputError: it is not a whole number from 0 to 1048575.
    """
    check_whole("seed", seed, 0, 2**20 - 1)
