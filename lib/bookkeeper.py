"""What happens beside the training steps: measure, log, watch, evaluate, save."""

import time
from dataclasses import dataclass

import numpy as np

from lib import checkpoints, collectives, workers
from lib.errors import InputError
from lib.losses import Watch
from lib.quiet import tf

LOG_EVERY = 100  # steps between two lines of the log inside an epoch


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
        run: a ``lib.results.Run``.
        progress, manager: what ``checkpoints.resume`` returned; the first is changed.
        evaluate: ``evaluate(epoch) -> {metric: value}``, called after every epoch, on
            every worker.
        log: a ``lib.files.Log``.
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
