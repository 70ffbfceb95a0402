"""The Ascend NPU, through the vendor's package ``npu_device``.

The package requires an order: environment, import, options, ``open().as_default()``,
and only then tensors and models. ``open`` below keeps that order. Afterwards:

- ``with tf.device(...)`` does nothing; only ``lib.hardware.device.host`` reaches the
  host;
- the options stay as they are until the kernel restarts;
- a compiled loop takes as many steps as ``NPU_LOOP_SIZE`` said at the import, or as
  ``set_loop_size`` has said since.

Every name of the package is an attribute that ``import npu_device`` sets up. Its
folders are not importable as sub-modules.
"""

import importlib.util
import json
import os
import sys
from contextlib import contextmanager

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
    "on a host with an Ascend card, source CANN's set_env.sh (in "
    "/usr/local/Ascend/cann; before CANN 8.5 in /usr/local/Ascend/ascend-toolkit) and "
    "put the npu_device of the same CANN version, which is not on PyPI, on PYTHONPATH, "
    f"with TensorFlow {TENSORFLOW} on Python 3.9 (docs/ascend.md)"
)
_failure = None  # of this kernel's first try to open: options reach the card only once


class Unavailable(Exception):
    """There is no NPU to use; the message says why, and what to do.

    Attributes:
        installed: True if ``npu_device`` is there but failed to import or to open.
    """

    def __init__(self, message, installed=False):
        super().__init__(message)
        self.installed = installed


def open(number, precision_mode, settings, steps_per_execution):
    """Opens the card and makes it the default device.

    Args:
        number: logical number of the card.
        precision_mode: a name that ``lib.hardware.device.open`` allows.
        settings: what ``LaunchOptions.settings`` returned.
        steps_per_execution: of the models that will be compiled.

    Returns:
        ``(name, notes, team)``: what the card is called, what was not set as asked,
        and ``(workers, rank)`` as ``$RANK_SIZE`` and ``$RANK_ID`` say.

    Raises:
        Unavailable: no package, no card, or no such precision.
        InputError: tensors were made in this kernel already, ``$NPU_LOOP_SIZE``
            contradicts ``steps_per_execution``, or an option that every release has
            was refused.
    """
    global _failure
    if precision_mode == "mixed_bfloat16":
        raise Unavailable("an Ascend 910 has no bfloat16; use allow_mix_precision")
    imported_before = "npu_device" in sys.modules
    if not imported_before and importlib.util.find_spec("npu_device") is None:
        raise Unavailable(f"npu_device is not installed; {INSTALL}")
    if _failure:
        raise Unavailable(_failure, installed=True)
    from lib.hardware.tensorflow import tf

    unused = _unused_context()
    _check_loop_size(steps_per_execution)
    os.environ.setdefault("ASCEND_DEVICE_ID", str(number))
    try:
        with _loop_size_in_environment(steps_per_execution):
            import npu_device as npu
    except Exception as error:  # native libraries raise errors of many types
        raise Unavailable(
            f"npu_device does not import ({_line(error)}); {INSTALL}", installed=True
        ) from error
    if imported_before:
        set_loop_size(steps_per_execution)
    notes = _set(npu.global_options(), precision_mode, settings)
    try:
        handle = npu.open(number).as_default()
    except Exception as error:
        _return_to(unused)
        _failure = (
            f"npu_device.open failed ({_line(error)}); look at ASCEND_DEVICE_ID, and "
            "whether another process computes on that card, then restart the kernel"
        )
        raise Unavailable(_failure, installed=True) from error
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
    import npu_device

    return npu_device.train.optimizer.NpuLossScaleOptimizer(optimizer)


def reduced(optimizer):
    """Lets an optimizer average gradients over all cards before it applies them."""
    import npu_device

    return npu_device.distribute.npu_distributed_keras_optimizer_wrapper(optimizer)


def broadcast(variables):
    """Gives all cards the first one's variables."""
    import npu_device

    npu_device.distribute.broadcast(list(variables), root_rank=0)


def mean(value):
    """The mean of one number over all cards; each of them must call this."""
    import npu_device

    from lib.hardware.tensorflow import tf

    number = tf.constant(value, tf.float32)
    return float(npu_device.distribute.all_reduce(number, "mean"))


def _check_loop_size(steps):
    asked = os.environ.get("NPU_LOOP_SIZE")
    if asked not in (None, str(steps)):
        raise InputError(
            f"NPU_LOOP_SIZE={asked}, but the models of this run take {steps} steps a "
            "call (steps_per_execution in notebook 04, 1 elsewhere): unset "
            "NPU_LOOP_SIZE, or set both to the same number."
        )


@contextmanager
def _loop_size_in_environment(steps):
    """Sets ``$NPU_LOOP_SIZE`` for the import, which alone reads it."""
    asked = os.environ.get("NPU_LOOP_SIZE")
    os.environ["NPU_LOOP_SIZE"] = str(steps)
    try:
        yield
    finally:
        if asked is None:
            del os.environ["NPU_LOOP_SIZE"]


def _unused_context():
    """TensorFlow's context; InputError where it has computed already."""
    from tensorflow.python.eager import context

    if getattr(context.context(), "_initialized", False):
        raise InputError(
            "TensorFlow has computed in this kernel already, and an NPU must be opened "
            "before that: what was made would be lost; restart the kernel and call "
            'device.open first, or use device="cpu".'
        )
    return context.context()


def _return_to(unused):
    """Undoes what a failed open leaves: a context of the package's, started already."""
    from tensorflow.python.eager import context

    context._set_context(unused)


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
        holder = getattr(options, group) if group else options
        if name == "profiling_options":
            value = _profile(holder.profiling_options.value, value)
        try:
            setattr(holder, name, value)
        except (ValueError, TypeError) as error:
            raise InputError(
                f"npu_device refuses {group}{'.' * bool(group)}{name}={value!r} "
                f"({_line(error)}): its release and lib/hardware/ascend.py "
                "do not agree."
            ) from None
    return notes


def _profile(default, asked):
    """The profile asked for, with ``task_time`` where CANN 9 has it for task_trace."""
    profile = json.loads(asked)
    if "task_time" in str(default):
        profile["task_time"] = profile.pop("task_trace")
    return json.dumps(profile)


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
