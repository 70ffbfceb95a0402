"""Search what regularises STAMP, with a sampled softmax, on the validation week.

Each arm of ``ARMS`` trains on the training part of Diginetica without its last week and
is evaluated on that week against the whole catalogue; the test part is not read. With
the sampled softmax a step computes only the items that it needs, so the figures rank
the arms and are no results: the runs that are quoted use the exact softmax.

``python tools/search_stamp.py data/diginetica`` writes ``results/bench/stamp_search``
as text and JSON after every arm, and continues where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd

from lib import files
from lib.data import sessions
from lib.hardware.device import select_device
from lib.hardware.tensorflow import tf
from lib.models import stamp
from lib.records.run import describe_origin
from lib.training import pipeline
from lib.training.fit import fit, set_seed
from lib.training.schedule import Schedule

NEGATIVES = 4096
COMMON = {"batch_size": 512, "epochs": 3, "learning_rate": 0.004}
PLAIN = {"learning_rate": 0.002}  # as stamp_search_paper.yaml chose
COSINE = {"scale": 16.0, "dropout": 0.4}
BOTH = {"scale": 16.0, "dropout": 0.5, "neighbours": 5, "positions": True}
VARIATIONS = {
    "smoothing 0.1": {"smoothing": 0.1},
    "200 dimensions": {"embed_dim": 200},
    "in the order of days": {"by_day": True},
    "batches of 256": {"batch_size": 256},
    "batches of 1024": {"batch_size": 1024},
}
ARMS = {  # name: what differs from COMMON, as arguments of STAMP, Schedule or the arm
    "plain": PLAIN,
    "plain, dropout 0.2": {**PLAIN, "dropout": 0.2},
    "plain, dropout 0.4": {**PLAIN, "dropout": 0.4},
    "cosine": COSINE,
    "cosine, dropout 0.2": {**COSINE, "dropout": 0.2},
    "cosine, dropout 0.5": {**COSINE, "dropout": 0.5},
    "both": BOTH,
    "both, dropout 0.4": {**BOTH, "dropout": 0.4},
    "both, dropout 0.6": {**BOTH, "dropout": 0.6},
    "both, 10 neighbours": {**BOTH, "neighbours": 10},
    "both, scale 20": {**BOTH, "scale": 20.0},
    **{
        f"{name}, {variation}": {**base, **change}
        for variation, change in VARIATIONS.items()
        for name, base in (("plain", PLAIN), ("cosine", COSINE), ("both", BOTH))
    },
}
OF_SCHEDULE = ("batch_size", "epochs", "learning_rate")


@tf.custom_gradient
def with_dense_gradient(x: tf.Tensor) -> tuple:
    """Returns ``x``; a gradient of some rows becomes one of all rows."""
    return tf.identity(x), lambda upstream: tf.convert_to_tensor(upstream)


class SampledSTAMP(stamp.STAMP):
    """STAMP trained with ``NEGATIVES`` uniformly drawn items a batch.

    Args:
        smoothing: share of the target that is spread over all items.
        **arguments: of ``STAMP``.
    """

    def __init__(self, n_items: int, smoothing: float = 0.0, **arguments: object):
        super().__init__(n_items, **arguments)
        self.smoothing = smoothing

    def rows(self, table: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
        """The vectors of some items with their neighbours' part: ``(n, d)``."""
        x = tf.gather(table, columns)
        if not self.neighbours:
            return x
        near = tf.gather(table, tf.gather(self.neighbour_items, columns))
        weights = tf.gather(self.neighbour_weights, columns)
        return x + tf.reduce_sum(weights[:, :, None] * near, 1)

    def call(self, windows: tf.Tensor, training: bool = False) -> tf.Tensor:
        """See ``STAMP.call``; training computes only the rows that a batch needs."""
        if not training:
            return super().call(windows)
        table = with_dense_gradient(tf.convert_to_tensor(self.embedding))
        kinds, places = tf.unique(tf.reshape(windows, [-1]))
        clicked = self.rows(table, tf.maximum(kinds - 1, 0))
        numbers = tf.where(windows > 0, tf.reshape(places + 1, tf.shape(windows)), 0)
        weights = {**self.named_weights, "embedding": clicked}
        drop = self.drop if self.dropout else None
        query = stamp.query(weights, numbers, self.scale, drop)
        self.__dict__["_last"] = query, table
        return query

    def training_loss(self, targets: tf.Tensor, query: tf.Tensor) -> tf.Tensor:
        """The cross-entropy over the target and the drawn items: ``(batch,)``."""
        _, table = self.__dict__.pop("_last")
        targets = tf.cast(tf.reshape(targets, [-1]), tf.int32)
        drawn = tf.random.uniform([NEGATIVES], 0, self.n_items, tf.int32)
        own = tf.reduce_sum(query * self.items(self.rows(table, targets)), 1)
        others = self.items(self.rows(table, drawn))
        others = tf.matmul(query, others, transpose_b=True)
        spread = tf.reduce_mean(others, 1)
        others += tf.math.log(self.n_items / NEGATIVES)  # they stand for all
        others = tf.where(drawn == targets[:, None], -1e9, others)
        total = tf.reduce_logsumexp(tf.concat([own[:, None], others], 1), 1)
        return total - (1 - self.smoothing) * own - self.smoothing * spread


