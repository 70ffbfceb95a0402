"""The Ascend NPU, through the vendor's package ``npu_device``.

The package wants an order: environment, import, options, ``open().as_default()``, and
only then tensors and models. ``open`` below is that order. Afterwards:

- ``with tf.device(...)`` does nothing; only ``lib.device.host`` reaches the host;
- what an option says cannot be changed before the kernel restarts;
- a compiled loop takes as many steps as ``NPU_LOOP_SIZE`` said at the import, or
  ``set_loop_size`` since.
"""

import importlib.util
import os
import sys

from lib.errors import InputError

NEWER_MODES = {  # names of later releases, and what they are called in every release
    "allow_mix_precision_fp16": "allow_mix_precision",
    "mixed_float16": "allow_mix_precision",
    "fp16": "force_fp16",
    "origin": "must_keep_origin_dtype",
    "cube_fp16in_fp32out": "force_fp32",
}
_OF_FIRST_OPTION = ("allow_mix_precision_fp16",)  # the others are precision_mode_v2
TENSORFLOW = "2.6.5"  # the one that npu_device supports
INSTALL = (
    "on a host with an Ascend card, source CANN's set_env.sh (/usr/local/Ascend/cann, "
    "before CANN 9 /usr/local/Ascend/ascend-toolkit, before CANN 8 that of "
    "/usr/local/Ascend/tfplugin too) and put the npu_device of the same CANN, which is "
    f"not on PyPI, on PYTHONPATH, beside TensorFlow {TENSORFLOW} on Python 3.9"
)
_failure = None  # of this kernel's first try to open: options reach the card only once


class Unavailable(Exception):
    """There is no NPU to use; the text says why, and what to do."""


def open(number, precision_mode, settings, steps_per_execution):
    """Opens the card and makes it the default device.

    Args:
        number: logical number of the card.
        precision_mode: a name that ``lib.device.open`` allows.
        settings: what ``LaunchOptions.settings`` returned.
        steps_per_execution: of the models that will be compiled.

    Returns:
        ``(name, notes, team)``: what the card is called, what was not set as asked,
        and ``(workers, rank)`` as ``$RANK_SIZE`` and ``$RANK_ID`` say.

    Raises:
        Unavailable: no package, no card, or no such precision.
        InputError: tensors were made in this kernel already, or an option that every
            release has was refused.
    """
    global _failure
    if precision_mode == "mixed_bfloat16":
        raise Unavailable("an Ascend 910 has no bfloat16; use allow_mix_precision")
    imported_before = "npu_device" in sys.modules
    if not imported_before and importlib.util.find_spec("npu_device") is None:
        raise Unavailable(f"npu_device is not installed; {INSTALL}")
    if _failure:
        raise Unavailable(_failure)
    from lib.quiet import tf

    _refuse_a_used_kernel()
    os.environ.setdefault("ASCEND_DEVICE_ID", str(number))
    os.environ["NPU_LOOP_SIZE"] = str(steps_per_execution)  # read by the import
    try:
        import npu_device as npu
    except Exception as error:  # native libraries fail in ways of their own
        raise Unavailable(
            f"npu_device does not import ({_line(error)}); {INSTALL}"
        ) from None
    if imported_before:
        set_loop_size(steps_per_execution)
    notes = _set(npu.global_options(), precision_mode, settings)
    try:
        handle = npu.open(number).as_default()
    except Exception as error:
        _failure = (
            f"npu_device.open failed ({_line(error)}); look at ASCEND_DEVICE_ID, and "
            "whether another process computes on that card, then restart the kernel"
        )
        raise Unavailable(_failure) from None
    if tf.__version__ != TENSORFLOW:
        notes.append(f"npu_device supports TensorFlow {TENSORFLOW}")
    team = handle.workers_num, handle.worker_id
    return "Ascend " + handle.name().rpartition("device:")[2], notes, team


def set_loop_size(steps):
    """Sets how many steps the next call of a compiled loop takes."""
    import npu_device

    npu_device.set_npu_loop_size(steps)


def loss_scaled(optimizer):
    """Wraps an optimizer in the loss scale that sees overflow on the card.

    An Ascend 910 saturates: an overflow leaves the largest number instead of infinity,
    so Keras' own loss scale, which looks for infinity, would never halve.
    """
    from npu_device.train.optimizer import NpuLossScaleOptimizer

    return NpuLossScaleOptimizer(optimizer)


def reduced(optimizer):
    """Lets an optimizer average gradients over all cards before it applies them."""
    from npu_device import distribute

    return distribute.npu_distributed_keras_optimizer_wrapper(optimizer)


def broadcast(variables):
    """Gives all cards the first one's variables."""
    from npu_device import distribute

    distribute.broadcast(list(variables), root_rank=0)


def _refuse_a_used_kernel():
    from tensorflow.python.eager import context

    if getattr(context.context(), "_initialized", False):
        raise InputError(
            "TensorFlow has computed in this kernel already, and an NPU must be opened "
            "before that: what was made would be lost; restart the kernel and call "
            'device.open first, or use device="cpu".'
        )


def _set(options, precision_mode, settings):
    """Sets every option; returns notes on names that this release does not have."""
    notes = []
    if precision_mode not in NEWER_MODES or not _set_newer(options, precision_mode):
        older = NEWER_MODES.get(precision_mode, precision_mode)
        settings = [("", "precision_mode", older), *settings]
        if older != precision_mode:
            notes.append(
                f'this npu_device does not know "{precision_mode}": '
                f'precision_mode="{older}" is set, the same by its older name'
            )
    for group, name, value in settings:
        try:
            setattr(getattr(options, group) if group else options, name, value)
        except (ValueError, TypeError) as error:
            raise InputError(
                f"npu_device refuses {group}{'.' * bool(group)}{name}={value!r} "
                f"({_line(error)}): its release and lib/ascend.py do not agree."
            ) from None
    return notes


def _set_newer(options, precision_mode):
    """Sets a name of later releases; False where this one does not have it."""
    first = precision_mode in _OF_FIRST_OPTION  # never both: the card refuses two
    try:
        setattr(
            options, "precision_mode" if first else "precision_mode_v2", precision_mode
        )
    except (ValueError, TypeError):
        return False
    return True


def _line(error):
    """The first line of an error, with its type."""
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0]}".rstrip(": ")
