"""GPUs and CPUs, as TensorFlow sees them."""

import platform
from functools import cache
from pathlib import Path

from lib.errors import InputError

_BF16_FLAGS = {"amx_bf16", "avx512_bf16"}  # CPUs that multiply bfloat16 in hardware


def choose(device, threads=0):
    """Takes the first GPU, or the CPU.

    Args:
        device: ``"gpu"``, ``"cpu"``, or ``"auto"`` for a GPU where there is one.
        threads: that one operation may use on the CPU; 0 leaves it to TensorFlow.

    Returns:
        ``(kind, name, has_bf16)``: ``"gpu"`` or ``"cpu"``, what it calls itself, and
        whether it multiplies bfloat16 faster than float32.

    Raises:
        InputError: no GPU, or this kernel computes with other settings already.
    """
    from lib.quiet import tf

    _set_threads(tf, threads)
    gpus = tf.config.list_physical_devices("GPU")
    if device == "gpu" and not gpus:
        raise InputError(
            'device="gpu": TensorFlow sees no GPU here; install tensorflow[and-cuda] '
            'and a driver, or use "cpu".'
        )
    if device != "cpu" and gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return "gpu", details.get("device_name", gpus[0].name), multiplies_bfloat16()
    if gpus:
        _hide_gpus(tf)
    return "cpu", _cpu()[0], multiplies_bfloat16()


def multiplies_bfloat16():
    """Whether TensorFlow multiplies bfloat16 faster than float32 on this machine."""
    from lib.quiet import tf

    gpus = tf.config.get_visible_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return details.get("compute_capability", (0, 0)) >= (8, 0)
    slow = tf.__version__.startswith("2.6.")  # its bfloat16 loses to float32 on CPUs
    return bool(_BF16_FLAGS & _cpu()[1]) and not slow


def _set_threads(tf, threads):
    if not threads or threads == tf.config.threading.get_intra_op_parallelism_threads():
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    except RuntimeError:
        raise InputError(
            f"threads={threads}: this kernel computes already with another number; "
            "restart the kernel."
        ) from None


def _hide_gpus(tf):
    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError:
        raise InputError(
            'device="cpu": this kernel uses the GPU already; restart the kernel.'
        ) from None


@cache
def _cpu():
    """The processor's name and its instruction set flags (Linux; elsewhere none)."""
    info = Path("/proc/cpuinfo")
    fields = {}
    if info.exists():
        for line in info.read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, set(fields.get("flags", "").split())
