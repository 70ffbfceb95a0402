"""MovieLens' splits: which ratings each part of them may use."""

import random
from collections import Counter, defaultdict
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.data import ratings, readers
from lib.data.engines import DuckDB
from lib.errors import InputError

HONEST = [split for split in ratings.SPLITS if split != "modelzoo"]
SHARES = st.sampled_from([0.1, 0.2, 0.5, 0.8])


def table(rows):
    rows = np.array(rows, np.int64).reshape(-1, 4)
    return pd.DataFrame(rows, columns=["user", "item", "rating", "timestamp"])


ENGINE = DuckDB()  # one for all: a new one takes longer than what is tested


def prepare(rows, split="random", test_share=0.2, seed=0):
    ENGINE.register("ratings", table(rows).assign(place=np.arange(len(rows))))
    reading = readers.Reading("name", "sha256", len(rows))
    return ratings.prepare(ENGINE, reading, split, test_share, seed)


@st.composite
def logs(draw):
    """Ratings of 1 to 4 stars in any row order: gaps in the ids, ties of the time."""
    pairs = list(product([3, 5, 40, 900], range(1, 10)))
    drawn = draw(st.sets(st.sampled_from(pairs)))
    pairs = sorted(drawn) + [(7, item) for item in range(10, 30)]
    rng = random.Random(draw(st.integers(0, 2**32)))
    rows = [(u, i, rng.randint(1, 4), 1000 + rng.randint(0, 9)) for u, i in pairs]
    rng.shuffle(rows)
    return rows


def raw(data, part):
    """A part as raw rows ``(user, item, rating, timestamp)``."""
    users, items = data.user_ids[part.user_idx], data.item_ids[part.item_idx]
    columns = (users, items, part.rating.astype(int), part.timestamp)
    return list(zip(*(column.tolist() for column in columns)))


def arrays(part):
    return {name: values.tolist() for name, values in vars(part).items()}


def by_user(rows):
    groups = defaultdict(list)
    for row in rows:
        groups[row[0]].append(row)
    return groups


def in_time(row):
    """Order of time, ties by item."""
    return row[3], row[1]


# The parts


@pytest.mark.parametrize("split", ratings.SPLITS)
@given(rows=logs(), share=SHARES)
def test_parts_are_disjoint_and_together_everything(split, rows, share):
    data = prepare(rows, split, share)
    assert sorted(raw(data, data.train) + raw(data, data.test)) == sorted(rows)
    assert data.counts() == {
        "users": len({row[0] for row in rows}),
        "items": len({row[1] for row in rows}),
        "train_ratings": len(data.train),
        "test_ratings": len(data.test),
    }
    assert (np.diff(data.user_ids) > 0).all()
    assert (np.diff(data.item_ids) > 0).all()


@pytest.mark.parametrize("split", ["random", "global_time"])
@given(rows=logs(), share=SHARES)
def test_test_part_has_its_share_of_all_ratings(split, rows, share):
    data = prepare(rows, split, share)
    assert len(data.test) == round(share * len(rows))


@pytest.mark.parametrize("split", ["per_user_last", "modelzoo"])
@given(rows=logs())
def test_first_four_fifths_of_each_user_are_for_training_rounded_down(split, rows):
    data = prepare(rows, split, 0.2)
    kept = Counter(data.user_ids[data.train.user_idx].tolist())
    for user, group in by_user(rows).items():
        assert kept[user] == int(0.8 * len(group))


def test_rounding_is_that_of_the_published_port_for_any_number_of_ratings():
    counts = np.arange(1, 1001)
    columns = [np.repeat(counts, counts), np.arange(counts.sum())]
    rows = np.stack([*columns, columns[0] % 5 + 1, columns[1]], axis=1)
    data = prepare(rows, "modelzoo", 0.2)
    kept = np.bincount(data.train.user_idx, minlength=len(counts))
    assert kept.tolist() == [int(0.8 * int(count)) for count in counts]


