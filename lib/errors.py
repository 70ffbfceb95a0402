"""The one exception for input that a person can put right."""

LONGEST = 1200  # characters of a message


class InputError(ValueError):
    """Bad input: the message says what was wrong, where, and what to do.

    A notebook shows the sentence alone, without the stack of calls that found it. What
    the sentence quotes may be anything: line breaks and the like are written out, and
    of a very long message the middle is left out.
    """

    def __init__(self, message):
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
        if len(text) > LONGEST:
            text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 3 :]}"
        super().__init__(text)

    def _render_traceback_(self):
        return [f"{type(self).__name__}: {self}"]


def allow(parameter, values, allowed):
    """Raises InputError unless every one of ``values`` is in ``allowed``."""
    for value in values:
        if value not in allowed:
            listed = ", ".join(f'"{each}"' for each in allowed)
            raise InputError(f'{parameter}="{value}": allowed are {listed}.')
