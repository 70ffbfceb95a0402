"""Train a model: compile, batches, epochs, evaluation, checkpoints and a log."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence, Sized
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lib import files
from lib.errors import InputError, check_seed
from lib.files import RunLog
from lib.hardware import collectives
from lib.hardware.device import Device
from lib.hardware.launch_options import LaunchOptions
from lib.hardware.tensorflow import tf
from lib.hardware.workers import scale_rate
from lib.models.optimizers import make_adam
from lib.progress import ProgressLine
from lib.training import pipeline
from lib.training.checkpoints import Checkpoints, Progress
from lib.training.schedule import Plan, Schedule

Metrics = dict[str, float]

LOG_EVERY = 100  # steps between two lines of the log inside an epoch
PROFILED_CALLS = 20  # of a training
STUCK_STEPS = 100  # steps with the same loss that count as stuck
COARSE = 2.0**-9  # relative difference of two losses that count as the same
ROUNDING = 2.0**-22  # relative rounding error of a float32 mean, per loss in it


def set_seed(seed: int) -> None:
    """Seeds TensorFlow and makes its operations deterministic (from 2.9 on).

    Raises:
        InputError: the seed is not a whole number from 0 to 1048575.
    """
    check_seed(seed)
    tf.random.set_seed(seed)
    if hasattr(tf.config.experimental, "enable_op_determinism"):  # TensorFlow 2.9
        tf.config.experimental.enable_op_determinism()


def time_ms(function: Callable[[], Any], repeats: int = 5) -> float:
    """Median milliseconds of a call that returns tensors, without the first call."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        tf.nest.map_structure(lambda value: value.numpy(), function())
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[1:])


def fit(
    model: tf.keras.Model,
    examples: Sized,
    schedule: Schedule,
    device: Device,
    run: Any = None,
    evaluate: Callable[[], Metrics] | None = None,
    validate: Callable[[], Metrics] | None = None,
    verbose: bool = True,
    solver: Any = None,
) -> tuple[list[Metrics], dict[str, Any]]:
    """Compiles and trains a model; resumes an interrupted run.

    With a run, every epoch ends with a checkpoint in ``ckpt/`` and a line in the log
    (see ``Monitor``), and an interrupted run resumes after its last checkpoint and ends
    like an unbroken one. Without a run nothing is written. A model that was trained
    before starts from the weights that it had before its first training, so the call
    can be repeated.

    Args:
        model: a model of ``lib.models``, with ``example_reader`` and ``training_loss``.
        examples: the training examples that ``model.example_reader`` takes.
        schedule: batches, epochs and learning rate.
        device: the result of ``select_device``.
        run: a ``lib.records.run.Run``; its folder takes the checkpoints and the log.
        evaluate: called after the last epoch and every ``schedule.evaluate_every``
            epochs; on every worker, so that all of them run the same graphs.
        validate: the same for cheap metrics; called after every epoch.
        verbose: False prints nothing.
        solver: a solver of ``lib.models.solvers`` for the model, instead of Adam; an
            epoch is then one sweep over all examples.

    Returns:
        ``(history, timing)``, as ``result.json`` holds them: one dict an epoch, with
        the mean loss over all workers; and the seconds of the first call, of training
        and of each epoch, examples per second and milliseconds a step without the first
        call.

    Raises:
        InputError: too few examples for a batch; the loss is not finite or stuck; the
            run's folder cannot be written, is in use by another process or holds
            another run; workers would resume from different checkpoints; the cell uses
            results of other parameters. The last checkpoint stays.
    """
    if run:
        run.check_order()
    if solver:
        schedule = replace(schedule, batch_size=len(examples), steps_per_epoch=0)
        schedule = replace(schedule, steps_per_execution=1)
    plan = schedule.plan(len(examples), device)
    train = solver.fit if solver else _compile(model, examples, plan, device)
    log_path = run and run.folder / f"train_{run.device_id}.log"
    with RunLog(log_path) if run else nullcontext() as log:

        def report(line: str, on_screen: bool = True) -> None:
            if verbose and on_screen:
                print(line, flush=True)
            if log:
                log.write(line)

        store = Checkpoints(run, model, device, solver) if run else None
        progress = store.resume(plan) if store else Progress()
        done = len(progress.history)
        if progress.number:
            report(f"resumed after {progress.position} of {schedule.epochs}")
        elif log:
            log.clear()
        if done < schedule.epochs:
            metrics = _schedule_metrics(schedule, evaluate, validate)
            save = store.save if store else None
            monitor = Monitor(plan, device, progress, metrics, report, save)
            monitor.board = board = _open_board(run, device)
            with monitor.line, board or nullcontext():
                train(range(done, schedule.epochs), monitor)
    return progress.history, _summarise_timing(progress, plan, device.workers)


