"""The embedded sample: reproducible, small, and with the quirks of the real data."""

import gzip
import hashlib
import shutil
import time

import make_sample
import numpy as np
import pandas as pd
import pytest

from lib.data import noise_floor, sources

# Of all unpacked files: a change of the bytes is a new data set, so the outputs of
# the notebooks and the published figures of the sample change with it.
SHA256 = "008ccda94c02c07b62826d0c1c815d8b1d3b224485fd8e715537691d4baa5725"

HEADERS = {
    "train-item-views.csv": "sessionId;userId;itemId;timeframe;eventdate",
    "product-categories.csv": "itemId;categoryId",
    "products.csv": "itemId;pricelog2;product.name.tokens",
    "train-clicks.csv": "queryId;timeframe;itemId",
    "train-purchases.csv": "sessionId;userId;timeframe;eventdate;ordernumber;itemId",
    "train-queries.csv": "queryId;sessionId;userId;timeframe;duration;eventdate;"
    "searchstring.tokens;categoryId;items;is.test",
}
HEADER = 10  # bytes at the start of a .gz file without a name
N_FIELDS = {"ratings.dat": 4, "movies.dat": 3, "users.dat": 5}


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def digest(folder):
    sha256 = hashlib.sha256()
    for path in files(folder):
        sha256.update(path.relative_to(folder).as_posix().encode() + b"\0")
        sha256.update(path.read_bytes())
    return sha256.hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    make_sample.write(folder)
    return folder


@pytest.fixture(scope="module")
def views(folder):
    path = folder / "diginetica" / "train-item-views.csv"
    return pd.read_csv(path, sep=";", keep_default_na=False)


@pytest.fixture(scope="module")
def ratings(folder):
    text = (folder / "movielens" / "ratings.dat").read_text()
    rows = [[int(field) for field in line.split("::")] for line in text.splitlines()]
    return pd.DataFrame(rows, columns=["user", "movie", "stars", "moment"])


def test_default_seed_gives_the_pinned_bytes_whatever_numpy_and_pandas(folder):
    assert digest(folder) == SHA256


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """All files that the tool makes, unpacked: both data sets and the next season."""
    whole = tmp_path_factory.mktemp("whole")
    shutil.copytree(folder, whole, dirs_exist_ok=True)
    make_sample.write_next_season(whole / "next_season.csv")
    return whole


def test_committed_files_are_what_the_tool_makes(whole):
    committed = {
        path: path.relative_to(sources.SAMPLE) for path in files(sources.SAMPLE)
    }
    made = {f"{path.relative_to(whole).as_posix()}.gz": path for path in files(whole)}
    assert {name.as_posix() for name in committed.values()} == set(made)
    differ = [
        name.as_posix()
        for path, name in committed.items()
        if gzip.decompress(path.read_bytes()) != made[name.as_posix()].read_bytes()
    ]
    assert not differ, "run tools/make_sample.py, and see what changed"


def test_packing_the_same_bytes_at_another_time_and_place_changes_nothing(
    whole, tmp_path, monkeypatch
):
    make_sample.pack(whole, tmp_path / "one")
    moved = shutil.copytree(whole, tmp_path / "elsewhere", copy_function=shutil.copy)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86_400)
    make_sample.pack(moved, tmp_path / "other")
    names = [path.relative_to(sources.SAMPLE) for path in files(sources.SAMPLE)]
    assert names == [p.relative_to(tmp_path / "one") for p in files(tmp_path / "one")]
    for name in names:
        one, other = ((tmp_path / x / name).read_bytes() for x in ("one", "other"))
        assert one == other, name
        # The deflated part depends on the zlib of this machine, the header does not.
        header = (sources.SAMPLE / name).read_bytes()[:HEADER]
        assert header == one[:HEADER], name
        assert header[3:8] == bytes(5), name  # no name, no time


def test_committed_files_are_smaller_than_600_kb():
    assert sum(path.stat().st_size for path in files(sources.SAMPLE)) < 600_000


def test_bytes_depend_on_the_seed_and_on_nothing_else(tmp_path):
    for number, (name, seed) in enumerate([("a", 5), ("b", 5), ("c", 6)]):
        np.random.seed(number)  # noqa: NPY002 - the global state must not matter
        make_sample.write(tmp_path / name, seed)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    for one, other in zip(files(tmp_path / "a"), files(tmp_path / "c")):
        assert one.read_bytes() != other.read_bytes(), one.name


def test_holds_the_raw_files_and_no_other(folder):
    names = [path.relative_to(folder).as_posix() for path in files(folder)]
    expected = [f"diginetica/{name}" for name in HEADERS]
    expected += [f"movielens/{name}" for name in N_FIELDS]
    assert names == sorted(expected)


@pytest.mark.parametrize("name", HEADERS)
def test_diginetica_file_has_the_true_header_and_full_rows(folder, name):
    lines = (folder / "diginetica" / name).read_text().splitlines()
    assert lines[0] == HEADERS[name]
    assert len(lines) > 100
    assert {line.count(";") for line in lines} == {lines[0].count(";")}


