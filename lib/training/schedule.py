"""Training schedules: batches, steps and epochs of a run, and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from lib import errors
from lib.hardware.device import Device
from lib.hardware.workers import RATE_SCALINGS
from lib.models.optimizers import SCHEDULES

SHUFFLES = ("all", "blocks")


@dataclass(frozen=True)
class Schedule:
    """How a model is trained.

    Attributes:
        batch_size: examples a step, over all workers together.
        epochs: number of epochs.
        learning_rate: initial rate of Adam, for one worker.
        decay: learning-rate schedule, ``"constant"`` or ``"cosine"``.
        rate_scaling: ``"none"``, ``"sqrt"`` or ``"linear"`` in the number of workers.
        steps_per_epoch: steps an epoch; 0 for all batches.
        steps_per_execution: steps in one call of the compiled loop; 0 for an epoch.
        static: True drops the last partial batch, so all steps have the same shape.
        reshuffle: False repeats the batches of the first epoch in every epoch.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        seed: of the order of the examples.
        shuffle: ``"all"`` draws the order of an epoch from all orders; ``"blocks"``
            needs no memory for it, see ``pipeline.draw_order``.
        checkpoint_every: steps from one checkpoint inside an epoch to the next; 0 for
            none. Every epoch ends with one.

    Raises:
        InputError: a value is not allowed.
    """

    batch_size: int = 128
    epochs: int = 1
    learning_rate: float = 0.001
    decay: str = "constant"
    rate_scaling: str = "none"
    steps_per_epoch: int = 0
    steps_per_execution: int = 1
    static: bool = True
    reshuffle: bool = True
    evaluate_every: int = 1
    seed: int = 0
    shuffle: str = "all"
    checkpoint_every: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "evaluate_every"):
            errors.check_whole(name, getattr(self, name))
        for name in ("steps_per_epoch", "steps_per_execution", "checkpoint_every"):
            errors.check_whole(name, getattr(self, name), lowest=0)
        errors.check_seed(self.seed)
        rate, most, least = self.learning_rate, errors.LARGEST, 1 / errors.LARGEST
        allowed = f"above 0 that float32 holds ({least:g} to {most:g})"
        errors.check_number("learning_rate", rate, least <= rate <= most, allowed)
        errors.check_choice("schedule", self.decay, SCHEDULES)
        errors.check_choice("rate_scaling", self.rate_scaling, RATE_SCALINGS)
        errors.check_choice("shuffle", self.shuffle, SHUFFLES)

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Schedule:
        """Takes the fields from a notebook's parameters; ``schedule`` is the decay."""
        values = {**parameters, "decay": parameters.get("schedule", cls.decay)}
        names = [field.name for field in fields(cls)]
        return cls(**{name: values[name] for name in names if name in values})

    @classmethod
    def brief(
        cls, n_examples: int, batch_size: int, epochs: int, rate: float, seed: int
    ) -> Schedule:
        """A training of seconds: at most 400 steps an epoch, and a batch that fits."""
        batch_size = max(min(batch_size, n_examples), 1)
        brief = cls(batch_size, epochs, rate, steps_per_execution=0, seed=seed)
        return replace(brief, steps_per_epoch=min(n_examples // batch_size, 400))

    def plan(self, n_examples: int, device: Device | None = None) -> Plan:
        """Counts the steps for a number of training examples.

        Args:
            n_examples: the number of training examples.
            device: several TensorFlow workers take one step a call; other devices take
                ``steps_per_execution``.

        Raises:
            InputError: an epoch has fewer batches than the schedule asks for, or
                several workers would share a partial batch.
        """
        if device and device.workers > 1 and not self.static:
            raise errors.InputError(
                f"static=False: {device.workers} workers cannot share the last partial "
                "batch; set static=True."
            )
        size = self.batch_size
        whole = n_examples // size if self.static else math.ceil(n_examples / size)
        if whole < max(self.steps_per_epoch, 1):
            raise errors.InputError(
                f"batch_size={size}, steps_per_epoch={self.steps_per_epoch}: "
                f"{n_examples} examples make {whole} batches an epoch; choose a "
                "smaller batch_size or steps_per_epoch."
            )
        steps = self.steps_per_epoch or whole
        call = self.steps_per_execution or steps
        if device and device.engine == "tensorflow":
            call = 1
        if steps < call:
            raise errors.InputError(
                f"steps_per_execution={call}: an epoch has {steps} steps; choose "
                f"{steps} or fewer."
            )
        return Plan(self, n_examples, steps - steps % call, call)


@dataclass(frozen=True)
class Plan:
    """A schedule for a given number of examples.

    Attributes:
        schedule: the ``Schedule``.
        n_examples: training examples; the last batch of an epoch may be partial.
        steps: steps an epoch, a multiple of ``steps_per_call``.
        steps_per_call: steps in one call of the compiled loop. Keras reports once a
            call.
    """

    schedule: Schedule
    n_examples: int
    steps: int
    steps_per_call: int

    def count_examples(self, first: int, last: int) -> int:
        """Counts the examples of the steps ``first + 1`` to ``last`` of an epoch."""
        size = self.schedule.batch_size
        return min(last * size, self.n_examples) - min(first * size, self.n_examples)