def _compile(
    model: tf.keras.Model, examples: Sized, plan: Plan, device: Device
) -> Callable[[range, Monitor], None]:
    """Compiles a model; returns the function that trains the given epochs."""
    read, schedule = model.example_reader(examples), plan.schedule
    model.rank = device.rank
    rate = scale_rate(schedule.learning_rate, schedule.rate_scaling, device.workers)
    optimizer = make_adam(rate, schedule.epochs * plan.steps, schedule.decay)
    model.compile(
        optimizer=device.scale(optimizer),
        loss=model.training_loss,
        steps_per_execution=plan.steps_per_call,
    )
    make_variables(model, read)
    _reset_weights(model)
    return partial(_run_epochs, model, read, plan)


def make_variables(model: tf.keras.Model, read: Callable[[Any], Any]) -> None:
    """Creates all variables of a compiled model, so that a checkpoint can fill them.

    Args:
        model: a compiled model; one example is passed through it.
        read: ``read(index) -> (inputs, targets)``, see ``pipeline.batches``.
    """
    inputs, _ = read(np.zeros(1, np.int64))
    model(tf.constant(inputs))
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if hasattr(optimizer, "build"):  # Keras 3; Keras 2.6 creates its slots later
        model.optimizer.build(model.trainable_variables)


def _reset_weights(model: tf.keras.Model) -> None:
    """Assigns the weights that a model had before its first training.

    Raw ``tf.Variable`` attributes, such as the step that dropout counts, are included.
    """
    state = vars(model)  # written past Keras, which would track the arrays
    if "weights_before_training" not in state:
        raw = [value for value in state.values() if isinstance(value, tf.Variable)]
        variables = {id(each): each for each in [*model.weights, *raw]}.values()
        state["weights_before_training"] = [
            (each, tf.convert_to_tensor(each).numpy()) for each in variables
        ]
    for variable, value in state["weights_before_training"]:
        variable.assign(value)


def _run_epochs(
    model: tf.keras.Model,
    read: Callable[[Any], Any],
    plan: Plan,
    epochs: range,
    monitor: Monitor,
) -> None:
    """Trains the given epochs, by Keras or by the loop for TensorFlow workers."""
    device, begun = monitor.device, int(monitor.progress.partial[0])
    if begun and epochs[1:]:  # an epoch that is resumed has fewer steps than the others
        _run_epochs(model, read, plan, epochs[:1], monitor)
        begun, epochs = 0, epochs[1:]
    dataset = pipeline.batches(read, plan, epochs, device, begun)
    if device.engine == "tensorflow":
        collectives.fit(model, dataset, epochs, plan.steps, monitor)
        return
    device.set_loop_size(plan.steps_per_call)
    model.fit(
        dataset,
        initial_epoch=epochs.start,
        epochs=epochs.stop,
        steps_per_epoch=plan.steps - begun,
        callbacks=[monitor],
        shuffle=False,  # the dataset is shuffled
        verbose=0,
    )


def _schedule_metrics(
    schedule: Schedule,
    evaluate: Callable[[], Metrics] | None,
    validate: Callable[[], Metrics] | None,
) -> Callable[[int], Metrics]:
    """Returns ``metrics(epoch)``, which validates, and evaluates if that is due."""

    def metrics(epoch: int) -> Metrics:
        is_due = epoch == schedule.epochs or epoch % schedule.evaluate_every == 0
        validated = validate() if validate else {}
        return {**validated, **(evaluate() if evaluate and is_due else {})}

    return metrics