@pytest.mark.parametrize("name", N_FIELDS)
def test_movielens_file_has_no_header_and_full_rows(folder, name):
    lines = (folder / "movielens" / name).read_text("latin-1").splitlines()
    assert {len(line.split("::")) for line in lines} == {N_FIELDS[name]}
    assert all(line.split("::")[0].isdigit() for line in lines)


def test_rows_of_a_session_are_not_in_click_order(views):
    back = views["timeframe"].diff() < 0
    same = views["sessionId"].diff() == 0
    unsorted = views.loc[back & same, "sessionId"].nunique()
    longer = (views["sessionId"].value_counts() > 2).sum()
    assert unsorted > longer / 2


def test_time_frames_tie_within_a_session(views):
    assert views.duplicated(["sessionId", "timeframe"]).sum() > 100


def test_most_users_are_unknown_but_not_all(views):
    assert 0.5 < (views["userId"] == "NA").mean() < 0.9


def test_many_sessions_have_one_click(views):
    assert (views["sessionId"].value_counts() == 1).mean() > 0.1


def test_some_items_have_fewer_than_five_clicks(views):
    assert (views["itemId"].value_counts() < 5).sum() > 50


def test_some_items_of_the_last_week_were_never_seen_before(views):
    day = pd.to_datetime(views["eventdate"])
    late = day > day.max() - pd.Timedelta(days=7)
    often = views.loc[late, "itemId"].value_counts() >= 5  # the filters keep them
    assert set(often[often].index) - set(views.loc[~late, "itemId"])


def test_a_tenth_of_the_items_holds_far_more_than_a_tenth_of_the_clicks(views):
    clicks = views["itemId"].value_counts().to_numpy()  # most popular first
    assert clicks[: len(clicks) // 10].sum() > 0.3 * clicks.sum()


def test_item_numbers_have_gaps(views):
    assert views["itemId"].max() > 10 * views["itemId"].nunique()


def test_side_files_speak_of_the_items_and_sessions_of_the_views(folder, views):
    def column(file_name, name):
        return set(pd.read_csv(folder / "diginetica" / file_name, sep=";")[name])

    items, sessions = set(views["itemId"]), set(views["sessionId"])
    assert items <= column("products.csv", "itemId")
    assert items <= column("product-categories.csv", "itemId")
    assert column("train-purchases.csv", "itemId") <= items
    assert column("train-purchases.csv", "sessionId") <= sessions
    assert column("train-clicks.csv", "itemId") <= items
    queries = column("train-queries.csv", "queryId")
    assert column("train-clicks.csv", "queryId") <= queries


def test_movies_are_latin_1_and_not_utf_8(folder):
    raw = (folder / "movielens" / "movies.dat").read_bytes()
    assert "à" in raw.decode("latin-1")
    with pytest.raises(UnicodeDecodeError):
        raw.decode("utf-8")


def test_every_user_rates_twenty_movies_or_more_and_none_twice(ratings):
    assert ratings["user"].value_counts().min() >= 20
    assert not ratings.duplicated(["user", "movie"]).any()


def test_stars_are_the_whole_numbers_1_to_5(ratings):
    assert set(ratings["stars"]) == {1, 2, 3, 4, 5}


def test_ratings_of_a_user_are_not_in_order_of_time(ratings):
    back = (ratings["moment"].diff() < 0) & (ratings["user"].diff() == 0)
    assert back.mean() > 0.3


def test_movie_ids_have_gaps_and_ratings_name_known_movies_and_users(folder, ratings):
    def ids(name):
        lines = (folder / "movielens" / name).read_text("latin-1").splitlines()
        return [int(line.split("::")[0]) for line in lines]

    movies = ids("movies.dat")
    assert max(movies) > len(movies)
    assert movies == sorted(set(movies))
    assert set(ratings["movie"]) <= set(movies)
    assert set(ratings["user"]) <= set(ids("users.dat"))


def test_noise_floor_is_the_rmse_of_a_predictor_that_knows_the_truth(ratings):
    """The truth is simulated again and again; its mean is the best prediction."""
    score, _ = noise_floor.rating_model(np.random.RandomState(noise_floor.SEED + 1))
    movies = np.sort(ratings["movie"].unique())
    assert len(movies) == score.shape[1]
    truth = score[ratings["user"] - 1, np.searchsorted(movies, ratings["movie"])]
    rng = np.random.default_rng(0)
    best = np.zeros(len(ratings))
    n_worlds = 200
    for _ in range(n_worlds):
        noise = noise_floor.RATING_NOISE * rng.standard_normal(len(truth))
        best += np.clip(np.round(truth + noise), 1, 5) / n_worlds
    rmse = np.sqrt(np.mean((best - ratings["stars"]) ** 2))
    floor = noise_floor.rating_noise_floor(ratings["user"], ratings["movie"])
    assert floor == pytest.approx(rmse, rel=0.02)


def test_noise_floor_is_below_what_user_and_movie_means_reach(ratings):
    by_movie = ratings.groupby("movie")["stars"].transform("mean")
    by_user = ratings.groupby("user")["stars"].transform("mean")
    simple = by_movie + by_user - ratings["stars"].mean()
    rmse = np.sqrt(np.mean((simple - ratings["stars"]) ** 2))
    floor = noise_floor.rating_noise_floor(ratings["user"], ratings["movie"])
    assert floor < 0.95 * rmse
