"""Open an Ascend NPU through the vendor's package ``npu_device``.

The package requires an order: environment, import, options, ``open().as_default()``,
and only then tensors and models. ``open_npu`` keeps that order. Afterwards:

- ``with tf.device(...)`` does nothing; only ``lib.hardware.device.host`` reaches the
  host;
- the options stay as they are until the kernel restarts;
- a compiled loop takes the number of steps that ``NPU_LOOP_SIZE`` held at the import,
  or that the last ``set_loop_size`` has set.

Every name of the package is an attribute that ``import npu_device`` sets up. Its
folders are not importable as sub-modules.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable
from typing import Any

from lib.errors import InputError
from lib.hardware import workers

NEWER_MODES = {  # a precision mode of later releases: its name in every release
    "allow_mix_precision_fp16": "allow_mix_precision",
    "mixed_float16": "allow_mix_precision",
    "fp16": "force_fp16",
    "origin": "must_keep_origin_dtype",
    "cube_fp16in_fp32out": "force_fp32",
}
TENSORFLOW = "2.6.5"  # the release that npu_device supports
INSTALL = (
    "on a host with an Ascend card, source CANN's set_env.sh (in "
    "/usr/local/Ascend/cann; before CANN 8.5 in /usr/local/Ascend/ascend-toolkit) and "
    "put the npu_device of the same CANN version, which is not on PyPI, on PYTHONPATH, "
    f"with TensorFlow {TENSORFLOW} on Python 3.9 (docs/ascend.md)"
)
# Why this process could not open its NPU: options reach the card only once.
_failure: str | None = None


class Unavailable(Exception):
    """No NPU can be used; the message gives the reason and the remedy.

    Attributes:
        installed: True if ``npu_device`` is there but failed to import or to open.
    """

    def __init__(self, message: str, installed: bool = False) -> None:
        super().__init__(message)
        self.installed = installed


def older_name(precision_mode: str) -> str:
    """Returns the name of a precision mode that every release has."""
    return NEWER_MODES.get(precision_mode, precision_mode)


def open_npu(
    number: int,
    precision_mode: str,
    settings: list[tuple[str, str, Any]],
    steps_per_execution: int,
) -> tuple[str, list[str], int, int]:
    """Opens the card and makes it the default device.

    Args:
        number: logical number of the card.
        precision_mode: a name of ``lib.hardware.device.PRECISION_MODES``.
        settings: the result of ``LaunchOptions.settings``.
        steps_per_execution: steps that the models will take in a call.

    Returns:
        ``(name, notes, workers, rank)``: the card's name, settings that are not in
        force as asked, the number of cards that train together, and the rank of this
        one.

    Raises:
        Unavailable: no package, no card, or no such precision.
        InputError: tensors were made in this kernel already, ``$NPU_LOOP_SIZE``
            contradicts ``steps_per_execution``, or an option that every release has
            was refused.
    """
    global _failure
    if precision_mode == "mixed_bfloat16":
        raise Unavailable("an Ascend 910 has no bfloat16; use allow_mix_precision")
    if workers.read_environment().engine == "tensorflow":
        raise Unavailable("TF_CONFIG is for CPUs and GPUs; unset it")
    if _failure:
        raise Unavailable(_failure, installed=True)
    from lib.hardware.tensorflow import tf  # isort: split
    from tensorflow.python.eager import context

    npu = _import_package(number, steps_per_execution)
    notes = _set(npu.global_options(), precision_mode, settings)
    unused = context.context()
    try:
        handle = npu.open(number).as_default()
    except Exception as error:  # native libraries raise errors of many types
        context._set_context(unused)  # the failed call has replaced it
        _failure = (
            f"npu_device.open failed ({_line(error)}); look at ASCEND_DEVICE_ID, and "
            "whether another process computes on that card, then restart the kernel"
        )
        raise Unavailable(_failure, installed=True) from error
    if tf.__version__ != TENSORFLOW:
        notes.append(f"npu_device supports TensorFlow {TENSORFLOW}")
    name = "Ascend " + handle.name().rpartition("device:")[2]
    return name, notes, handle.workers_num, handle.worker_id


def _import_package(number: int, steps: int) -> Any:
    """Imports ``npu_device``, which reads ``$NPU_LOOP_SIZE`` then and never again.

    Raises:
        Unavailable: it is not installed, or does not import.
        InputError: see ``open_npu``.
    """
    if not sys.modules.get("npu_device") and not importlib.util.find_spec("npu_device"):
        raise Unavailable(f"npu_device is not installed; {INSTALL}")
    from tensorflow.python.eager import context

    if getattr(context.context(), "_initialized", False):
        raise InputError(
            "TensorFlow has computed in this kernel already, and an NPU must be opened "
            "before that: existing tensors would be lost; restart the kernel and call "
            'select_device first, or use device="cpu".'
        )
    asked = os.environ.get("NPU_LOOP_SIZE")
    if asked not in (None, str(steps)):
        raise InputError(
            f"NPU_LOOP_SIZE={asked}, but the models of this run take {steps} steps a "
            "call (steps_per_execution in notebook 04, 1 elsewhere): unset "
            "NPU_LOOP_SIZE, or set both to the same number."
        )
    if "npu_device" in sys.modules:
        set_loop_size(steps)
    os.environ.setdefault("ASCEND_DEVICE_ID", str(number))
    os.environ["NPU_LOOP_SIZE"] = str(steps)
    try:
        import npu_device
    except Exception as error:  # as above
        raise Unavailable(
            f"npu_device does not import ({_line(error)}); {INSTALL}", installed=True
        ) from error
    finally:
        if asked is None:
            del os.environ["NPU_LOOP_SIZE"]
    return npu_device


def set_loop_size(steps: int) -> None:
    """Sets how many steps the next call of a compiled loop takes."""
    import npu_device

    npu_device.set_npu_loop_size(steps)


def scale_loss(optimizer: Any) -> Any:
    """Wraps an optimizer in the loss scale that detects overflow on the card.

    An Ascend 910 saturates: an overflow gives the largest number instead of infinity,
    so Keras' own loss scale, which checks for infinity, would never be halved.
    """
    import npu_device

    return npu_device.train.optimizer.NpuLossScaleOptimizer(optimizer)


def average_gradients(optimizer: Any) -> Any:
    """Makes an optimizer average gradients over all cards before it applies them."""
    import npu_device

    return npu_device.distribute.npu_distributed_keras_optimizer_wrapper(optimizer)


def broadcast(variables: Iterable[Any]) -> None:
    """Copies the variables of rank 0 to all cards; each of them must call this."""
    import npu_device

    npu_device.distribute.broadcast(list(variables), root_rank=0)


def mean(value: float) -> float:
    """Returns the mean of one number over all cards; each of them must call this."""
    import npu_device

    from lib.hardware.tensorflow import tf

    number = tf.constant(value, tf.float32)
    return float(npu_device.distribute.all_reduce(number, "mean"))


def _set(
    options: Any, precision_mode: str, settings: list[tuple[str, str, Any]]
) -> list[str]:
    """Sets every option; returns notes on names that this release does not have."""
    notes = []
    older, name = older_name(precision_mode), "precision_mode_v2"
    if precision_mode in (older, "allow_mix_precision_fp16"):
        name = "precision_mode"  # never both: the card refuses two
    try:
        setattr(options, name, precision_mode)
    except (ValueError, TypeError):
        settings = [("", "precision_mode", older), *settings]
        notes.append(
            f'this npu_device does not know "{precision_mode}": '
            f'precision_mode="{older}" is set, the same by its older name'
        )
    for group, name, value in settings:
        holder = getattr(options, group) if group else options
        before = str(getattr(holder, name).value)
        if name == "profiling_options" and "task_time" in before:  # since CANN 9
            value = value.replace('"task_trace":', '"task_time":')
        try:
            setattr(holder, name, value)
        except (ValueError, TypeError) as error:
            raise InputError(
                f"npu_device refuses {group}{'.' if group else ''}{name}={value!r} "
                f"({_line(error)}): its release and lib/hardware/ascend.py do not "
                "agree."
            ) from error
    return notes


def _line(error: Exception) -> str:
    """Returns the first line of an error, with its type."""
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0]}".rstrip(": ")
