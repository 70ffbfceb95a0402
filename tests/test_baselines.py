"""Baselines do what their names say, and give the known figures on the real data."""

import numpy as np
import pytest
from shared import examples

from lib.data import sessions
from lib.evaluation import session_baselines

TRAIN = examples([1, 2, 3], [1, 2], [2, 2, 4], [1, 5], [2, 1])


def scores(name, *prefixes, **options):
    fitted = session_baselines.SESSION_BASELINES[name](**options).fit(TRAIN, 6)
    return np.asarray(fitted.scores([np.array(p, np.int32) for p in prefixes]))


def test_pop_scores_by_training_clicks():
    np.testing.assert_array_equal(scores("POP", [3])[0], [4, 5, 1, 1, 1, 0])


def test_spop_puts_the_sessions_own_items_first_and_popularity_next():
    found = scores("S-POP", [4, 3, 3])[0]
    assert np.argsort(-found, kind="stable").tolist() == [2, 3, 1, 0, 4, 5]


def test_markov_counts_the_items_that_followed_the_last_click():
    np.testing.assert_array_equal(scores("Markov", [5, 2])[0], [1, 1, 1, 1, 0, 0])


def test_item_knn_is_the_cosine_of_shared_sessions():
    found = scores("Item-kNN", [3, 1])[0]
    # item 1 is in 4 sessions, 2 in 4, 3 in 1, 5 in 1; together 3, 1 and 1 times
    expected = [0, 3 / 4, 1 / 2, 0, 1 / 2, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    damped = scores("Item-kNN", [3, 1], damping=4)[0]
    np.testing.assert_allclose(damped[1], 3 / 8, rtol=1e-6)


def literal_session_knn(weights, k, sample):
    """The definition, session by session, the most recent first."""
    past = [set(s) for s in np.split(TRAIN.items, TRAIN.offsets[1:-1])][::-1]
    near = [s for s in past if s & weights.keys()][:sample]
    cosine = [sum(weights.get(i, 0) for i in s) / np.sqrt(len(s)) for s in near]
    best = sorted(range(len(near)), key=lambda n: -cosine[n])[:k]
    return [sum(cosine[n] for n in best if item in near[n]) for item in range(1, 7)]


@pytest.mark.parametrize("prefix", [[1], [1, 2], [4, 5], [6], [2, 2, 3]])
@pytest.mark.parametrize(("k", "sample"), [(100, 1000), (2, 3), (1, 1)])
def test_session_knn_lets_the_most_similar_recent_sessions_vote(prefix, k, sample):
    found = scores("SKNN", prefix, k=k, sample=sample)[0]
    alike = dict.fromkeys(prefix, 1)
    np.testing.assert_allclose(found, literal_session_knn(alike, k, sample), rtol=1e-6)


@pytest.mark.parametrize("prefix", [[1], [1, 2], [4, 5], [6], [2, 2, 3], [3, 2, 3]])
@pytest.mark.parametrize(("k", "sample"), [(100, 1000), (2, 3)])
def test_v_sknn_weighs_a_click_by_how_late_it_is(prefix, k, sample):
    found = scores("V-SKNN", prefix, [5], k=k, sample=sample)[0]
    late = {item: place / len(prefix) for place, item in enumerate(prefix, 1)}
    np.testing.assert_allclose(found, literal_session_knn(late, k, sample), rtol=1e-6)


def literal_decayed_knn(prefix, k, sample, days, prefix_decay, click_decay, repeats):
    """The definition, session by session and click by click."""
    past = [s.tolist() for s in np.split(TRAIN.items, TRAIN.offsets[1:-1])]
    holders = {i: [n for n in range(len(past)) if i in past[n]] for i in range(1, 7)}
    similarity = np.zeros(len(past))
    for item in set(prefix):
        distance = prefix[::-1].index(item)
        for n in holders[item][::-1][:sample]:  # the most recent ones
            idf = np.log(len(past) / len(holders[item]))
            similarity[n] += idf * np.exp(-distance / prefix_decay)
    near = similarity > 0
    similarity *= np.exp(-(len(past) - 1 - np.arange(len(past))) / days)
    scores = np.zeros(6)
    recent_first = [n for n in range(len(past))[::-1] if near[n]]
    for n in sorted(recent_first, key=lambda n: -similarity[n])[:k]:
        shared = next(item for item in prefix[::-1] if item in past[n])
        place = max(p for p, item in enumerate(past[n]) if item == shared)
        best = {}
        for p, item in enumerate(past[n]):
            vote = similarity[n] * np.exp(-abs(p - place) / click_decay)
            best[item] = max(vote, best.get(item, 0))
        for item, vote in best.items():
            scores[item - 1] += vote * (repeats if item in prefix else 1)
    return scores


@pytest.mark.parametrize(
    "prefix", [[1], [1, 2], [4, 5], [6], [2, 2, 3], [3, 2, 3], [6, 1, 6]]
)
@pytest.mark.parametrize(("k", "sample"), [(100, 1000), (2, 3), (3, 1)])
def test_vstan_weighs_age_distance_and_rarity(prefix, k, sample):
    options = {"k": k, "sample": sample, "days": 3.0, "prefix_decay": 1.5}
    options.update(click_decay=2.0, repeats=3.0)
    found = scores("VSTAN", [5, 2], prefix, **options)[1]
    expected = literal_decayed_knn(prefix, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("n_sessions", [1, 100])
def test_measuring_a_baseline_returns_its_metrics_and_its_cost(n_sessions):
    test = examples(*([1, 2, 3, 1] for _ in range(n_sessions)))
    found, cost = session_baselines.measure(
        session_baselines.SessionKnn, TRAIN, test, 6, k=2
    )
    assert found == session_baselines.evaluate(
        session_baselines.SessionKnn().fit(TRAIN, 6), test, k=2
    )
    assert set(cost) == {"fit_s", "evaluate_s"}


def test_evaluation_does_not_depend_on_the_batch():
    test = examples([1, 2, 3, 1], [2, 4], [5, 1, 2])
    fitted = session_baselines.ItemKnn().fit(TRAIN, 6)
    whole = session_baselines.evaluate(fitted, test, k=2)
    assert session_baselines.evaluate(fitted, test, k=2, batch_size=1) == whole


# The rows of the published tables and of independent measurements, in percent.
KNOWN = {
    "POP": (0.93, 0.21, 0.03),
    "S-POP": (21.08, 13.69, 0.1),
    "SKNN": (49.7, 17.4, 0.3),
    "V-SKNN": (51.6, 18.2, 0.4),
    "VSTAN": (53.2, 18.9, 0.4),
}


@pytest.fixture(scope="module")
def diginetica(real_data):
    return sessions.load(real_data / "diginetica")


@pytest.mark.parametrize("name", KNOWN)
def test_session_baselines_reach_the_known_rows_on_diginetica(diginetica, name):
    fitted = session_baselines.SESSION_BASELINES[name]().fit(
        diginetica.train, diginetica.n_items
    )
    found = session_baselines.evaluate(fitted, diginetica.test)
    hit_rate, reciprocal, tolerance = KNOWN[name]
    assert 100 * found["hr_at_20"] == pytest.approx(hit_rate, abs=tolerance)
    assert 100 * found["mrr_at_20"] == pytest.approx(reciprocal, abs=tolerance)
