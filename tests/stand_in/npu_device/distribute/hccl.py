"""Collectives, and the Keras optimizer that uses them."""

import functools

import numpy as np
import tensorflow as tf
from npu_device import npu_device as session
from npu_device.contract import calls, fail
from npu_device.distribute import fabric
from npu_device.patches import npu_compat_function

_REDUCTIONS = {"max": np.maximum, "min": np.minimum, "prod": np.multiply}
_REDUCTIONS.update(sum=np.add, mean=np.add)
_TYPES = ("int8", "int32", "float16", "float32")
_WORLD = "hccl_world_group"


def all_reduce(values, reduction="mean", fusion=1, fusion_id=-1, group=_WORLD):
    """A tensor, or a list of tensors and Nones, reduced over all ranks."""
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction {reduction}")
    is_list = isinstance(values, (list, tuple))
    some = [value for value in (values if is_list else [values]) if value is not None]
    for value in some:
        _require(value, _TYPES, "all_reduce")
        if reduction == "mean" and not value.dtype.is_floating:
            fail(f"all_reduce: the mean of {value.dtype.name} would be float64")
    calls.append(("all_reduce", reduction))
    if not _is_cluster():
        return values
    reduced = iter(_all_reduce(some, reduction))
    found = [None if v is None else next(reduced) for v in values] if is_list else None
    return found if is_list else next(reduced)


def broadcast(values, root_rank=0, fusion=2, fusion_id=0, group=_WORLD):
    """Sets variables to those of the root, in place."""
    variables = list(values) if isinstance(values, (list, tuple)) else [values]
    for variable in variables:
        variable.assign  # noqa: B018  AttributeError where it is no variable
        _require(variable, (*_TYPES, "int64", "uint64"), "broadcast")
    calls.append(("broadcast", len(variables), root_rank))
    if _is_cluster():
        _broadcast(variables, root_rank)


def npu_distributed_keras_optimizer_wrapper(
    optimizer, reduce_reduction="mean", fusion=1, fusion_id=-1, group=_WORLD
):
    """Patches a Keras 2.6 optimizer: gradients are reduced before it applies them."""
    optimizer = tf.keras.optimizers.get(optimizer)
    apply, compute = optimizer.apply_gradients, optimizer._compute_gradients

    def reduced(grads_and_vars, *args, **kwargs):
        gradients, variables = zip(*grads_and_vars)  # ValueError where it is empty
        gradients = all_reduce(gradients, reduce_reduction, fusion, fusion_id, group)
        return apply(zip(gradients, variables), *args, **kwargs)

    optimizer.apply_gradients = reduced
    optimizer._compute_gradients = lambda *args, **kwargs: compute(*args, **kwargs)
    calls.append(("npu_distributed_keras_optimizer_wrapper", reduce_reduction))
    return optimizer


@npu_compat_function
def _all_reduce(values, reduction):
    values = [tf.convert_to_tensor(value) for value in values]  # IndexedSlices: dense

    def reduce(ranks):
        return functools.reduce(_REDUCTIONS[reduction], ranks)

    found = _together(f"all_reduce {reduction}", values, reduce)
    if reduction == "mean":
        part = 1 / session.handle.workers_num
        found = [value * tf.cast(part, value.dtype) for value in found]
    return found


@npu_compat_function
def _broadcast(variables, root):
    values = [tf.convert_to_tensor(variable) for variable in variables]
    found = _together(f"broadcast from {root}", values, lambda ranks: ranks[root])
    for variable, value in zip(variables, found):
        variable.assign(value)


def _together(kind, values, combine):
    """An operation of the graph that meets the other ranks."""
    if tf.executing_eagerly():
        fail(f"{kind} ran eagerly: a card runs collectives in graphs alone")

    def meet(*arrays):
        ranks = fabric.exchange(kind, arrays)
        return [np.asarray(combine(of_all)) for of_all in zip(*ranks)]

    found = tf.numpy_function(meet, values, [value.dtype for value in values])
    for value, like in zip(found, values):
        value.set_shape(like.shape)
    return found


def _require(value, types, kind):
    if not hasattr(value, "dtype"):
        raise AttributeError(f"{kind} of {type(value)}: no tensor")
    if value.dtype.name not in types:
        fail(f"{kind} of {value.dtype.name}")


def _is_cluster():
    return session.handle is not None and session.handle.is_cluster_worker()
