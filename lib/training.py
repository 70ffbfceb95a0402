"""Train a model: progress, checkpoints that resume, throughput."""

import statistics
import time

from lib import checkpoints, collectives, device, files, pipeline, workers
from lib.bookkeeper import Bookkeeper, Schedule
from lib.errors import InputError
from lib.quiet import tf

FAREWELL_S = 3  # before a worker ends, so that the others hear what it said last


def set_seed(seed):
    """Seeds TensorFlow and, where it can, makes its operations deterministic."""
    tf.random.set_seed(seed)
    if hasattr(tf.config.experimental, "enable_op_determinism"):  # TensorFlow 2.9
        tf.config.experimental.enable_op_determinism()


def milliseconds(function, repeats=5):
    """Median time of a call that returns tensors; its first call is not counted."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        tf.nest.map_structure(lambda value: value.numpy(), function())
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[1:])


def fit(
    model,
    take,
    n_examples,
    run,
    batch_size,
    epochs,
    seed=0,
    steps_per_epoch=0,
    static=True,
    evaluate=None,
    reshuffle=True,
    evaluate_every=1,
    validate=None,
):
    """Trains a compiled model with ``model.fit``; resumes a run that was cut off.

    After every epoch: evaluation, where one is due, a checkpoint in ``ckpt/``
    (TensorFlow's format), a line in the log and on the screen (see ``lib.bookkeeper``).
    A run that was cut off, at whatever moment, goes on after its last whole epoch and
    ends as an unbroken one would have.

    Args:
        model: a compiled Keras model.
        take, n_examples: the training examples, see ``pipeline.batches``.
        run: ``lib.results.Run``; its folder takes ``ckpt/`` and the log.
        batch_size, epochs, seed, steps_per_epoch, static, reshuffle: see ``pipeline``;
            of several workers ``batch_size`` is that of all together.
        evaluate: ``evaluate() -> {metric: value}``, called after the last epoch and
            after every ``evaluate_every``-th; on every worker, so that all of them run
            the same graphs.
        validate: the same for cheap metrics; called after every epoch.

    With ``compile(steps_per_execution=N)`` Keras hears of every N-th step only, and an
    epoch is cut to a multiple of N steps; below, such a group counts as one step.

    Returns:
        ``(history, timing)`` as ``result.json`` holds them: one dict an epoch, its loss
        the mean over all workers; and the time of the first step (which compiles),
        training seconds, examples per second and milliseconds a step without the first
        step (if there were others), seconds an epoch (evaluation not counted), and how
        many times the training step was traced to a graph.

    Raises:
        InputError: too few examples for a batch; the loss is lost (see
            ``lib.losses``); the run's folder cannot be written, is at work in another
            process, or holds what is not this run's; workers would resume after
            different epochs. The last checkpoint stays.
    """
    team = workers.current()
    own_loop = team.engine == "tensorflow"
    group = 1 if own_loop else steps_per_execution(model)
    steps = pipeline.count_steps(n_examples, batch_size, steps_per_epoch, static)
    if steps < group:
        raise InputError(
            f"steps_per_execution={group}: an epoch has {steps} steps; give that "
            "or less."
        )
    steps -= steps % group
    schedule = Schedule(epochs, steps, group, batch_size, n_examples)
    device.set_loop_size(group)
    with files.Log(run.folder / f"train_{run.device_id}.log") as log:
        make_variables(model, take)
        checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
        assert checkpoint.save_counter is not None  # made now, by all workers together

        def agree(done):
            _agree(done, run.chief_folder)

        def wait():
            collectives.synchronize(model.trainable_variables)

        manager, progress = checkpoints.resume(run, checkpoint, epochs, agree, wait)
        done = len(progress["history"])
        if done:
            print(f"resumed after epoch {done} of {epochs}")
            log.write(f"resumed after epoch {done} of {epochs}")
        else:
            log.clear()
        if done < epochs:
            dataset = pipeline.batches(
                take, n_examples, batch_size, range(done, epochs), seed, steps, static,
                reshuffle,
            )  # fmt: skip

            def judged(epoch):
                due = epoch == epochs or epoch % evaluate_every == 0
                found = validate() if validate else {}
                return {**found, **(evaluate() if evaluate and due else {})}

            bookkeeper = Bookkeeper(run, progress, manager, judged, log, schedule)
            if own_loop:
                rest = range(done, epochs)
                traced = collectives.fit(model, dataset, rest, steps, bookkeeper)
            else:
                counted = _count_traces(model)
                model.fit(
                    dataset,
                    initial_epoch=done,
                    epochs=epochs,
                    steps_per_epoch=steps,
                    callbacks=[bookkeeper],
                    shuffle=False,  # the dataset is
                    verbose=0,
                )
                traced = len(counted)
            progress["traced_graphs"] += traced
    return progress["history"], _timing(progress, schedule, team.size)


def _agree(done, folder):
    """Ends every worker unless all of them go on after the same epoch."""
    mean = collectives.mean(float(done))
    if collectives.mean(abs(done - mean)) > 1e-3:  # the same number for all workers
        time.sleep(FAREWELL_S)
        raise InputError(
            f"{folder}: this worker would go on after epoch {done}, others after "
            "another one: workers on several hosts need an output_dir that all of them "
            "share."
        )


def _timing(progress, schedule, n_workers):
    """What ``fit`` returns of the time, for ``result.json``."""
    examples, steps, seconds = progress["steady"]
    if not steps:  # the first call was the only one
        steps, seconds = schedule.group, progress["first_step_s"]
        examples = schedule.examples(0, steps)
    timing = {
        "first_step_s": progress["first_step_s"],
        "train_s": round(sum(progress["epoch_s"]), 3),
        "examples_per_second": round(examples / seconds, 1),
        "ms_per_step": round(1000 * seconds / steps, 3),
        "epoch_s": progress["epoch_s"],
        "traced_graphs": progress["traced_graphs"],
    }
    if n_workers > 1:
        per_worker = timing["examples_per_second"] / n_workers
        timing["examples_per_second_per_worker"] = round(per_worker, 1)
    return timing


def steps_per_execution(model):
    """How many steps a compiled Keras model takes in one call."""
    steps = getattr(model, "steps_per_execution", None)  # Keras 3
    return int(model._steps_per_execution if steps is None else steps)


def _count_traces(model):
    """A list that gets an entry whenever the training step is traced."""
    traced, train_step = [], type(model).train_step

    def counted(data):
        traced.append(1)
        return train_step(model, data)

    model.train_step = counted
    return traced


def make_variables(model, take):
    """Makes all variables of a compiled model, so that a checkpoint can fill them.

    Args:
        model: a compiled Keras model; one example runs through it.
        take: ``take(index) -> (inputs, targets)``, as ``fit`` has it.
    """
    inputs, _ = take(tf.constant([0]))
    model(inputs)
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if hasattr(optimizer, "build"):  # Keras 3; Keras 2.6 fills its slots later
        model.optimizer.build(model.trainable_variables)
