"""What happens beside the training steps: measure, log, watch, evaluate, save."""

import time

import numpy as np

from lib import checkpoints, collectives, workers
from lib.errors import InputError
from lib.losses import Watch
from lib.quiet import tf

LOG_EVERY = 100  # steps between two lines of the log


class Bookkeeper(tf.keras.callbacks.Callback):
    """One Keras callback for all of it, so that the order is plain.

    Args:
        run: a ``lib.results.Run``.
        progress, manager: what ``checkpoints.resume`` returned; the first is changed.
        evaluate: ``evaluate(epoch) -> {metric: value}``, called after every epoch.
        log: a ``lib.files.Log``.
        epochs: of the run.
        batch_size: examples a step, of all workers together.
        group: steps that Keras takes in one call.
    """

    def __init__(
        self, run, progress, manager, evaluate, log, epochs, batch_size, group
    ):
        super().__init__()
        self.run, self.progress, self.manager = run, progress, manager
        self.evaluate, self.log, self.epochs = evaluate, log, epochs
        self.batch_size, self.group = batch_size, group
        history = progress["history"]
        self.watch = Watch(history[0]["loss"] if history else None)
        self.measuring = False  # not before the first step, which compiles, is over

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch_started = self.steady_started = self.logged_at = time.time()
        self.calls = self.logged_step = 0
        self.watch.new_epoch()

    def on_train_batch_end(self, batch, logs=None):
        fault = self.watch.fault(float(logs["loss"]), self.group)
        if fault:
            self._stop(f"the loss {fault} at step {batch + 1}")
        if not self.measuring:
            self.measuring = True
            now = self.steady_started = self.logged_at = time.time()
            self.progress["first_step_s"] = round(now - self.epoch_started, 3)
            return
        self.calls += 1
        if batch + 1 >= self.logged_step + LOG_EVERY:
            self._log(batch + 1, logs["loss"])

    def _log(self, step, loss):
        now = time.time()
        steps = step - self.logged_step
        rate = steps * self.batch_size / (now - self.logged_at)
        self.logged_at, self.logged_step = now, step
        line = f"epoch {self.epoch} step {step} loss {loss:.6f} {rate:.0f} examples/s"
        self.log.write(line)

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
        self.progress["steady"][0] += self.calls * self.group * self.batch_size
        self.progress["steady"][1] += now - self.steady_started
        seconds = round(now - self.epoch_started, 3)
        for weight in self.model.trainable_variables:
            if not np.isfinite(tf.convert_to_tensor(weight).numpy()).all():
                self._stop("weights are not finite any more at the end")
        row = {"epoch": self.epoch, "loss": collectives.mean(float(logs["loss"]))}
        row.update(self.evaluate(self.epoch))  # by all workers: no graph runs on one
        self.progress["history"].append(row)
        self.progress["epoch_s"].append(seconds)
        shown = "  ".join(f"{k} {v:.4f}" for k, v in row.items() if k != "epoch")
        line = f"epoch {row['epoch']}/{self.epochs}  {shown}  {seconds:.1f} s"
        print(line, flush=True)
        self.log.write(line)
        if workers.current().rank == 0:
            checkpoints.save(self.manager, self.progress, self.run)
