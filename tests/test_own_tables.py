"""A small table of one's own goes all the way: training, baselines, files, exports."""

import csv
import io
import json
import subprocess
import sys
from contextlib import redirect_stdout
from itertools import product
from unittest.mock import patch

import numpy as np
import pytest

from lib.data import ratings, sessions
from lib.evaluation import metrics, session_baselines
from lib.evaluation.rating_baselines import RATING_BASELINES
from lib.hardware.device import select_device
from lib.models import mf, stamp
from lib.records.run import Run, describe
from lib.serving import export, recommend, trained, transfer
from lib.training.fit import fit, set_seed
from lib.training.schedule import Schedule

TEXTS = ["two words", "a, b", "a\nb", "a\u00a0b", "\u3000x", '"', "007", "-1", "1" * 20]
ITEMS = {
    "texts": TEXTS,
    "whole": [-1, 0, 7, 10**17, 5, 6, 8, 9, 10],
    "beyond int64": [2**64 - 1 - k for k in range(9)],
}
ALONE = """
import json, sys
import tensorflow as tf
folder, question = json.loads(sys.argv[1])
model = tf.saved_model.load(folder)
takes = model.signatures["serving_default"].structured_input_signature[1]
question = {name: tf.constant(value, takes[name].dtype) for name, value in question}
ids = model.recommend(**question)["ids"].numpy().tolist()
print(json.dumps(ids, default=bytes.decode))  # texts are bytes here
"""


