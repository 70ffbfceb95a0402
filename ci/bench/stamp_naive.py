"""STAMP the way the published port computes it; a worker of the bench.

Written from its description: every score is a sum over an array of (batch, items, dim),
inputs are three NumPy arrays (two of them empty features, one of them float64), windows
have 8 clicks, and Keras' own Adam, loss and ``fit`` train it.
"""

import time

import clicks
import numpy as np
import work

from lib.hardware.tensorflow import tf
from lib.models import published, stamp


class Naive(published.STAMP):
    """The port's network, its penalty included, with scores through that array."""

    def call(self, inputs, training=False):
        windows, items = inputs[-1][:, 0], self.items()
        x = tf.gather(self.embedding, windows)
        m_s, m_t = tf.reduce_mean(x, 1), x[:, -1]
        weights = stamp.attend(self.named_weights, x, 1.0, m_s, m_t)
        m_a = tf.reduce_sum(weights * x, 1)
        h_s = tf.tanh(tf.matmul(m_a, self.kernel_s) + self.bias_s)
        h_t = tf.tanh(tf.matmul(m_t, self.kernel_t) + self.bias_t)
        product = tf.expand_dims(h_t, 1) * items  # (batch, items, dim)
        scores = tf.matmul(product, tf.expand_dims(h_s, -1))
        return tf.nn.softmax(tf.squeeze(scores, -1))


class Clock(tf.keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.loss = float(logs["loss"])  # a card is waited for
        if batch == 0:  # the first step compiles
            self.started = time.perf_counter()
        self.stopped = time.perf_counter()


def prepare(batch_size, steps, maxlen=8, device="auto", precision="float32"):
    work.open_device(device, precision)
    train, _ = clicks.make()
    model = Naive(clicks.N_ITEMS, maxlen=maxlen)
    read = model.example_reader(train)
    rng = np.random.default_rng(0)
    n = (steps + 1) * batch_size
    windows, targets = read(rng.integers(0, len(train), n))
    inputs = [np.zeros(n), np.zeros(n, np.int64), windows[:, None]]
    model.compile(
        optimizer=tf.keras.optimizers.Adam(learning_rate=0.005),
        loss=tf.keras.losses.SparseCategoricalCrossentropy(),
    )

    def one_round():
        clock = Clock()
        model.fit(inputs, targets, batch_size=batch_size, verbose=0, callbacks=[clock])
        return steps * batch_size, clock.stopped - clock.started, {"loss": clock.loss}

    return one_round


if __name__ == "__main__":
    work.serve(prepare)
