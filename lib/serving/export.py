"""A trained model for others: a SavedModel that needs nothing but TensorFlow, and ONNX.

The SavedModel takes raw ids and returns raw ids. Its one signature is
``serving_default``; the function ``recommend`` of what ``tf.saved_model.load`` returns
is the same. ``<id>`` below is int64 where all raw ids are whole numbers, else string.

For STAMP:

==================  =====  ==============  =============================================
input               dtype  shape
==================  =====  ==============  =============================================
``items``           <id>   ``(n_clicks,)``  the clicks, session after session, each
                                           oldest first
``lengths``         int32  ``(batch,)``    how many of them each session has; 0 or more
``exclude_seen``    bool   ``()``          True leaves out what a session holds
``k``               int32  ``()``          how many are asked for
==================  =====  ==============  =============================================

For MF:

==================  =====  ==============  =============================================
``users``           <id>   ``(batch,)``    whom to recommend for
``exclude_seen``    bool   ``()``          True leaves out what the user has seen; only
                                           where ``seen`` was given to ``save``
``k``               int32  ``()``          how many are asked for
==================  =====  ==============  =============================================

Outputs, best first; ``k`` is at most the size of the catalogue:

==================  =======  ================  =========================================
``ids``             <id>     ``(batch, k)``
``scores``          float32  ``(batch, k)``    STAMP's scores, or ratings in stars
``unknown``         int32    ``(batch,)``      clicks (or users: 0 or 1) ignored because
                                               the model does not know them
==================  =======  ================  =========================================

Where no item is left, and for a session of unknown items or an unknown user, the score
is minus infinity and the id -1, or the empty text.
"""

import json
import shutil

import numpy as np

from lib import files
from lib.errors import InputError
from lib.hardware.tensorflow import no_notes, tf
from lib.serving import recommend, scorers

OPSET = 13  # of ONNX: not the newest, for compilers of devices lag behind


def save(trained, folder, seen=None):
    """Writes a SavedModel; the tables at the top of this module say what it takes.

    Args:
        trained: a ``lib.serving.trained.Trained``.
        folder: where to; a SavedModel that is there is replaced. A relative path starts
            at the repository's root.
        seen: MF: raw ids ``(user ids, item ids)`` of who has rated what, each ``(n,)``,
            to be kept with the model; unknown ones are ignored.

    Returns:
        The path of the folder.

    Raises:
        InputError: the folder holds something else or cannot be written, or ``seen``
            is not as above.
    """
    folder = files.resolve(folder)
    if folder.exists() and not (folder / "saved_model.pb").is_file():
        raise InputError(
            f"{folder} exists and is no SavedModel: give a folder that is not there."
        )
    module = module_of(trained, seen)
    unfinished = folder.with_name(folder.name + ".unfinished")
    signatures = {"serving_default": module.recommend}
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        with no_notes():
            tf.saved_model.save(module, str(unfinished), signatures)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    except (OSError, tf.errors.OpError) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise InputError(
            f"{folder} cannot be written ({error}): give a folder that you may write "
            "to, on a disk with room."
        ) from None
    return folder


def module_of(trained, seen=None):
    """What ``save`` writes, as a ``tf.Module``; see there."""
    scorer = scorers.of(trained)
    if isinstance(scorer, scorers.SessionScorer):
        return Sessions(trained, scorer)
    return Users(trained, scorer, seen)


def save_onnx(trained, path, k=20):
    """Writes an ONNX file: numbers in, numbers and scores out, no ids.

    * in, STAMP: ``windows``, int32 ``(batch, maxlen)``: item numbers from 1, oldest
      click first, padded with 0 on the left; at least one click a row.
    * in, MF: ``users``, int32 ``(batch,)``: user numbers from 0.
    * out: ``numbers``, int32 ``(batch, k)``, of items, best first: from 1 for STAMP and
      from 0 for MF; ``scores``, float32 ``(batch, k)``.

    A number's raw id stands in ``trained.item_ids``, which is written beside the file
    as ``<name>.ids.json``: at ``number - 1`` for STAMP, at ``number`` for MF.

    Args:
        trained: a ``lib.serving.trained.Trained``.
        path: of the file; it is replaced. A relative path starts at the repository's
            root.
        k: how many; part of the file, since compilers for devices want fixed shapes.

    Returns:
        The path.

    Raises:
        InputError: ``k`` is more than there are items, or the file cannot be written.
    """
    import tf2onnx  # slow, and nothing else needs it

    path, scorer = files.resolve(path), scorers.of(trained)
    if type(k) is not int or not 1 <= k <= scorer.n_items:
        raise InputError(
            f"k={k!r}: give a whole number from 1 to {scorer.n_items}, the number of "
            "items."
        )
    of_sessions = isinstance(scorer, scorers.SessionScorer)
    given = tf.TensorSpec([None], tf.int32, "users")
    if of_sessions:
        given = tf.TensorSpec([None, trained.maxlen], tf.int32, "windows")

    def ranked(asked):
        found, columns = tf.math.top_k(scorer.scores(scorer.query(asked)), k)
        if of_sessions:
            return {"numbers": columns + 1, "scores": found}
        return {"numbers": columns, "scores": scorer.stars(found, asked)}

    with no_notes():
        model, _ = tf2onnx.convert.from_function(
            tf.function(ranked), input_signature=[given], opset=OPSET
        )
    unfinished = path.with_name(path.name + ".unfinished")
    with recommend.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(model.SerializeToString())
        unfinished.replace(path)
    ids = json.dumps(trained.item_ids.tolist())
    files.write_text(path.with_suffix(".ids.json"), ids + "\n")
    return path