def write(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_clicks(path, items, n_sessions=30, days=20):
    """Sessions of three clicks, more than one a day."""
    start = 1_600_000_000
    rows = [
        (f"s {n}", items[(n + 2 * k) % len(items)], start + n * days * 2880 + 60 * k)
        for n, k in product(range(n_sessions), range(3))
    ]
    return write(path, ("visit", "sku", "when"), rows)


def write_ratings(path, users, items, scale):
    """Twelve ratings of each user, the ends of the scale among them."""
    low, high = scale
    rows = [
        (user, items[k % len(items)], low + (n + k) % 5 * (high - low) / 4, n + 9 * k)
        for (n, user), k in product(enumerate(users), range(12))
        if k < len(items)
    ]
    return write(path, ("reader", "book", "mark", "when"), rows)


def answer(folder, in_another_process, **question):
    """The ids that a SavedModel answers."""
    asked = json.dumps((str(folder), list(question.items())))
    if in_another_process:  # costs seconds
        command = [sys.executable, "-c", ALONE, asked]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
    printed = io.StringIO()
    with redirect_stdout(printed), patch.object(sys, "argv", ["-c", asked]):
        exec(ALONE, {})
    return json.loads(printed.getvalue())


def run_onnx(path, **inputs):
    onnxruntime = pytest.importorskip("onnxruntime")
    engine = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return engine.run(["numbers"], inputs)[0]


def train(model, data, folder, evaluate, user_ids=()):
    """Trains for two epochs and loads what was kept."""
    device = select_device("cpu", "must_keep_origin_dtype")
    run = Run("own", {"output_dir": str(folder)}, describe(data), device)
    trained.keep(run, model, data.item_ids, user_ids)
    recipe = Schedule(min(64, len(data.train)), 2, 0.01)
    history, _ = fit(model, data.train, recipe, device, run, evaluate, verbose=False)
    assert np.isfinite([list(row.values()) for row in history]).all()
    return trained.load(run.folder)


@pytest.mark.parametrize("kind", ITEMS)
def test_clicks_go_all_the_way(tmp_path, kind):
    columns = "session=visit, item=sku, time=when"
    table = write_clicks(tmp_path / "clicks.csv", ITEMS[kind])
    data = sessions.load(table, columns=columns)
    assert sorted(map(str, data.item_ids.tolist())) == sorted(map(str, ITEMS[kind]))
    set_seed(0)
    model = stamp.STAMP(data.n_items, 8, 5)
    ours = train(model, data, tmp_path, lambda: stamp.evaluate(model, data.test))
    np.testing.assert_array_equal(ours.item_ids, data.item_ids)
    for baseline in session_baselines.SESSION_BASELINES.values():
        measured = data.train, data.test, data.n_items
        assert session_baselines.measure(baseline, *measured)[0]["hr_at_20"] == 1

    ids = ours.item_ids.tolist()
    asked = [ids[:1], ids[2:5], ids, [*ids[3:], "unknown", *ids[:2]]]
    own = [recommend.recommend(ours, session, 20).ids for session in asked]
    (tmp_path / "in").write_text("\n".join(json.dumps({"session": s}) for s in asked))
    counted = recommend.recommend_file(ours, tmp_path / "in", tmp_path / "out", 20)
    lines = (tmp_path / "out").read_text().splitlines()
    assert [json.loads(line)["ids"] for line in lines] == own
    assert counted["ignored"] == 1

    saved = export.save(ours, tmp_path / "saved")
    as_saved = str if kind == "beyond int64" else type(ids[0])
    clicks = [as_saved(raw) for session in asked[:3] for raw in session]
    question = {"items": clicks, "lengths": [1, 3, 9], "exclude_seen": False, "k": 20}
    answers = answer(saved, kind == "texts", **question)
    assert answers == [[as_saved(raw) for raw in row] for row in own[:3]]
    file = export.save_onnx(ours, tmp_path / "stamp.onnx")
    window = np.zeros((1, 5), np.int32)
    window[0, -3:] = [3, 4, 5]
    (numbers,) = run_onnx(file, windows=window)
    assert [ids[number - 1] for number in numbers] == own[1]
    assert json.loads(file.with_suffix(".ids.json").read_text()) == ids

    newer = [*ITEMS[kind][3:], "new" if kind == "texts" else 77]
    table = write_clicks(tmp_path / "newer.csv", newer)
    data = sessions.load(table, columns=columns)
    model, counts = transfer.carry_over(ours, data.item_ids, frozen=("layers",))
    assert counts["items"] == {"kept": 6, "new": 1, "dropped": 3}
    train(model, data, tmp_path, lambda: stamp.evaluate(model, data.test))


@pytest.mark.parametrize(
    ("kind", "scale"),
    [("texts", (0.5, 5)), ("whole", (1, 10)), ("beyond int64", (0, 100))],
)
def test_ratings_go_all_the_way(tmp_path, kind, scale):
    columns = "user=reader, item=book, rating=mark, time=when"
    users, items = ITEMS[kind][:5], ITEMS[kind]
    table = write_ratings(tmp_path / "marks.csv", users, items, scale)
    data = ratings.load(table, columns=columns)
    assert data.scale == scale
    for baseline in RATING_BASELINES.values():
        fitted = baseline().fit(data.train, data.n_users, data.n_items)
        found = fitted.predict(data.test)
        assert np.isfinite(metrics.rating_metrics(found, data.test.rating)["rmse"])
        assert scale[0] <= found.min() <= found.max() <= scale[1]
    set_seed(0)
    sizes = data.n_users, data.n_items, data.global_mean
    model = mf.MF(*sizes, 4, scale=data.scale)
    evaluate = lambda: mf.evaluate(model, data.test)  # noqa: E731
    ours = train(model, data, tmp_path, evaluate, data.user_ids)
    assert tuple(ours.model.scale) == scale

    user = ours.user_ids[2].item()
    mine = data.train.take(data.train.user_idx == 2)
    seen = data.item_ids[mine.item_idx].tolist()
    own = recommend.recommend(ours, user, 20, exclude_seen=True, seen=seen)
    assert sorted([*own.ids, *seen], key=str) == sorted(ours.item_ids.tolist(), key=str)
    assert scale[0] <= own.scores.min() <= own.scores.max() <= scale[1]
    pairs = [data.user_ids[data.train.user_idx], data.item_ids[data.train.item_idx]]
    saved = export.save(ours, tmp_path / "saved", seen=pairs)
    as_saved = str if kind == "beyond int64" else type(user)
    question = {"users": [as_saved(user)], "exclude_seen": True, "k": len(own.ids)}
    (answers,) = answer(saved, kind == "texts", **question)
    assert answers == [as_saved(raw) for raw in own.ids]
    whole = recommend.recommend(ours, user, 20).ids
    file = export.save_onnx(ours, tmp_path / "mf.onnx")
    (numbers,) = run_onnx(file, users=np.array([2], np.int32))
    assert ours.item_ids[numbers].tolist() == whole

    table = write_ratings(tmp_path / "stars.csv", ITEMS[kind][3:6], items, (2, 7))
    other = ratings.load(table, columns=columns)
    ids = other.item_ids, other.user_ids
    model, counts = transfer.carry_over(ours, *ids, scale=other.scale)
    assert counts["users"] == {"kept": 2, "new": 1, "dropped": 3}
    mf.fold_in(model, other.train)
    stars = mf.predict(model, other.test.user_idx, other.test.item_idx)
    assert np.abs(stars - other.test.rating).max() <= model.scale[1] - model.scale[0]
