"""What workers say to each other: gradients, variables, and "ready".

Two engines do it: the vendor's collectives between NPUs, and
``tf.distribute.MultiWorkerMirroredStrategy`` everywhere else.
"""

from lib.errors import InputError
from lib.hardware import ascend, workers
from lib.hardware.tensorflow import tf


def join():
    """Joins the workers that ``$TF_CONFIG`` names, if it does; returns ``Workers``.

    From then on every variable of this process is mirrored.

    Raises:
        InputError: what ``$TF_CONFIG`` says is not usable, or TensorFlow has computed
            in this process already.
    """
    team = workers.announced()
    if team.engine != "tensorflow" or workers.current().size > 1:
        return workers.current()
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"TF_CONFIG names {team.size} workers, but TensorFlow cannot join them "
            f"({error}); it must be done before anything is computed: restart the "
            "kernel and call device.open first."
        ) from None
    if strategy.num_replicas_in_sync != team.size:
        raise InputError(
            f"{strategy.num_replicas_in_sync} devices for {team.size} workers: show "
            "each worker one GPU, by CUDA_VISIBLE_DEVICES."
        )
    tf.distribute.experimental_set_strategy(strategy)
    workers.join(team.size, team.rank, team.engine)
    return workers.current()


def synchronize(variables):
    """Waits for all workers; on NPUs, gives all the first one's variables."""
    engine = workers.current().engine
    if engine == "hccl":
        ascend.broadcast(variables)
    elif engine == "tensorflow":
        strategy = tf.distribute.get_strategy()
        strategy.run(lambda: _total(tf.constant(0.0)))


def mean(value):
    """The mean of one number over all workers; each of them must call this."""
    team = workers.current()
    if team.engine == "hccl":
        return ascend.mean(value)
    if team.engine == "tensorflow":
        strategy = tf.distribute.get_strategy()
        total = strategy.run(lambda: _total(tf.constant(value, tf.float32)))
        return float(total) / team.size
    return value


def fit(model, dataset, epochs, steps, callback):
    """``model.fit`` over several processes with TensorFlow's engine.

    Keras 3 cannot do it (keras-team/keras issue 20585), so this is the loop itself.

    Args:
        model: compiled with a loss that returns one number an example.
        dataset: this worker's batches, ``len(epochs) * steps`` of them.
        epochs: a range of epoch numbers.
        steps: an epoch.
        callback: a Keras callback; hears of the mean loss so far over all workers.

    Returns:
        How many times the step was traced to a graph.
    """
    strategy, size = tf.distribute.get_strategy(), workers.current().size
    weights, traced = model.trainable_variables, []
    loss_of = {"mse": lambda y, found: tf.reduce_mean(tf.square(y - found), axis=-1)}
    loss_of = loss_of.get(model.loss, model.loss)

    def worker_step(inputs, targets):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(loss_of(targets, model(inputs, training=True)))
            if model.losses:
                loss += tf.add_n(model.losses)
            loss /= size
        gradients = tape.gradient(loss, weights)
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        model.optimizer.apply_gradients(zip(gradients, weights))  # adds them up first
        return _total(loss)

    @tf.function
    def step(batch):
        traced.append(1)
        return strategy.run(worker_step, args=batch)

    callback.set_model(model)
    batches = iter(dataset)
    for epoch in epochs:
        callback.on_epoch_begin(epoch)
        total = 0.0
        for number in range(steps):
            total += float(step(next(batches)))
            logs = {"loss": total / (number + 1)}
            callback.on_train_batch_end(number, logs)
        callback.on_epoch_end(epoch, logs)
    return len(traced)


def _total(value):
    """The sum over all workers of a tensor of this one."""
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)