class Sessions(tf.Module):
    """STAMP as it is saved."""

    def __init__(self, trained, scorer):
        super().__init__()
        self.scorer, self.known = scorer, Ids(trained.item_ids)
        signature = [
            tf.TensorSpec([None], self.known.dtype, "items"),
            tf.TensorSpec([None], tf.int32, "lengths"),
            tf.TensorSpec([], tf.bool, "exclude_seen"),
            tf.TensorSpec([], tf.int32, "k"),
        ]
        self.recommend = tf.function(self._recommend, input_signature=signature)

    def _recommend(self, items, lengths, exclude_seen, k):
        fits = tf.debugging.assert_equal(
            tf.reduce_sum(lengths), tf.size(items), "lengths must add up to the items"
        )
        with tf.control_dependencies([fits, _positive(k)]):
            lengths = tf.identity(lengths)
        columns = self.known.numbers(items)
        is_known = columns >= 0
        batch = tf.shape(lengths)[0]
        row = tf.repeat(tf.range(batch), lengths)
        kept = tf.math.unsorted_segment_sum(tf.cast(is_known, tf.int32), row, batch)
        known = tf.boolean_mask(columns, is_known) + 1
        found = self.scorer.best(known, kept, exclude_seen, k)
        return self.known.answer(found, lengths - kept)


class Users(tf.Module):
    """MF as it is saved."""

    def __init__(self, trained, scorer, seen):
        super().__init__()
        self.scorer, self.known = scorer, Ids(trained.item_ids)
        self.people = Ids(trained.user_ids)
        signature = [tf.TensorSpec([None], self.people.dtype, "users")]
        if seen is not None:
            items, splits = _per_user(trained, seen)
            self.items, self.splits = tf.constant(items), tf.constant(splits)
            signature.append(tf.TensorSpec([], tf.bool, "exclude_seen"))
        signature.append(tf.TensorSpec([], tf.int32, "k"))
        function = self._recommend if seen is None else self._recommend_unseen
        self.recommend = tf.function(function, input_signature=signature)

    def _recommend(self, users, k):
        return self._answer(users, tf.zeros([0, 2], tf.int32), k)

    def _recommend_unseen(self, users, exclude_seen, k):
        user = tf.maximum(self.people.numbers(users), 0)
        first = tf.gather(self.splits, user)
        count = tf.where(exclude_seen, tf.gather(self.splits, user + 1) - first, 0)
        row = tf.repeat(tf.range(tf.shape(user)[0]), count)
        place = tf.range(tf.shape(row)[0]) - tf.repeat(tf.cumsum(count) - count, count)
        item = tf.gather(self.items, tf.repeat(first, count) + place)
        return self._answer(users, tf.stack([row, item], axis=1), k)

    def _answer(self, users, seen, k):
        with tf.control_dependencies([_positive(k)]):
            number = self.people.numbers(users)
        found = self.scorer.best(number, seen, k)
        return self.known.answer(found, tf.cast(number < 0, tf.int32))


def _positive(k):
    return tf.debugging.assert_positive(k, "k: give 1 or more")


class Ids(tf.Module):
    """Raw ids to positions and back, inside a graph."""

    def __init__(self, ids):
        super().__init__()
        whole = ids.dtype.kind in "iu" and (not len(ids) or ids.max() < 2**63)
        ids = ids.astype(np.int64) if whole else ids.astype(str).astype(object)
        none = -1 if whole else ""
        self.raw = tf.constant([*ids.tolist(), none], tf.int64 if whole else tf.string)
        self.dtype = self.raw.dtype
        positions = tf.range(len(ids))
        pairs = tf.lookup.KeyValueTensorInitializer(self.raw[:-1], positions)
        self.table = tf.lookup.StaticHashTable(pairs, -1)

    def numbers(self, raw):
        """Positions of raw ids, -1 for unknown ones: int32."""
        return self.table.lookup(raw)

    def answer(self, found, unknown):
        """The outputs of a signature, from what a scorer found."""
        scores, columns = found
        return {
            "ids": tf.gather(self.raw, columns),
            "scores": scores,
            "unknown": unknown,
        }


def _per_user(trained, seen):
    """Item numbers, user after user, and where each user's start: int32 both."""
    number = recommend.numbers(trained.item_ids)
    person = recommend.numbers(trained.user_ids)
    try:
        users, items = (np.asarray(ids).tolist() for ids in seen)
        assert len(users) == len(items)
        assert np.ndim(users) == np.ndim(items) == 1
    except (AssertionError, TypeError, ValueError):
        raise InputError(
            "seen: give two lists of the same length, the raw ids of users and of the "
            "items that they have rated."
        ) from None
    pairs = [
        (person[user], number[item])
        for user, item in zip(users, items)
        if user in person and item in number
    ]
    pairs = np.array(sorted(pairs), np.int32).reshape(-1, 2)
    users = np.arange(len(trained.user_ids) + 1)
    return pairs[:, 1], np.searchsorted(pairs[:, 0], users).astype(np.int32)
