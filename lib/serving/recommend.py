"""Recommendations of a trained model: raw ids in; raw ids, scores and titles out.

All of it needs only a ``lib.serving.trained.Trained``, not the data. Unknown items of a
session are ignored and reported.
"""

from __future__ import annotations

import gzip
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib import files, progress
from lib.data import readers, sources, tables
from lib.errors import InputError, check_choice, check_whole
from lib.hardware.tensorflow import tf
from lib.models import stamp
from lib.serving.scorers import SessionScorer, scorer_for
from lib.serving.trained import Trained, match_ids, write_id

BATCH = 512  # sessions of a file that are scored together
AT_ONCE = 8  # batches of a file that are read before any is written
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
        titles = (t if t.isprintable() else repr(t) for t in self.titles)
        rows = zip(self.scores, titles)
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
    _check(k, exclude_seen)
    scorer = scorer_for(trained)
    ignored: list = []
    if isinstance(scorer, SessionScorer):
        places, ignored = _match(trained, "session", session_or_user)
        lengths = tf.constant([len(places)])
        best = scorer.find_best(tf.constant(places + 1), lengths, exclude_seen, k)
    else:
        if exclude_seen and seen is None:
            raise InputError(
                f"exclude_seen=True: {trained.source} does not keep ratings; pass the "
                "raw ids that the user has rated as seen."
            )
        rated, _ = _match(trained, "seen", () if seen is None else seen)
        user, _ = _match(trained, "user", [np.asarray(session_or_user).tolist()])
        columns = rated if exclude_seen else rated[:0]
        pairs = np.stack([np.zeros_like(columns), columns], axis=1)
        best = scorer.find_best(tf.constant(user), tf.constant(pairs), k)
    scores, columns = (array.numpy()[0] for array in best)
    columns = columns[columns < scorer.n_items]
    ids = trained.item_ids[columns].tolist()
    texts = [(titles or {}).get(raw, str(raw)) for raw in ids]
    return Recommendations(ids, scores[: len(ids)], texts, ignored)


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
    numbers = 1 + _match(trained, "session", session)[0][-model.maxlen :]
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


@progress.timed("recommendation")
def recommend_file(
    trained: Trained,
    sessions: str | Path,
    output: str | Path,
    k: int = 10,
    exclude_seen: bool = False,
) -> dict[str, int]:
    """Recommends for every session of a file; memory does not grow with the file.

    Both files are JSON lines in UTF-8, plain or compressed if the name ends in ``.gz``.
    A line of ``sessions`` is ``{"session": [12, 7]}``, raw ids, oldest click first.
    ``output`` gets a line for each, in the same order: ``{"ids": [7, 31], "scores":
    [5.25, 4.5]}``, best first, to six digits; empty lists for a session without any
    known item. The file is written whole or not at all.

    Args:
        trained: a STAMP.
        sessions, output: paths; relative ones start at the repository's root.
        k, exclude_seen: see ``recommend``.

    Returns:
        Counts: ``sessions``, ``clicks``, those of them ``ignored`` because the item is
        unknown, and sessions ``without_known_items``.

    Raises:
        InputError: a file cannot be read or written, both are the same, a line is not
            as above, or the model is no STAMP.
    """
    _check(k, exclude_seen)
    scorer = scorer_for(trained, stamp.STAMP)
    source, target = files.resolve(sessions), files.resolve(output)
    if source.resolve() == target.resolve():
        raise InputError(
            f"{target} is the file of sessions itself: choose another output, or the "
            "sessions would be lost."
        )
    ids = trained.item_ids.tolist()
    index = {write_id(raw): number for number, raw in enumerate(ids, 1)}
    names = [json.dumps(raw) for raw in ids]
    find_best = tf.function(
        lambda items, lengths: scorer.find_best(items, lengths, exclude_seen, k),
        input_signature=[tf.TensorSpec([None], tf.int32)] * 2,
        autograph=False,
    )

    def answer(clicks: list[list]) -> tuple[str, list[int]]:
        numbers = [[index.get(write_id(raw)) for raw in row] for row in clicks]
        known = [[number for number in row if number] for row in numbers]
        lengths = [len(row) for row in known]
        items = np.fromiter(itertools.chain.from_iterable(known), np.int32)
        scores, columns = find_best(tf.constant(items), tf.constant(lengths, tf.int32))
        n_clicks = sum(map(len, clicks))
        counts = [len(clicks), n_clicks, n_clicks - len(items), lengths.count(0)]
        return _write_lines(scores.numpy(), columns.numpy(), names), counts

    total = np.zeros(len(COUNTS), int)
    with files.replace_whole(target) as unfinished, _open(unfinished, "wb") as file:
        for text, counts in _map_batches(answer, read_sessions(source)):
            file.write(text.encode())
            total += counts
    return dict(zip(COUNTS, total.tolist()))


