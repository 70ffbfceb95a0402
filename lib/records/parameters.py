"""Check a notebook's parameters: names, types and allowed values.

A parameter has one meaning in every notebook, so its rule stands here once. papermill
itself only warns of a name that a notebook does not have; ``check`` ends the run.
"""

import ast
import math

from lib.data.ratings import SPLITS
from lib.data.sessions import is_day
from lib.errors import InputError
from lib.hardware.device import DEVICES, PRECISION_MODES
from lib.hardware.launch_options import DUMP_STEP, is_dump_step
from lib.hardware.workers import RATE_SCALINGS


def _one_of(*allowed):
    return lambda value: value in allowed, "one of " + ", ".join(map(repr, allowed))


def _at_least(lowest, highest=2**31 - 1):
    return lambda value: lowest <= value <= highest, f"{lowest} to {highest}"


_ANY = (lambda value: True, "anything")
_TEXT = (lambda value: bool(value.strip()), "not empty")
_DAY = (lambda value: not value or is_day(value), "empty, or a day as 2016-05-24")

RULES = {
    "data_path": _TEXT,
    "diginetica_path": _TEXT,
    "movielens_path": _TEXT,
    "records": _TEXT,
    "output_dir": _TEXT,
    "label": _ANY,
    "checkpoint": _ANY,
    "mf_checkpoint": _ANY,
    "interactive": _one_of("auto", "yes", "no"),
    "device": _one_of(*DEVICES),
    "precision_mode": _one_of(*PRECISION_MODES),
    "over_dump": _ANY,
    "over_dump_path": _TEXT,
    "data_dump_flag": _ANY,
    "data_dump_step": (is_dump_step, DUMP_STEP),
    "data_dump_path": _TEXT,
    "profiling": _ANY,
    "profiling_dump_path": _TEXT,
    "use_mixlist": _ANY,
    "mixlist_file": _TEXT,
    "fusion_off_flag": _ANY,
    "fusion_off_file": _TEXT,
    "variant": _one_of("paper", "stmp", "normalized", "biased", "modelzoo"),
    "fixes": _ANY,
    "columns": _ANY,
    "rating_columns": _ANY,
    "min_session_clicks": _at_least(2),
    "min_item_clicks": _at_least(1),
    "train_until": _DAY,
    "test_from": _DAY,
    "frozen": _ANY,
    "order": _one_of("timeframe", "file"),
    "protocol": _one_of("srgnn", "modelzoo"),
    "split": _one_of(*SPLITS),
    "evaluate_on": _one_of("test", "validation"),
    "test_share": (lambda value: 0 < value < 1, "between 0 and 1, both excluded"),
    "batch_size": _at_least(1),
    "epochs": _at_least(1),
    "evaluate_every": _at_least(1),
    "steps_per_epoch": _at_least(0),
    "steps_per_execution": _at_least(0),
    "threads": _at_least(0, 1024),
    "workers": _at_least(1, 1024),
    "learning_rate": (lambda value: 0 < value < math.inf, "above 0"),
    "rate_scaling": _one_of(*RATE_SCALINGS),
    "schedule": _one_of("constant", "cosine"),
    "dropout": (lambda value: 0 <= value < 1, "from 0 to below 1"),
    "scale": (lambda value: 0 < value < math.inf, "above 0"),
    "with_baselines": _ANY,
    "with_ablation": _ANY,
    "regularization": (lambda value: 0 <= value < math.inf, "0 or more"),
    "static": _ANY,
    "reshuffle": _ANY,
    "use_bias": _ANY,
    "maxlen": _at_least(1, 10_000),
    "embed_dim": _at_least(1, 65_536),
    "latent_dim": _at_least(1, 65_536),
    "top_k": _at_least(1),
    "seed": (lambda value: 0 <= value < 2**20, "from 0 to 1048575"),
}


def check(namespace, **narrower):
    """Checks the parameters of a notebook; call it right after the parameters cell.

    Args:
        namespace: the notebook's ``globals()``. Its parameters are the names that the
            parameters cell gives a type, as in ``epochs: int = 2``. A whole number
            given for a float or a text is made one, and 0 or 1 a bool, there too.
        narrower: allowed values of a parameter in this notebook, where they are fewer
            than its rule allows, for example ``variant=("paper", "stmp")``.

    Returns:
        ``{name: value}`` in the order of the parameters cell, for the run's record.

    Raises:
        InputError: an unknown name was passed, or a value is of the wrong type or not
            allowed.
    """
    types = namespace["__annotations__"]
    for name in _injected(namespace.get("In", [])):
        if name not in types:
            raise InputError(
                f'unknown parameter "{name}": this notebook has {", ".join(types)}.'
            )
    values = {}
    for name, kind in types.items():
        value = namespace[name]
        if kind in (float, str) and type(value) is int and abs(value) < 10**300:
            value = kind(value)  # papermill reads -p data_dump_step 10 as a number
        if kind is bool and type(value) is int and value in (0, 1):
            value = bool(value)  # --static=1 of the published scripts
        if type(value) is not kind:
            raise InputError(
                f"{name}={value!r}: expected {kind.__name__}, found "
                f"{type(value).__name__}; see the comment beside it in the parameters "
                "cell."
            )
        if name not in RULES:
            raise InputError(
                f"{name}: no rule; add one to RULES in lib/records/parameters.py."
            )
        allowed, meaning = RULES[name]
        if name in narrower:
            allowed, meaning = _one_of(*narrower[name])
        if not allowed(value):
            raise InputError(f"{name}={value!r}: allowed is {meaning}.")
        values[name] = namespace[name] = value
    return values


def _injected(cells):
    """Names that papermill's own cell assigns; it begins with ``# Parameters``."""
    names = []
    for source in cells:
        if source.startswith("# Parameters\n"):
            for node in ast.parse(source).body:
                names += [target.id for target in getattr(node, "targets", [])]
    return names
