"""Parameters are checked by name, type and value before anything runs."""

import pytest

from lib.errors import InputError
from lib.records import parameters


def notebook(injected="", **values):
    """The globals of a notebook after its parameters cell and papermill's own."""
    types = {"epochs": int, "learning_rate": float, "variant": str, "static": bool}
    space = {"epochs": 2, "learning_rate": 0.1, "variant": "paper", "static": True}
    cells = ["epochs: int = 2", f"# Parameters\n{injected}\n"] if injected else []
    return {**space, **values, "__annotations__": types, "In": cells, "other": object()}


def test_the_parameters_and_nothing_else_are_returned():
    found = parameters.check(notebook(injected="epochs = 5", epochs=5))
    expected = {"epochs": 5, "learning_rate": 0.1, "variant": "paper", "static": True}
    assert found == expected


def test_a_whole_number_is_taken_for_a_float_but_not_the_reverse():
    assert parameters.check(notebook(learning_rate=1))["learning_rate"] == 1.0
    with pytest.raises(InputError, match="epochs=2.0: expected int, found float"):
        parameters.check(notebook(epochs=2.0))


def test_0_and_1_are_taken_for_a_switch_as_the_published_scripts_write_it():
    assert parameters.check(notebook(static=1))["static"] is True
    assert parameters.check(notebook(static=0))["static"] is False


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"epochs": 0}, "epochs=0: allowed is 1 to 2147483647."),
        ({"epochs": "3"}, "epochs='3': expected int, found str"),
        ({"epochs": True}, "epochs=True: expected int, found bool"),
        ({"static": 2}, "static=2: expected bool, found int"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0: allowed is above 0."),
        ({"learning_rate": float("nan")}, "learning_rate=nan: allowed is above 0."),
        ({"variant": "best"}, "variant='best': allowed is one of 'paper'"),
        (
            {"injected": "epoch = 3"},
            'unknown parameter "epoch": this notebook has epochs,',
        ),
    ],
)
def test_what_is_not_allowed_is_said_in_one_sentence(values, sentence):
    with pytest.raises(InputError) as caught:
        parameters.check(notebook(**values))
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_a_notebook_can_allow_less_than_the_rule():
    with pytest.raises(InputError, match="one of 'stmp'"):
        parameters.check(notebook(), variant=("stmp",))
