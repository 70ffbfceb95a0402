"""Recommendations of a trained model: raw ids in; raw ids, scores and titles out.

All of it needs only a ``lib.serving.trained.Trained``, not the data. Unknown items of a
session are ignored and reported.
"""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from lib import files
from lib.data import readers, sources, tables
from lib.errors import InputError, check_whole
from lib.hardware.tensorflow import tf
from lib.models import stamp
from lib.serving.scorers import SessionScorer, UserScorer, scorer_for
from lib.serving.trained import Trained

BATCH = 512  # sessions of a file that are scored together
AT_ONCE = 8  # batches of a file that are read before any is written
SEPARATORS = " ", "\t", ","
COUNTS = "sessions", "clicks", "ignored", "without_known_items"


@dataclass(frozen=True)
class Recommendations:
    """The recommendations for one session or user, best first.

    Attributes:
        ids: ``k`` raw ids, or fewer where no more items are left.
        scores: float32 ``(len(ids),)``: STAMP's scores, or ratings in stars.
        titles: a text for each id; the id itself where there is no title.
        ignored: raw ids of the session that the model does not know.
    """

    ids: list
    scores: np.ndarray
    titles: list[str]
    ignored: list

    def __str__(self) -> str:
        rows = zip(self.scores, self.titles)
        return "\n".join(f"{score:6.2f}  {title}" for score, title in rows)


def recommend(
    trained: Trained,
    session_or_user: Any,
    k: int = 10,
    exclude_seen: bool = False,
    seen: Iterable | None = None,
    titles: Mapping[Any, str] | None = None,
) -> Recommendations:
    """Recommends the best ``k`` items for one session or one user.

    Args:
        trained: the model.
        session_or_user: STAMP: a session, raw ids, oldest click first, of any length.
            MF: the raw id of a user.
        k: 1 or more; more than the catalogue has gives the whole catalogue.
        exclude_seen: True excludes the items of the session, or those that the user has
            seen.
        seen: MF: raw ids that the user has rated, needed with ``exclude_seen``, since a
            model does not keep ratings; unknown ones are ignored.
        titles: raw id -> text, for example from the function ``titles``.

    Raises:
        InputError: the model knows no item of the session, or not the user; ``k`` or
            ``seen`` is not as above.
    """
    _check(k, exclude_seen, seen)
    scorer = scorer_for(trained)
    ignored: list = []
    if isinstance(scorer, SessionScorer):
        numbers, ignored = _number_clicks(trained, session_or_user)
        lengths = tf.constant([len(numbers)])
        best = scorer.find_best(tf.constant(numbers), lengths, exclude_seen, k)
    else:
        best = _rank_for_user(trained, scorer, session_or_user, k, exclude_seen, seen)
    scores, columns = (array.numpy()[0] for array in best)
    columns = columns[columns < scorer.n_items]
    ids = trained.item_ids[columns].tolist()
    texts = [(titles or {}).get(raw, str(raw)) for raw in ids]
    return Recommendations(ids, scores[: len(ids)], texts, ignored)


