"""A trained model with its raw ids, to be used without the data.

``keep`` writes ``model.json`` beside the checkpoints of a run: the class of the model,
its arguments, and the raw ids in the order of its rows. It is plain JSON beside
TensorFlow's checkpoint format: loading a run's folder executes no code from it.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib import files
from lib.errors import InputError
from lib.hardware.tensorflow import tf
from lib.models import mf, stamp
from lib.training import checkpoints

CLASSES = {"STAMP": stamp.STAMP, "MF": mf.MF, "SampledMF": mf.SampledMF}
DTYPES = "float32", "float16", "bfloat16"
# Errors of a file that is damaged or does not fit the other.
UNREADABLE = AssertionError, LookupError, OSError, TypeError, ValueError


@dataclass(frozen=True)
class Trained:
    """A model with the raw ids of its rows.

    Attributes:
        model: ``stamp.STAMP`` or ``mf.MF``, with its trained weights.
        item_ids: raw ids ``(n_items,)``, numbers or texts, in the order of the rows of
            the item table.
        user_ids: likewise for users; empty for STAMP.
        source: where it comes from, for messages.
    """

    model: stamp.STAMP | mf.MF
    item_ids: np.ndarray
    user_ids: np.ndarray
    source: str


def write_id(raw: Any) -> str:
    """A raw id as text; a whole float stands for the integer that it equals."""
    return str(int(raw) if isinstance(raw, float) and raw.is_integer() else raw)


def match_ids(known: np.ndarray, wanted: Iterable) -> np.ndarray:
    """Finds the position of each wanted raw id among known ones; -1 if it is new.

    Args:
        known, wanted: numbers or texts; a number also matches its text.

    Returns:
        int32, one for each wanted id.
    """
    index = {write_id(raw): place for place, raw in enumerate(known.tolist())}
    return np.fromiter((index.get(write_id(raw), -1) for raw in wanted), np.int32)


def keep(
    run: Any,
    model: tf.keras.Model,
    item_ids: Sequence | np.ndarray,
    user_ids: Sequence | np.ndarray = (),
) -> None:
    """Writes ``model.json`` into a run's folder, where its checkpoints are.

    Models of ``lib.models.published`` are only for study and are not kept. With several
    workers the first one writes the file.

    Args:
        run: the ``lib.records.run.Run`` that trains the model.
        model, item_ids, user_ids: see ``Trained``.

    Raises:
        InputError: the running cell uses results of other parameters.
    """
    name = type(model).__name__
    run.check_order()
    if CLASSES.get(name) is not type(model) or run.folder != run.chief_folder:
        return
    description = {
        "class": name,
        "arguments": get_arguments(model),
        "item_ids": np.asarray(item_ids).tolist(),
        "user_ids": np.asarray(user_ids).tolist(),
    }
    files.write_text(run.chief_folder / "model.json", json.dumps(description))


def get_arguments(model: tf.keras.Model) -> dict[str, Any]:
    """Returns the arguments that a model was made with, by name."""
    _, *names = inspect.signature(type(model).__init__).parameters
    return {name: getattr(model, name) for name in names}


def load(folder: str | Path, kind: str | None = None) -> Trained:
    """Loads a model from the folder of a run; the data are not needed.

    Args:
        folder: of a run of notebook 03, 04, 07 or 14 (``output/0/03_stamp-...``), with
            ``model.json`` and a checkpoint; a relative path starts at the repository's
            root.
        kind: ``"STAMP"`` or ``"MF"`` to accept only that model.

    Raises:
        InputError: there is no model or no checkpoint in it, they do not fit, or the
            model is of another kind.
    """
    folder = files.resolve(folder)
    path, source = folder / "model.json", str(files.relative(folder))
    latest = checkpoints.latest(folder / "ckpt")
    if latest is None or not path.is_file():
        missing = "checkpoint" if path.is_file() else "model.json"
        raise InputError(
            f"{folder} contains no {missing}: choose the whole folder of a run of "
            "notebook 03 or 04, such as output/0/03_stamp-paper-sample-..., of any "
            "variant but modelzoo."
        )
    n_bytes = sum(part.stat().st_size for part in (folder / "ckpt").glob("*.data*"))
    try:
        trained = _make(files.read_json(path), source, n_bytes)
        restored = tf.train.Checkpoint(model=trained.model).restore(latest)
        restored.expect_partial().assert_existing_objects_matched()
    except (*UNREADABLE, OverflowError, tf.errors.OpError) as error:
        raise InputError(
            f"{path} does not describe the model of its checkpoint, or one of them is "
            "damaged: copy the folder again, or train again."
        ) from error
    if kind and not isinstance(trained.model, CLASSES[kind]):
        raise InputError(
            f"{folder} contains the model {type(trained.model).__name__}, not {kind}: "
            f"choose a run of notebook {'03' if kind == 'STAMP' else '04'}."
        )
    return trained


def _make(description: Any, source: str, n_bytes: int) -> Trained:
    """Makes an untrained model from the content of ``model.json``.

    ``n_bytes`` is the size of its checkpoint: nothing larger than that is allocated.

    Raises:
        KeyError, OverflowError, TypeError, ValueError: it does not describe a model.
    """
    model_class = CLASSES[description["class"]]
    model = model_class(**description["arguments"])
    ids = [_make_ids(description[name]) for name in ("item_ids", "user_ids")]
    is_stamp = isinstance(model, stamp.STAMP)
    dim = model.embed_dim if is_stamp else model.width
    sizes = [model.n_items, 0 if is_stamp else model.n_users]
    if not (
        all(array.ndim == 1 and array.dtype.kind in "iufU" for array in ids)
        and [len(array) for array in ids] == sizes
        and 0 < 4 * dim * len(ids[0]) <= n_bytes
        and model.matmul_dtype in DTYPES
    ):
        raise ValueError("ids, sizes or types do not fit")
    model.build(None)
    return Trained(model, ids[0], ids[1], source)


def _make_ids(ids: list) -> np.ndarray:
    """An array of raw ids; NumPy alone would round numbers beyond int64 to floats."""
    is_large = bool(ids) and type(ids[0]) is int and max(ids) >= 2**63
    return np.array(ids, np.uint64 if is_large else None)
