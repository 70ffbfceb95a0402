"""Train a model: compile, batches, epochs, evaluation, checkpoints and a log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence, Sized
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lib import files
from lib.errors import InputError, check_seed
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

PROFILED_CALLS = 20  # of a training
STUCK_STEPS = 100  # steps with the same loss that count as stuck
SAME = 2.0**-9  # relative difference of two losses that count as the same
MOST_CALLS = 8000  # in an epoch, until float32 means are too coarse for SAME


def set_seed(seed: int) -> None:
    """Seeds TensorFlow and makes its operations deterministic (from 2.9 on).

    Raises:
        InputError: the seed is not a whole number from 0 to 1048575.
    """
    check_seed(seed)
    tf.random.set_seed(seed)
    if hasattr(tf.config.experimental, "enable_op_determinism"):  # TensorFlow 2.9
        tf.config.experimental.enable_op_determinism()


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
        whole: dict[str, Any] = {"batch_size": len(examples), "steps_per_epoch": 0}
        schedule = replace(schedule, **whole, steps_per_execution=1)
    plan = schedule.plan(len(examples), device)
    train = solver.fit if solver else _compile(model, examples, plan, device)
    path = run and run.folder / f"train_{run.device_id}.log"
    with files.open_log(path) if run else nullcontext() as log:

        def report(line: str, on_screen: bool = True) -> None:
            if verbose and on_screen:
                print(line, flush=True)
            if log:
                with files.writing(path):
                    log.write(f"{line}\n".encode())

        store = Checkpoints(run, model, device, solver) if run else None
        progress = store.resume(plan) if store else Progress()
        if progress.number:
            report(f"resumed after {progress.position} of {schedule.epochs}")
        elif log:
            log.truncate(0)
        if len(progress.history) < schedule.epochs:
            board = _open_board(run, device)
            save = store.save if store else None
            monitor = Monitor(
                plan, device, progress, report, save, evaluate, validate, board
            )
            monitor.follow(train)
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

    def train(epochs: range, monitor: Monitor) -> None:
        begun = int(monitor.progress.partial[0])
        if begun and epochs[1:]:  # a resumed epoch has fewer steps than the others
            train(epochs[:1], monitor)
            begun, epochs = 0, epochs[1:]
        dataset = pipeline.batches(read, plan, epochs, device, begun)
        if device.engine == "tensorflow":  # Keras 3 trains no such workers
            collectives.fit(model, dataset, epochs, plan.steps, monitor)
            return
        device.set_loop_size(plan.steps_per_call)
        numbers = {"initial_epoch": epochs.start, "epochs": epochs.stop}
        numbers["steps_per_epoch"] = plan.steps - begun
        model.fit(dataset, callbacks=[monitor], shuffle=False, verbose=0, **numbers)

    return train


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


@dataclass(eq=False)
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
    the first call; ``epoch_s``, the last field, includes that call.

    Args:
        plan: the steps of an epoch.
        device: the worker's device.
        progress: the state after the last epoch; updated.
        report: ``report(line, on_screen)``.
        save: called with the progress after every epoch; may be None.
        evaluate, validate: see ``fit``.
        board: takes the metrics and a profile.
    """

    plan: Plan
    device: Device
    progress: Progress
    report: Callable[..., None]
    save: Callable[[Progress], None] | None = None
    evaluate: Callable[[], Metrics] | None = None
    validate: Callable[[], Metrics] | None = None
    board: Board | None = None

    def __post_init__(self) -> None:
        super().__init__()
        history = self.progress.history
        self.check = LossCheck(history[0]["loss"] if history else None)
        self.is_compiled = False  # True after the first call
        left = (self.plan.schedule.epochs - len(history)) * self.plan.steps
        self.line = ProgressLine("training", left, self._describe)

    def follow(self, train: Callable[[range, Monitor], None]) -> None:
        """Calls ``train`` for the epochs that are left."""
        with self.line, closing(self.board) if self.board else nullcontext():
            train(range(self.epoch - 1, self.plan.schedule.epochs), self)

    @property
    def epoch(self) -> int:
        """The number of the current epoch, from 1."""
        return len(self.progress.history) + 1

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts the clocks, or takes up an epoch where its state was saved."""
        step, _, *sums = self.progress.partial  # zeros unless it is resumed
        self.step, self.loss_sum = int(step), sums[0]
        self.first_call: dict[str, str] = {}  # its field of the epoch's line
        self.whole = self.steady = Lap(self.plan, self.step)
        self.check.start_epoch(self.step // self.plan.steps_per_call, sums)
        if step and self.device.engine != "tensorflow":
            for variable, value in zip(_loss_sums(self.model), sums):
                variable.assign(value)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Checks the loss of a call, and saves the state if that is due."""
        self.step += self.plan.steps_per_call
        self.loss = float(logs["loss"])
        if self.board:
            self.board.count_call()
        fault = self.check.find_fault(self.loss, self.plan.steps_per_call)
        if fault:
            self._stop(f"the loss {fault} at step {self.step}")
        self.line.update(self.plan.steps_per_call)
        if not self.is_compiled:
            self.is_compiled = True
            self.progress.first_step_s = round(self.whole.measure(self.step)[2], 3)
            self.first_call = {"first_step_s": f"{self.progress.first_step_s:.3f}"}
            self.steady = Lap(self.plan, self.step)
            return
        every = self.plan.schedule.checkpoint_every
        is_due = every and self.step % every < self.plan.steps_per_call
        if self.save and is_due and self.step < self.plan.steps:
            self._save_inside(self.save)

    def _save_inside(self, save: Callable[[Progress], None]) -> None:
        """Saves the state inside an epoch."""
        self._check_weights(f"at step {self.step}")
        sums = [self.loss * self.step, float(self.step)]
        if self.device.engine != "tensorflow":
            sums = [float(each.numpy()) for each in _loss_sums(self.model)]
            sums = [collectives.mean(self.device, each) for each in sums]
        self.progress.inside += 1
        partial = [self.step, self._epoch_s(), *sums]
        steady = self._add(self.steady.measure(self.step))
        save(replace(self.progress, partial=partial, steady=steady))

    def _describe(self) -> tuple[str, float, str]:
        """The epoch, the part of it that is done, speed and loss, for the line."""
        title, done = self._epoch_label().replace("/", " of "), self.line.n
        is_part = self.plan.steps_per_call < self.plan.steps  # of an epoch
        share = self.step / self.plan.steps if is_part else done / self.line.total
        speed = _format_speed(*self.steady.measure(self.step))["examples/s"]
        return title, share, f"{speed} examples/s, loss {self.loss:.4f}, "

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Checks the weights; evaluates, reports and saves the epoch."""
        measured, seconds = self.steady.measure(self.step), self._epoch_s()
        self.line.display("")
        self._check_weights("at the end")
        loss = collectives.mean(self.device, float(logs["loss"]))
        row: Metrics = {"epoch": self.epoch, "loss": loss}
        schedule = self.plan.schedule
        is_last, every = self.epoch == schedule.epochs, schedule.evaluate_every
        row.update(self.validate() if self.validate else {})
        if self.evaluate and (is_last or self.epoch % every == 0):
            row.update(self.evaluate())
        if self.board:
            self.board.write(row)
        fields = {key: f"{value:.4f}" for key, value in row.items() if key != "epoch"}
        fields |= {**_format_speed(*measured), **self.first_call}
        fields["epoch_s"] = f"{seconds:.3f}"
        parts = [f"{name} {value}" for name, value in fields.items()]
        self.report("  ".join([self._epoch_label(), *parts]))
        self.progress.steady, self.progress.partial = self._add(measured), [0] * 4
        self.progress.history.append(row)
        self.progress.epoch_s.append(round(seconds, 3))
        if self.save:
            self.save(self.progress)

    def _epoch_s(self) -> float:
        """Seconds of the epoch so far, with those before it was resumed."""
        return self.progress.partial[1] + self.whole.measure(self.step)[2]

    def _add(self, measured: list[float]) -> list[float]:
        """``steady`` of the progress with the calls of this epoch."""
        return [before + new for before, new in zip(self.progress.steady, measured)]

    def _check_weights(self, where: str) -> None:
        for weight in self.model.trainable_variables:
            if not np.isfinite(tf.convert_to_tensor(weight).numpy()).all():
                self._stop(f"weights are not finite {where}")

    def _epoch_label(self) -> str:
        return f"epoch {self.epoch}/{self.plan.schedule.epochs}"

    def _stop(self, fault: str) -> None:
        """Ends the training; the checkpoint of the last epoch stays."""
        dtype = self.device.matmul_dtype
        saved = f"epoch {self.epoch - 1}" if self.epoch > 1 and self.save else "none"
        sentence = (
            f"{fault} of epoch {self.epoch}, with learning rate "
            f"{self.plan.schedule.learning_rate:.3g} and matrix products in {dtype}: "
            "lower learning_rate, or use "
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

    def count_call(self) -> None:
        """Begins the profile after the first call and ends it some calls later."""
        self.calls += 1
        if self.calls == 1:
            tf.profiler.experimental.start(self.folder)
        elif self.calls == PROFILED_CALLS:
            tf.profiler.experimental.stop()

    def write(self, row: Metrics) -> None:
        """Writes the metrics of an epoch."""
        with self.writer.as_default(int(row["epoch"])):
            for name in row.keys() - {"epoch"}:
                tf.summary.write(name, float(row[name]), metadata=self.metadata)
        self.writer.flush()

    def close(self) -> None:
        """Ends the profile, if that is not done."""
        if 0 < self.calls < PROFILED_CALLS:
            tf.profiler.experimental.stop()
        self.writer.close()


def _open_board(run: Any, device: Device) -> Board | None:
    """The board of a run with the launch option ``profiling``; an NPU has its own."""
    asked = run.parameters.get("ascend") if run else None
    options = LaunchOptions(**(asked or {}))
    if not options.profiling or device.kind == "npu" or not device.is_chief:
        return None
    return Board(files.resolve(options.profiling_dump_path) / run.name)


class Lap:
    """The examples, steps and seconds since a step of an epoch."""

    def __init__(self, plan: Plan, step: int) -> None:
        self.plan, self.step, self.started = plan, step, time.time()

    def measure(self, step: int) -> list[float]:
        """Returns examples, steps and seconds until now, after ``step``; or zeros."""
        steps = step - self.step
        examples = self.plan.count_examples(self.step, step)
        return [examples, steps, time.time() - self.started] if steps else [0, 0, 0.0]


def _format_speed(examples: float, steps: float, seconds: float) -> dict[str, str]:
    if not steps:
        return {"examples/s": "NA", "ms/step": "NA"}
    pace = 1000 * seconds / steps
    return {"examples/s": f"{examples / seconds:.0f}", "ms/step": f"{pace:.3f}"}


class LossCheck:
    """Detects a training loss that has become NaN, infinite or stuck at one value.

    A loss is *stuck* if it stays the same for ``STUCK_STEPS`` steps and is higher than
    the first loss of the run. Arithmetic that saturates instead of overflowing to
    infinity, such as float16 on an Ascend 910 at 65504, keeps such a loss, and so do
    weights that have diverged. A frozen model stays at its first loss and a trained one
    below it: neither is stuck.

    Keras reports the mean of the epoch so far, so the loss of a call is computed from
    two means. After ``MOST_CALLS`` calls in an epoch, their rounding error exceeds
    ``SAME``, and no loss counts as stuck until the next epoch begins.

    Args:
        first: the first loss of a resumed run.
    """

    def __init__(self, first: float | None = None) -> None:
        self.first, self.level, self.same_steps = first, math.inf, 0
        self.start_epoch()

    def start_epoch(self, calls: int = 0, sums: Sequence[float] = (0, 0)) -> None:
        """Begins a mean, or resumes it: ``sums`` of the losses and of their weights."""
        self.calls, self.mean = calls, sums[0] / (sums[1] or 1)

    def find_fault(self, mean: float, steps: int = 1) -> str | None:
        """Describes a fault of the loss in a few words; None if there is none.

        Args:
            mean: the mean loss of the epoch so far.
            steps: steps since the last call.
        """
        if not math.isfinite(mean):
            return f"is {mean}"
        loss = (self.calls + 1) * mean - self.calls * self.mean
        self.calls, self.mean = self.calls + 1, mean
        self.first = loss if self.first is None else self.first
        is_same = math.isclose(loss, self.level, rel_tol=SAME)
        if is_same and self.calls <= MOST_CALLS:
            self.same_steps += steps
        else:
            self.level, self.same_steps = loss, 0
        is_higher = loss - self.first > SAME * abs(self.first)
        if is_higher and self.same_steps >= STUCK_STEPS:
            return f"is stuck at {loss:g} for {self.same_steps} steps"
        return None
