"""Collective calls: recorded, and refused where the package would refuse them."""

import tensorflow as tf

from npu_device import session
from npu_device.contract import calls, fail

_REDUCTIONS = ("mean", "max", "min", "prod", "sum")
_TYPES = ("int8", "int32", "float16", "float32")


def all_reduce(
    values, reduction="mean", fusion=1, fusion_id=-1, group="hccl_world_group"
):
    """Returns the values as they are: there is one process here."""
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction {reduction}")
    for value in values if isinstance(values, (list, tuple)) else [values]:
        if value is not None and value.dtype.name not in _TYPES:
            fail(f"all_reduce of {value.dtype.name}")
    calls.append(("all_reduce", reduction))
    return values


def broadcast(values, root_rank=0, fusion=2, fusion_id=0, group="hccl_world_group"):
    """Would set variables to those of the root, in place."""
    variables = values if isinstance(values, (list, tuple)) else [values]
    for variable in variables:
        variable.assign  # noqa: B018  AttributeError where it is no variable
    calls.append(("broadcast", len(variables), root_rank))


def npu_distributed_keras_optimizer_wrapper(
    optimizer,
    reduce_reduction="mean",
    fusion=1,
    fusion_id=-1,
    group="hccl_world_group",
):
    """Patches the optimizer, so that gradients are reduced before they are applied."""
    optimizer = tf.keras.optimizers.get(optimizer)
    apply_gradients = optimizer.apply_gradients

    def reduced(grads_and_vars, *args, **kwargs):
        gradients, variables = zip(*grads_and_vars)  # ValueError where it is empty
        gradients = all_reduce(list(gradients), reduce_reduction)
        return apply_gradients(zip(gradients, variables), *args, **kwargs)

    optimizer.apply_gradients = reduced
    calls.append(("npu_distributed_keras_optimizer_wrapper", reduce_reduction))
    return optimizer


def shard_and_rebatch_dataset(dataset, global_bs):
    """Each rank's share of a dataset that is not batched yet, and its batch size."""
    handle = session._handle
    workers = handle.workers_num if handle else 1
    if global_bs % workers:
        raise ValueError(f"Batch size must be divisible by num npus: {workers}")
    calls.append(("shard_and_rebatch_dataset", global_bs))
    if workers == 1:
        return dataset, global_bs
    return dataset.shard(workers, handle.worker_id), global_bs // workers
