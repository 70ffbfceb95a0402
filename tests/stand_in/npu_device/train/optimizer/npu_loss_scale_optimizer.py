"""The loss scale of the package, which reads the card's overflow flag."""

import tensorflow as tf
from npu_device import float_status
from npu_device import npu_device as session
from npu_device.contract import calls
from npu_device.distribute.hccl import all_reduce


class NpuLossScaleOptimizer(tf.keras.mixed_precision.LossScaleOptimizer):
    def __init__(
        self,
        inner_optimizer,
        dynamic=True,
        initial_scale=None,
        dynamic_growth_steps=None,
    ):
        super().__init__(inner_optimizer, dynamic, initial_scale, dynamic_growth_steps)
        self._last_step_finite = tf.Variable(
            False, trainable=False, name="npu_last_step_finite"
        )
        calls.append(("NpuLossScaleOptimizer", type(inner_optimizer).__name__))

    @property
    def last_step_finite(self):
        """Whether nothing overflowed in the last step."""
        return self._last_step_finite

    def apply_gradients(self, grads_and_vars, name=None):
        if session.handle is None:
            return super().apply_gradients(grads_and_vars, name)
        pairs = list(grads_and_vars)
        status = float_status.read_and_clear([gradient for gradient, _ in pairs])
        if session.handle.workers_num > 1:
            status = all_reduce(status, "sum", fusion=0)
        finite = tf.reduce_all(status == 0)
        self._last_step_finite.assign(finite)
        optimizer = self.inner_optimizer

        def apply():
            optimizer.apply_gradients(
                pairs, name=name, experimental_aggregate_gradients=False
            )
            return tf.constant(True)

        def skip():
            optimizer.iterations.assign_add(1)
            return tf.constant(False)

        applied = tf.cond(finite, apply, skip)
        if self.dynamic:
            self._update_scale(finite)
        return tf.group(applied)

    def _update_scale(self, finite):
        """Doubles the scale after many good steps, halves it after an overflow."""
        state = self._loss_scale
        scale, factor = tf.identity(state.current_loss_scale), state.multiplier
        good_steps = tf.where(finite, state.counter + 1, 0)
        grows = good_steps >= state.growth_steps
        may_grow = grows & (scale < tf.float32.max / factor)
        grown = tf.where(may_grow, scale * factor, scale)
        halved = tf.maximum(scale / factor, 1.0)
        state.current_loss_scale.assign(tf.where(finite, grown, halved))
        state.counter.assign(tf.where(grows, tf.zeros_like(good_steps), good_steps))