def _summarise_timing(progress: Progress, plan: Plan, n_workers: int) -> dict[str, Any]:
    """The timing of a run, for ``result.json``."""
    examples, steps, seconds = progress.steady
    if not steps:  # the first call was the only one
        steps, seconds = plan.steps_per_call, progress.first_step_s
        examples = plan.count_examples(0, plan.steps_per_call)
    per_second = examples / seconds
    timing: dict[str, Any] = {
        "first_step_s": progress.first_step_s,
        "train_s": round(sum(progress.epoch_s), 3),
        "examples_per_second": round(per_second, 1),
        "ms_per_step": round(1000 * seconds / steps, 3),
        "epoch_s": progress.epoch_s,
    }
    if n_workers > 1:
        timing["examples_per_second_per_worker"] = round(per_second / n_workers, 1)
    return timing


class Monitor(tf.keras.callbacks.Callback):
    """Measures, logs, checks, evaluates and saves, in this order, as one callback.

    The clock covers training and the input pipeline, from the start of an epoch to the
    end of its last step; it excludes evaluation and the checkpoint after an epoch, and
    includes those inside one. The first call of a process (``steps_per_call`` steps)
    compiles; its time is ``first_step_s``, and rates exclude its examples and its
    seconds. Rates count the examples of all workers.

    The log and the screen show one line an epoch. Two blanks separate its fields; a
    field is a name, a blank and a value, for example::

        epoch 1/8  loss 10.3215  hr_at_20 0.0102  examples/s 2640  ms/step 48.485  ...

    ``examples/s`` and ``ms/step`` are ``NA`` in an epoch that consists of the first
    call only, such as the first epoch of MF. ``first_step_s`` appears in the epoch of
    the first call; ``epoch_s``, the last field, includes that call. Inside an epoch the
    log has a line ``step <step> of epoch <epoch>/<epochs>`` every ``LOG_EVERY`` steps.

    Args:
        plan: the steps of an epoch.
        device: the worker's device.
        progress: the state after the last epoch; updated.
        metrics: ``metrics(epoch)``, called after every epoch, on every worker.
        report: ``report(line, on_screen)``.
        save: called with the progress after every epoch; may be None.
    """

    def __init__(
        self,
        plan: Plan,
        device: Device,
        progress: Progress,
        metrics: Callable[[int], Metrics],
        report: Callable[..., None],
        save: Callable[[Progress], None] | None,
    ) -> None:
        super().__init__()
        self.plan, self.device, self.progress = plan, device, progress
        self.metrics, self.report, self.save = metrics, report, save
        history = progress.history
        self.check = LossCheck(history[0]["loss"] if history else None)
        self.is_compiled = False  # True after the first call
        self.step = self.first_counted = self.logged_step = 0
        self.epoch_started = self.counted_from = self.logged_at = self.loss_sum = 0.0
        self.first_step_s: float | None = None
        self.first_epoch = self.epoch
        left = (plan.schedule.epochs - len(history)) * plan.steps
        self.line = ProgressLine("training", left)
        self.board: Board | None = None

    @property
    def epoch(self) -> int:
        """The number of the current epoch, from 1."""
        return len(self.progress.history) + 1

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        step, seconds, *sums = self.progress.partial  # zeros unless it is resumed
        self.counted_from = self.logged_at = time.time()
        self.epoch_started = self.counted_from - seconds
        self.step = self.first_counted = self.logged_step = int(step)
        self.first_step_s, self.loss_sum = None, sums[0]
        self.check.start_epoch(self.step // self.plan.steps_per_call, sums)
        if step and self.device.engine != "tensorflow":
            for variable, value in zip(_loss_sums(self.model), sums):
                variable.assign(value)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.step += self.plan.steps_per_call
        if self.board:
            self.board.count_call()
        fault = self.check.find_fault(float(logs["loss"]), self.plan.steps_per_call)
        if fault:
            self._stop(f"the loss {fault} at step {self.step}")
        if not self.is_compiled:
            self.is_compiled = True
            self.counted_from = self.logged_at = time.time()
            self.first_counted = self.logged_step = self.step
            seconds = self.counted_from - self.epoch_started - self.progress.partial[1]
            self.first_step_s = round(seconds, 3)
            self.progress.first_step_s = self.first_step_s
            return
        done = (self.epoch - self.first_epoch) * self.plan.steps + self.step
        is_part = self.plan.steps_per_call < self.plan.steps  # of an epoch
        share = self.step / self.plan.steps if is_part else None
        self.line.title = self._epoch_label().replace("/", " of ")
        self.line.update(done, lambda: self._describe(logs["loss"]), share)
        is_due = self.step // LOG_EVERY > self.logged_step // LOG_EVERY
        if is_due and self.step < self.plan.steps:
            now = time.time()
            fields = {"loss": f"{logs['loss']:.6f}"}
            fields.update(self._speed(self.logged_step, now - self.logged_at))
            self.logged_at, self.logged_step = now, self.step
            head = f"step {self.step} of {self._epoch_label()}"
            self.report(_join_fields(head, fields), on_screen=False)
        every = self.plan.schedule.checkpoint_every or self.plan.steps
        is_passed = self.step % every < self.plan.steps_per_call
        if is_passed and self.save and self.step < self.plan.steps:
            self._save_inside(self.save, float(logs["loss"]))

    def _save_inside(self, save: Callable[[Progress], None], loss: float) -> None:
        """Saves the state inside an epoch."""
        now = time.time()
        self._check_weights(f"at step {self.step}")
        sums = [loss * self.step, float(self.step)]
        if self.device.engine != "tensorflow":
            sums = [float(each.numpy()) for each in _loss_sums(self.model)]
            sums = [collectives.mean(self.device, each) for each in sums]
        self.progress.inside += 1
        partial = [self.step, now - self.epoch_started, *sums]
        steady = self._count(now - self.counted_from)
        save(replace(self.progress, partial=partial, steady=steady))

    def _describe(self, loss: float) -> str:
        speed = self._speed(self.first_counted, time.time() - self.counted_from)
        return f"{speed['examples/s']} examples/s, loss {float(loss):.4f}"

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        now = time.time()
        self.line.clear()
        seconds, counted = now - self.epoch_started, now - self.counted_from
        self._check_weights("at the end")
        loss = collectives.mean(self.device, float(logs["loss"]))
        row: Metrics = {"epoch": self.epoch, "loss": loss, **self.metrics(self.epoch)}
        if self.board:
            self.board.write(row)
        fields = {key: f"{value:.4f}" for key, value in row.items() if key != "epoch"}
        fields.update(self._speed(self.first_counted, counted))
        if self.first_step_s is not None:
            fields["first_step_s"] = f"{self.first_step_s:.3f}"
        fields["epoch_s"] = f"{seconds:.3f}"
        self.report(_join_fields(self._epoch_label(), fields))
        self.progress.steady, self.progress.partial = self._count(counted), [0] * 4
        self.progress.history.append(row)
        self.progress.epoch_s.append(round(seconds, 3))
        if self.save:
            self.save(self.progress)

    def _count(self, seconds: float) -> list[float]:
        """``steady`` of the progress with the calls of this epoch."""
        steps = self.step - self.first_counted
        examples = self.plan.count_examples(self.first_counted, self.step)
        added = (examples, steps, seconds if steps else 0.0)
        return [before + new for before, new in zip(self.progress.steady, added)]

    def _check_weights(self, where: str) -> None:
        for weight in self.model.trainable_variables:
            if not np.isfinite(tf.convert_to_tensor(weight).numpy()).all():
                self._stop(f"weights are not finite {where}")

    def _speed(self, first: int, seconds: float) -> dict[str, str]:
        """The fields for the speed from step ``first`` of the epoch until now."""
        if self.step == first:
            return {"examples/s": "NA", "ms/step": "NA"}
        examples = self.plan.count_examples(first, self.step)
        pace = 1000 * seconds / (self.step - first)
        return {"examples/s": f"{examples / seconds:.0f}", "ms/step": f"{pace:.3f}"}

    def _epoch_label(self) -> str:
        return f"epoch {self.epoch}/{self.plan.schedule.epochs}"

    def _stop(self, fault: str) -> None:
        """Ends the training; the checkpoint of the last epoch stays."""
        rate = self.model.optimizer.learning_rate
        if callable(rate):  # a schedule, in Keras 2.6
            rate = rate(self.model.optimizer.iterations)
        dtype = getattr(self.model, "matmul_dtype", "float32")
        saved = f"epoch {self.epoch - 1}" if self.epoch > 1 and self.save else "none"
        sentence = (
            f"{fault} of epoch {self.epoch}, with learning rate {float(rate):.3g} and "
            f"matrix products in {dtype}: lower learning_rate, or use "
            f'precision_mode="must_keep_origin_dtype" (last checkpoint: {saved}).'
        )
        self.report(sentence, on_screen=False)
        raise InputError(sentence)


def _loss_sums(model: tf.keras.Model) -> list[tf.Variable]:
    """The sum and the weight of the losses of the epoch so far, as Keras holds them."""
    metrics = model.metrics or [model.compiled_loss._loss_metric]  # late in Keras 2.6
    return metrics[0].variables


class Board:
    """Event files for TensorBoard: the metrics of every epoch, and a profile.

    The profile is of the calls after the first, which compiles. ``tf.summary.scalar``
    would need the package tensorboard; what it writes does not.

    Args:
        folder: of the files; made if missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = str(folder), 0
        self.writer = tf.summary.create_file_writer(self.folder)
        self.metadata = tf.compat.v1.SummaryMetadata(data_class=1)  # scalars
        self.metadata.plugin_data.plugin_name = "scalars"

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        if 0 < self.calls < PROFILED_CALLS:
            tf.profiler.experimental.stop()
        self.writer.close()

    def count_call(self) -> None:
        """Begins the profile after the first call and ends it some calls later."""
        self.calls += 1
        if self.calls == 1:
            tf.profiler.experimental.start(self.folder)
        elif self.calls == PROFILED_CALLS:
            tf.profiler.experimental.stop()

    def write(self, row: Metrics) -> None:
        """Writes the metrics of an epoch."""
        with self.writer.as_default():
            for name in row.keys() - {"epoch"}:
                value = tf.constant(row[name], tf.float32)
                tf.summary.write(name, value, int(row["epoch"]), self.metadata)
        self.writer.flush()


def _open_board(run: Any, device: Device) -> Board | None:
    """The board of a run with the launch option ``profiling``; an NPU has its own."""
    asked = run.parameters.get("ascend") if run else None
    options = LaunchOptions(**(asked or {}))
    if not options.profiling or device.kind == "npu" or not device.is_chief:
        return None
    return Board(files.resolve(options.profiling_dump_path) / run.name)


def _join_fields(head: str, fields: dict[str, str]) -> str:
    return "  ".join([head, *(f"{name} {value}" for name, value in fields.items())])


class LossCheck:
    """Detects a training loss that has become NaN, infinite or stuck at one value.

    A loss is *stuck* if it stays the same for ``STUCK_STEPS`` steps and is higher than
    the first loss of the run. Arithmetic that saturates instead of overflowing to
    infinity, such as float16 on an Ascend 910 at 65504, keeps such a loss, and so do
    weights that have diverged. A frozen model stays at its first loss and a trained one
    below it: neither is stuck.

    Keras reports the mean of the epoch so far, so the loss of a call is computed from
    two means and inherits their rounding error. If that exceeds ``COARSE`` times the
    loss (after some 8,000 calls in an epoch), no two losses count as the same.

    Args:
        first: the first loss of a resumed run.
    """

    def __init__(self, first: float | None = None) -> None:
        self._first, self._same_steps = first, 0
        self._level, self._level_error = math.inf, 0.0  # the loss to compare with
        self.start_epoch()

    def start_epoch(self, calls: int = 0, sums: Sequence[float] = (0, 0)) -> None:
        """Begins a mean, or resumes it: ``sums`` of the losses and of their weights."""
        self._calls, self._mean = calls, sums[0] / (sums[1] or 1)

    def find_fault(self, mean: float, steps: int = 1) -> str | None:
        """Describes a fault of the loss in a few words; None if there is none.

        Args:
            mean: the mean loss of the epoch so far.
            steps: steps since the last call.
        """
        if not math.isfinite(mean):
            return f"is {mean}"
        self._calls += 1
        loss = self._calls * mean - (self._calls - 1) * self._mean
        self._mean = mean
        if self._first is None:
            self._first = loss
        error = ROUNDING * self._calls * abs(mean)
        is_exact = error <= COARSE * abs(loss)
        if is_exact and abs(loss - self._level) <= error + self._level_error:
            self._same_steps += steps
        else:
            self._level, self._level_error = loss, error if is_exact else 0.0
            self._same_steps = 0
        is_higher = loss > self._first + COARSE * abs(self._first)
        if is_higher and self._same_steps >= STUCK_STEPS:
            return f"is stuck at {loss:g} for {self._same_steps} steps"
        return None