def order_by_day(examples: sessions.Examples):
    """Returns a ``draw_order`` that shuffles the examples of a day only."""
    n_each = np.diff(examples.offsets) - 1
    day = np.repeat(examples.days.astype(int), n_each)

    def draw_order(plan, epoch, first=0):
        rng = np.random.default_rng([plan.schedule.seed, epoch])
        order = np.lexsort([rng.random(len(day)), day])
        batch = plan.schedule.batch_size
        yield order[first * batch : plan.steps * batch]

    return draw_order


def run_arm(data: sessions.Sessions, settings: dict) -> dict[str, object]:
    """Trains an arm; returns its metrics, and those of averaged weights."""
    settings = {**COMMON, **settings}
    by_day = settings.pop("by_day", False)
    schedule = {name: settings.pop(name) for name in OF_SCHEDULE}
    set_seed(0)
    model = SampledSTAMP(data.n_items, **settings)
    model.adapt(data.train)
    late = []  # weights after each epoch of the second half

    def keep_weights() -> dict[str, float]:
        late.append([weight.numpy() for weight in model.trainable_variables])
        return {}

    device = select_device("cpu", "must_keep_origin_dtype")
    draw = order_by_day(data.train) if by_day else pipeline.draw_order
    with patch.object(pipeline, "draw_order", draw):
        plan = Schedule(**schedule, decay="cosine", static=False)
        _, timing = fit(model, data.train, plan, device, validate=keep_weights)
    row = stamp.evaluate(model, data.test)
    for weight, *values in zip(model.trainable_variables, *late[-2:]):
        weight.assign(np.mean(values, axis=0))
    averaged = stamp.evaluate(model, data.test)
    row.update({f"{name}, averaged": value for name, value in averaged.items()})
    commit = describe_origin()["git_commit"]
    return {**row, "train_s": timing["train_s"], "git_commit": commit}


def write_table(path: Path, arms: dict[str, dict]) -> None:
    """Writes the arms as JSON with the machine, and as a table of text."""
    record = {"negatives": NEGATIVES, "arms": arms, **describe_origin()}
    files.write_text(path.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
    table = pd.DataFrame(arms).T.drop(columns="git_commit").astype(float)
    ranks = [name for name in table.columns if name != "train_s"]
    table[ranks] = 100 * table[ranks]
    text = table.round(2).to_string(formatters={"train_s": "{:.0f}".format})
    head = f"Validation week, sampled softmax of {NEGATIVES}, one seed; in percent.\n"
    files.write_text(path.with_suffix(".txt"), head + text + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", help="Diginetica's folder")
    parser.add_argument("--out", type=Path, default="results/bench/stamp_search")
    asked = parser.parse_args()
    out, arms = files.resolve(asked.out), {}
    if out.with_suffix(".json").exists():
        arms = json.loads(out.with_suffix(".json").read_text())["arms"]
    data = sessions.load(asked.data).validation()
    for name, settings in ARMS.items():
        if name not in arms:
            print(name, flush=True)
            arms[name] = run_arm(data, settings)
            write_table(out, arms)


if __name__ == "__main__":
    main()
