"""Adam in one pass over the weights, and the course of the learning rate."""

from lib.hardware.tensorflow import tf


def apply_adam(weight, moment, velocity, gradient, step, rate, beta_1, beta_2, epsilon):
    """One pass of Adam over a ``tf.Variable`` and its two moments, in place."""
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
    arithmetic. Keras 2.6 uses that kernel by itself, but not for looked-up rows. Each
    of the two methods below belongs to one of the two and is never called by the other.
    """

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        moments = (self._momentums[index].value, self._velocities[index].value)
        step = tf.cast(self.iterations + 1, tf.float32)
        constants = (self.beta_1, self.beta_2, self.epsilon)
        apply_adam(variable, *moments, gradient, step, learning_rate, *constants)

    def _resource_apply_sparse_duplicate_indices(self, grad, handle, indices, **kwargs):
        dense = tf.math.unsorted_segment_sum(grad, indices, handle.shape[0])
        return self._resource_apply_dense(dense, handle, **kwargs)


def adam(learning_rate, steps, schedule="constant"):
    """Adam whose learning rate stays or falls to 0 along half a cosine.

    Args:
        learning_rate: that the run starts with.
        steps: of the whole run.
        schedule: ``"constant"``, or ``"cosine"`` (Loshchilov and Hutter 2017, equation
            5, without restarts).
    """
    if schedule == "cosine":
        learning_rate = tf.keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    return Adam(learning_rate=learning_rate)
