"""Select the device and the precision of a run."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lib.errors import InputError, check_choice, check_whole
from lib.hardware import ascend, workers
from lib.hardware.launch_options import NAMES, LaunchOptions

DEVICES = ("auto", "npu", "gpu", "cpu")
PRECISION_MODES = (
    "allow_mix_precision",
    "allow_fp32_to_fp16",
    "must_keep_origin_dtype",
    "force_fp16",
    "force_fp32",
    "mixed_bfloat16",
    *ascend.NEWER_MODES,
)
BF16_FLAGS = {"amx_bf16", "avx512_bf16"}  # CPUs that multiply bfloat16 in hardware
_DTYPES = {"force_fp16": "float16", "mixed_bfloat16": "bfloat16"}  # on a CPU or GPU


@dataclass(frozen=True)
class Device:
    """The device of a run, as its record holds it.

    Attributes:
        kind: ``"npu"``, ``"gpu"`` or ``"cpu"``.
        name: the processor's own name.
        precision_mode: the mode that the caller chose.
        matmul_dtype: the type in which large matrix products are really computed.
            Weights, loss and metrics are always float32.
        note: the reason for ``matmul_dtype``.
        notes: why no better device was selected, and which options are not in force.
        workers, rank: how many processes train together, and the position of this one.
        loss_scale: False for plain optimizers, as the published ports train.
        fallback: the reason why an installed ``npu_device`` is not used, or None.
    """

    kind: str
    name: str
    precision_mode: str
    matmul_dtype: str
    note: str
    notes: tuple[str, ...] = ()
    workers: int = 1
    rank: int = 0
    loss_scale: bool = True
    fallback: str | None = None

    @property
    def cast_dtype(self) -> str:
        """The type to which a model casts the inputs of its large products.

        An NPU lowers float32 products itself, by ``precision_mode``; a graph with casts
        would lower them twice.
        """
        return "float32" if self.kind == "npu" else self.matmul_dtype

    @property
    def is_chief(self) -> bool:
        """True for the worker that writes files."""
        return self.rank == 0

    @property
    def engine(self) -> str:
        """How the workers communicate: ``"hccl"``, ``"tensorflow"``; empty for one."""
        if self.workers == 1:
            return ""
        return "hccl" if self.kind == "npu" else "tensorflow"

    def record(self) -> dict[str, Any]:
        """The device as a dict for ``result.json``; ``fallback`` only if there is one.

        ``loss_scale`` is left out: it follows from the parameters of the run.
        """
        record = {**asdict(self), "notes": list(self.notes)}
        del record["loss_scale"]
        if self.fallback is None:
            del record["fallback"]
        return record

    def scale(self, optimizer: Any) -> Any:
        """Wraps an optimizer in a dynamic loss scale if float16 needs one.

        Gradients of a softmax over the whole catalogue are far below the smallest
        float16; bfloat16 and float32 hold them. On an NPU the vendor's loss scale is
        used, which detects overflow there; elsewhere Keras' own. Cards that train
        together also average their gradients here.
        """
        is_scaled = self.matmul_dtype == "float16" and self.loss_scale
        if self.kind == "npu":
            return ascend.wrap_optimizer(optimizer, is_scaled, self.workers > 1)
        if not is_scaled:
            return optimizer
        if self.workers > 1:
            raise InputError(
                f'precision_mode="{self.precision_mode}": several workers without NPUs '
                'cannot train in float16; use "allow_mix_precision".'
            )
        from lib.hardware.tensorflow import tf

        return tf.keras.mixed_precision.LossScaleOptimizer(optimizer)

    def set_loop_size(self, steps: int) -> None:
        """Tells an NPU how many steps the next call of a compiled model takes.

        With another number the NPU runs too many steps or hangs. ``training.fit`` calls
        this; call it yourself before a direct ``model.fit``. It has no effect on other
        devices.
        """
        if self.kind == "npu":
            import npu_device

            npu_device.set_npu_loop_size(steps)


def select_device(
    device: str = "auto",
    precision_mode: str = "allow_mix_precision",
    threads: int = 0,
    steps_per_execution: int = 1,
    loss_scale: bool = True,
    launch_options: Mapping[str, Any] | None = None,
) -> Device:
    """Selects the device and the precision; safe to call again.

    ==========================  ======================  ======================  =======
    ``precision_mode``          Ascend 910              CPU with bfloat16       other
                                                        instructions (AMX,      CPU or
                                                        AVX512-BF16); GPU from  GPU
                                                        Ampere on
    ==========================  ======================  ======================  =======
    ``must_keep_origin_dtype``  float32                 float32                 float32
    ``allow_fp32_to_fp16``      products in float16     products in bfloat16    float32
    ``allow_mix_precision``     float16, by the lists   products in bfloat16    float32
                                of the operators
    ``force_fp32``              products from float16,  products in bfloat16    float32
                                the rest in float32
    ``force_fp16``              all in float16; the     products in float16     as left
                                vendor means it for
                                inference
    ``mixed_bfloat16``          refused                 products in bfloat16    as left
    ==========================  ======================  ======================  =======

    The table holds for the products of training; ranking scores are float32 unless a
    card lowers them. Float16 trains with a loss scale. ``mixed_bfloat16`` without
    bfloat16 instructions is slow and only meant for comparing results. Later releases
    of ``npu_device`` have newer names for the same modes: ``mixed_float16`` and
    ``allow_mix_precision_fp16`` (``allow_mix_precision``), ``fp16`` (``force_fp16``),
    ``origin`` (``must_keep_origin_dtype``), ``cube_fp16in_fp32out`` (``force_fp32``);
    the card gets the older name, which every release has.

    Everything is checked before a device is touched. Once an NPU is open, a second call
    with the same arguments returns an equal ``Device`` and does nothing.

    Args:
        device: ``"npu"``, ``"gpu"``, ``"cpu"``, or ``"auto"``: an NPU if one opens,
            else a GPU if TensorFlow finds one, else the CPU.
        precision_mode: a mode of the table or one of the newer names.
        threads: CPU threads of one operation; 0 leaves the number to TensorFlow. Small
            steps run faster on one thread, because waking a second one costs more.
        steps_per_execution: steps that the models will take in a call. An NPU needs the
            number before it is opened.
        loss_scale: False trains in float16 without a loss scale, as the published ports
            do; ``Device.notes`` then states the cost.
        launch_options: options of the published Ascend scripts by their names, see
            ``lib.hardware.launch_options``. They are checked on every device and in
            force on an NPU.

    Raises:
        InputError: an unknown name or option, options that exclude each other, an
            unusable file, a device that does not exist, another number of threads than
            this process already uses, an ``$NPU_LOOP_SIZE`` that contradicts
            ``steps_per_execution``, or other arguments than those with which the NPU of
            this process was opened.
    """
    check_choice("device", device, DEVICES)
    check_choice("precision_mode", precision_mode, PRECISION_MODES)
    check_whole("threads", threads, 0, 1024)
    check_whole("steps_per_execution", steps_per_execution)
    for name in launch_options or {}:
        check_choice("launch option", name, NAMES)
    options = LaunchOptions(**(launch_options or {}))
    arguments = {
        "device": device,
        "precision_mode": precision_mode,
        "steps_per_execution": steps_per_execution,
        "ASCEND_DEVICE_ID": logical_id(),
        **asdict(options),
    }
    notes: list[str] = []
    card, fallback = _find_npu(arguments, options.settings(precision_mode), notes)
    if card:
        kind, name, size, rank = "npu", card.name, card.workers, card.rank
    else:
        kind, name = _use_processor(device, threads)
        size, rank = _join_workers()
    dtype, note = _choose_dtype(kind, ascend.older_name(precision_mode))
    notes += _note_arguments(kind, arguments, threads)
    if dtype == "float16" and not loss_scale:
        notes.append(
            "no loss scale, as in the published ports: float16 gradients below 6e-8 "
            "become 0, so training may stall"
        )
    return Device(
        kind, name, precision_mode, dtype, note, tuple(notes), size, rank, loss_scale,
        fallback,
    )  # fmt: skip


def _note_arguments(kind: str, arguments: Mapping[str, Any], threads: int) -> list[str]:
    """What a caller should know of the arguments on this kind of device."""
    notes = []
    if kind == "npu":
        if threads:
            notes.append(f"threads={threads}: not applicable on an NPU")
        if ascend.older_name(arguments["precision_mode"]) == "force_fp16":
            notes.append("force_fp16: the vendor means it for inference, not training")
        return notes
    unused = [n for n in NAMES if arguments[n] is True and n != "profiling"]  # see fit
    notes += [f"{n}: not applicable without an NPU" for n in unused]
    if arguments["device"] == "auto" and kind == "cpu":
        notes.append("no GPU: TensorFlow sees none")
    return notes


def logical_id() -> int:
    """The device number of the published scripts: ``$ASCEND_DEVICE_ID``, 0 if unset.

    Raises:
        InputError: the variable is not a whole number.
    """
    text = os.environ.get("ASCEND_DEVICE_ID", "0")
    if not text.isdecimal():
        raise InputError(f"ASCEND_DEVICE_ID={text!r}: set it to 0 or a larger number.")
    return int(text)


def multiplies_bfloat16() -> bool:
    """Returns whether TensorFlow multiplies bfloat16 faster than float32 here."""
    from lib.hardware.tensorflow import tf

    gpus = tf.config.get_visible_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return details.get("compute_capability", (0, 0)) >= (8, 0)
    slow = tf.__version__.startswith("2.6.")  # its bfloat16 is slower on every CPU
    return bool(BF16_FLAGS & read_cpu()[1]) and not slow


def _find_npu(
    arguments: Mapping[str, Any], settings: Mapping[str, Any], notes: list[str]
) -> tuple[ascend.Card | None, str | None]:
    """Opens the NPU, if the arguments allow one and there is one.

    Returns:
        The card, or None with the reason in ``notes``; and ``Device.fallback``.

    Raises:
        InputError: the caller, a launch option or the workers of this process insist on
            an NPU, or it is open with other arguments.
    """
    if arguments["device"] not in ("auto", "npu") and not ascend.is_open():
        return None, None
    try:
        return ascend.open_npu(arguments, settings), None
    except ascend.Unavailable as reason:
        announced = workers.read_environment()
        if announced.engine == "hccl":
            raise InputError(
                f"RANK_SIZE={announced.size}: this process trains with others, on "
                f"NPUs, and {reason}."
            ) from reason
        if arguments["device"] == "npu":
            raise InputError(f'device="npu": {reason}; or use "auto".') from reason
        asked = [name for name in NAMES if arguments[name] is True]
        if reason.installed and asked:  # it would be in vain on a CPU
            raise InputError(
                f"{asked[0]}=True is for an NPU, and {reason}; or switch it off."
            ) from reason
        short = str(reason).partition(";")[0]
        notes.append(f"no NPU: {short}")
        if not reason.installed:
            return None, None
        sys.stderr.write(f"!!! NOT ON AN NPU: {reason}\n")
        return None, short


def _choose_dtype(kind: str, mode: str) -> tuple[str, str]:
    """The type of large products as in the table, and its reason."""
    if mode == "must_keep_origin_dtype":
        return "float32", "as asked"
    if kind == "npu":
        return "float16", "the card lowers float32 products itself"
    if mode in _DTYPES or multiplies_bfloat16():
        return _DTYPES.get(mode, "bfloat16"), "as asked"
    return "float32", f"this {kind} has no bfloat16 instructions that TensorFlow uses"


def _use_processor(device: str, threads: int) -> tuple[str, str]:
    """Takes the first GPU or the CPU; returns its kind and name."""
    from lib.hardware.tensorflow import tf

    gpus = tf.config.list_physical_devices("GPU")
    if device == "gpu" and not gpus:
        raise InputError(
            'device="gpu": TensorFlow sees no GPU here; install tensorflow[and-cuda] '
            'and a driver, or use "cpu".'
        )
    threading = tf.config.threading
    try:
        if threads not in (0, threading.get_intra_op_parallelism_threads()):
            threading.set_intra_op_parallelism_threads(threads)
        if device == "cpu" and gpus:
            tf.config.set_visible_devices([], "GPU")
    except RuntimeError as error:
        raise InputError(
            f'device="{device}", threads={threads}: this kernel computes already on '
            "another device or with another number of threads; restart the kernel."
        ) from error
    if device == "cpu" or not gpus:
        return "cpu", read_cpu()[0]
    details = tf.config.experimental.get_device_details(gpus[0])
    return "gpu", details.get("device_name", gpus[0].name)


def _join_workers() -> tuple[int, int]:
    """Joins the workers of ``$TF_CONFIG``; returns their number and this one's rank.

    From then on every variable of this process is mirrored.
    """
    from lib.hardware.tensorflow import tf

    announced = workers.read_environment()
    if announced.engine != "tensorflow" or tf.distribute.has_strategy():
        return announced.size, announced.rank
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"TF_CONFIG names {announced.size} workers, but TensorFlow cannot join "
            f"them ({error}); it must do so before it computes anything: restart the "
            "kernel and call select_device first."
        ) from error
    if strategy.num_replicas_in_sync != announced.size:
        raise InputError(
            f"{strategy.num_replicas_in_sync} devices for {announced.size} workers: "
            "show each worker one GPU, by CUDA_VISIBLE_DEVICES."
        )
    tf.distribute.experimental_set_strategy(strategy)
    return announced.size, announced.rank


@cache
def read_cpu() -> tuple[str, set[str]]:
    """Returns the processor's name and its instruction-set flags (Linux only)."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    fields = dict(re.findall(r"^(\S.*?)\s*:[ \t]*(.*)$", text, re.MULTILINE))
    name = fields.get("model name") or platform.processor() or platform.machine()
    flags = fields.get("flags") or fields.get("Features", "")  # the latter on ARM
    return name, set(flags.split())
