"""Carry a trained model over to another catalogue: known rows stay, new ones start."""

import numpy as np
import pandas as pd

from lib.errors import InputError
from lib.models import mf, stamp
from lib.serving.trained import arguments_of

PARTS = {stamp.STAMP: stamp.PARTS, mf.MF: mf.PARTS}


def carry_over(trained, item_ids, user_ids=(), frozen=()):
    """Makes a model for other items and users from a trained one.

    Items and users that both know keep their rows; those that the trained model does
    not know start as in a new model; those that are gone are left out. All other
    weights are the trained ones.

    Args:
        trained: a ``lib.serving.trained.Trained``.
        item_ids, user_ids: raw ids of the new data, in the order of its numbers; users
            for MF only.
        frozen: parts that training will leave as they are, see ``PARTS`` of ``stamp``
            and ``mf``.

    Returns:
        ``(model, counts)``; the counts are ``{"items": {"kept": ..., "new": ...,
        "dropped": ...}}`` and for MF ``"users"`` likewise.

    Raises:
        InputError: no item is known, or ``frozen`` names no part.
    """
    old = trained.model
    sizes, places, counts = {"n_items": len(item_ids)}, {}, {}
    kinds = [("items", trained.item_ids, item_ids)]
    if not isinstance(old, stamp.STAMP):
        sizes["n_users"] = len(user_ids)
        kinds.append(("users", trained.user_ids, user_ids))
    for kind, known, wanted in kinds:
        place = places[kind] = places_of(known, wanted)
        kept = int((place >= 0).sum())
        counts[kind] = {
            "kept": kept,
            "new": len(wanted) - kept,
            "dropped": len(known) - kept,
        }
    if not counts["items"]["kept"]:
        known, wanted = (np.asarray(a).tolist() for a in (trained.item_ids, item_ids))
        raise InputError(
            f"none of the {len(wanted)} items is known to {trained.source}: it has ids "
            f"such as {known[0]!r}, the data such as {wanted[0]!r}; map the item "
            "column that both share, or give a checkpoint of the same shop."
        )
    changes = {
        "frozen": tuple(frozen),
        "seed": old.seed + 1,
    }  # new rows are not old ones
    model = type(old)(**{**arguments_of(old), **sizes, **changes})
    model.build(None)
    for part, names in PARTS[type(old)].items():
        for name in names:
            if not hasattr(old, name):
                continue  # STMP has no attention, MF perhaps no biases
            value, new = np.asarray(getattr(old, name)), getattr(model, name)
            if part in places:
                place, rows = places[part], np.array(new)
                rows[place >= 0] = value[place[place >= 0]]
                value = rows
            new.assign(value)
    return model, counts


def places_of(known, wanted):
    """Where each of the wanted raw ids is among the known ones; -1 where it is not.

    Args:
        known, wanted: arrays of numbers or texts; a number is also found as its text.

    Returns:
        int64 ``(len(wanted),)``.
    """
    if known.dtype.kind != np.asarray(wanted).dtype.kind:
        known, wanted = known.astype(str), np.asarray(wanted).astype(str)
    return pd.Index(known).get_indexer(wanted)
