"""``open()``, its handle, and what it changes in TensorFlow."""

import json
import os
import re
from contextlib import nullcontext
from pathlib import Path

import tensorflow as tf
from tensorflow.python.eager import context

from npu_device.contract import broken, calls, fail
from npu_device.options import global_options

_MIXED = ("allow_mix_precision", "allow_mix_precision_fp16", "mixed_float16")
_handle = None
_loop_size = int(os.environ.get("NPU_LOOP_SIZE", "1"))  # read once, at the import


def open(device_id=None):
    """Opens a card; the same number again gives the same handle."""
    global _handle
    if device_id is None:
        device_id = int(os.environ.get("ASCEND_DEVICE_ID", "0"))
    workers = _workers()
    if _handle is not None:
        if _handle.device_id != device_id:  # also "0" after 0
            raise RuntimeError(f"Failed create npu instance on device {device_id}")
        calls.append(("open again", device_id))
        return _handle
    calls.append(("open", device_id))
    failure = os.environ.get("STAND_IN_CARD") or _native_check()
    if failure:
        raise RuntimeError(f"Failed open npu device {device_id} : {failure}")
    if context.context()._initialized:
        broken.append("tensors were made before open: they are lost")
    replaced = context.Context()
    context._set_context(replaced)
    replaced.ensure_initialized()
    calls.append(("opened", device_id))
    _handle = NpuDeviceHandle(device_id, workers)
    return _handle


def set_npu_loop_size(loop_size):
    """Steps of the next call of a loop; what is not above 0 changes nothing."""
    if type(loop_size) is not int:
        raise TypeError(f"loop_size must be int, got {type(loop_size)}")
    global _loop_size
    _loop_size = loop_size if loop_size > 0 else _loop_size
    calls.append(("set_npu_loop_size", loop_size))


class NpuDeviceHandle:
    def __init__(self, device_id, workers_num):
        self.device_id, self.workers_num = device_id, workers_num
        self.worker_id = int(os.environ["RANK_ID"]) if workers_num > 1 else 0

    def name(self):
        return f"/job:localhost/replica:0/task:0/device:NPU:{self.device_id}"

    def is_cluster_worker(self):
        return self.workers_num > 1 and 0 <= self.worker_id < self.workers_num

    def scope(self):
        return nullcontext()

    def as_default(self):
        calls.append(("as_default",))
        tf.device = _inert_device
        if not hasattr(tf.keras.Model.fit, "checks_loop"):
            tf.keras.Model.fit = _checked(tf.keras.Model.fit)
        return self


def _inert_device(name):
    calls.append(("tf.device", str(name)))
    return nullcontext()


def _checked(fit):
    """``Model.fit``, refused where a card would take another number of steps a call."""

    def checked(self, *args, **kwargs):
        steps = getattr(self, "steps_per_execution", None)  # Keras 3
        steps = int(self._steps_per_execution if steps is None else steps)
        calls.append(("fit", steps))
        if steps not in (1, _loop_size):
            fail(f"fit takes {steps} steps a call, the loop size is {_loop_size}")
        return fit(self, *args, **kwargs)

    checked.checks_loop = True
    return checked


def _workers():
    """How many processes train together, from the environment; wrong pairs raise."""
    env = os.environ
    if "RANK_SIZE" in env and "CM_WORKER_SIZE" in env:
        raise ValueError(
            "RANK_SIZE and CM_WORK_SIZE cannot be configured at the same time"
        )
    workers = int(env.get("RANK_SIZE", env.get("CM_WORKER_SIZE", "1")))
    if workers > 1:
        ways = ("RANK_TABLE_FILE" in env) + ("CM_CHIEF_IP" in env)
        if ways != 1:
            which = "cannot be configured at the same time" if ways else "are all not"
            raise RuntimeError(f"CM_CHIEF_IP and RANK_TABLE_FILE {which} be configured")
        if "RANK_TABLE_FILE" in env and "RANK_ID" not in env:
            raise RuntimeError("You must specify rank id by set env RANK_ID")
    return workers


def _native_check():
    """What the graph engine would say of the options; None where they are in order."""
    options = global_options()
    version_2 = options._values.get("precision_mode_v2")
    mode = options.precision_mode.value
    if mode and version_2:
        return "E10056: precision_mode and precision_mode_v2 are both set"
    if options.modify_mixlist.value and (version_2 or mode) not in _MIXED:
        return "E10001: modify_mixlist without a mixed precision mode"
    for name in ("modify_mixlist", "fusion_switch_file"):
        path = getattr(options, name).value
        if path and not Path(path).is_file():
            return f"E10001: {name}: no file {path}"
    dump = options.dump_config
    kinds = [dump.enable_dump.value, dump.enable_dump_debug.value]
    if kinds == ["1", "1"]:
        return "E10001: enable_dump and enable_dump_debug are both set"
    if "1" in kinds:
        if not dump.dump_path.value:
            return "E10058: dump_path is not set"
        if not os.access(dump.dump_path.value, os.R_OK | os.W_OK):
            return "E10001: dump_path is no folder to write to"
    step = dump.dump_step.value
    if step and not all(re.fullmatch(r"\d+(-\d+)?", part) for part in step.split("|")):
        return "E10001: dump_step"
    if options.profiling_config.enable_profiling.value == "1":
        profile = json.loads(options.profiling_config.profiling_options.value)
        if not os.access(profile["output"], os.W_OK):
            return "profiling output is no folder to write to"
    return None
