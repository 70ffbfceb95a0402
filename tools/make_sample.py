"""Make the embedded sample: both data sets in their raw formats, drawn from a seed.

The files have the quirks of the real ones, at a hundredth of their size. Numbers come
from ``numpy.random.RandomState``, whose streams never change between NumPy releases, so
every machine draws the same bytes. Run ``python tools/make_sample.py`` after a change
and commit ``lib/data/sample/``.
"""

import gzip
import tempfile
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from lib.data import sources
from lib.data.noise_floor import RATING_NOISE, SEED, rating_model

N_TOPICS = 40  # intents of shoppers; also the product categories
ITEMS_PER_TOPIC = 30  # half of them belong to a second topic as well
FIRST_DAY, N_DAYS = date(2016, 1, 1), 153  # the last day is 2016-06-01

GENRES = {
    "Action": ("Steel", "Thunder", "Last Stand"),
    "Comedy": ("Holiday", "Wedding", "Mix-Up"),
    "Drama": ("Letter", "Silence", "Harvest"),
    "Horror": ("Cellar", "Scream", "Hollow"),
    "Romance": ("Kiss", "Summer", "Promise"),
    "Sci-Fi": ("Orbit", "Android", "Galaxy"),
}
PLACES = (  # noqa: SIM905
    "Lisbon Oslo Havana Kyoto Geneva Dakar Boston Naples Lima Cairo "
    "Vienna Dublin Seville Tromso Odessa Quito Riga Malta Bergen Tunis"
).split()


def write(folder, seed=SEED):
    """Writes both data sets below ``folder``.

    Args:
        folder: a path; ``diginetica/`` and ``movielens/`` are made inside it.
        seed: the same seed gives the same bytes.
    """
    folder = Path(folder)
    _write_diginetica(folder / "diginetica", np.random.RandomState(seed))
    _write_movielens(folder / "movielens", np.random.RandomState(seed + 1))


def _zipf(n, exponent):
    weights = 1.0 / np.arange(1, n + 1) ** exponent
    return weights / weights.sum()


def _draw(rng, probabilities, size):
    """Draws indices by inverse CDF, from uniform numbers alone."""
    return np.searchsorted(np.cumsum(probabilities)[:-1], rng.random_sample(size))


def write_next_season(path, seed=SEED, renewed=0.3, n_sessions=5200):
    """Writes the clicks of the same shop a season later, as a table of another form.

    The topics are those of ``write``. A share of the items is replaced by new ones with
    new ids. The columns are ``visit, sku, clicked_at`` (ISO time).

    Args:
        path: of the ``.csv`` file.
        seed: that the sample was made from.
        renewed: share of the items that are new.
        n_sessions: visits.
    """
    raw_ids, topic_items = _shop(np.random.RandomState(seed))
    rng = np.random.RandomState(seed + 100)
    new = rng.random_sample(len(raw_ids)) < renewed
    raw_ids[new] = 900_001 + np.arange(new.sum())
    session, _, day, _, item, timeframe = _visits(rng, topic_items, n_sessions)
    start = np.datetime64(FIRST_DAY + timedelta(N_DAYS), "ms")
    clicked_at = start + day.astype("m8[D]") + timeframe.astype("m8[ms]")
    table = pd.DataFrame(
        {
            "visit": np.char.add("v", session.astype(str)),
            "sku": raw_ids[item],
            "clicked_at": np.datetime_as_string(clicked_at, unit="s"),
        }
    )
    _csv(table.sort_values(["clicked_at", "visit"]), Path(path), ",")


