"""Export a trained model: a SavedModel that needs only TensorFlow, and ONNX.

The SavedModel takes raw ids and returns raw ids. Its one signature is
``serving_default``; the loaded object's function ``recommend`` is the same.
``<id>`` below is int64 where all raw ids are whole numbers, else string.

For STAMP:

==================  =====  ===============  ============================================
input               dtype  shape
==================  =====  ===============  ============================================
``items``           <id>   ``(n_clicks,)``  the clicks, session after session, each
                                            oldest first
``lengths``         int32  ``(batch,)``     number of clicks of each session, 0 or more
``exclude_seen``    bool   ``()``           True excludes the items of a session
``k``               int32  ``()``           number of recommendations
==================  =====  ===============  ============================================

For MF:

==================  =====  ==============  =============================================
``users``           <id>   ``(batch,)``    the users to recommend for
``exclude_seen``    bool   ``()``          True excludes the items that a user has seen;
                                           an error unless ``save`` got ``seen``
``k``               int32  ``()``          number of recommendations
==================  =====  ==============  =============================================

Outputs, best first; ``k`` is at most the size of the catalogue:

==================  =======  ================  =========================================
``ids``             <id>     ``(batch, k)``
``scores``          float32  ``(batch, k)``    STAMP's scores, or ratings in stars
``unknown``         int32    ``(batch,)``      clicks (or users: 0 or 1) ignored because
                                               the model does not know them
==================  =======  ================  =========================================

SavedModel and ONNX hold the items' vectors as the model scores with them: normalised,
and with the vectors of their neighbours added, where the model does that.

Where no item is left, and for a session of unknown items or an unknown user, the score
is minus infinity and the id one that no item has: -1 or the empty string, unless that
is an item's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from lib import files, progress
from lib.errors import InputError, check_whole
from lib.hardware.tensorflow import tf, without_notes
from lib.serving.scorers import SessionScorer, scorer_for
from lib.serving.trained import Trained, match_ids

OPSET = 13  # of ONNX: an older one, because device compilers lag behind


@progress.timed("export as SavedModel")
def save(trained: Trained, folder: str | Path, seen: Any = None) -> Path:
    """Writes a SavedModel; the tables at the top of this module describe it.

    Args:
        trained: the model.
        folder: to write; a SavedModel there is replaced. A relative path starts at the
            repository's root.
        seen: MF: raw ids ``(user ids, item ids)`` of the ratings, each ``(n,)``, to be
            saved with the model; unknown ones are ignored.

    Returns:
        The path of the folder.

    Raises:
        InputError: the folder contains something else or cannot be written, or ``seen``
            is not as above.
    """
    folder = files.resolve(folder)
    if folder.exists() and not (folder / "saved_model.pb").is_file():
        raise InputError(
            f"{folder} exists and is not a SavedModel: choose a new folder."
        )
    module = Served(trained, seen)
    signatures = {"serving_default": module.recommend}
    with files.replace_whole(folder) as unfinished, without_notes():
        try:
            tf.saved_model.save(module, str(unfinished), signatures)
        except tf.errors.OpError as error:  # as TensorFlow reports a full disk
            raise OSError(error.message) from error
    return folder


@progress.timed("export to ONNX")
def save_onnx(trained: Trained, path: str | Path, k: int = 20) -> Path:
    """Writes an ONNX file that takes and returns item numbers, not raw ids.

    * in, STAMP: ``windows``, int32 ``(batch, maxlen)``: item numbers from 1, oldest
      click first, padded with 0 on the left; at least one click a row.
    * in, MF: ``users``, int32 ``(batch,)``: user numbers from 0.
    * out: ``numbers``, int32 ``(batch, k)``, of items, best first: from 1 for STAMP and
      from 0 for MF; ``scores``, float32 ``(batch, k)``.

    The raw ids, ``trained.item_ids``, are written beside the file as
    ``<name>.ids.json``: that of a number is at ``number - 1`` for STAMP, at ``number``
    for MF.

    Args:
        trained: the model.
        path: of the file; it is replaced. A relative path starts at the repository's
            root.
        k: number of recommendations, at most that of items; fixed in the file, since
            device compilers want fixed shapes.

    Returns:
        The path.

    Raises:
        InputError: ``k`` is not 1 or more, or the file cannot be written.
    """
    import tf2onnx  # slow, and only needed here

    path, scorer = files.resolve(path), scorer_for(trained)
    check_whole("k", k)
    spec = tf.TensorSpec([None], tf.int32, "users")
    if isinstance(scorer, SessionScorer):
        spec = tf.TensorSpec([None, scorer.maxlen], tf.int32, "windows")

    def rank(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        scores = scorer.scores(scorer.query(inputs))
        scores, columns = tf.math.top_k(scores, min(k, scorer.n_items))
        if isinstance(scorer, SessionScorer):
            return {"numbers": columns + 1, "scores": scores}
        return {"numbers": columns, "scores": scorer.stars(scores, inputs)}

    with without_notes():
        model, _ = tf2onnx.convert.from_function(
            tf.function(rank, autograph=False), input_signature=[spec], opset=OPSET
        )
    with files.replace_whole(path) as unfinished:
        unfinished.write_bytes(model.SerializeToString())
    ids = json.dumps(trained.item_ids.tolist())
    files.write_text(path.with_suffix(".ids.json"), ids + "\n")
    return path


class Served(tf.Module):
    """The SavedModel of a trained model; ``seen`` is that of ``save``."""

    def __init__(self, trained: Trained, seen: Any = None) -> None:
        super().__init__()
        self.scorer, self.items = scorer_for(trained), IdTable(trained.item_ids)
        answer: Callable = self._answer_sessions
        inputs = {"items": self.items.dtype, "lengths": tf.int32}
        if not isinstance(self.scorer, SessionScorer):
            self.users, self.is_without_seen = IdTable(trained.user_ids), seen is None
            self.seen_items, self.splits = _group_by_user(trained, seen or ((), ()))
            answer, inputs = self._answer_users, {"users": self.users.dtype}
        signature = [tf.TensorSpec([None], kind, name) for name, kind in inputs.items()]
        signature.append(tf.TensorSpec([], tf.bool, "exclude_seen"))
        signature.append(tf.TensorSpec([], tf.int32, "k"))
        self.recommend = tf.function(answer, input_signature=signature, autograph=False)

    def _answer_sessions(
        self,
        items: tf.Tensor,
        lengths: tf.Tensor,
        exclude_seen: tf.Tensor,
        k: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        n_clicks = tf.reduce_sum(lengths), tf.size(items)
        with _require(*n_clicks, "lengths must add up to the items", k):
            lengths = tf.identity(lengths)
        places = tf.RaggedTensor.from_row_lengths(self.items.look_up(items), lengths)
        known = tf.ragged.boolean_mask(places, places >= 0)
        numbers, n_known = known.flat_values + 1, known.row_lengths()
        scores, columns = self.scorer.find_best(numbers, n_known, exclude_seen, k)
        return self._name_outputs(scores, columns, lengths - n_known)

    def _answer_users(
        self, users: tf.Tensor, exclude_seen: tf.Tensor, k: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        lacks_seen = exclude_seen & self.is_without_seen
        with _require(lacks_seen, False, "the model was saved without seen", k):
            numbers = self.users.look_up(users)
        row = tf.where(exclude_seen & (numbers >= 0), numbers, len(self.splits) - 2)
        seen = tf.RaggedTensor.from_row_splits(self.seen_items, self.splits)
        seen = tf.gather(seen, row)
        pairs = tf.stack([seen.value_rowids(), seen.flat_values], axis=1)
        scores, columns = self.scorer.find_best(numbers, pairs, k)
        return self._name_outputs(scores, columns, tf.cast(numbers < 0, tf.int32))

    def _name_outputs(
        self, scores: tf.Tensor, columns: tf.Tensor, unknown: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        ids = tf.gather(self.items.raw, columns)
        return {"ids": ids, "scores": scores, "unknown": unknown}


def _require(found: tf.Tensor, needed: Any, message: str, k: tf.Tensor) -> Any:
    """A context whose operations fail unless ``found == needed`` and ``k > 0``."""
    is_equal = tf.debugging.assert_equal(found, needed, message)
    is_positive = tf.debugging.assert_positive(k, "k must be 1 or more")
    return tf.control_dependencies([is_equal, is_positive])


class IdTable(tf.Module):
    """Maps raw ids to positions and back, inside a graph."""

    def __init__(self, ids: np.ndarray) -> None:
        super().__init__()
        is_whole = ids.dtype.kind in "iu" and (not len(ids) or ids.max() < 2**63)
        ids = ids.astype(np.int64) if is_whole else ids.astype(str).astype(object)
        self.dtype = tf.int64 if is_whole else tf.string
        free = count(-1, -1) if is_whole else map("-".__mul__, count())
        no_id = next(each for each in free if each not in ids)
        self.raw = tf.constant([*ids.tolist(), no_id], self.dtype)
        positions = tf.range(len(ids))
        pairs = tf.lookup.KeyValueTensorInitializer(self.raw[:-1], positions)
        self.table = tf.lookup.StaticHashTable(pairs, -1)

    def look_up(self, raw: tf.Tensor) -> tf.Tensor:
        """Positions of raw ids, -1 for unknown ones: int32."""
        return self.table.lookup(raw)


def _group_by_user(trained: Trained, seen: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Item numbers, user after user, and where each user's begin: int32 both.

    The last user is nobody, without an item.
    """
    try:
        users, items = (np.asarray(ids) for ids in seen)
    except (TypeError, ValueError):
        users = items = np.zeros(())
    if users.ndim != 1 or users.shape != items.shape:
        raise InputError(
            "seen: pass two lists of the same length, the raw ids of users and those "
            "of the items that they have rated."
        )
    numbers = match_ids(trained.user_ids, users), match_ids(trained.item_ids, items)
    pairs = np.stack(numbers, axis=1)
    pairs = np.unique(pairs[(pairs >= 0).all(axis=1)], axis=0)
    splits = np.searchsorted(pairs[:, 0], np.arange(len(trained.user_ids) + 2))
    return tf.constant(pairs[:, 1]), tf.constant(splits, tf.int32)
