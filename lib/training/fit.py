"""Train a model: progress, checkpoints that resume, throughput."""

import math
import statistics
import time
from dataclasses import dataclass

import numpy as np

from lib import files
from lib.errors import InputError
from lib.hardware import collectives, device, workers
from lib.hardware.tensorflow import tf
from lib.training import checkpoints, pipeline

FAREWELL_S = 3  # before a worker ends, so that the others hear what it said last
LOG_EVERY = 100  # steps between two lines of the log inside an epoch
STUCK_STEPS = 100  # that a loss must stay the same for
COARSE = 2.0**-9  # what it may change by, of its size, to count as the same
ROUNDING = 2.0**-22  # of a mean in float32, for every loss in it


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
    (TensorFlow's format), a line in the log and on the screen (see
    ``lib.training.fit``). A run that was cut off, at whatever moment, goes on after its
    last whole epoch and ends as an unbroken one would have.

    Args:
        model: a compiled Keras model.
        take, n_examples: the training examples, see ``pipeline.batches``.
        run: ``lib.records.run.Run``; its folder takes ``ckpt/`` and the log.
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
            ``lib.training.fit``); the run's folder cannot be written, is at work in
            another process, or holds what is not this run's; workers would resume after
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
    with files.RunLog(run.folder / f"train_{run.device_id}.log") as log:
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


@dataclass(frozen=True)
class Schedule:
    """How much a run trains.

    Attributes:
        epochs: of the run.
        steps: an epoch.
        group: steps that Keras takes in one call.
        batch_size: examples a step, of all workers together.
        n_examples: that there are; the last batch of an epoch may be smaller.
    """

    epochs: int
    steps: int
    group: int
    batch_size: int
    n_examples: int

    def examples(self, first, last):
        """How many examples the steps ``first + 1`` to ``last`` of an epoch hold."""
        seen = [min(step * self.batch_size, self.n_examples) for step in (first, last)]
        return seen[1] - seen[0]


class Bookkeeper(tf.keras.callbacks.Callback):
    """One Keras callback for all of it, so that the order is plain.

    What is timed is training alone, input pipeline included: from the start of an epoch
    to the end of its last step, without evaluation and checkpoint. The first call of a
    process, one step or a group of them, compiles; it is timed apart
    (``first_step_s``), and neither its examples nor its seconds count in a rate. The
    examples of several workers count together.

    The log has one line an epoch, which is on the screen too. Two blanks divide its
    fields; each is a name, a blank and a value, for example::

        epoch 1/8  loss 10.3215  hr_at_20 0.0102  examples/s 2640  ms/step 48.485  ...

    ``examples/s`` and ``ms/step`` are those of the epoch, and ``NA`` where its only
    call was the first one, as in the first epoch of MF. ``first_step_s`` is in the line
    of the epoch that the first call belongs to; ``epoch_s``, the last field, is the
    epoch's seconds, first call included. Inside an epoch a line ``step <steps> of epoch
    <epoch>/<epochs>`` with the same fields comes every ``LOG_EVERY`` steps, about the
    steps since the one before.

    Args:
        run: a ``lib.records.run.Run``.
        progress, manager: what ``checkpoints.resume`` returned; the first is changed.
        evaluate: ``evaluate(epoch) -> {metric: value}``, called after every epoch, on
            every worker.
        log: a ``lib.files.RunLog``.
        schedule: a ``Schedule``.
    """

    def __init__(self, run, progress, manager, evaluate, log, schedule):
        super().__init__()
        self.run, self.progress, self.manager = run, progress, manager
        self.evaluate, self.log, self.schedule = evaluate, log, schedule
        history = progress["history"]
        self.watch = Watch(history[0]["loss"] if history else None)
        self.measuring = False  # not before the first call, which compiles, is over

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch_started = self.counted_from = self.logged_at = time.time()
        self.step = self.first_counted = self.logged_step = 0
        self.first_step_s = None
        self.watch.new_epoch()

    def on_train_batch_end(self, batch, logs=None):
        self.step += self.schedule.group
        fault = self.watch.fault(float(logs["loss"]), self.schedule.group)
        if fault:
            self._stop(f"the loss {fault} at step {self.step}")
        if not self.measuring:
            self.measuring = True
            self.counted_from = self.logged_at = time.time()
            self.first_counted = self.logged_step = self.step
            self.first_step_s = round(self.counted_from - self.epoch_started, 3)
            self.progress["first_step_s"] = self.first_step_s
        elif (
            self.step // LOG_EVERY > self.logged_step // LOG_EVERY
            and self.step < self.schedule.steps
        ):
            now = time.time()
            fields = {"loss": f"{logs['loss']:.6f}"}
            fields.update(self._speed(self.logged_step, now - self.logged_at))
            self.logged_at, self.logged_step = now, self.step
            self.log.write(_line(f"step {self.step} of {self._epoch()}", fields))

    def _speed(self, first, seconds):
        """The fields of the speed from step ``first`` of the epoch until now."""
        if self.step == first:
            return {"examples/s": "NA", "ms/step": "NA"}
        examples = self.schedule.examples(first, self.step)
        pace = 1000 * seconds / (self.step - first)
        return {"examples/s": f"{examples / seconds:.0f}", "ms/step": f"{pace:.3f}"}

    def _epoch(self):
        return f"epoch {self.epoch}/{self.schedule.epochs}"

    def _stop(self, what):
        """Ends the training; the checkpoint of the last epoch stays as it is."""
        rate = self.model.optimizer.learning_rate
        if callable(rate):  # a schedule, in Keras 2.6
            rate = rate(self.model.optimizer.iterations)
        dtype = getattr(self.model, "matmul_dtype", "float32")
        kept = f"epoch {self.epoch - 1} is kept" if self.epoch > 1 else "none yet"
        sentence = (
            f"{what} of epoch {self.epoch}, with learning rate {float(rate):.3g} and "
            f"matrix products in {dtype}: lower learning_rate, or use "
            f'precision_mode="must_keep_origin_dtype" (checkpoint: {kept}).'
        )
        self.log.write(sentence)
        raise InputError(sentence)

    @property
    def epoch(self):
        return len(self.progress["history"]) + 1

    def on_epoch_end(self, epoch, logs=None):
        now = time.time()
        seconds, counted = now - self.epoch_started, now - self.counted_from
        for weight in self.model.trainable_variables:
            if not np.isfinite(tf.convert_to_tensor(weight).numpy()).all():
                self._stop("weights are not finite any more at the end")
        row = {"epoch": self.epoch, "loss": collectives.mean(float(logs["loss"]))}
        row.update(self.evaluate(self.epoch))  # by all workers: no graph runs on one
        fields = {key: f"{value:.4f}" for key, value in row.items() if key != "epoch"}
        fields.update(self._speed(self.first_counted, counted))
        if self.first_step_s is not None:
            fields["first_step_s"] = f"{self.first_step_s:.3f}"
        line = _line(self._epoch(), {**fields, "epoch_s": f"{seconds:.3f}"})
        print(line, flush=True)
        self.log.write(line)
        self._keep(row, seconds, counted)

    def _keep(self, row, seconds, counted):
        """Adds an epoch to the progress; the first worker saves it."""
        steps = self.step - self.first_counted
        if steps:
            examples = self.schedule.examples(self.first_counted, self.step)
            steady = zip(self.progress["steady"], (examples, steps, counted))
            self.progress["steady"] = [before + new for before, new in steady]
        self.progress["history"].append(row)
        self.progress["epoch_s"].append(round(seconds, 3))
        if workers.current().rank == 0:
            checkpoints.save(self.manager, self.progress, self.run)


