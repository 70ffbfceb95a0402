"""Save training state atomically and validate it on restore.

The folder ``ckpt/`` of a run holds one TensorFlow checkpoint, ``ckpt-<n>``, where
``n`` counts the checkpoints after and inside epochs, and beside it ``ckpt-<n>.json``
with the state that the record needs, ``Progress``. A save writes in this order: the
JSON; the tensors; the file ``checkpoint``, which names them and is replaced in one
step; then older files are removed. Whenever a process dies, ``checkpoint`` names
complete tensors with their JSON beside them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lib import files
from lib.errors import InputError
from lib.hardware import collectives
from lib.hardware.device import Device
from lib.hardware.tensorflow import tf
from lib.training.schedule import Plan

FAREWELL_S = 3  # wait before exiting, so that the others receive the last message


@dataclass
class Progress:
    """The state of a training run, as its record needs it.

    Attributes:
        run: name of the run.
        started_at: start of its first attempt, ISO 8601.
        wall_s: seconds spent on the run, over all attempts.
        history: one dict an epoch: epoch, loss and metrics.
        partial: of the epoch that has begun: steps, seconds, and the sum and the
            weight of the losses.
        inside: checkpoints inside epochs.
        epoch_s: seconds of each epoch, without evaluation.
        first_step_s: seconds of the first call, which compiles.
        steady: examples, steps and seconds of all other calls.
    """

    run: str = ""
    started_at: str = ""
    wall_s: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    partial: list[float] = field(default_factory=lambda: [0, 0.0, 0.0, 0.0])
    inside: int = 0
    epoch_s: list[float] = field(default_factory=list)
    first_step_s: float = 0.0
    steady: list[float] = field(default_factory=lambda: [0, 0, 0.0])

    @property
    def number(self) -> int:
        """The number of the checkpoint with this state."""
        return len(self.history) + self.inside

    @property
    def position(self) -> str:
        """The last step that the checkpoint has, in words."""
        step, epoch = int(self.partial[0]), len(self.history)
        return f"step {step} of epoch {epoch + 1}" if step else f"epoch {epoch}"

    def check(self, number: int, plan: Plan) -> None:
        """Checks a state that was read from the JSON of checkpoint ``number``.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: no run has such a state.
        """
        numbers = [self.wall_s, self.first_step_s, *self.epoch_s]
        numbers += [*self.steady, *self.partial]
        numbers += [value for row in self.history for value in row.values()]
        epochs = [row["epoch"] for row in self.history if row["loss"] is not None]
        if not (
            {str} == {type(self.run), type(self.started_at)}
            and {type(value) for value in numbers} <= {int, float}
            and epochs == list(range(1, len(self.epoch_s) + 1))
            and (len(self.steady), len(self.partial), self.number) == (3, 4, number)
            and self.partial[0] in range(0, plan.steps, plan.steps_per_call)
        ):
            raise ValueError("no state of this run")


class Checkpoints:
    """The checkpoints of a run.

    Args:
        run: a ``lib.records.run.Run``.
        model: compiled, with all its variables.
        device: of the run; its chief writes.
        solver: whose variables are saved in place of an optimizer's.

    Raises:
        InputError: the folder is damaged.
    """

    def __init__(
        self, run: Any, model: tf.keras.Model, device: Device, solver: Any = None
    ) -> None:
        self.run, self.device = run, device
        self.variables = model.trainable_variables
        self.folder = run.chief_folder / "ckpt"
        state = solver or model.optimizer
        self.checkpoint = tf.train.Checkpoint(model=model, optimizer=state)
        _ = self.checkpoint.save_counter  # created here, by all workers together
        self._latest = latest(self.folder)  # refused before TensorFlow reads it
        self.manager = tf.train.CheckpointManager(
            self.checkpoint, str(self.folder), max_to_keep=1
        )

    def resume(self, plan: Plan) -> Progress:
        """Restores the last checkpoint of an interrupted run.

        A run whose record is written is finished: it starts from scratch, and its
        checkpoint is removed.

        Args:
            plan: the epochs and steps of the run.

        Raises:
            InputError: the checkpoint is damaged, belongs to another run, has more
                epochs, or the workers would resume from different checkpoints.
        """
        progress, epochs = self._read_progress(plan), plan.schedule.epochs
        if len(progress.history) > epochs:
            raise InputError(
                f"{self.folder}: the run already has {len(progress.history)} epochs, "
                f"and epochs={epochs}; choose that many or more, or another output_dir."
            )
        is_recorded = self.run.recorded_at() == progress.started_at
        is_finished = is_recorded and len(progress.history) == epochs
        self._agree_on(0 if is_finished else progress.number)
        if not is_finished and self._latest:
            restore(self.checkpoint.restore, self._latest)
            self.run.continue_clock(progress.started_at, progress.wall_s)
        elif progress.started_at == self.run.started_at:
            self.run.start_clock()
        collectives.synchronize(self.device, self.variables)
        if self.device.is_chief:
            if is_finished:  # its other files count for nothing from now on
                (self.folder / "checkpoint").unlink()
            self._tidy()
        return Progress(self.run.name) if is_finished else progress

    def save(self, progress: Progress) -> None:
        """Saves the state; the older one is removed afterwards.

        Raises:
            InputError: it cannot be written; the older state is still there.
        """
        if not self.device.is_chief:
            return
        progress.started_at, progress.wall_s = self.run.started_at, self.run.wall_s()
        number, state = progress.number, json.dumps(asdict(progress))
        try:
            files.write_text(self.folder / f"ckpt-{number}.json", state)
            self.manager.save(checkpoint_number=number)
        except (OSError, tf.errors.OpError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise files.not_written(self.folder, reason.partition("\n")[0]) from error
        finally:
            self._tidy()

    def _agree_on(self, number: int) -> None:
        """Ends every worker unless all of them resume from the same checkpoint.

        Restoring the variables of several workers is a collective operation, so they
        must agree before.
        """
        mean = collectives.mean(self.device, float(number))
        if collectives.mean(self.device, abs(number - mean)) > 1e-3:
            time.sleep(FAREWELL_S)
            raise InputError(
                f"{self.run.chief_folder}: this worker would resume from checkpoint "
                f"{number}, others from another one: workers on several hosts need an "
                "output_dir that all of them share."
            )

    def _read_progress(self, plan: Plan) -> Progress:
        """Reads the state of the last checkpoint; that of a new run without one."""
        if not self._latest:
            return Progress(self.run.name)
        state = Path(self._latest + ".json")
        try:
            progress = Progress(**files.read_json(state))
            progress.check(int(self._latest.rpartition("-")[2]), plan)
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            reason = f"{state.name} does not belong to it"
            raise _damaged(self.folder, reason) from error
        if progress.run != self.run.name:
            raise InputError(
                f"{self.folder} holds the checkpoint of the run {progress.run}: rename "
                "its folder back, or remove it, or choose another output_dir."
            )
        return progress

    def _tidy(self) -> None:
        """Removes the files of other checkpoints than the one that is named."""
        path = latest(self.folder)
        valid = path and Path(path).name + "."
        leftovers = ("ckpt-*", "checkpoint.tmp*", "*.unfinished")
        for file in [file for each in leftovers for file in self.folder.glob(each)]:
            if not (valid and file.name.startswith(valid)):
                with suppress(OSError):  # a full disk or one that is read-only now
                    (shutil.rmtree if file.is_dir() else os.remove)(file)


def latest(folder: Path) -> str | None:
    """Returns the path of the checkpoint in a folder; None without one.

    Raises:
        InputError: the checkpoint is incomplete or elsewhere: TensorFlow would
            read, and later delete, any path that the file ``checkpoint`` names.
    """
    if not (folder / "checkpoint").exists():
        return None
    try:
        state = tf.train.get_checkpoint_state(str(folder))
        paths = [state.model_checkpoint_path, *state.all_model_checkpoint_paths]
        own = re.compile(re.escape(f"{folder.as_posix()}/") + "ckpt-[1-9][0-9]*")
        is_own = all(own.fullmatch(Path(each).as_posix()) for each in paths)
        path = tf.train.latest_checkpoint(str(folder)) if is_own else None
    except (AttributeError, ValueError, tf.errors.OpError):  # no such file, no UTF-8
        path = None
    if path is None:
        raise _damaged(folder, "it does not hold the checkpoint that it names")
    return path


def restore(read: Callable[[str], Any], path: str) -> None:
    """Restores a checkpoint with ``read``; all variables must match.

    Raises:
        InputError: the checkpoint is damaged or belongs to another model.
    """
    errors = (AssertionError, ValueError, TypeError, KeyError, IndexError, OSError)
    try:
        read(path).assert_existing_objects_matched()
    except (*errors, RuntimeError, tf.errors.OpError) as error:
        raise _damaged(Path(path).parent, "it does not fit the model") from error


def _damaged(folder: Path, reason: str) -> InputError:
    return InputError(
        f"{folder} is damaged ({reason}): copy it again, or remove it to train from "
        "scratch."
    )
