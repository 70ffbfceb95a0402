"""Rows that are carried over keep their values; a folded-in row is the best one."""

import numpy as np
import pytest

from lib.data import ratings
from lib.errors import InputError
from lib.models import mf, stamp
from lib.serving import transfer
from lib.serving.trained import Trained


def made(model, item_ids, user_ids=()):
    model.build(None)
    ids = np.asarray(item_ids), np.asarray(user_ids)
    return Trained(model, *ids, source="a run")


@pytest.mark.parametrize("attention", [True, False])
def test_known_items_keep_their_vectors_and_all_layers_come_along(attention):
    old = made(stamp.STAMP(4, 6, 5, attention, seed=1), [10, 20, 30, 40])
    model, counts = transfer.carry_over(old, np.array([5, 20, 40, 50, 60]))
    assert counts == {"items": {"kept": 2, "new": 3, "dropped": 2}}
    new, before = np.asarray(model.embedding), np.asarray(old.model.embedding)
    np.testing.assert_array_equal(new[[1, 2]], before[[1, 3]])
    assert not np.isin(new[[0, 3, 4]], before).any()
    # A session of known items alone gets the same scores for known items.
    session = np.array([[0, 2, 4]], np.int32)  # items 20, 40 in the old numbers
    same = np.array([[0, 2, 3]], np.int32)  # and in the new ones
    np.testing.assert_allclose(
        model(same).numpy()[0, [1, 2]], old.model(session).numpy()[0, [1, 3]], rtol=1e-6
    )


def test_ids_are_matched_as_numbers_and_as_texts():
    known = np.array([10, 20, 30])
    assert transfer.match_ids(known, np.array(["20", "x", "10"])).tolist() == [1, -1, 0]
    assert transfer.match_ids(known, np.array([30, 7])).tolist() == [2, -1]


def test_nothing_in_common_is_refused():
    old = made(stamp.STAMP(2, 4), [1, 2])
    with pytest.raises(InputError, match="none of the 2 items is known to a run: it"):
        transfer.carry_over(old, np.array(["a", "b"]))


def test_users_and_items_of_mf_keep_their_rows():
    old = made(mf.MF(2, 3, 3.5, 4, scale=(0.5, 5.0)), [1, 2, 3], ["ann", "bo"])
    old.model.user_bias.assign([[0.5], [-0.5]])
    model, counts = transfer.carry_over(
        old, np.array([2, 9]), np.array(["bo", "cy"]), frozen=["items"]
    )
    assert counts["users"] == {"kept": 1, "new": 1, "dropped": 1}
    np.testing.assert_array_equal(model.user_bias, [[-0.5], [0.0]])
    np.testing.assert_array_equal(model.p[0], old.model.p[1])
    np.testing.assert_array_equal(model.q[0], old.model.q[1])
    assert model.scale == (0.5, 5.0)
    assert len(model.trainable_variables) == 2  # the users'


def predicted(model, pairs):
    return np.asarray(model(np.array(pairs, np.int32)))[:, 0]


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(
    ("own", "new"),
    [((1, 5), (0, 100)), ((0, 100), (1, 5)), ((1, 5), (1, 10)), ((1, 5), (0.5, 5))],
)
def test_ratings_of_another_scale_are_stretched_to_it(use_bias, own, new):
    old = made(mf.MF(4, 6, np.mean(own), 3, use_bias, scale=own), range(6), range(4))
    rng = np.random.default_rng(0)
    size = (own[1] - own[0]) ** 0.5
    old.model.set_weights([rng.normal(0, size / 3, w.shape) for w in old.model.weights])
    model, _ = transfer.carry_over(old, np.arange(6), np.arange(4), scale=new)
    pairs = [(user, item) for user in range(4) for item in range(6)]
    place = (predicted(old.model, pairs) - own[0]) / (own[1] - own[0])
    expected = new[0] + place * (new[1] - new[0])
    np.testing.assert_allclose(predicted(model, pairs), expected, rtol=1e-4, atol=1e-4)
    assert model.scale == new
    clipped = model.stars(np.array(pairs, np.int32)).numpy()
    assert new[0] <= clipped.min() < clipped.max() <= new[1]


@pytest.mark.parametrize("new", [(1.0, 5.0), (0.0, 100.0)])
def test_a_user_folded_into_carried_samples_is_one_folded_into_the_trained_ones(new):
    rng = np.random.default_rng(3)
    old = made(mf.SampledMF(4, 6, 3.0, 2, samples=3), range(6), range(4))
    for place in range(2):
        rows = rng.normal(0, 0.5, (4, 3)), rng.normal(0, 0.5, (6, 3))
        root = rng.normal(size=(3, 3))
        old.model.keep(place, *rows, root @ root.T + np.eye(3), rng.normal(size=3), 4.0)
    model, _ = transfer.carry_over(old, np.arange(6), np.arange(4), scale=new)
    rating = np.array([5, 1, 4], np.float32)
    user, item = np.full(3, 2, np.int32), np.array([0, 3, 5], np.int32)
    scaled = new[0] + (rating - 1) / 4 * (new[1] - new[0])
    mf.fold_in(old.model, ratings.Part(user, item, rating, item))
    mf.fold_in(model, ratings.Part(user, item, scaled.astype(np.float32), item))
    pairs = [(2, item) for item in range(6)]
    expected = new[0] + (predicted(old.model, pairs) - 1) / 4 * (new[1] - new[0])
    np.testing.assert_allclose(predicted(model, pairs), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("new", [None, (1.0, 5.0), (0.5, 5.0), (2.0, 5.0)])
def test_a_part_of_the_scale_is_no_other_scale(new):
    old = made(mf.MF(4, 6, 3.0, 3, scale=(0.5, 5.0)), range(6), range(4))
    model, _ = transfer.carry_over(old, np.arange(6), np.arange(4), scale=new)
    assert model.scale == (0.5, 5.0)
    np.testing.assert_array_equal(model.p, old.model.p)


@pytest.mark.parametrize("use_bias", [True, False])
def test_no_other_row_suits_a_folded_in_user_better(use_bias):
    data = ratings.load("sample")
    model = mf.MF(
        data.n_users, data.n_items, data.global_mean, 5, use_bias, regularization=0.07
    )
    model.build(None)
    rng = np.random.default_rng(0)
    model.q.assign(rng.normal(0, 0.5, model.q.shape))
    if use_bias:
        model.item_bias.assign(rng.normal(0, 0.5, model.item_bias.shape))
    part = data.train.take(data.train.user_idx < 30)
    untouched = np.array(model.p)[30:]
    mf.fold_in(model, part)
    np.testing.assert_array_equal(np.array(model.p)[30:], untouched)

    pairs = np.stack([part.user_idx, part.item_idx], axis=1)

    def objective():
        """Equation 5 over the ratings of the users who are folded in."""
        error = np.asarray(model(pairs))[:, 0] - part.rating
        size = (np.asarray(model.p) ** 2).sum(axis=1)
        if use_bias:
            size = size + np.asarray(model.user_bias)[:, 0] ** 2
        return np.sum(error.astype(np.float64) ** 2 + 0.07 * size[part.user_idx])

    best = objective()
    tables = [model.p, model.user_bias] if use_bias else [model.p]
    for table in tables:
        solved = np.array(table)
        for _ in range(5):
            table.assign(solved + rng.normal(0, 0.02, solved.shape))
            assert objective() > best
        table.assign(solved)