def _line(head, fields):
    return "  ".join([head, *(f"{name} {value}" for name, value in fields.items())])


class Watch:
    """Looks at the mean loss of an epoch so far, which is what Keras tells, each step.

    A loss is lost where

    - it is not finite: a NaN or an infinity stays in the mean; or
    - it is *stuck*: for ``STUCK_STEPS`` steps, each step's loss was the same number,
      and a higher one than the loss that the run began with. Arithmetic that saturates
      instead of reaching infinity, as an Ascend 910's does at 65504 in float16, holds
      on to such a number, and so do weights that have run away.

    A frozen model stays at the loss that it began with and a finished one below it:
    neither is stuck. Each step's loss is the difference of two means, so "the same" is
    as fine as their rounding lets it be; where that is more than ``COARSE`` of the loss
    (some 8,000 steps into an epoch), nothing counts as the same.

    Args:
        first: the loss that the run began with, where it was resumed.
    """

    def __init__(self, first=None):
        self._first, self._same = first, 0
        self._level = math.inf, 0.0  # the loss that others are compared with; rounding
        self.new_epoch()

    def new_epoch(self):
        self._looks, self._mean = 0, 0.0

    def fault(self, mean, steps=1):
        """What is wrong with the loss, in a few words; None where nothing is.

        Args:
            mean: of the losses of this epoch.
            steps: since the last look.
        """
        if not math.isfinite(mean):
            return f"is {mean}"
        self._looks += 1
        loss = self._looks * mean - (self._looks - 1) * self._mean
        self._mean = mean
        if self._first is None:
            self._first = loss
        rounding = ROUNDING * self._looks * abs(mean)
        level, of_level = self._level
        fine = rounding <= COARSE * abs(loss)
        if fine and abs(loss - level) <= rounding + of_level:
            self._same += steps
        else:
            self._level, self._same = (loss, rounding if fine else 0.0), 0
        higher = loss > self._first + COARSE * abs(self._first)
        if higher and self._same >= STUCK_STEPS:
            return f"is stuck at {loss:g} for {self._same} steps"
        return None
