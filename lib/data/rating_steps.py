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
    split: str, test_share: float, n_ratings: int, seed: int = 0, repeats: bool = True
) -> str:
    """The numbered ratings with ``is_test``, 0 or 1; no rating's value matters.

    Args:
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
        return _by_rank(
            kept, "PARTITION BY user_idx ORDER BY timestamp, item_idx, place", repeats
        )
    if split == "global_time":
        n_train = str(n_ratings - int(round(test_share * n_ratings)))
        window = "ORDER BY timestamp, user_idx, item_idx, place"
        return _by_rank(n_train, window, repeats)
    # Squares modulo a prime: products stay below 2**62.
    user, item = "CAST(user_idx AS BIGINT)", "CAST(item_idx AS BIGINT)"
    mixed = f"({user} * 48271 + {item} * 69621 + {seed * 16807 + 12345}) % {PRIME}"
    for step in (user, item):
        mixed = f"(({mixed}) * ({mixed}) % {PRIME} * 39373 + {step} + 1) % {PRIME}"
    return (
        f"SELECT *, CASE WHEN {mixed} < {int(test_share * PRIME)} THEN 1 ELSE 0 END "
        "AS is_test FROM numbered"
    )


def _by_rank(last: str, window: str, repeats: bool) -> str:
    """The ratings after rank ``last`` of a window are for testing.

    With repeats, a rating of a pair that training has too is for training: else the
    model would know the answer.
    """
    is_test = f"CASE WHEN rank <= {last} THEN 0 ELSE 1 END"
    if repeats:
        is_test = f"min({is_test}) OVER (PARTITION BY user_idx, item_idx)"
    return f"""SELECT *, {is_test} AS is_test
FROM (
    SELECT *, count(*) OVER (PARTITION BY user_idx) AS n,
        row_number() OVER ({window}) AS rank
    FROM numbered) AS ranked"""


def order(split: str) -> str:
    """Returns the columns that order the rows of a part."""
    if split == "global_time":
        return "timestamp, user_idx, item_idx, place"
    return "place" if split == "modelzoo" else IN_TIME
