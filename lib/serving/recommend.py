"""Recommendations of a trained model: raw ids in, raw ids, scores and titles out.

Nothing but a ``lib.serving.trained.Trained`` is needed; the data stay where they are.
Unknown items of a session are ignored and reported.
"""

import gzip
import itertools
import os
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from lib import files
from lib.data import readers, sources, tables
from lib.errors import InputError
from lib.hardware.tensorflow import tf
from lib.models import stamp
from lib.serving import scorers

BATCH = 512  # sessions of a file that are scored at once
AT_ONCE = 2  # parts of a file: one is multiplied while another is searched
COUNTED = "sessions", "clicks", "ignored", "without_known_items"
SEPARATORS = " ", "\t", ","


@dataclass(frozen=True)
class Recommendations:
    """What one session or user is recommended, best first.

    Attributes:
        ids: raw ids, ``k`` of them, or fewer where no more items are left.
        scores: float32 ``(len(ids),)``: STAMP's scores, or ratings in stars.
        titles: a text for each id; the id itself where none is known.
        ignored: raw ids of the session that the model does not know.
    """

    ids: list
    scores: np.ndarray
    titles: list
    ignored: list

    def __str__(self):
        rows = zip(self.scores, self.titles)
        return "\n".join(f"{score:6.2f}  {title}" for score, title in rows)


def recommend(trained, who, k=10, exclude_seen=False, seen=None, titles=None):
    """The best ``k`` items for one session or one user.

    Args:
        trained: a ``lib.serving.trained.Trained``.
        who: STAMP: a session, raw ids, oldest click first, of any length. MF: the raw
            id of a user.
        k: how many, 1 or more; more than there are gives all.
        exclude_seen: True leaves out what the session holds, or what the user has seen.
        seen: MF: raw ids that the user has rated, wanted with ``exclude_seen``, since a
            model does not keep who rated what; unknown ones are ignored.
        titles: raw id -> text, for example from ``titles``.

    Returns:
        ``Recommendations``.

    Raises:
        InputError: the model knows no item of the session, or not the user; ``k`` or
            ``seen`` is not as above.
    """
    _check(k, exclude_seen, seen)
    scorer, number = scorers.of(trained), numbers(trained.item_ids)
    if isinstance(scorer, scorers.SessionScorer):
        known, ignored = _known(trained, number, who)
        items = tf.constant([number[raw] + 1 for raw in known], tf.int32)
        found = scorer.best(items, tf.constant([len(known)]), exclude_seen, k)
    else:
        if exclude_seen and seen is None:
            raise InputError(
                f"exclude_seen=True: {trained.source} does not keep who rated what; "
                "give the raw ids that the user has rated as seen."
            )
        user = _position(numbers(trained.user_ids), who)
        if user is None:
            raise InputError(
                f"user {_raw(who)!r}: {trained.source} does not know this id; "
                f"{_some(trained.user_ids)}."
            )
        seen = [_position(number, raw) for raw in (seen if exclude_seen else ())]
        pairs = [[0, item] for item in seen if item is not None]
        pairs, ignored = np.reshape(pairs, [-1, 2]).astype(np.int32), []
        found = scorer.best(tf.constant([user]), tf.constant(pairs), k)
    scores, columns = (array.numpy()[0] for array in found)
    columns = columns[columns < scorer.n_items]
    ids = trained.item_ids[columns].tolist()
    shown = [(titles or {}).get(raw, str(raw)) for raw in ids]
    return Recommendations(ids, scores[: len(ids)], shown, ignored)


def attention(trained, session):
    """How much each click of a session's window counts for STAMP, equation (7).

    Args:
        trained: a ``lib.serving.trained.Trained`` of a STAMP with attention.
        session: raw ids, oldest click first.

    Returns:
        ``(ids, weights)``: the known clicks that the window holds, and their ``a_i``,
        float32. They need not be positive, nor sum to 1.

    Raises:
        InputError: the model has no attention, or knows no item of the session.
    """
    if not getattr(trained.model, "attention", False):
        raise InputError(
            f"{trained.source} has no attention: take a STAMP of variant paper or "
            "normalized."
        )
    number = numbers(trained.item_ids)
    known = _known(trained, number, session)[0][-trained.maxlen :]
    window = tf.constant([[number[raw] + 1 for raw in known]], tf.int32)
    x, real = trained.model.look_up(window)
    m_s = tf.reduce_mean(x, 1)  # there is no padding
    weights = trained.model.attend(x, real, m_s, x[:, -1, :])
    return known, weights.numpy()[0, :, 0]