def _rank_for_user(
    trained: Trained,
    scorer: UserScorer,
    user: Any,
    k: int,
    exclude_seen: bool,
    seen: Iterable | None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """See ``UserScorer.find_best``; for one raw id."""
    if exclude_seen and seen is None:
        raise InputError(
            f"exclude_seen=True: {trained.source} does not keep ratings; pass the raw "
            "ids that the user has rated as seen."
        )
    user_number = _find(index_ids(trained.user_ids), user)
    if user_number is None:
        raise InputError(
            f"user {_to_python(user)!r}: {trained.source} does not know this id; "
            f"{_give_examples(trained.user_ids)}."
        )
    index = index_ids(trained.item_ids)
    numbers = [_find(index, raw) for raw in (seen if exclude_seen and seen else ())]
    pairs = [[0, number] for number in numbers if number is not None]
    rated = tf.constant(np.reshape(pairs, [-1, 2]), tf.int32)
    return scorer.find_best(tf.constant([user_number]), rated, k)


def attention(trained: Trained, session: Iterable) -> tuple[list, np.ndarray]:
    """Returns the attention weight of each click of a session, equation (7) of STAMP.

    Args:
        trained: a STAMP with attention.
        session: raw ids, oldest click first.

    Returns:
        ``(ids, weights)``: the known clicks in the window, and their ``a_i``, float32.
        They need not be positive, nor sum to 1.

    Raises:
        InputError: the model has no attention, or knows no item of the session.
    """
    model = trained.model
    if not isinstance(model, stamp.STAMP) or not model.attention:
        raise InputError(
            f"{trained.source} has no attention: use a STAMP of variant paper or "
            "normalized."
        )
    numbers = _number_clicks(trained, session)[0][-model.maxlen :]
    x, mask = stamp.look_up(model.vectors(), numbers[None], model.scale)
    m_s = tf.reduce_mean(x, 1)  # there is no padding
    weights = stamp.attend(model.named_weights, x, mask, m_s, x[:, -1, :])
    return trained.item_ids[numbers - 1].tolist(), weights.numpy()[0, :, 0]


def categories(data_path: str) -> dict[str, str]:
    """Reads the categories of items where the data have them: raw id -> category.

    Args:
        data_path: see ``sessions.load``; a table has no categories.
    """
    if tables.is_table(data_path):
        return {}
    source = sources.find(sources.DIGINETICA, data_path)
    table = readers.read_side_file(source, "product-categories.csv")
    return {} if table is None else dict(table.to_numpy().tolist())


def titles(trained: Trained, data_path: str) -> dict[Any, str]:
    """Reads a text for each item where the data have one: raw id -> text.

    Movies have a title and genres, items of Diginetica a category; a user's own table
    has neither.

    Args:
        trained: the model whose items get a text.
        data_path: see ``lib.data.sources``; or a table.
    """
    texts = {}
    if isinstance(trained.model, stamp.STAMP):
        for raw, category in categories(data_path).items():
            texts[raw] = f"item {raw} (category {category})"
    elif not tables.is_table(data_path):
        source = sources.find(sources.MOVIELENS, data_path)
        columns = ["item", "title", "genres"]
        table = readers.read_side_file(source, "movies.dat", columns)
        for raw, title, genres in () if table is None else table.to_numpy().tolist():
            texts[raw] = f"{title} [{genres}]"
    ids = {str(raw): raw for raw in trained.item_ids.tolist()}
    return {ids[raw]: text for raw, text in texts.items() if raw in ids}


def recommend_file(
    trained: Trained,
    sessions: str | Path,
    output: str | Path,
    k: int = 10,
    exclude_seen: bool = False,
) -> dict[str, int]:
    """Recommends for every session of a file; memory does not grow with the file.

    ``sessions`` is UTF-8 text, plain or ``.gz``: a session a line, oldest click first,
    raw ids separated by blanks, tabs or commas. ``output`` gets a line for each, in the
    same order: ``id:score`` pairs, best first, separated by blanks. The line of a
    session without any known item is empty. The file is written whole or not at all,
    and compressed if its name ends in ``.gz``.

    Args:
        trained: a STAMP.
        sessions, output: paths; relative ones start at the repository's root.
        k, exclude_seen: see ``recommend``.

    Returns:
        Counts: ``sessions``, ``clicks``, those of them ``ignored`` because the item is
        unknown, and sessions ``without_known_items``.

    Raises:
        InputError: a file cannot be read or written, both are the same, the model is no
            STAMP, or its ids contain separators.
    """
    _check(k, exclude_seen)
    names = _check_names(trained)
    source, target = files.resolve(sessions), files.resolve(output)
    if target.exists() and source.exists() and target.samefile(source):
        raise InputError(
            f"{target} is the file of sessions itself: choose another output, or the "
            "sessions would be lost."
        )
    index = {name: number for number, name in enumerate(names, 1)}
    scorer: Any = scorer_for(trained)  # a SessionScorer
    find_best = tf.function(
        lambda items, lengths: scorer.find_best(items, lengths, exclude_seen, k),
        input_signature=[tf.TensorSpec([None], tf.int32)] * 2,
    )

    def answer(lines: list[str]) -> tuple[str, list[int]]:
        clicks = [line.replace(",", " ").split() for line in lines]
        numbers = [[index[raw] for raw in row if raw in index] for row in clicks]
        lengths = [len(row) for row in numbers]
        items = np.fromiter(itertools.chain.from_iterable(numbers), np.int32)
        best = find_best(tf.constant(items), tf.constant(lengths, tf.int32))
        scores, columns = (array.numpy() for array in best)
        n_clicks = sum(map(len, clicks))
        counts = [len(lines), n_clicks, n_clicks - len(items), lengths.count(0)]
        return _write_lines(scores, columns, names), counts

    total = np.zeros(len(COUNTS), int)
    with files.replace_whole(target) as unfinished, _open(unfinished, "wt") as file:
        for text, counts in _map_batches(answer, read_lines(source)):
            file.write(text)
            total += counts
    return dict(zip(COUNTS, total.tolist()))


def _map_batches(function: Callable, batches: Iterator) -> Iterator:
    """Applies a function to batches, two at a time, and yields the results in order."""
    with ThreadPoolExecutor(2) as pool:
        while group := list(itertools.islice(batches, AT_ONCE)):
            yield from pool.map(function, group)


def _check_names(trained: Trained) -> list[str]:
    """The raw ids as texts, if sessions of them can stand in a file."""
    if not isinstance(trained.model, stamp.STAMP):
        raise InputError(
            f"{trained.source} is no STAMP, and a file of sessions needs one: use "
            "recommend for users."
        )
    names = trained.item_ids.astype(str).tolist()
    if any(separator in name for name in names for separator in SEPARATORS):
        raise InputError(
            f"{trained.source}: some raw ids contain blanks or commas, which separate "
            "the ids of a line: use recommend."
        )
    return names


def _write_lines(scores: np.ndarray, columns: np.ndarray, names: list[str]) -> str:
    """A line of ``id:score`` pairs for each row, without the columns beyond the ids."""
    lines, n_items = [], len(names)
    for row, values in zip(columns.tolist(), scores.tolist()):
        pairs = zip(row, values)
        lines.append(" ".join([f"{names[c]}:{s:.4f}" for c, s in pairs if c < n_items]))
    return "\n".join([*lines, ""])


def read_lines(path: Path, size: int = BATCH) -> Iterator[list[str]]:
    """Yields lists of up to ``size`` lines of a text file, plain or ``.gz``.

    Bytes that are not UTF-8 become a replacement character, which no id contains.

    Raises:
        InputError: the file cannot be read, is truncated or is no text.
    """
    try:
        with _open(path, "rt") as file:
            while lines := list(itertools.islice(file, size)):
                if any("\0" in line for line in lines):
                    raise InputError(
                        f"{path} is no text file, it contains zero bytes: choose one "
                        "with a session a line."
                    )
                yield lines
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{path} is truncated or is not a gzip file ({error}): copy it again."
        ) from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): choose a text file with a "
            "session a line."
        ) from error


