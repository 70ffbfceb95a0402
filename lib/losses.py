"""A loss that is lost: not a number, or stuck where the arithmetic saturates."""

import math

STUCK_STEPS = 100  # that a loss must stay the same for
COARSE = 2.0**-9  # what it may change by, of its size, to count as the same
ROUNDING = 2.0**-22  # of a mean in float32, for every loss in it


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
