"""Made-up logs of any size for ``bash ci/bench.sh data``, written by DuckDB as SQL.

Rows are computed from their number alone, so a log is the same on every machine and is
written in bounded memory. Half of the rows are on items drawn by Zipf's law, the others
on items drawn evenly, so that logs of every size have the same catalogue.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

N_ITEMS, N_USERS_SHARE, DAYS = 40_000, 0.01, 150
MEAN_CLICKS = 5  # of a session; the shortest has 1
PRIME = 2**31 - 1  # of the arithmetic; numbers of sessions and users stay below
START = 1_451_606_400_000  # 2016-01-01, in ms
MEMORY = "500MB"

# uniform(x, salt): a number from 0 to 1 for the whole number x, without a pattern.
# scattered(x): another number for each x below PRIME, so that ids are in no order.
MACROS = f"""
CREATE MACRO mixed(x) AS (x * x + 69621 * x + 11) % {PRIME};
CREATE MACRO uniform(x, salt) AS
  mixed(mixed(mixed((x % {PRIME} * 48271 + salt * 16807) % {PRIME}))) / {PRIME}.0;
CREATE MACRO scattered(x) AS CAST(x AS BIGINT) * 48271 % {PRIME};
CREATE MACRO item(x, salt) AS scattered(CAST(floor(
  CASE WHEN uniform(x, salt) < 0.5 THEN uniform(x, salt + 1) * {N_ITEMS}
       ELSE pow({N_ITEMS}, uniform(x, salt + 1)) END) AS BIGINT) + 1);
"""
CLICKS = f"""
WITH sessions AS (
  SELECT i, 1 + CAST(floor(ln(1 - uniform(i, {{seed}})) / ln(1 - 1.0 / {MEAN_CLICKS}))
      AS BIGINT) AS n
  FROM range(1, {{rows}} // {MEAN_CLICKS} * 2 + 100) AS t(i)
), clicks AS (
  SELECT i, unnest(range(n)) AS k FROM sessions
)
SELECT scattered(i) AS session, item(i * 1000 + k, {{seed}} + 1) AS item,
  {START} + CAST(i * ({DAYS} * 86400000.0 / ({{rows}} / {MEAN_CLICKS})) AS BIGINT)
    + xor(k, 1) * 7000 AS time  -- rows of a session are not in the order of its clicks
FROM clicks LIMIT {{rows}}
"""
RATINGS = f"""
SELECT scattered(1 + CAST(floor(uniform(i, {{seed}}) * {{rows}} * {N_USERS_SHARE})
    AS BIGINT)) AS user,
  item(i, {{seed}} + 1) AS item,
  1 + CAST(floor(uniform(i, {{seed}} + 3) * 9) AS BIGINT) / 2.0 AS rating,
  {START} // 1000 + CAST(i * ({DAYS} * 86400.0 / {{rows}}) AS BIGINT) AS time
FROM range(1, {{rows}} + 1) AS t(i)
"""
KINDS = {"sessions": CLICKS, "ratings": RATINGS}


def write(kind: str, rows: int, path: Path, seed: int = 1) -> None:
    """Writes a log of clicks (``session, item, time``) or of ratings.

    Args:
        kind: ``"sessions"`` or ``"ratings"`` (``user, item, rating, time``).
        rows: of the log.
        path: of the file; its suffix, ``.parquet`` or ``.csv``, says the format.
        seed: another seed gives another log.
    """
    query = KINDS[kind].format(rows=rows, seed=seed)
    unfinished = path.with_name(f"unfinished-{path.name}")
    with duckdb.connect() as connection:
        connection.execute(f"SET memory_limit='{MEMORY}'")
        connection.execute(MACROS)
        connection.execute(
            f"COPY ({query}) TO '{unfinished}' (FORMAT {path.suffix[1:]})"
        )
    unfinished.replace(path)