def categories(data_path):
    """Categories of items where the data have them: ``{raw id: category}``, both texts.

    Args:
        data_path: see ``sessions.load``; a table has none.
    """
    if tables.is_table(data_path):
        return {}
    source = sources.find(sources.DIGINETICA, data_path)
    table = readers.read_side_file(source, "product-categories.csv")
    return {} if table is None else dict(table.to_numpy().tolist())


def titles(trained, data_path):
    """Texts for items, where the data have them: ``{raw id: text}``.

    Movies have a title and genres, items of Diginetica a category; a table of one's own
    has neither.

    Args:
        trained: a ``lib.serving.trained.Trained``.
        data_path: see ``lib.data.sources``; or a table.
    """
    if isinstance(trained.model, stamp.STAMP):
        rows = categories(data_path).items()
        texts = {raw: f"item {raw} (category {category})" for raw, category in rows}
    elif tables.is_table(data_path):
        return {}
    else:
        source = sources.find(sources.MOVIELENS, data_path)
        columns = ["item", "title", "genres"]
        table = readers.read_side_file(source, "movies.dat", columns)
        rows = () if table is None else table.to_numpy().tolist()
        texts = {raw: f"{title} [{genres}]" for raw, title, genres in rows}
    ids = {str(raw): raw for raw in trained.item_ids.tolist()}
    return {ids[raw]: text for raw, text in texts.items() if raw in ids}


def recommend_file(trained, sessions, output, k=10, exclude_seen=False):
    """Recommends for every session of a file; memory does not grow with the file.

    ``sessions`` is UTF-8 text, plain or ``.gz``: a session a line, oldest click first,
    raw ids separated by blanks, tabs or commas. ``output`` has a line for each, in the
    same order: ``id:score`` after ``id:score``, best first, separated by blanks. The
    line of a session without any known item is empty. It is written under a temporary
    name and renamed when it is whole, and packed where its name ends in ``.gz``.

    Args:
        trained: a ``lib.serving.trained.Trained`` of a STAMP.
        sessions, output: paths; relative ones start at the repository's root.
        k, exclude_seen: see ``recommend``.

    Returns:
        What was counted: ``sessions``, ``clicks``, those of them ``ignored`` because
        the item is unknown, and sessions ``without_known_items``.

    Raises:
        InputError: a file cannot be read or written, both are the same, the model is no
            STAMP, or its ids hold separators.
    """
    _check(k, exclude_seen)
    if not isinstance(trained.model, stamp.STAMP):
        raise InputError(
            f"{trained.source} is no STAMP, and a file of sessions needs one: use "
            "recommend for users."
        )
    names = trained.item_ids.astype(str)
    if any(np.char.count(names, separator).any() for separator in SEPARATORS):
        raise InputError(
            f"{trained.source}: some raw ids hold blanks or commas, which separate the "
            "ids of a line: use recommend."
        )
    sessions, output = files.resolve(sessions), files.resolve(output)
    if output.exists() and sessions.exists() and output.samefile(sessions):
        raise InputError(
            f"{output} is the file of sessions itself: give another output, or the "
            "sessions would be lost."
        )
    names = names.astype(object)
    number = {name: row for row, name in enumerate(names.tolist(), 1)}
    scorer = scorers.of(trained)
    best = tf.function(
        lambda items, lengths: scorer.best(items, lengths, exclude_seen, k),
        input_signature=[tf.TensorSpec([None], tf.int32)] * 2,
    )

    def answer(lines):
        """The text for a part of the file, and what was counted in it."""
        clicks = [line.replace(",", " ").split() for line in lines]
        known = [[number[raw] for raw in row if raw in number] for row in clicks]
        lengths = [len(row) for row in known]
        items = np.fromiter(itertools.chain.from_iterable(known), np.int32)
        found = best(tf.constant(items), tf.constant(lengths, tf.int32))
        n_clicks = sum(map(len, clicks))
        counts = len(lines), n_clicks, n_clicks - sum(lengths), lengths.count(0)
        return _lines(*(array.numpy() for array in found), names), counts

    total = np.zeros(4, int)
    with written(output) as write, ThreadPoolExecutor(AT_ONCE) as pool:
        running = deque()
        for lines in itertools.chain(parts(sessions, BATCH), [None]):
            if lines:
                running.append(pool.submit(answer, lines))
            while len(running) > (AT_ONCE if lines else 0):
                text, counts = running.popleft().result()
                write(text)
                total += counts
    return dict(zip(COUNTED, total.tolist()))


