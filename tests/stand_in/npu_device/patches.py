"""What ``as_default()`` changes in TensorFlow, for as long as the process lives."""

import functools
import threading

import tensorflow as tf
from tensorflow.python.eager import context, def_function, function
from tensorflow.python.framework import ops
from tensorflow.python.ops import nn_ops

from npu_device import float_status
from npu_device.contract import ContractBroken, broken, calls, fail
from npu_device.distribute import fabric

_function = def_function.function
_entered = threading.local()  # depth: whether this thread is in a tf.function already


def npu_compat_function(func=None, *args, **kwargs):
    """``tf.function`` without XLA."""
    for option in ("jit_compile", "experimental_compile"):
        if kwargs.pop(option, None):
            calls.append(("dropped", option))
    if func is None:
        return _function(None, *args, **kwargs)
    return _function(func, *args, **kwargs)


def install():
    """Changes TensorFlow; safe to call again."""
    if tf.function is npu_compat_function:
        return
    tf.function = def_function.function = npu_compat_function
    called = def_function.Function.__call__
    def_function.Function.__call__ = functools.wraps(called)(_inlined(called))
    called = function.ConcreteFunction.__call__
    function.ConcreteFunction.__call__ = functools.wraps(called)(_launched(called))
    ops.device = _device  # tf.device calls it
    tf.py_function = _on_the_host(tf.py_function)
    tf.nn.dropout = nn_ops.dropout_v2 = _dropout(nn_ops.dropout_v2)
    tf.compat.v2.nn.dropout = tf.nn.dropout
    tf.GradientTape.gradient = float_status.saturated(tf.GradientTape.gradient)
    tf.keras.Model.fit = _loop_checked(tf.keras.Model.fit)


def _inlined(called):
    """Calls a tf.function as part of the graph that is being traced, if any is."""
    outermost = _launched(called)

    def call(self, *args, **kwargs):
        if not getattr(_entered, "depth", 0):
            return outermost(self, *args, **kwargs)
        try:
            return self._python_function(*args, **kwargs)
        except Exception:  # it may need what tf.function does, such as autograph
            return called(self, *args, **kwargs)

    return call


def _launched(called):
    """Starts a graph on all ranks of a job, or fails."""

    def call(self, *args, **kwargs):
        if not tf.executing_eagerly():
            return called(self, *args, **kwargs)
        fabric.launch(getattr(self, "_name", None) or self.name)
        n_broken, _entered.depth = len(broken), getattr(_entered, "depth", 0) + 1
        try:
            return called(self, *args, **kwargs)
        except tf.errors.OpError as error:
            if len(broken) > n_broken:  # inside of a collective
                raise ContractBroken(broken[-1]) from error
            raise
        finally:
            _entered.depth -= 1

    return call


def _device(name):
    """Re-enters the device that is current already."""
    return context.device(context.context().device_name)


def _on_the_host(py_function):
    def pinned(func, *args, **kwargs):
        def on_the_host(*values):
            with context.device("CPU:0"):
                return func(*values)

        return py_function(on_the_host, *args, **kwargs)

    return pinned


def _dropout(original):
    """In graphs, draws masks that differ from those of a CPU with the same seed."""

    def dropout(x, rate, noise_shape=None, seed=None, name=None):
        if tf.executing_eagerly() or noise_shape is not None:
            return original(x, rate, noise_shape, seed, name)
        x = tf.convert_to_tensor(x)
        drawn = tf.random.uniform(tf.shape(x), seed=(seed or 0) + 910)
        return x * tf.cast(drawn >= rate, x.dtype) / tf.cast(1 - rate, x.dtype)

    return dropout


def _loop_checked(fit):
    """``Model.fit``, refused where a card would take another number of steps a call."""

    def checked(self, *args, **kwargs):
        from npu_device import npu_device as session

        steps, loop_size = int(self._steps_per_execution), session.loop_size_now
        calls.append(("fit", steps))
        if steps not in (1, loop_size):
            fail(f"fit takes {steps} steps a call, the loop size is {loop_size}")
        return fit(self, *args, **kwargs)

    return checked
