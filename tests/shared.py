"""What several test modules need: refusals, small sessions, a find that says so."""

import errno
import os
import re

import numpy as np
import pytest

from lib.data.examples import Examples
from lib.errors import InputError


def the_only(found, what):
    """The one thing that was found; ``what`` says what is looked for, and where."""
    found = list(found)
    if len(found) != 1:
        pytest.fail(f"expected {what} once, found {len(found)}: {found}")
    return found[0]


def match_in(pattern, text, where):
    """The first match of a pattern in a text; ``where`` names the text."""
    found = re.search(pattern, text)
    if not found:
        pytest.fail(f"{where}: nothing matches {pattern!r}")
    return found


def refusal(function, *arguments, **options):
    """The message of the InputError that a call must end in: one line of text."""
    with pytest.raises(InputError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def examples(*sessions):
    """Examples of sessions of item numbers, one session a day."""
    lengths = [len(session) for session in sessions]
    days = np.arange(len(sessions)).astype("datetime64[D]")
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Examples.from_sessions(np.concatenate(sessions), offsets, days)


def no_space(*_):
    """What the system answers on a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
