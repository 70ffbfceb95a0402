"""Which device runs, and in which precision."""

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

from lib.errors import InputError

DEVICES = ("auto", "npu", "gpu", "cpu")
PRECISION_MODES = (
    "allow_mix_precision",
    "allow_fp32_to_fp16",
    "must_keep_origin_dtype",
    "force_fp16",
    "mixed_bfloat16",
)
_BF16_FLAGS = {"amx_bf16", "avx512_bf16"}  # CPUs that multiply bfloat16 in hardware


@dataclass(frozen=True)
class Device:
    """What a run computes on; goes into its record.

    Attributes:
        kind: ``"gpu"`` or ``"cpu"``.
        name: of the processor, as it calls itself.
        precision_mode: what was asked for.
        matmul_dtype: what the large matrix products really use. Weights, loss and
            metrics are float32 always.
        note: why, in a few words.
    """

    kind: str
    name: str
    precision_mode: str
    matmul_dtype: str
    note: str

    def record(self):
        """The same as a dict, for ``result.json``."""
        return asdict(self)

    def scaled(self, optimizer):
        """Wraps an optimizer in Keras' dynamic loss scale where float16 needs it.

        A gradient of the full-catalogue softmax is far below the smallest float16;
        bfloat16 and float32 reach it as it is.
        """
        if self.matmul_dtype != "float16":
            return optimizer
        from lib.quiet import tf

        return tf.keras.mixed_precision.LossScaleOptimizer(optimizer)


def open(device="auto", precision_mode="allow_mix_precision", threads=0):
    """Chooses the device and the precision; safe to call again.

    ==========================  ===========================================  =========
    ``precision_mode``          CPU with bfloat16 instructions (AMX,         other CPUs
                                AVX512-BF16); GPU from Ampere on             and GPUs
    ==========================  ===========================================  =========
    ``must_keep_origin_dtype``  float32                                      float32
    ``allow_fp32_to_fp16``      matrix products in bfloat16                  float32
    ``allow_mix_precision``     matrix products in bfloat16                  float32
    ``force_fp16``              matrix products in float16, loss scaled      the same
    ``mixed_bfloat16``          matrix products in bfloat16                  the same
    ==========================  ===========================================  =========

    ``mixed_bfloat16`` is for comparing results: without the instructions it is slow.

    Args:
        device: ``"auto"`` (a GPU where TensorFlow sees one, else the CPU), ``"gpu"`` or
            ``"cpu"``.
        precision_mode: one of the four names that the Ascend launch scripts use, or
            ``"mixed_bfloat16"``.
        threads: that one operation may use on the CPU; 0 leaves it to TensorFlow. Small
            steps run faster on one: waking a second thread costs more than it does.

    Returns:
        A ``Device``.

    Raises:
        InputError: an unknown name, a device that is not there, or another number of
            threads than this kernel computes with already.
    """
    if device not in DEVICES:
        raise InputError(f'device="{device}": allowed are {", ".join(DEVICES)}.')
    if precision_mode not in PRECISION_MODES:
        raise InputError(
            f'precision_mode="{precision_mode}": allowed are '
            f"{', '.join(PRECISION_MODES)}."
        )
    if device == "npu":
        raise InputError(
            'device="npu": this version runs on CPU and GPU; use "auto", "gpu" or '
            '"cpu".'
        )
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
        name = details.get("device_name", gpus[0].name)
        has_bf16 = details.get("compute_capability", (0, 0)) >= (8, 0)
        kind = "gpu"
    else:
        if gpus:
            _hide_gpus(tf)
        name, flags = _cpu()
        has_bf16 = bool(_BF16_FLAGS & flags)
        kind = "cpu"
    matmul_dtype, note = "float32", "as asked"
    if precision_mode == "force_fp16":
        matmul_dtype = "float16"
    elif precision_mode == "mixed_bfloat16":
        matmul_dtype = "bfloat16"
    elif precision_mode != "must_keep_origin_dtype":
        if has_bf16:
            matmul_dtype = "bfloat16"
        else:
            note = f"this {kind} has no bfloat16 instructions"
    return Device(kind, name, precision_mode, matmul_dtype, note)


def logical_id():
    """The device number of the original scripts: ``$ASCEND_DEVICE_ID``, 0 where unset.

    Raises:
        InputError: it is not a whole number.
    """
    text = os.environ.get("ASCEND_DEVICE_ID", "0")
    if not text.isdecimal():
        raise InputError(f"ASCEND_DEVICE_ID={text!r}: give a whole number, 0 or more.")
    return int(text)


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
