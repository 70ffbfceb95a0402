"""STAMP the way the published port computes it; a worker of the bench.

Written from its description: every score is a sum over an array of (batch, items, dim),
the loss takes the logarithm of softmax's output, Keras' own Adam, Keras' own ``fit``.
"""

import time

import clicks
import numpy as np
import work

from lib import stamp
from lib.quiet import tf


class Naive(stamp.STAMP):
    """Scores through the three-dimensional array."""

    def call(self, windows, training=False):
        items = self.items()
        x, real = self.look_up(windows)
        m_s, m_t = tf.reduce_mean(x, 1), x[:, -1]
        m_a = tf.reduce_sum(self.attend(x, real, m_s, m_t) * x, 1)
        h_s = tf.tanh(tf.matmul(m_a, self.kernel_s) + self.bias_s)
        h_t = tf.tanh(tf.matmul(m_t, self.kernel_t) + self.bias_t)
        product = tf.expand_dims(h_t, 1) * items  # (batch, items, dim)
        scores = tf.matmul(product, tf.expand_dims(h_s, -1))
        return tf.nn.softmax(tf.squeeze(scores, -1))


class Clock(tf.keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 0:  # the first step compiles
            self.started = time.perf_counter()
        self.stopped = time.perf_counter()


def prepare(batch_size, steps=2, maxlen=40):
    train, _ = clicks.make()
    take = stamp.batch_of(train, maxlen)
    rng = np.random.default_rng(0)
    n = (steps + 1) * batch_size
    windows, targets = (part.numpy() for part in take(rng.integers(0, len(train), n)))
    model = Naive(clicks.N_ITEMS, 100)
    model.compile(
        optimizer=tf.keras.optimizers.Adam(learning_rate=0.005),
        loss=tf.keras.losses.SparseCategoricalCrossentropy(),
    )

    def one_round():
        clock = Clock()
        model.fit(windows, targets, batch_size=batch_size, verbose=0, callbacks=[clock])
        return steps * batch_size, clock.stopped - clock.started

    return one_round


if __name__ == "__main__":
    work.serve(prepare)
