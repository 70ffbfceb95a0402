"""Carry a trained model over to another catalogue, with new rows for new ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lib.errors import InputError
from lib.hardware.tensorflow import tf
from lib.models import mf, stamp
from lib.serving.trained import Trained, get_arguments, match_ids


def carry_over(
    trained: Trained,
    item_ids: np.ndarray,
    user_ids: Sequence | np.ndarray = (),
    frozen: Sequence[str] = (),
    scale: tuple[float, float] | None = None,
) -> tuple[stamp.STAMP | mf.MF, dict[str, dict[str, int]]]:
    """Makes a model for other items and users from a trained one.

    Items and users that both know keep their rows; those that are new to the trained
    model start as in a new model; those that are not in the new data are dropped. All
    other weights are the trained ones.

    Args:
        trained: the trained model.
        item_ids, user_ids: raw ids of the new data, in the order of its numbers; users
            for MF only.
        frozen: names of parts that will not be trained, see ``PARTS`` of ``stamp`` and
            ``mf``.
        scale: MF: the lowest and the highest rating of the new data. The model keeps
            its own scale unless this one goes beyond it or has less than half of its
            width: then all its ratings are stretched to ``scale``, in a straight line,
            and ``model.scale`` is the new one.

    Returns:
        ``(model, counts)``; the counts are
        ``{"items": {"kept": ..., "new": ..., "dropped": ...}}``, and for MF
        ``"users"`` likewise.

    Raises:
        InputError: no item is known, or ``frozen`` names no part.
    """
    old = trained.model
    places = {"items": match_ids(trained.item_ids, item_ids)}
    n_old = {"items": len(trained.item_ids), "users": len(trained.user_ids)}
    arguments = {**get_arguments(old), "n_items": len(item_ids), "frozen": (*frozen,)}
    arguments["seed"] += 1  # new rows differ from those of the old model
    stretch = 1.0
    if isinstance(old, mf.MF):
        places["users"] = match_ids(trained.user_ids, user_ids)
        stretch, stretched = _stretch(old, scale or old.scale)
        arguments.update(stretched, n_users=len(user_ids))
    counts = {}
    for part, place in places.items():
        kept = int((place >= 0).sum())
        dropped = n_old[part] - kept
        counts[part] = {"kept": kept, "new": len(place) - kept, "dropped": dropped}
    if not counts["items"]["kept"]:
        old_ids, new_ids = trained.item_ids.tolist(), np.asarray(item_ids).tolist()
        raise InputError(
            f"none of the {len(new_ids)} items is known to {trained.source}: it has "
            f"ids such as {old_ids[0]!r}, the data such as {new_ids[0]!r}; map the "
            "item column that both share, or choose a checkpoint of the same shop."
        )
    model = type(old)(**arguments)
    model.build(None)
    _copy_weights(old, model, places)
    if stretch != 1:
        _stretch_weights(model, stretch)
    return model, counts


def _stretch(model: mf.MF, scale: tuple) -> tuple[float, dict[str, Any]]:
    """The factor that takes ratings of a model to a scale, and its new arguments."""
    (low, high), (new_low, new_high) = model.scale, scale
    is_narrow = new_high - new_low < (high - low) / 2
    if low == high or (low <= new_low and new_high <= high and not is_narrow):
        return 1.0, {}
    factor = (new_high - new_low) / (high - low)
    mean = new_low + factor * (model.global_mean - low)
    return factor, {"global_mean": mean, "scale": (new_low, new_high)}


def _copy_weights(
    old: tf.keras.Model, new: tf.keras.Model, places: dict[str, np.ndarray]
) -> None:
    """Copies all weights, and only the known rows of the parts in ``places``."""
    is_mf = isinstance(old, mf.MF)
    parts = {**mf.PARTS, "prior": mf.PRIOR} if is_mf else stamp.PARTS
    for part, names in parts.items():
        for name in names:
            if not hasattr(old, name):
                continue  # STMP has no attention, MF perhaps no biases or prior
            value = np.asarray(getattr(old, name))
            if part in places:
                place, rows = places[part], np.array(getattr(new, name))
                rows[place >= 0] = value[place[place >= 0]]
                value = rows
            getattr(new, name).assign(value)


def _stretch_weights(model: mf.MF, factor: float) -> None:
    """Multiplies all that a model adds to its mean rating by a factor."""
    factors: dict[str, Any] = dict.fromkeys(("p", "user_bias", "item_bias"), factor)
    if isinstance(model, mf.SampledMF):
        block = model.latent_dim + 2
        is_item_bias = np.arange(model.width) % block == block - 1
        factors = {"p": np.where(is_item_bias, 1, factor), "centre": factor}
        factors["q"] = np.where(is_item_bias, factor, 1)
    for name in (name for name in factors if hasattr(model, name)):
        table = factors[name] * np.asarray(getattr(model, name))
        getattr(model, name).assign(table.astype(np.float32))
