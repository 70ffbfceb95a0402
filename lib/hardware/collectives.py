"""Communication between workers: gradient averaging, broadcast and barriers.

The vendor's collectives connect NPUs; ``tf.distribute.MultiWorkerMirroredStrategy``
connects CPUs and GPUs. Every worker must make every call below.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lib.hardware.device import Device
from lib.hardware.tensorflow import tf


def synchronize(device: Device, variables: Iterable[tf.Variable]) -> None:
    """Waits for all workers; on NPUs, copies the variables of rank 0 to all of them."""
    if device.engine == "hccl":
        import npu_device

        npu_device.distribute.broadcast(list(variables), root_rank=0)
    elif device.engine == "tensorflow":
        tf.distribute.get_strategy().run(lambda: _sum(tf.constant(0.0)))


def mean(device: Device, value: float) -> float:
    """Returns the mean of one number over all workers."""
    if device.engine == "hccl":
        import npu_device

        number = tf.constant(value, tf.float32)
        return float(npu_device.distribute.all_reduce(number, "mean"))
    if device.engine == "tensorflow":
        strategy = tf.distribute.get_strategy()
        total = strategy.run(lambda: _sum(tf.constant(value, tf.float32)))
        return float(total) / device.workers
    return value


def fit(
    model: tf.keras.Model,
    dataset: tf.data.Dataset,
    epochs: range,
    steps: int,
    callback: tf.keras.callbacks.Callback,
) -> None:
    """Runs the training loop of ``model.fit`` over several TensorFlow workers.

    Keras 3 cannot do this (keras-team/keras issue 20585).

    Args:
        model: compiled with a loss that returns one number an example.
        dataset: the batches of this worker, ``len(epochs) * steps`` of them.
        epochs: the epochs to run, numbered from 0.
        steps: steps an epoch.
        callback: its ``logs`` hold the mean loss of the epoch so far, over all workers;
            its ``step`` and ``loss_sum`` say where an epoch begins.
    """
    strategy = tf.distribute.get_strategy()
    size, weights = strategy.num_replicas_in_sync, model.trainable_variables
    squared = {"mse": lambda y, x: tf.reduce_mean(tf.square(y - x), axis=-1)}
    losses = squared.get(model.loss, model.loss)

    def train_worker(inputs: Any, targets: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(losses(targets, model(inputs, training=True)))
            if model.losses:
                loss += tf.add_n(model.losses)
            loss /= size
        gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, weights)]
        model.optimizer.apply_gradients(zip(gradients, weights))  # sums over workers
        return _sum(loss)

    @tf.function(autograph=False)
    def train_step(batch: Any) -> tf.Tensor:
        return strategy.run(train_worker, args=batch)

    callback.set_model(model)
    batches = iter(dataset)
    for epoch in epochs:
        callback.on_epoch_begin(epoch)
        total = callback.loss_sum  # of an epoch that is resumed
        for step in range(callback.step, steps):
            total += float(train_step(next(batches)))
            logs = {"loss": total / (step + 1)}
            callback.on_train_batch_end(step, logs)
        callback.on_epoch_end(epoch, logs)


def _sum(value: tf.Tensor) -> tf.Tensor:
    """The sum of a tensor over all workers, inside ``strategy.run``."""
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)
