"""GRU4Rec with keras-rs on JAX, trained and judged; a worker of the bench.

It lives in the peers' environment and trains as keras-rs' guide to sequential retrieval
does: a GRU over the clicks, a table of candidates, the softmax over the targets of the
batch. That loss is cheaper than the softmax over all items of the other rows.
"""

import os
import time

os.environ["KERAS_BACKEND"] = "jax"
import clicks
import keras
import keras_rs
import numpy as np
import work


class Retrieval(keras.Model):
    """Clicks in, queries out; the other targets of a batch are the negatives."""

    def __init__(self, n_items, dim, dropout):
        super().__init__()
        self.clicks = keras.layers.Embedding(n_items + 1, dim, mask_zero=True)
        self.drop, self.gru = keras.layers.Dropout(dropout), keras.layers.GRU(dim)
        self.candidates = keras.layers.Embedding(n_items + 1, dim)
        self.remove_accidental_hits = keras_rs.layers.RemoveAccidentalHits()
        self.cross_entropy = keras.losses.CategoricalCrossentropy(from_logits=True)

    def build(self, shape):
        self.candidates.build(shape)
        self.clicks.build(shape)
        self.gru.build((*shape, self.clicks.output_dim))
        self.built = True

    def call(self, windows, training=False):
        x = self.drop(self.clicks(windows), training=training)
        return self.gru(x, mask=windows > 0)

    def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
        scores = keras.ops.matmul(y_pred, keras.ops.transpose(self.candidates(y)))
        labels = keras.ops.eye(keras.ops.shape(scores)[0])
        scores = self.remove_accidental_hits(scores, labels, y)
        return self.cross_entropy(labels, scores)


def prepare(
    batch_size=512,
    epochs=5,
    steps=0,
    learning_rate=1e-3,
    dim=100,
    dropout=0.3,
    data_path="",
    evaluate_on="test",
    seed=0,
):
    """Trains ``epochs``, of ``steps`` or whole ones; with data it is judged, too."""
    train, test, n_items = clicks.load(data_path, evaluate_on)
    keras.utils.set_random_seed(seed)
    model = Retrieval(n_items, dim, dropout)
    model.compile(optimizer=keras.optimizers.Adam(learning_rate))
    model.build((None, 19))
    rng = np.random.default_rng(seed)
    steps = steps or len(train) // batch_size

    def batches():
        order = rng.permutation(len(train))
        for step in range(steps):
            index = order[step * batch_size : (step + 1) * batch_size]
            windows, _, targets = clicks.cut_windows(train, index)
            yield windows.astype(np.int32), targets.astype(np.int32)

    def score(windows, lengths):
        queries = model.predict_on_batch(windows.astype(np.int32))
        return queries @ np.asarray(model.candidates.embeddings)[1:].T

    def one_round():
        started = time.perf_counter()
        for _ in range(epochs):
            for windows, targets in batches():
                model.train_on_batch(windows, targets)
        seconds = time.perf_counter() - started
        found = clicks.evaluate(score, test) if data_path else {}
        return epochs * steps * batch_size, seconds, found

    return one_round


if __name__ == "__main__":
    work.serve(prepare)
