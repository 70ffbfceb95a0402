"""Ranks are correct for any scores; RMSE and MAE follow their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.evaluation import metrics


def rank_of(scores, target=0):
    return metrics.ranks(np.array([scores], np.float32), np.array([target]))[0]


def test_best_item_has_rank_one_and_the_worst_the_last():
    assert rank_of([3, 1, 2]) == 1
    assert rank_of([1, 3, 2]) == 3


@pytest.mark.parametrize(
    ("rank", "hit", "reciprocal"), [(1, 1, 1), (20, 1, 1 / 20), (21, 0, 0)]
)
def test_the_cut_off_includes_k_and_excludes_k_plus_one(rank, hit, reciprocal):
    scores = np.arange(50, 0, -1)
    found = metrics.ranks(scores[None, :].astype(np.float32), np.array([rank - 1]))
    assert found[0] == rank
    assert metrics.ranking_metrics(found, (1, 20)).keys() == {
        f"{name}_at_{k}" for name in ("hr", "mrr") for k in (1, 20)
    }
    assert metrics.ranking_metrics(found, 20) == {
        "hr_at_20": hit,
        "mrr_at_20": reciprocal,
    }


def test_a_model_that_scores_all_items_alike_gets_the_middle_rank():
    assert rank_of([7] * 101) == 51


def test_ties_share_the_mean_rank_of_their_block():
    assert rank_of([5, 9, 5, 5, 1]) == 3  # places 2, 3 and 4


@pytest.mark.parametrize("scores", [[np.nan, 1, 2], [np.nan] * 3])
def test_a_score_that_is_not_a_number_loses(scores):
    assert rank_of(scores) == 3


@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=12).flatmap(
        lambda row: st.tuples(st.just(row), st.integers(0, len(row) - 1))
    )
)
def test_the_rank_is_the_mean_place_over_all_orders_of_ties(case):
    row, target = case
    higher = sum(score > row[target] for score in row)
    tied = sum(score == row[target] for score in row)
    places = range(higher + 1, higher + tied + 1)
    assert rank_of(row, target) == pytest.approx(np.mean(places))


def test_rmse_and_mae_of_known_misses():
    errors = metrics.rating_metrics(np.array([3, 5, 1]), np.array([3, 4, 3]))
    assert errors["rmse"] == pytest.approx(np.sqrt(5 / 3))
    assert errors["mae"] == pytest.approx(1.0)
