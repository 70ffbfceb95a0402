"""An exported model answers as the model does, with TensorFlow alone."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lib.data import ratings, sessions
from lib.errors import InputError
from lib.models import mf, stamp
from lib.serving import export, recommend, trained
from lib.training.fit import set_seed

ALONE = """
import json, sys
for name in ("lib", "keras", "tf_keras"):
    sys.modules[name] = None  # an import of it fails
import tensorflow as tf
folder, asked, answers = sys.argv[1:]
module = tf.saved_model.load(folder)
serve = module.signatures["serving_default"]
types = {spec.name: spec.dtype for spec in serve.structured_input_signature[1].values()}
found = []
for one in json.load(open(asked)):
    one = {name: tf.constant(value, types[name]) for name, value in one.items()}
    answer = {name: array.numpy() for name, array in serve(**one).items()}
    again = module.recommend(**one)
    if not all((again[name].numpy() == answer[name]).all() for name in answer):
        sys.exit("recommend() and the signature differ")
    ids = answer["ids"]
    ids = ids.astype(str).tolist() if ids.dtype == object else ids.tolist()
    scores, unknown = answer["scores"].tolist(), answer["unknown"].tolist()
    found.append({"ids": ids, "scores": scores, "unknown": unknown})
json.dump(found, open(answers, "w"))
"""


def answers(folder, *asked):
    """What a SavedModel answers in a process without ``lib`` and without Keras."""
    questions, found = Path(f"{folder}.asked"), Path(f"{folder}.found")
    questions.write_text(json.dumps(asked))
    command = [sys.executable, "-c", ALONE, str(folder), str(questions), str(found)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=questions.parent)
    assert done.returncode == 0, done.stderr
    return json.loads(found.read_text())


def drawn(model, seed=0):
    """The model with weights large enough that no two scores are near each other."""
    model.build(None)
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def clicks():
    return sessions.load("sample")


@pytest.fixture(scope="module")
def stars():
    return ratings.load("sample")


@pytest.fixture(scope="module")
def of_sessions(clicks):
    set_seed(0)
    model = drawn(stamp.STAMP(clicks.n_items, 16, maxlen=9))
    return trained.Trained(model, clicks.item_ids, np.array([]), "a STAMP")


@pytest.fixture(scope="module")
def of_users(stars):
    model = drawn(mf.MF(stars.n_users, stars.n_items, stars.global_mean, 8))
    return trained.Trained(model, stars.item_ids, stars.user_ids, "an MF")


def test_a_thousand_sessions_get_the_same_first_twenty(of_sessions, clicks, tmp_path):
    folder = export.save(of_sessions, tmp_path / "stamp")
    examples = clicks.train if len(clicks.test) < 1000 else clicks.test
    prefixes = [clicks.item_ids[examples.prefix(k) - 1] for k in range(1000)]
    asked = {
        "items": np.concatenate(prefixes).tolist(),
        "lengths": [len(prefix) for prefix in prefixes],
        "k": 20,
    }
    plain, unseen = answers(
        folder, {**asked, "exclude_seen": False}, {**asked, "exclude_seen": True}
    )
    assert plain["unknown"] == unseen["unknown"] == [0] * 1000
    lines = [json.dumps({"session": prefix.tolist()}) for prefix in prefixes]
    (tmp_path / "asked").write_text("\n".join(lines))
    for found, exclude_seen in ((plain, False), (unseen, True)):
        recommend.recommend_file(
            of_sessions, tmp_path / "asked", tmp_path / "own", 20, exclude_seen
        )
        rows = (tmp_path / "own").read_text().splitlines()
        own = [json.loads(row) for row in rows]
        assert found["ids"] == [row["ids"] for row in own]
        scores = [row["scores"] for row in own]
        np.testing.assert_allclose(found["scores"], scores, atol=1e-3)


def test_sessions_of_any_length_unknown_items_and_batches_of_any_size(
    of_sessions, tmp_path
):
    folder = export.save(of_sessions, tmp_path / "stamp")
    ids = of_sessions.item_ids.tolist()
    long, strange = ids[:200] * 3, [-5, ids[3], -6, ids[9]]
    batch, nothing, one, too_many = answers(
        folder,
        {
            "items": [*long, *strange, -9],
            "lengths": [600, 4, 1, 0],
            "exclude_seen": False,
            "k": 5,
        },
        {"items": [], "lengths": [], "exclude_seen": False, "k": 5},
        {"items": ids[:1], "lengths": [1], "exclude_seen": False, "k": 1},
        {"items": ids[:2], "lengths": [2], "exclude_seen": True, "k": 10**6},
    )
    assert batch["unknown"] == [0, 2, 1, 0]
    assert batch["ids"][0] == recommend.recommend(of_sessions, long, 5).ids
    assert batch["ids"][1] == recommend.recommend(of_sessions, strange, 5).ids
    for empty in (2, 3):
        assert batch["ids"][empty] == [-1] * 5
        assert batch["scores"][empty] == [-np.inf] * 5
    assert nothing == {"ids": [], "scores": [], "unknown": []}
    assert one["ids"] == [recommend.recommend(of_sessions, ids[:1], 1).ids]
    assert sorted(too_many["ids"][0]) == sorted([-1, -1, *ids[2:]])
    assert too_many["ids"][0][-2:] == [-1, -1]


def test_text_ids_go_in_and_come_out(of_sessions, tmp_path):
    ids = np.array([f"Schuh é {raw}" for raw in of_sessions.item_ids])
    ours = trained.Trained(of_sessions.model, ids, of_sessions.user_ids, "text")
    module = export.Served(ours)
    found = module.recommend([ids[4], "no", ids[7]], [3, 0], False, 6)
    texts = [raw.decode() for raw in found["ids"].numpy()[0]]
    assert texts == recommend.recommend(ours, [ids[4], ids[7]], 6).ids
    assert found["ids"].numpy()[1].tolist() == [b""] * 6
    assert found["unknown"].numpy().tolist() == [1, 0]


def test_lengths_that_do_not_add_up_are_refused(of_sessions):
    module = export.Served(of_sessions)
    with pytest.raises(Exception, match="lengths must add up to the items"):
        module.recommend(of_sessions.item_ids[:3], [2], False, 5)


def test_no_items_asked_for_are_refused(of_sessions, of_users):
    with pytest.raises(Exception, match="k must be 1 or more"):
        export.Served(of_sessions).recommend(of_sessions.item_ids[:1], [1], False, 0)
    with pytest.raises(Exception, match="k must be 1 or more"):
        export.Served(of_users).recommend(of_users.user_ids[:1], False, 0)


def test_users_get_the_same_movies_and_none_that_they_have_seen(
    of_users, stars, tmp_path
):
    rated = stars.train
    pairs = stars.user_ids[rated.user_idx], stars.item_ids[rated.item_idx]
    folder = export.save(of_users, tmp_path / "mf", seen=pairs)
    users = [*stars.user_ids[:40].tolist(), -3]
    plain, unseen, nobody = answers(
        folder,
        {"users": users, "k": 20, "exclude_seen": False},
        {"users": users, "k": 20, "exclude_seen": True},
        {"users": [], "k": 20, "exclude_seen": True},
    )
    assert plain["unknown"] == unseen["unknown"] == [0] * 40 + [1]
    assert plain["ids"][40] == unseen["ids"][40] == [-1] * 20
    assert nobody["ids"] == []
    for k in range(0, 40, 4):
        user = users[k]
        own = recommend.recommend(of_users, user, 20)
        assert plain["ids"][k] == own.ids
        np.testing.assert_allclose(plain["scores"][k], own.scores, rtol=1e-4)
        seen = pairs[1][pairs[0] == user].tolist()
        rest = recommend.recommend(of_users, user, 20, exclude_seen=True, seen=seen)
        assert unseen["ids"][k] == rest.ids
        assert not set(seen) & set(unseen["ids"][k])


def test_saved_without_seen_pairs_nothing_can_be_excluded(of_users, stars):
    module = export.Served(of_users)
    found = module.recommend(stars.user_ids[:2], False, 5)
    own = recommend.recommend(of_users, stars.user_ids[1], 5)
    assert found["ids"].numpy()[1].tolist() == own.ids
    with pytest.raises(Exception, match="the model was saved without seen"):
        module.recommend(stars.user_ids[:2], True, 5)


@pytest.mark.parametrize("first", [-1, 2**63])
def test_minus_one_and_large_numbers_are_ids_like_others(of_sessions, first):
    """-1 is an item, or where all are numbers beyond int64, ids are texts."""
    kind = np.uint64 if first > 0 else np.int64
    ids = np.arange(len(of_sessions.item_ids)).astype(kind) + kind(first)
    ours = trained.Trained(of_sessions.model, ids, np.array([]), "odd ids")
    module = export.Served(ours)
    write = str if first > 0 else int
    asked = [write(ids[0]), write(ids[5]), write(7)]
    found = module.recommend(asked, [2, 1], True, 10**6)
    read = [
        write(raw.decode() if first > 0 else raw) for raw in found["ids"].numpy()[0]
    ]
    is_item = np.isfinite(found["scores"].numpy()[0])
    own = recommend.recommend(ours, ids[[0, 5]], 10**6, exclude_seen=True).ids
    assert [raw for raw, it_is in zip(read, is_item) if it_is] == [*map(write, own)]
    assert is_item.sum() == len(ids) - 2
    assert not set(np.array(read)[~is_item]) & set(map(write, ids.tolist()))


@pytest.mark.parametrize("seen", [([1, 2], [3]), 5, ([1], [2], [3]), ([[1]], [[2]])])
def test_wrong_lists_of_who_has_seen_what_are_refused(of_users, seen):
    with pytest.raises(InputError, match="seen: pass two lists of the same length"):
        export.Served(of_users, seen)


def test_an_export_replaces_an_export_and_nothing_else(of_users, tmp_path):
    folder = tmp_path / "mf"
    folder.mkdir()
    (folder / "notes").write_text("mine")
    with pytest.raises(InputError, match="exists and is not a SavedModel"):
        export.save(of_users, folder)
    assert (folder / "notes").read_text() == "mine"
    for _ in range(2):
        assert export.save(of_users, tmp_path / "new").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        export.save(of_users, tmp_path / "file" / "below")
    assert not list(tmp_path.glob("*unfinished*"))


def run_onnx(path, **given):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    return dict(zip(("numbers", "scores"), session.run(["numbers", "scores"], given)))


@pytest.mark.parametrize("scale", [0.0, 12.0])
def test_onnxruntime_ranks_as_the_model(clicks, tmp_path, scale):
    model = drawn(stamp.STAMP(clicks.n_items, 16, maxlen=9, scale=scale))
    ours = trained.Trained(model, clicks.item_ids, np.array([]), "a STAMP")
    path = export.save_onnx(ours, tmp_path / "new" / "stamp.onnx", k=20)
    windows, _ = model.example_reader(clicks.test)(np.arange(300, dtype=np.int32))
    found = run_onnx(path, windows=windows)
    scores = np.asarray(model(windows))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :20]
    np.testing.assert_array_equal(found["numbers"], order + 1)
    own = np.take_along_axis(scores, order, 1)
    np.testing.assert_allclose(found["scores"], own, rtol=1e-4, atol=1e-4)
    assert found["numbers"].dtype == np.int32


def test_onnxruntime_predicts_ratings_as_the_model(of_users, stars, tmp_path):
    path = export.save_onnx(of_users, tmp_path / "mf.onnx", k=7)
    users = np.arange(50, dtype=np.int32)
    found = run_onnx(path, users=users)
    ids = json.loads((tmp_path / "mf.ids.json").read_text())
    assert ids == stars.item_ids.tolist()
    for user in users[::5]:
        own = recommend.recommend(of_users, stars.user_ids[user], 7)
        assert stars.item_ids[found["numbers"][user]].tolist() == own.ids
        np.testing.assert_allclose(found["scores"][user], own.scores, rtol=1e-4)


def test_onnx_holds_at_most_the_catalogue(of_users, tmp_path):
    path = export.save_onnx(of_users, tmp_path / "mf.onnx", k=10**6)
    numbers = run_onnx(path, users=np.array([5], np.int32))["numbers"]
    assert sorted(numbers[0]) == [*range(len(of_users.item_ids))]
    for k in (0, 2.5):
        with pytest.raises(InputError, match=f"k={k}: choose a whole number, 1 or"):
            export.save_onnx(of_users, tmp_path / "mf.onnx", k=k)