@given(rows=logs(), share=SHARES)
def test_per_user_last_tests_the_last_of_each_user(rows, share):
    data = prepare(rows, "per_user_last", share)
    train, test = by_user(raw(data, data.train)), by_user(raw(data, data.test))
    for user in train.keys() & test.keys():
        assert max(map(in_time, train[user])) < min(map(in_time, test[user]))


@given(rows=logs(), share=SHARES)
def test_global_time_tests_the_last_of_all(rows, share):
    data = prepare(rows, "global_time", share)
    assert data.train.timestamp.max() <= data.test.timestamp.min()


@given(rows=logs(), share=SHARES)
def test_modelzoo_tests_the_last_of_each_user_in_the_order_of_the_file(rows, share):
    data = prepare(rows, "modelzoo", share)
    train, test = set(raw(data, data.train)), raw(data, data.test)
    for user, group in by_user(rows).items():
        n_kept = sum(row in train for row in group)
        assert all(row in train for row in group[:n_kept])
        assert [row for row in test if row[0] == user] == group[n_kept:]


@pytest.mark.parametrize("split", HONEST)
@given(rows=logs(), seed=st.integers(0, 99))
def test_row_order_of_the_file_does_not_matter(split, rows, seed):
    data = prepare(rows, split)
    random.Random(seed).shuffle(rows)
    again = prepare(rows, split)
    assert arrays(again.train) == arrays(data.train)
    assert arrays(again.test) == arrays(data.test)
    assert again.global_mean == data.global_mean


@pytest.mark.parametrize("split", ratings.SPLITS)
@given(rows=logs())
def test_same_seed_gives_the_same_parts(split, rows):
    one, other = prepare(rows, split, seed=3), prepare(rows, split, seed=3)
    assert arrays(one.train) == arrays(other.train)
    assert arrays(one.test) == arrays(other.test)


@pytest.mark.parametrize("split", ["random", "modelzoo"])
def test_other_seed_gives_another_order_or_part(split):
    rows = [(1, item, 3, 0) for item in range(50)]
    one, other = prepare(rows, split, seed=3), prepare(rows, split, seed=4)
    assert arrays(one.train) != arrays(other.train)


# Leaks


def with_higher_test_ratings(rows, data):
    test = {(user, item) for user, item, _, _ in raw(data, data.test)}
    return [(u, i, stars + ((u, i) in test), t) for u, i, stars, t in rows]


@pytest.mark.parametrize("split", HONEST)
@given(rows=logs(), share=SHARES)
def test_values_of_test_ratings_change_nothing_in_training(split, rows, share):
    data = prepare(rows, split, share)
    other = prepare(with_higher_test_ratings(rows, data), split, share)
    assert arrays(other.train) == arrays(data.train)
    assert other.global_mean == data.global_mean
    assert other.user_mean.tolist() == data.user_mean.tolist()
    assert (other.test.rating == data.test.rating + 1).all()


@given(rows=logs())
def test_modelzoo_leaks_test_ratings_into_user_means_and_nothing_else(rows):
    data = prepare(rows, "modelzoo")
    other = prepare(with_higher_test_ratings(rows, data), "modelzoo")
    assert arrays(other.train) == arrays(data.train)
    assert other.global_mean == data.global_mean
    assert (
        other.user_mean[data.test.user_idx] > data.user_mean[data.test.user_idx]
    ).all()


@pytest.mark.parametrize("split", ratings.SPLITS)
@given(rows=logs())
def test_means_are_those_of_training_and_in_modelzoo_of_all_rows(split, rows):
    data = prepare(rows, split)
    train = raw(data, data.train)
    assert data.global_mean == pytest.approx(np.mean([row[2] for row in train]))
    groups = by_user(rows if split == "modelzoo" else train)
    for user, mean in zip(data.user_ids.tolist(), data.user_mean.tolist()):
        stars = [row[2] for row in groups[user]]
        assert mean == pytest.approx(np.mean(stars) if stars else data.global_mean)


