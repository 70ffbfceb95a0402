"""The loss scale of the package; here it computes as the one of Keras does."""

import inspect

import tensorflow as tf

from npu_device.contract import calls

_Keras = tf.keras.mixed_precision.LossScaleOptimizer
_KERAS_3 = "dynamic" not in inspect.signature(_Keras.__init__).parameters


class NpuLossScaleOptimizer(_Keras):
    def __init__(
        self,
        inner_optimizer,
        dynamic=True,
        initial_scale=None,
        dynamic_growth_steps=None,
    ):
        if not isinstance(inner_optimizer, tf.keras.optimizers.Optimizer):
            raise TypeError(f"expected an optimizer, got {inner_optimizer!r}")
        if not isinstance(dynamic, bool):
            raise TypeError(f"dynamic must be a bool, got {dynamic!r}")
        if not dynamic and (initial_scale is None or dynamic_growth_steps is not None):
            raise ValueError("a fixed scale needs initial_scale and no growth steps")
        calls.append(("NpuLossScaleOptimizer", type(inner_optimizer).__name__))
        if _KERAS_3:
            super().__init__(
                inner_optimizer, initial_scale or 2**15, dynamic_growth_steps or 2000
            )
        else:
            super().__init__(
                inner_optimizer, dynamic, initial_scale, dynamic_growth_steps
            )

    if not _KERAS_3:

        def apply_gradients(self, grads_and_vars, name=None):
            return super().apply_gradients(grads_and_vars, name=name)
