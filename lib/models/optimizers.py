"""A fused Adam optimizer and learning-rate schedules."""

from __future__ import annotations

from typing import Any

from lib.errors import check_choice
from lib.hardware.tensorflow import tf

SCHEDULES = ("constant", "cosine")


def apply_adam(
    weight: tf.Variable,
    moment: tf.Variable,
    velocity: tf.Variable,
    gradient: tf.Tensor,
    step: tf.Tensor | float,
    rate: tf.Tensor | float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
) -> None:
    """Updates a weight and its two moments by one step of Adam, in place.

    Args:
        weight, moment, velocity, gradient: float32, all of one shape.
        step: 1 for the first step.
        rate: the learning rate.
        beta_1, beta_2, epsilon: as Kingma and Ba name them.
    """
    tf.raw_ops.ResourceApplyAdam(
        var=weight.handle,
        m=moment.handle,
        v=velocity.handle,
        beta1_power=tf.pow(beta_1, step),
        beta2_power=tf.pow(beta_2, step),
        lr=tf.cast(rate, tf.float32),
        beta1=beta_1,
        beta2=beta_2,
        epsilon=epsilon,
        grad=tf.convert_to_tensor(gradient),
    )


class Adam(tf.keras.optimizers.Adam):
    """Adam (Kingma and Ba 2015), one fused pass over each weight on every stack.

    Keras 3 writes a step as a chain of array operations, each of which reads and writes
    whole tables; TensorFlow's own kernel reads and writes them once, with the same
    arithmetic. Keras 2.6 uses that kernel already, except for the gradients of gathered
    rows. Keras 3 calls ``update_step`` and Keras 2.6 the other method.
    """

    def update_step(
        self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Changes a weight and its two moments in place, in one pass."""
        index = self._get_variable_index(variable)
        moments = (self._momentums[index].value, self._velocities[index].value)
        step = tf.cast(self.iterations + 1, tf.float32)
        constants = (self.beta_1, self.beta_2, self.epsilon)
        apply_adam(variable, *moments, gradient, step, learning_rate, *constants)

    def _resource_apply_sparse_duplicate_indices(
        self, grad: tf.Tensor, handle: tf.Variable, indices: tf.Tensor, **kwargs: Any
    ) -> tf.Operation:
        dense = tf.math.unsorted_segment_sum(grad, indices, handle.shape[0])
        return self._resource_apply_dense(dense, handle, **kwargs)


def make_adam(
    learning_rate: float, steps: int, schedule: str = "constant"
) -> tf.keras.optimizers.Optimizer:
    """Makes an Adam whose learning rate is constant or falls to 0 along half a cosine.

    Args:
        learning_rate: of the first step.
        steps: of the whole run.
        schedule: ``"constant"``, or ``"cosine"`` (Loshchilov and Hutter 2017, equation
            5, without restarts).

    Raises:
        InputError: another schedule.
    """
    check_choice("schedule", schedule, SCHEDULES)
    rate = learning_rate
    if schedule == "cosine":
        rate = tf.keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    return Adam(learning_rate=rate)