def test_user_without_a_training_rating_has_the_global_mean():
    rows = [(1, item, 2, 0) for item in range(10)] + [(2, 5, 5, 0)]
    data = prepare(rows, "per_user_last")
    assert data.test.user_idx.tolist().count(1) == 1
    assert data.global_mean == 2
    assert data.user_mean.tolist() == [2, 2]


@pytest.mark.parametrize("split", ratings.SPLITS)
@given(rows=logs())
def test_validation_is_a_piece_of_training_and_nothing_of_test(split, rows):
    data = prepare(rows, split)
    validation = data.validation()
    pieces = raw(data, validation.train) + raw(data, validation.test)
    assert sorted(pieces) == sorted(raw(data, data.train))
    assert len(validation.train)
    assert len(validation.test)
    other = prepare(with_higher_test_ratings(rows, data), split).validation()
    assert arrays(other.train) == arrays(validation.train)
    assert arrays(other.test) == arrays(validation.test)
    assert other.global_mean == validation.global_mean
    assert other.user_mean.tolist() == validation.user_mean.tolist()


@given(rows=logs())
def test_validation_is_cut_by_time_where_the_test_part_is(rows):
    cut = prepare(rows, "global_time").validation()
    assert cut.train.timestamp.max() <= cut.test.timestamp.min()
    cut = prepare(rows, "per_user_last").validation()
    train, test = by_user(raw(cut, cut.train)), by_user(raw(cut, cut.test))
    for user in train.keys() & test.keys():
        assert max(map(in_time, train[user])) < min(map(in_time, test[user]))


# Errors

ENOUGH = [(1, item, 3 + item % 2, item) for item in range(10)]


@pytest.mark.parametrize("split", ratings.SPLITS)
@pytest.mark.parametrize("share", [0, 1, -0.2, 1.5, 20, float("nan")])
def test_share_out_of_range_is_refused(split, share):
    with pytest.raises(InputError, match=f"test_share={share}: .* between 0 and 1"):
        prepare(ENOUGH, split, share)


def test_unknown_split_is_refused_with_those_allowed():
    with pytest.raises(InputError) as caught:
        prepare(ENOUGH, "by_hand")
    for part in ('split="by_hand"', *ratings.SPLITS):
        assert part in str(caught.value)


@pytest.mark.parametrize("split", ratings.SPLITS)
@pytest.mark.parametrize(
    ("rows", "share"),
    [([], 0.2), (ENOUGH[:1], 0.9), (ENOUGH, 0.99)],
    ids=["no rating", "one rating", "large share"],
)
def test_empty_training_part_is_refused(split, rows, share):
    with pytest.raises(InputError, match="name: .*leaves no training rating"):
        prepare(rows, split, share)


def test_empty_test_part_is_refused():
    with pytest.raises(InputError, match="name: .*leaves no test rating"):
        prepare(ENOUGH, "random", 0.01)


@pytest.mark.parametrize("split", ["random", "global_time"])
def test_validation_without_a_rating_is_refused(split):
    data = prepare(ENOUGH[:3], split, 0.2)
    assert len(data.train) == 2
    with pytest.raises(InputError, match="of 2 ratings leaves no test rating"):
        data.validation()


# Files


def test_load_finds_reads_and_prepares(tmp_path):
    lines = ["::".join(map(str, row)) for row in ENOUGH]
    (tmp_path / "ratings.dat").write_text("\n".join(lines))
    for split in ratings.SPLITS:
        loaded = ratings.load(tmp_path, split, 0.3, 5)
        expected = prepare(ENOUGH, split, 0.3, 5)
        assert arrays(loaded.train) == arrays(expected.train)
        assert (loaded.split, loaded.test_share, loaded.seed) == (split, 0.3, 5)
        assert loaded.name == tmp_path.name
        assert len(loaded.sha256) == 64


def test_real_movielens_gives_the_published_counts(real_data):
    data = ratings.load(real_data / "ml-1m")
    assert data.n_users == 6_040
    assert data.n_items == 3_706
    stars = np.concatenate([data.train.rating, data.test.rating])
    assert len(stars) == 1_000_209
    assert round(float(stars.mean(dtype=np.float64)), 6) == 3.581564
