"""A trained model with the ids that it knows, used again without the data it saw.

``keep`` writes ``model.json`` beside the checkpoints of a run: which model, its
arguments, and the raw ids in the order of its rows. Plain JSON and TensorFlow's
checkpoint format: nothing in a run's folder can execute code when it is loaded.
"""

import inspect
import json
from dataclasses import dataclass

import numpy as np

from lib import files
from lib.errors import InputError
from lib.hardware import workers
from lib.hardware.tensorflow import tf
from lib.models import mf, stamp
from lib.training import checkpoints

CLASSES = {"STAMP": stamp.STAMP, "MF": mf.MF}


@dataclass(frozen=True)
class Trained:
    """A model and what its rows stand for.

    Attributes:
        model: ``stamp.STAMP`` or ``mf.MF``, with its trained weights.
        item_ids: raw ids ``(n_items,)``, int64, float64 or str, in the order of the
            rows of the item table.
        user_ids: likewise for users; empty for STAMP.
        maxlen: width of STAMP's window; 0 for MF.
        source: what it was loaded from, for messages.
    """

    model: tf.keras.Model
    item_ids: np.ndarray
    user_ids: np.ndarray
    maxlen: int
    source: str


def keep(run, model, item_ids, user_ids=(), maxlen=0):
    """Writes ``model.json`` into a run's folder, where its checkpoints are.

    Models of ``lib.models.published`` are there to be studied, not to be used: none is
    kept. Of several workers the first keeps it.

    Args:
        run: a ``lib.records.run.Run``.
        model, item_ids, user_ids, maxlen: see ``Trained``.
    """
    name = type(model).__name__
    if CLASSES.get(name) is not type(model) or workers.current().rank:
        return
    kept = {
        "class": name,
        "arguments": arguments_of(model),
        "maxlen": maxlen,
        "item_ids": np.asarray(item_ids).tolist(),
        "user_ids": np.asarray(user_ids).tolist(),
    }
    files.write_text(run.chief_folder / "model.json", json.dumps(kept))


def arguments_of(model):
    """What a model was made with, by the names of its class's arguments."""
    names = inspect.signature(type(model)).parameters
    return {name: getattr(model, name) for name in names}


def load(folder, kind=None):
    """Reads a model from the folder of a run; the data are not needed.

    Args:
        folder: of a finished run of notebook 03 or 04 (``output/0/03_stamp-...``); a
            relative path starts at the repository's root.
        kind: ``"STAMP"`` or ``"MF"`` where no other will do.

    Returns:
        A ``Trained``.

    Raises:
        InputError: there is no model or no checkpoint in it, they do not fit, or the
            model is of another kind.
    """
    folder = files.resolve(folder)
    path = folder / "model.json"
    try:
        kept = files.read_json(path)
    except OSError:
        raise InputError(
            f"{folder} holds no model.json: give the folder of a run of notebook 03 or "
            "04, such as output/0/03_stamp-paper-sample-..., of any variant but "
            "modelzoo."
        ) from None
    except ValueError:
        kept = None
    latest = checkpoints.latest(folder / "ckpt")
    if latest is None:
        raise InputError(
            f"{folder}/ckpt holds no checkpoint: train the model, or copy the folder "
            "whole."
        )
    stored = sum(part.stat().st_size for part in (folder / "ckpt").glob("*.data*"))
    model, ids = _made(kept, path, stored)
    try:
        restored = tf.train.Checkpoint(model=model).restore(latest)
        restored.expect_partial().assert_existing_objects_matched()
    except Exception:  # TensorFlow has a dozen ways to say it
        raise InputError(
            f"{latest} is not the checkpoint of {path}, or it is damaged: copy the "
            "folder again, or train the model again."
        ) from None
    if kind and not isinstance(model, CLASSES[kind]):
        raise InputError(
            f"{folder} holds the model {kept['class']}, not {kind}: give the folder of "
            f"a run of notebook {'03' if kind == 'STAMP' else '04'}."
        )
    return Trained(model, *ids, kept["maxlen"], str(files.relative(folder)))


def _made(kept, path, stored):
    """An untrained model from what ``keep`` wrote, and the ids of items and users.

    ``stored`` is the size of its checkpoint in bytes: a model that does not fit into it
    is not made.
    """
    try:
        arguments = kept["arguments"]
        model = CLASSES[kept["class"]](**arguments)
        ids = [np.asarray(kept[name]) for name in ("item_ids", "user_ids")]
        assert all(array.ndim == 1 and array.dtype.kind in "iufU" for array in ids)
        assert [len(ids[0]), type(kept["maxlen"])] == [model.n_items, int]
        dim = getattr(model, "embed_dim", None) or model.latent_dim
        assert 0 < 4 * dim * model.n_items <= stored
        assert len(ids[1]) == getattr(model, "n_users", 0)
        assert model.matmul_dtype in ("float32", "float16", "bfloat16")
        model.build(None)
    except Exception:  # arguments of whatever type, tried by Keras and NumPy
        raise InputError(
            f"{path} does not describe a model: copy it again, or train again."
        ) from None
    return model, ids