def _shop(rng):
    """Raw ids of the items, and the items of each topic, the popular ones first."""
    n_items = N_TOPICS * ITEMS_PER_TOPIC // 4 * 3
    raw_ids = 1000 + 37 * rng.permutation(n_items)  # gaps, in an order without meaning
    # A topic has 30 slots. Its first 15 items are its own; the other 15 it shares with
    # a second topic, so that one click alone does not reveal the shopper's topic.
    own = np.arange(N_TOPICS * 15).reshape(N_TOPICS, 15)
    shared = N_TOPICS * 15 + np.arange(N_TOPICS // 2 * 15)
    shared = rng.permutation(np.repeat(shared, 2)).reshape(N_TOPICS, 15)
    topic_items = np.concatenate([own, shared], axis=1)  # (topics, slots)
    for row in topic_items:
        row[:] = row[rng.permutation(ITEMS_PER_TOPIC)]  # popularity rank in the topic
    return np.concatenate([raw_ids, 500_001 + np.arange(158)]), topic_items


def _visits(rng, topic_items, n_sessions):
    """Clicks, session after session, by the numbers of sessions, days and items."""
    n_items = topic_items.max() + 1
    length = 1 + rng.geometric(0.3, n_sessions)
    length = np.where(rng.random_sample(n_sessions) < 0.25, 1, np.minimum(length, 40))
    starts = np.cumsum(length) - length
    session = np.repeat(np.arange(n_sessions), length)
    position = np.arange(length.sum()) - starts[session]
    n_clicks = len(session)

    weekday_share = np.array([1.2, 1.2, 1.1, 1.1, 1.0, 0.7, 0.7])  # Monday first
    day_share = weekday_share[(FIRST_DAY.weekday() + np.arange(N_DAYS)) % 7]
    day = _draw(rng, day_share / day_share.sum(), n_sessions)

    topic = _draw(rng, _zipf(N_TOPICS, 0.5), n_sessions)[session]
    stray = rng.random_sample(n_clicks) < 0.1  # a click on something else
    topic = np.where(stray, rng.randint(N_TOPICS, size=n_clicks), topic)
    item = topic_items[topic, _draw(rng, _zipf(ITEMS_PER_TOPIC, 0.8), n_clicks)]
    again = (rng.random_sample(n_clicks) < 0.15) & (position > 0)
    earlier = starts[session] + (rng.random_sample(n_clicks) * position).astype(int)
    item = np.where(again, item[earlier], item)
    rare = rng.random_sample(n_clicks) < 0.01  # items seen once or twice
    item = np.where(rare, n_items + rng.randint(150, size=n_clicks), item)
    launched = (day[session] >= N_DAYS - 7) & (rng.random_sample(n_clicks) < 0.08)
    item = np.where(launched, n_items + 150 + rng.randint(8, size=n_clicks), item)
    gap = rng.randint(0, 60, n_clicks) * 1000  # ms; 0 makes ties of the time frame
    timeframe = np.cumsum(gap)
    timeframe = timeframe - timeframe[starts[session]] + 500 * session % 90_000
    return session, position, day[session], topic, item, timeframe


def _write_diginetica(folder, rng, n_sessions=6500):
    folder.mkdir(parents=True)
    raw_ids, topic_items = _shop(rng)
    visits = _visits(rng, topic_items, n_sessions)
    session, position, day, topic, item, timeframe = visits
    n_clicks = len(session)
    days = np.array([str(FIRST_DAY + timedelta(d)) for d in range(N_DAYS)])
    user = np.where(rng.random_sample(n_sessions) < 0.7, 0, 1 + np.arange(n_sessions))
    user_text = np.where(user == 0, "NA", user.astype(str))

    views = pd.DataFrame(
        {
            "sessionId": session + 1,
            "userId": user_text[session],
            "itemId": raw_ids[item],
            "timeframe": timeframe,
            "eventdate": days[day],
        }
    )
    # Sessions stay together in the file, but their rows are not in click order.
    shuffled = np.lexsort((rng.random_sample(n_clicks), session))
    _csv(views.iloc[shuffled], folder / "train-item-views.csv")

    category = np.full(len(raw_ids), N_TOPICS + 1)
    for number, row in enumerate(topic_items):
        category[row[category[row] > N_TOPICS]] = number + 1
    products = pd.DataFrame({"itemId": raw_ids, "categoryId": category})
    _csv(products, folder / "product-categories.csv")
    tokens = [f"{a},{b}" for a, b in rng.randint(1, 900, (len(raw_ids), 2))]
    products = pd.DataFrame(
        {
            "itemId": raw_ids,
            "pricelog2": rng.randint(4, 14, len(raw_ids)),
            "product.name.tokens": tokens,
        }
    )
    _csv(products, folder / "products.csv")

    bought = rng.random_sample(n_clicks) < 0.02
    purchases = views[bought].assign(ordernumber=np.arange(bought.sum()) + 1)
    columns = ["sessionId", "userId", "timeframe", "eventdate", "ordernumber", "itemId"]
    _csv(purchases[columns], folder / "train-purchases.csv")
    searched = (position == 0) & (rng.random_sample(n_clicks) < 0.15)
    shown = [",".join(map(str, raw_ids[topic_items[t][:6]])) for t in topic[searched]]
    queries = pd.DataFrame(
        {
            "queryId": np.arange(searched.sum()) + 1,
            "sessionId": session[searched] + 1,
            "userId": user_text[session[searched]],
            "timeframe": timeframe[searched],
            "duration": rng.randint(50, 900, searched.sum()),
            "eventdate": days[day[searched]],
            "searchstring.tokens": rng.randint(1, 900, searched.sum()),
            "categoryId": topic[searched] + 1,
            "items": shown,
            "is.test": "FALSE",
        }
    )
    _csv(queries, folder / "train-queries.csv")
    clicked = queries[["queryId", "timeframe"]].assign(itemId=raw_ids[item[searched]])
    _csv(clicked, folder / "train-clicks.csv")


def _csv(table, path, separator=";"):
    # Not to_csv(lineterminator=...): older pandas has another name for it.
    lines = table.to_csv(sep=separator, index=False).splitlines()
    path.write_bytes(("\n".join(lines) + "\n").encode())


def _write_movielens(folder, rng):
    folder.mkdir(parents=True)
    score, genre = rating_model(rng)
    n_users, n_movies = score.shape
    movie_ids = np.sort(rng.permutation(400)[:n_movies]) + 1  # gaps, as in MovieLens
    popularity = rng.permutation(_zipf(n_movies, 0.6)) * n_movies
    rated = np.minimum(20 + rng.geometric(0.014, n_users), n_movies)  # at least 20 each
    noise = RATING_NOISE * rng.standard_normal(score.shape)
    stars = np.clip(np.floor(score + noise + 0.5), 1, 5).astype(int)
    wish = popularity * rng.random_sample(score.shape)  # who rates what
    rank = np.argsort(np.argsort(-wish, axis=1), axis=1)
    user, movie = np.nonzero(rank < rated[:, None])
    moment = 978_300_000 + 40_000 * rng.randint(0, 2000, n_users)[user]
    one_sitting = rng.random_sample(n_users) < 0.75
    days = 1 + 60 * rng.random_sample(n_users)  # the others come back
    span = np.where(one_sitting, 5_000, 86_400 * days)[user]  # s, from first to last
    moment = moment + (rng.random_sample(len(user)) * span // 20 * 20).astype(int)
    order = np.lexsort((rng.random_sample(len(user)), user))  # not in order of time
    rows = zip(user[order] + 1, movie_ids[movie[order]], stars[user, movie][order])
    lines = [f"{u}::{m}::{s}::{t}" for (u, m, s), t in zip(rows, moment[order])]
    _dat(lines, folder / "ratings.dat")

    names = list(GENRES)
    lines = []
    for number, movie_id in enumerate(movie_ids):
        words = GENRES[names[genre[number]]]
        title = f"{words[number // 6 % 3]} in {PLACES[number // 18 % len(PLACES)]}"
        title += ("", ": Part Two")[number // 18 >= len(PLACES) // 2]
        year = 1960 + number % 40
        lines.append(f"{movie_id}::{title} ({year})::{names[genre[number]]}")
    lines[7] = lines[7].replace(" in ", " à ")  # latin-1, as the real file is
    _dat(lines, folder / "movies.dat")
    ages = (1, 18, 25, 35, 45, 50, 56)
    people = zip(rng.randint(2, size=n_users), rng.randint(7, size=n_users))
    _dat(
        [
            f"{number}::{'FM'[sex]}::{ages[age]}::{number % 21}::{10_000 + number}"
            for number, (sex, age) in enumerate(people, 1)
        ],
        folder / "users.dat",
    )


def _dat(lines, path):
    path.write_bytes(("\n".join(lines) + "\n").encode("latin-1"))


def pack(folder, packed):
    """Writes every file below ``folder`` as ``.gz`` below ``packed``.

    The header of a packed file holds neither a time nor a name, so that packing the
    same bytes again changes nothing.
    """
    for path in sorted(folder.rglob("*.*")):
        target = packed / f"{path.relative_to(folder)}.gz"
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "wb") as file, gzip.GzipFile("", "wb", 9, file, 0) as stream:
            stream.write(path.read_bytes())


def main():
    with tempfile.TemporaryDirectory() as folder:
        write(folder)
        write_next_season(Path(folder) / "next_season.csv")
        pack(Path(folder), sources.SAMPLE)


if __name__ == "__main__":
    main()
