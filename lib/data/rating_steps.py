"""The steps that number users and items and split ratings, as SQL.

The text runs on every engine of ``lib.data.engines``. It starts from the table
``ratings`` with the columns

- ``user, item``: raw ids, whole numbers or texts;
- ``rating``: in stars; ``timestamp``: Unix seconds, or 0;
- ``place``: position in the file.
"""

from __future__ import annotations

from lib.data.engines import Engine

# The splits that need no random generator, so that any engine can make them.
SPLITS = ("per_user_last", "global_time", "by_pair")
IN_TIME = "user_idx, timestamp, item_idx, place"
PRIME = 2**31 - 1


def number(engine: Engine) -> None:
    """Makes ``users`` and ``items``, raw ids with numbers from 0, and ``numbered``.

    ``numbered`` has the ratings with ``user_idx`` and ``item_idx`` in place of the raw
    ids.
    """
    for name in ("user", "item"):
        engine.table(
            f"{name}s",
            f"SELECT {name}, row_number() OVER (ORDER BY {name}) - 1 AS number "
            f"FROM (SELECT DISTINCT {name} FROM ratings) AS kinds",
        )
    engine.table(
        "numbered",
        "SELECT users.number AS user_idx, items.number AS item_idx, rating, timestamp, "
        "place FROM ratings JOIN users ON ratings.user = users.user "
        "JOIN items ON ratings.item = items.item",
    )


def split(
    engine: Engine,
    split: str,
    test_share: float,
    n_ratings: int,
    seed: int = 0,
    repeats: bool = True,
) -> str:
    """The numbered ratings with ``is_test``, 0 or 1; no rating's value matters.

    Args:
        engine: holds ``numbered``.
        split: ``"per_user_last"``: the last of each user by time; ``"global_time"``:
            the last of all by time; ``"by_pair"``: ratings drawn by a congruence of the
            numbers of user and item, so that a pair is in one part only.
        test_share: the test part's share of the ratings.
        n_ratings: their number.
        seed: of ``"by_pair"``.
        repeats: False if no user rated an item twice, which saves time.
    """
    if split == "per_user_last":
        kept = f"floor(CAST({1 - test_share!r} AS DOUBLE) * n + CAST(1e-9 AS DOUBLE))"
        parts = f"""SELECT *, CASE WHEN rank <= {kept} THEN 0 ELSE 1 END AS is_late
FROM (
    SELECT *, count(*) OVER (PARTITION BY user_idx) AS n, row_number() OVER (
        PARTITION BY user_idx ORDER BY timestamp, item_idx, place) AS rank
    FROM numbered) AS ranked"""
        return _keep_pairs(parts, repeats)
    if split == "global_time":
        n_train = n_ratings - int(round(test_share * n_ratings))
        return _keep_pairs(_split_by_time(engine, n_train), repeats)
    # Squares modulo a prime: products stay below 2**62.
    user, item = "CAST(user_idx AS BIGINT)", "CAST(item_idx AS BIGINT)"
    mixed = f"({user} * 48271 + {item} * 69621 + {seed * 16807 + 12345}) % {PRIME}"
    for step in (user, item):
        mixed = f"(({mixed}) * ({mixed}) % {PRIME} * 39373 + {step} + 1) % {PRIME}"
    return (
        f"SELECT *, CASE WHEN {mixed} < {int(test_share * PRIME)} THEN 1 ELSE 0 END "
        "AS is_test FROM numbered"
    )


def _split_by_time(engine: Engine, n_train: int) -> str:
    """The numbered ratings with ``is_late``, 0 for the first ``n_train`` by time.

    The ratings of each time are counted first, so that only those of the last time in
    training are sorted.
    """
    each = "SELECT timestamp, count(*) AS n FROM numbered GROUP BY timestamp"
    cut = engine.sql(f"""SELECT timestamp, CAST(total - n AS BIGINT) AS earlier
FROM (
    SELECT timestamp, n, sum(n) OVER (ORDER BY timestamp) AS total
    FROM ({each}) AS each_time) AS times
WHERE total >= {max(n_train, 1)} ORDER BY timestamp LIMIT 1""")
    last, earlier = map(int, cut.iloc[0] if len(cut) else (0, 0))
    return f"""SELECT numbered.*, CASE
    WHEN timestamp < {last} OR rank <= {n_train - earlier} THEN 0 ELSE 1 END AS is_late
FROM numbered LEFT JOIN (
    SELECT place AS tied, row_number() OVER (ORDER BY user_idx, item_idx, place) AS rank
    FROM numbered WHERE timestamp = {last}) AS ties
ON numbered.place = ties.tied"""


def _keep_pairs(parts: str, repeats: bool) -> str:
    """The late ratings form the test part.

    If a pair has early and late ratings, all of them go to training: else the model
    would know the answer.
    """
    is_test = "is_late"
    if repeats:
        is_test = "min(is_late) OVER (PARTITION BY user_idx, item_idx)"
    return f"SELECT *, {is_test} AS is_test\nFROM ({parts}) AS parts"


def order(split: str) -> str:
    """Returns the columns that order the rows of a part."""
    if split == "global_time":
        return "timestamp, user_idx, item_idx, place"
    return "place" if split == "modelzoo" else IN_TIME