def _map_batches(function: Callable, batches: Iterator) -> Iterator:
    """Applies a function to batches, two at a time, and yields the results in order."""
    with ThreadPoolExecutor(2) as pool:
        while group := list(itertools.islice(batches, AT_ONCE)):
            yield from pool.map(function, group)


def _write_lines(scores: np.ndarray, columns: np.ndarray, names: list[str]) -> str:
    """A line of JSON for each row, without the columns beyond the names."""
    lines, counts = [], (columns < len(names)).sum(axis=1).tolist()
    for row, values, n in zip(columns.tolist(), scores.tolist(), counts):
        ids = ", ".join([names[column] for column in row[:n]])
        strength = ", ".join([f"{value:.6g}" for value in values[:n]])
        lines.append(f'{{"ids": [{ids}], "scores": [{strength}]}}\n')
    return "".join(lines)


def read_sessions(path: Path, size: int = BATCH) -> Iterator[list[list]]:
    """Yields lists of up to ``size`` sessions of a file, see ``recommend_file``.

    Raises:
        InputError: the file cannot be read, or a line is no session.
    """
    try:
        with _open(path, "rb") as file:
            lines = ((n, line) for n, line in enumerate(file, 1) if line.strip())
            sessions = (_parse(line, f"{path}, line {n}") for n, line in lines)
            while batch := list(itertools.islice(sessions, size)):
                yield batch
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or error}): "
            "copy it again, or choose another file of sessions."
        ) from error


def _parse(line: bytes, where: str) -> list:
    try:
        session = json.loads(line)["session"]
    except (LookupError, RecursionError, TypeError, ValueError):
        session = None
    if type(session) is not list:
        raise InputError(
            f'{where}: expected {{"session": [...]}} with raw ids in JSON, oldest '
            f"click first, found {line[:60].decode(errors='replace')!r}."
        )
    return session


def _open(path: Path, mode: str) -> Any:
    """Opens a file, with gzip if its name ends in ``.gz``."""
    return gzip.open(path, mode, 6) if path.suffix == ".gz" else open(path, mode)


def _match(trained: Trained, name: str, wanted: Any) -> tuple[np.ndarray, list]:
    """Finds raw ids among those of the model's items, or users for ``"user"``.

    Returns:
        The places of those that are known, int32; and the others, as Python objects.

    Raises:
        InputError: they are no list, or none is known; ``"seen"`` may be unknown.
    """
    if isinstance(wanted, (str, bytes)) or not np.iterable(wanted):
        raise InputError(f"{name}={wanted!r}: pass a list of raw ids.")
    wanted = wanted.tolist() if hasattr(wanted, "tolist") else list(wanted)
    known = trained.user_ids if name == "user" else trained.item_ids
    places = match_ids(known, wanted)
    unknown = [raw for raw, place in zip(wanted, places) if place < 0]
    if len(unknown) == len(wanted) and name != "seen":
        what = "users asked for" if name == "user" else "items of this session"
        such = f", such as {unknown[0]!r}," if unknown else ""
        raise InputError(
            f"none of the {len(wanted)} {what}{such} is known to {trained.source}: it "
            f"was trained on {len(known):,} ids such as "
            f"{', '.join(map(repr, known[:3].tolist()))}."
        )
    return places[places >= 0], unknown


def _check(k: int, exclude_seen: bool) -> None:
    check_whole("k", k)
    check_choice("exclude_seen", exclude_seen, (True, False))