def _lines(scores, columns, names):
    """A line of ``id:score`` for each row; columns beyond ``names`` are left out."""
    held = (columns < len(names)).sum(axis=1).tolist()
    pairs = np.empty((len(columns), 2 * columns.shape[1]), object)
    pairs[:, ::2] = names[np.minimum(columns, len(names) - 1)]
    pairs[:, 1::2] = scores.tolist()
    forms = {n: " ".join(["%s:%.4f"] * n) + "\n" for n in set(held)}
    rows = zip(held, pairs.tolist())
    return "".join([forms[n] % tuple(row[: 2 * n]) for n, row in rows])


def numbers(ids):
    """``{raw id: position}``."""
    return {raw: number for number, raw in enumerate(ids.tolist())}


def _known(trained, number, session):
    """The known raw ids of a session, and the ignored ones."""
    if isinstance(session, (str, bytes)) or not np.iterable(session):
        raise InputError(
            f"session={session!r}: give a list of raw ids, oldest click first, for "
            f"example {trained.item_ids[:2].tolist()}."
        )
    session = [_raw(raw) for raw in session]
    if not session:
        raise InputError("the session is empty: give at least one raw id.")
    known = [raw for raw in session if _position(number, raw) is not None]
    if not known:
        raise InputError(
            f"none of the {len(session)} items of this session, such as "
            f"{session[0]!r}, is known to {trained.source}: {_some(trained.item_ids)}."
        )
    return known, [raw for raw in session if _position(number, raw) is None]


def _position(number, raw):
    """The position of a raw id; None for an unknown one and for what is no id."""
    raw = _raw(raw)
    return number.get(raw) if isinstance(raw, (int, float, str)) else None


def _raw(value):
    """A raw id as Python has it, whichever array it came from."""
    return value.item() if isinstance(value, np.generic) else value


def _some(ids):
    listed = ", ".join(map(repr, ids[:3].tolist()))
    return f"it was trained on {len(ids):,} ids such as {listed}"


def _check(k, exclude_seen, seen=None):
    if type(k) is not int or k < 1:
        raise InputError(f"k={k!r}: give a whole number, 1 or more.")
    if type(exclude_seen) is not bool:
        raise InputError(f"exclude_seen={exclude_seen!r}: give True or False.")
    if seen is not None and (isinstance(seen, str) or not np.iterable(seen)):
        raise InputError(f"seen={seen!r}: give a list of raw ids.")


def parts(path, size):
    """Yields lists of up to ``size`` lines of a text file, plain or ``.gz``.

    Bytes that are no UTF-8 are read as a character of their own, which no id holds.

    Args:
        path: a ``pathlib.Path``.
        size: lines that are in memory at once.

    Raises:
        InputError: the file cannot be read, is cut short or is no text.
    """
    try:
        with _open(path, path, "rt", encoding="utf-8-sig", errors="replace") as lines:
            while part := list(itertools.islice(lines, size)):
                if any("\0" in line for line in part):
                    raise InputError(
                        f"{path} is no text file, it holds zero bytes: give one that "
                        "holds a session a line."
                    )
                yield part
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{path} is cut short or is not a gzip file ({error}): copy it again."
        ) from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): give a text file that holds a "
            "session a line."
        ) from None


@contextmanager
def written(path):
    """Writes a text file under a temporary name; renamed when the block ends well.

    Args:
        path: a ``pathlib.Path``; packed where it ends in ``.gz``.

    Yields:
        ``write(text)``.

    Raises:
        InputError: it cannot be written.
    """
    unfinished = path.with_name(path.name + ".unfinished")

    def write(text):
        with writing(path):
            file.write(text)

    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = _open(unfinished, path, "wt", encoding="utf-8", newline="\n")
        with file:
            yield write
            with writing(path):
                file.close()
        with writing(path):
            with open(unfinished, "rb") as whole:
                os.fsync(whole.fileno())
            unfinished.replace(path)
    finally:
        if unfinished.exists():
            unfinished.unlink()


def _open(path, named, mode, **options):
    """Opens ``path``, with gzip where the name ``named`` says so."""
    if named.suffix == ".gz":
        level = {"compresslevel": 6} if mode == "wt" else {}
        return gzip.open(path, mode, **level, **options)
    return open(path, mode, **options)


@contextmanager
def writing(path):
    """Turns an OSError inside the block into an InputError that says what to do."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}): give a place that you may "
            "write to, on a disk with room."
        ) from None