def _open(path: Path, mode: str) -> IO[str]:
    """Opens a text file in UTF-8, with gzip if its name ends in ``.gz``."""
    options: dict[str, Any] = {"encoding": "utf-8-sig", "errors": "replace"}
    if mode == "wt":
        options = {"encoding": "utf-8", "newline": "\n"}
    if path.suffix == ".gz":
        return cast(IO[str], gzip.open(path, mode, compresslevel=6, **options))
    return open(path, mode, **options)


def index_ids(ids: np.ndarray) -> dict[Hashable, int]:
    """Returns the position of each raw id in an array of ids."""
    return {raw: position for position, raw in enumerate(ids.tolist())}


def _number_clicks(trained: Trained, session: Any) -> tuple[np.ndarray, list]:
    """Item numbers, from 1, of the known clicks of a session; and the unknown ids."""
    if isinstance(session, (str, bytes)) or not np.iterable(session):
        raise InputError(
            f"session={session!r}: pass a list of raw ids, oldest click first, for "
            f"example {trained.item_ids[:2].tolist()}."
        )
    session = [_to_python(raw) for raw in session]
    if not session:
        raise InputError("the session is empty: pass at least one raw id.")
    index = index_ids(trained.item_ids)
    positions = [_find(index, raw) for raw in session]
    numbers = [position + 1 for position in positions if position is not None]
    if not numbers:
        raise InputError(
            f"none of the {len(session)} items of this session, such as "
            f"{session[0]!r}, is known to {trained.source}: "
            f"{_give_examples(trained.item_ids)}."
        )
    unknown = [raw for raw, position in zip(session, positions) if position is None]
    return np.array(numbers, np.int32), unknown


def _find(index: Mapping[Hashable, int], raw: Any) -> int | None:
    """The position of a raw id; None if it is unknown or cannot be an id."""
    raw = _to_python(raw)
    return index.get(raw) if isinstance(raw, (int, float, str)) else None


def _to_python(raw: Any) -> Any:
    """A raw id as a Python object, not a NumPy scalar."""
    return raw.item() if isinstance(raw, np.generic) else raw


def _give_examples(ids: np.ndarray) -> str:
    listed = ", ".join(map(repr, ids[:3].tolist()))
    return f"it was trained on {len(ids):,} ids such as {listed}"


def _check(k: int, exclude_seen: bool, seen: Iterable | None = None) -> None:
    check_whole("k", k)
    if type(exclude_seen) is not bool:
        raise InputError(f"exclude_seen={exclude_seen!r}: choose True or False.")
    if seen is not None and (isinstance(seen, str) or not np.iterable(seen)):
        raise InputError(f"seen={seen!r}: pass a list of raw ids.")
