"""The one exception for input that a person can put right."""


class InputError(ValueError):
    """Bad input: the message says what was wrong, where, and what to do.

    A notebook shows the sentence alone, without the stack of calls that found it.
    """

    def _render_traceback_(self):
        return [f"{type(self).__name__}: {self}"]


def allow(parameter, values, allowed):
    """Raises InputError unless every one of ``values`` is in ``allowed``."""
    for value in values:
        if value not in allowed:
            listed = ", ".join(f'"{each}"' for each in allowed)
            raise InputError(f'{parameter}="{value}": allowed are {listed}.')
