"""Arithmetic that saturates: an overflow is the largest number, and sets a flag.

A card lowers float32 products to float16 unless ``precision_mode`` forbids it, so a
gradient beyond the largest float16 is an overflow too. The flag is eight int32, all 0
while nothing has overflowed; it stays set until it is cleared.
"""

import functools

import tensorflow as tf

from npu_device.configs.npu_config import global_options

_flag = None
_KEPT = ("must_keep_origin_dtype", "origin")  # precision modes without float16


def saturated(gradient):
    """``GradientTape.gradient``, whose values are never infinite."""

    @functools.wraps(gradient)
    def compute(*args, **kwargs):
        return tf.nest.map_structure(_saturate, gradient(*args, **kwargs))

    return compute


def read_and_clear(after):
    """The flag, int32 ``(8,)``, as it is once the tensors exist; it is 0 afterwards."""
    with tf.control_dependencies([tensor for tensor in after if tensor is not None]):
        status = tf.identity(_the_flag())
    with tf.control_dependencies([status]):
        _the_flag().assign(tf.zeros(8, tf.int32))
    return status


def _saturate(value):
    if value is None or not value.dtype.is_floating:
        return value
    if isinstance(value, tf.IndexedSlices):
        return tf.IndexedSlices(
            _saturate(value.values), value.indices, value.dense_shape
        )
    limit = min(_largest(), value.dtype.max)
    overflows = tf.reduce_any(~(tf.abs(value) <= limit))  # NaN too
    _the_flag().assign_add(tf.fill([8], tf.cast(overflows, tf.int32)))
    value = tf.where(tf.math.is_nan(value), tf.zeros_like(value), value)
    return tf.clip_by_value(value, -limit, limit)


def _largest():
    modes = map(global_options().text, ("precision_mode", "precision_mode_v2"))
    return (tf.float32 if set(_KEPT) & set(modes) else tf.float16).max


def _the_flag():
    global _flag
    if _flag is None:
        with tf.init_scope():
            _flag = tf.Variable(tf.zeros(8, tf.int32), trainable=False)
    return _flag
