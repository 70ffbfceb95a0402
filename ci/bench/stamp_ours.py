"""STAMP as this repository trains it, and the floor under it; a worker of the bench."""

import json
import tempfile
from pathlib import Path

import clicks
import numpy as np
import work

from lib.hardware import device as processors
from lib.hardware.tensorflow import tf
from lib.models import optimizers, published, stamp
from lib.serving import recommend
from lib.serving.trained import Trained
from lib.training.fit import fit, make_variables, set_seed
from lib.training.schedule import Schedule

DIM, MAXLEN = 100, 19
COSINE = {"scale": 16.0, "dropout": 0.4}
OPTIONS = {  # kind -> options of the network
    "cosine": COSINE,
    "neighbours": {**COSINE, "neighbours": 5, "positions": True},
}


def prepare(
    kind, batch_size, precision="float32", steps=8, maxlen=MAXLEN, device="auto"
):
    """Makes the round of a kind.

    The kind is one of ``fit``, ``cosine``, ``neighbours``, ``published``, ``raw``,
    ``floor``, ``evaluate``, ``recommend``, ``product``.
    """
    port = kind == "published"  # its losses, computed our way; it has no loss scale
    opened = work.open_device(device, precision, loss_scale=not port)
    set_seed(0)
    train, test = clicks.make()
    network, dtype = published.STAMP if port else stamp.STAMP, opened.cast_dtype
    options = OPTIONS.get(kind, {})
    model = network(clicks.N_ITEMS, DIM, maxlen, matmul_dtype=dtype, **options)
    if kind in ("fit", "published", *OPTIONS):
        model.adapt(train)
        rate = 0.005 if port else 0.001
        schedule = Schedule(batch_size, learning_rate=rate, steps_per_epoch=steps + 1)
        return train_in_fit(model, train, schedule, opened)
    if kind == "raw":
        return train_by_hand(model, train, batch_size, steps)
    if kind == "evaluate":
        return lambda: evaluate(model, test)
    if kind == "recommend":
        return answer_file(model, test)
    if kind == "product":
        return multiply_queries(batch_size)
    return run_floor(batch_size, dtype)


def train_in_fit(model, train, schedule, opened):
    """An epoch of ``fit``, without its first step, which compiles."""
    examples = (schedule.steps_per_epoch - 1) * schedule.batch_size

    def one_round():
        _, timing = fit(model, train, schedule, opened, verbose=False)
        return examples, examples / timing["examples_per_second"]

    return one_round


def evaluate(model, test):
    def whole():
        stamp.evaluate(model, test)

    return work.timed(whole, len(test))


def train_by_hand(model, train, batch_size, steps):
    """The same step without Keras' loop and without a pipeline: windows cut before."""
    rng, read = np.random.default_rng(0), model.example_reader(train)
    batches = [read(rng.integers(0, len(train), batch_size)) for _ in range(steps)]
    optimizer = optimizers.make_adam(0.001, steps)
    model.compile(optimizer)
    make_variables(model, read)
    weights = model.trainable_variables

    @tf.function
    def step(windows, targets):
        with tf.GradientTape() as tape:
            query = model(windows, training=True)
            loss = tf.reduce_mean(model.training_loss(targets, query))
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
        return loss

    def every_batch():
        for windows, targets in batches:
            loss = step(windows, targets)
        return loss

    return lambda: work.timed(every_batch, steps * batch_size)


def run_floor(batch_size, matmul_dtype):
    """What no exact step can do without, one operation after the other.

    The three matrix products of the scores and their gradients, the softmax, and one
    pass of Adam over the item table. Without bfloat16 instructions, float32 it is.
    """
    if not processors.multiplies_bfloat16():
        matmul_dtype = "float32"
    table, query = (clicks.N_ITEMS, DIM), (batch_size, DIM)
    items, moment, velocity = (tf.Variable(tf.zeros(table)) for _ in range(3))
    x = tf.cast(tf.random.normal(table, stddev=0.05), matmul_dtype)
    h = tf.cast(tf.random.normal(query), matmul_dtype)
    z = tf.random.normal((batch_size, clicks.N_ITEMS))
    dz, gradient = tf.cast(tf.nn.softmax(z), matmul_dtype), tf.random.normal(table)

    def adam():
        constants = (1e-3, 0.9, 0.999, 1e-7)
        optimizers.apply_adam(items, moment, velocity, gradient, 1.0, *constants)
        return items[:1]

    operations = (
        lambda: tf.matmul(h, x, transpose_b=True),
        lambda: tf.matmul(dz, h, transpose_a=True),
        lambda: tf.matmul(dz, x),
        lambda: tf.nn.softmax(z),
        adam,
    )
    functions = [compile_with_corner(operation) for operation in operations]
    return lambda: work.timed(lambda: [f()[1] for f in functions][-1], batch_size)


def compile_with_corner(operation):
    """Compiled: ``operation()``, all of it, and one number of it to wait for."""

    @tf.function
    def compiled():
        outcome = operation()
        return outcome, outcome[0, 0]

    return compiled


def answer_file(model, test, k=20, times=4):
    """A file of sessions of raw ids in, a file of the best ``k`` raw ids out.

    Both are JSON lines. The sessions stand in it ``times`` over: as many lines as there
    are test examples.
    """
    model.build(None)
    ids = 1000 + 37 * np.random.default_rng(0).permutation(clicks.N_ITEMS)
    ours = Trained(model, ids, np.array([]), "the bench")
    held = tempfile.TemporaryDirectory()
    asked, answers = Path(held.name, "sessions"), Path(held.name, "recommended")
    sessions = np.split(ids[test.items - 1], test.offsets[1:-1])
    lines = [json.dumps({"session": one.tolist()}) + "\n" for one in sessions]
    asked.write_text("".join(lines) * times)

    def one_round(held=held):
        recommend.recommend_file(ours, asked, answers, k)

    return lambda: work.timed(one_round, times * test.n_sessions)


def multiply_queries(batch_size, batches=16):
    """The bare product of queries and items: no search, no text."""
    h = tf.random.normal((batch_size, DIM))
    x = tf.random.normal((clicks.N_ITEMS, DIM))
    multiply = compile_with_corner(lambda: tf.matmul(h, x, transpose_b=True))
    return lambda: work.timed(
        lambda: [multiply()[1] for _ in range(batches)][-1], batches * batch_size
    )


if __name__ == "__main__":
    work.serve(prepare)
