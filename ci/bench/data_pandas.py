"""The naive implementation that ``bash ci/bench.sh data`` compares with: pandas.

The whole log is one table in memory, as this project prepared data before it used an
engine. Called as ``data_pandas.py sessions|ratings LOG FOLDER LIMIT_GB``; it writes the
arrays that ``ci/prepare.sh`` writes. With more than the limit of address space, it ends
with a MemoryError rather than with a machine that swaps.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

TEST_DAYS, TEST_SHARE = 7, 0.2
MS_OF_DAY = 86_400_000


def read(path: str) -> pd.DataFrame:
    """Reads a log; pandas needs another package for Parquet, and DuckDB is one."""
    is_csv = path.endswith(".csv")
    return pd.read_csv(path) if is_csv else duckdb.read_parquet(path).df()


def count_occurrences(column: pd.Series) -> np.ndarray:
    """Counts for each row how many rows have its value."""
    codes, values = pd.factorize(column.to_numpy())
    return np.bincount(codes, minlength=len(values))[codes]


def drop_short_sessions(clicks: pd.DataFrame) -> pd.DataFrame:
    """Keeps the sessions of two clicks or more."""
    return clicks[count_occurrences(clicks["session"]) >= 2]


def prepare_sessions(clicks: pd.DataFrame) -> dict[str, np.ndarray]:
    """Runs the steps of ``protocol="srgnn"``; returns the arrays by name."""
    clicks = drop_short_sessions(clicks)
    clicks = clicks[count_occurrences(clicks["item"]) >= 5]
    clicks = drop_short_sessions(clicks)
    keys = [clicks[key].to_numpy() for key in ("time", "session")]
    clicks = clicks.iloc[np.lexsort(keys)]
    session, day = clicks["session"].to_numpy(), clicks["time"].to_numpy() // MS_OF_DAY
    codes, sessions = pd.factorize(session)
    last_day = np.zeros(len(sessions), np.int64)
    np.maximum.at(last_day, codes, day)
    last_day, cut = last_day[codes], day.max() - TEST_DAYS
    train, test = clicks[last_day < cut], clicks[last_day > cut]
    item_ids = np.unique(train["item"])
    test = drop_short_sessions(test[test["item"].isin(item_ids)])
    arrays = {"item_ids": item_ids}
    for part, table in (("train", train), ("test", test)):
        session, day = table["session"].to_numpy(), table["time"].to_numpy()
        first = np.flatnonzero(np.diff(session, prepend=session[:1] - 1))
        days = np.maximum.reduceat(day // MS_OF_DAY, first).astype("datetime64[D]")
        numbers = np.searchsorted(item_ids, table["item"]) + 1
        arrays[f"{part}_items"] = numbers.astype(np.int32)
        arrays[f"{part}_offsets"] = np.append(first, len(session))
        arrays[f"{part}_days"] = days
    return arrays


def prepare_ratings(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Splits ratings by time over all users; returns the arrays by name."""
    numbers = {}
    for name in ("user", "item"):
        codes, ids = pd.factorize(table.pop(name).to_numpy(), sort=True)
        numbers[f"{name}_ids"], numbers[f"{name}s"] = ids, codes.astype(np.int32)
    ratings = table.pop("rating").to_numpy(np.float32)
    keys = [numbers["items"], numbers["users"], table.pop("time").to_numpy()]
    order = np.lexsort(keys)
    n_train = len(order) - round(len(order) * TEST_SHARE)
    pairs = (numbers["users"] * np.int64(2**31) + numbers["items"])[order]
    is_test = np.arange(len(order)) >= n_train  # ratings of a pair stay together
    is_test[n_train:] = ~np.isin(pairs[n_train:], pairs[:n_train])
    arrays = {name: numbers[name] for name in ("user_ids", "item_ids")}
    for part, rows in (("train", order[~is_test]), ("test", order[is_test])):
        arrays[f"{part}_users"] = numbers["users"][rows]
        arrays[f"{part}_items"] = numbers["items"][rows]
        arrays[f"{part}_ratings"] = ratings[rows]
    return arrays


def main() -> None:
    """Prepares a log and writes the arrays."""
    kind, log, folder, limit = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_AS, (int(float(limit) * 1e9),) * 2)
    steps = {"sessions": prepare_sessions, "ratings": prepare_ratings}
    Path(folder).mkdir(parents=True)
    for name, array in steps[kind](read(log)).items():
        np.save(Path(folder, f"{name}.npy"), array)


if __name__ == "__main__":
    main()
