"""Open an Ascend NPU through the vendor's package ``npu_device``.

The package requires an order: environment, import, options, ``open().as_default()``,
and only then tensors and models. ``open_npu`` keeps that order. Afterwards:

- ``with tf.device(...)`` does nothing, and every new tensor is on the card;
- the options stay as they are until the kernel restarts;
- a compiled loop takes the number of steps that ``set_npu_loop_size`` has set last.

Every name of the package is an attribute that ``import npu_device`` sets up. Its
folders are not importable as sub-modules.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from lib.errors import InputError
from lib.hardware import workers

NEWER_MODES = {  # name of a precision mode in later releases: its name in every one
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


class Card(NamedTuple):
    """An open card: its name, how many train together, and the position of this one."""

    name: str
    workers: int
    rank: int


class Unavailable(Exception):
    """No NPU can be used; the message gives the reason and the remedy.

    Attributes:
        installed: True if ``npu_device`` is there but failed to import or to open.
    """

    def __init__(self, message: str, installed: bool = False) -> None:
        super().__init__(message)
        self.installed = installed


# Options reach a card once in a process: the arguments that opened it, and the card; or
# the reason why it does not open.
_opened: tuple[Mapping[str, Any], Card] | None = None
_failure: Unavailable | None = None


def older_name(precision_mode: str) -> str:
    """Returns the name of a precision mode that every release has."""
    return NEWER_MODES.get(precision_mode, precision_mode)


def is_open() -> bool:
    """Returns whether this process computes on an NPU."""
    return _opened is not None


def open_npu(arguments: Mapping[str, Any], settings: Mapping[str, Any]) -> Card:
    """Opens the card and makes it the default device; a second call returns it.

    Args:
        arguments: those of ``select_device``, with the logical number of the card in
            ``ASCEND_DEVICE_ID``.
        settings: the result of ``LaunchOptions.settings``.

    Raises:
        Unavailable: no package, no card, or no such precision.
        InputError: the card is open with other arguments, tensors were made in this
            kernel already, or ``$NPU_LOOP_SIZE`` contradicts ``steps_per_execution``.
    """
    global _failure, _opened
    if _opened:
        for name, value in arguments.items():
            if value != _opened[0][name]:
                raise InputError(
                    f"{name}={value!r}: this kernel computes on an NPU that was opened "
                    f"with {_opened[0][name]!r}; restart the kernel."
                )
        return _opened[1]
    number, mode = arguments["ASCEND_DEVICE_ID"], arguments["precision_mode"]
    if mode == "mixed_bfloat16":
        reason = "an Ascend 910 has no bfloat16; use allow_mix_precision"
        raise Unavailable(reason, installed=_is_installed())
    if workers.read_environment().engine == "tensorflow":
        raise Unavailable("TF_CONFIG is for CPUs and GPUs; unset it")
    if _failure:
        raise _failure
    importlib.import_module("lib.hardware.tensorflow")  # before other parts of it
    from tensorflow.python.eager import context

    npu = _import_package(arguments["steps_per_execution"])
    own = {"precision_mode": older_name(mode), "op_compiler_cache_mode": "enable"}
    for name, value in {**own, **settings}.items():
        _set_option(npu.global_options(), name, value)
    unused = context.context()
    os.environ.setdefault("ASCEND_DEVICE_ID", str(number))
    try:
        handle = npu.open(number).as_default()
    except Exception as error:  # native libraries raise errors of many types
        context._set_context(unused)  # the failed call has replaced it
        _failure = Unavailable(
            f"npu_device.open failed ({_line(error)}); look at ASCEND_DEVICE_ID, and "
            "whether another process computes on that card, then restart the kernel",
            installed=True,
        )
        raise _failure from error
    name = "Ascend " + handle.name().rpartition("device:")[2]
    _opened = arguments, Card(name, handle.workers_num, handle.worker_id)
    return _opened[1]


def _is_installed() -> bool:
    known = sys.modules.get("npu_device") or importlib.util.find_spec("npu_device")
    return known is not None


def _set_option(options: Any, name: str, value: Any) -> None:
    """Sets an option by its dotted name."""
    group, _, option = name.rpartition(".")
    holder = getattr(options, group) if group else options
    if "task_time" in str(getattr(holder, option).value):  # since CANN 9
        value = value.replace('"task_trace":', '"task_time":')
    setattr(holder, option, value)


def _import_package(steps: int) -> Any:
    """Imports ``npu_device`` for models that take so many steps a call.

    Raises:
        Unavailable: it is not installed, or does not import.
        InputError: see ``open_npu``.
    """
    if not _is_installed():
        raise Unavailable(f"npu_device is not installed; {INSTALL}")
    from tensorflow.python.eager import context

    if getattr(context.context(), "_initialized", False):
        raise InputError(
            "TensorFlow has computed in this kernel already, and an NPU must be opened "
            "before that: existing tensors would be lost; restart the kernel and call "
            'select_device first, or use device="cpu".'
        )
    exported = os.environ.get("NPU_LOOP_SIZE", str(steps))
    if exported != str(steps):
        raise InputError(
            f"NPU_LOOP_SIZE={exported}, but the models of this run take {steps} steps "
            "a call (steps_per_execution in notebook 04, 1 elsewhere): unset "
            "NPU_LOOP_SIZE, or set both to the same number."
        )
    try:
        import npu_device
    except Exception as error:  # as above
        raise Unavailable(
            f"npu_device does not import ({_line(error)}); {INSTALL}", installed=True
        ) from error
    npu_device.set_npu_loop_size(steps)
    return npu_device


def wrap_optimizer(optimizer: Any, scale_loss: bool, average: bool) -> Any:
    """Wraps an optimizer for the card.

    An Ascend 910 saturates: an overflow gives the largest number instead of infinity,
    so Keras' own loss scale, which checks for infinity, would never be halved.

    Args:
        optimizer: of Keras.
        scale_loss: True adds the vendor's loss scale, which detects overflow.
        average: True averages gradients over all cards, before overflow is detected.
    """
    import npu_device

    if scale_loss:
        optimizer = npu_device.train.optimizer.NpuLossScaleOptimizer(optimizer)
    if average:
        wrapper = npu_device.distribute.npu_distributed_keras_optimizer_wrapper
        optimizer = wrapper(optimizer)
    return optimizer


def _line(error: Exception) -> str:
    """Returns the first line of an error, with its type."""
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0]}".rstrip(": ")
