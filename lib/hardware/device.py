"""Which device runs, and in which precision."""

import os
import platform
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Optional

from lib.errors import InputError
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
_npu = None  # (what was asked for, the Device), once an NPU is open in this kernel
_BF16_FLAGS = {"amx_bf16", "avx512_bf16"}  # CPUs that multiply bfloat16 in hardware


@dataclass(frozen=True)
class Device:
    """What a run computes on; goes into its record.

    Attributes:
        kind: ``"npu"``, ``"gpu"`` or ``"cpu"``.
        name: of the processor, as it calls itself.
        precision_mode: what was asked for.
        matmul_dtype: what the large matrix products really use. Weights, loss and
            metrics are float32 always.
        note: why, in a few words.
        notes: why no better device was chosen, and which options are not in force.
        workers, rank: how many processes train together, and which this is.
        loss_scale: False for plain optimizers, as the published ports train.
        fallback: why a card that should be there is not used: ``npu_device`` is
            installed but failed; None otherwise.
    """

    kind: str
    name: str
    precision_mode: str
    matmul_dtype: str
    note: str
    notes: tuple = ()
    workers: int = 1
    rank: int = 0
    loss_scale: bool = True
    fallback: Optional[str] = None

    @property
    def cast_dtype(self):
        """The type to which a model itself casts the inputs of its large products.

        An NPU lowers float32 products by itself, as ``precision_mode`` tells it; a
        graph with casts of its own would lower them twice.
        """
        return "float32" if self.kind == "npu" else self.matmul_dtype

    def record(self):
        """The same as a dict, for ``result.json``; ``fallback`` where there is one."""
        record = {**asdict(self), "notes": list(self.notes)}
        del record["loss_scale"]  # follows from the run's parameters
        if self.fallback is None:
            del record["fallback"]
        return record

    def scaled(self, optimizer):
        """Wraps an optimizer in a dynamic loss scale where float16 needs it.

        A gradient of the full-catalogue softmax is far below the smallest float16;
        bfloat16 and float32 reach it as it is. On an NPU it is the vendor's scale,
        which sees overflow there; elsewhere it is Keras' own. With
        ``loss_scale=False`` the optimizer stays plain.
        """
        if self.matmul_dtype == "float16" and self.loss_scale:
            if self.kind == "npu":
                optimizer = ascend.loss_scaled(optimizer)
            elif self.workers > 1:
                raise InputError(
                    f'precision_mode="{self.precision_mode}": without NPUs, several '
                    'workers do not train in float16; use "allow_mix_precision".'
                )
            else:
                from lib.hardware.tensorflow import tf

                optimizer = tf.keras.mixed_precision.LossScaleOptimizer(optimizer)
        if self.kind == "npu" and self.workers > 1:
            # Around the scale: averaged over the cards, then searched for overflow.
            optimizer = ascend.reduced(optimizer)
        return optimizer


def open(
    device="auto",
    precision_mode="allow_mix_precision",
    threads=0,
    steps_per_execution=1,
    loss_scale=True,
    **launch,
):
    """Chooses the device and the precision; safe to call again.

    ==========================  ======================  ======================  =======
    ``precision_mode``          Ascend 910              CPU with bfloat16       other
                                                        instructions (AMX,      CPU or
                                                        AVX512-BF16); GPU from  GPU
                                                        Ampere on
    ==========================  ======================  ======================  =======
    ``must_keep_origin_dtype``  float32                 float32                 float32
    ``allow_fp32_to_fp16``      products in float16     products in bfloat16    float32
    ``allow_mix_precision``     what its lists say, in  products in bfloat16    float32
                                float16
    ``force_fp32``              products take float16,  products in bfloat16    float32
                                the rest is float32
    ``force_fp16``              all it can in float16;  products in float16     as left
                                the vendor means it
                                for inference
    ``mixed_bfloat16``          not there               products in bfloat16    as left
    ==========================  ======================  ======================  =======

    These are the products that train; scores to rank by are float32 but where a card
    lowers them. Float16 trains with a scaled loss. ``mixed_bfloat16`` is for comparing
    results: without the instructions it is slow. Later releases of ``npu_device`` have
    new names for the same: ``mixed_float16`` and ``allow_mix_precision_fp16`` for
    ``allow_mix_precision``, ``fp16`` for ``force_fp16``, ``origin`` for
    ``must_keep_origin_dtype``, ``cube_fp16in_fp32out`` for ``force_fp32``; where a
    release does not have one, the older name is set.

    Everything is checked before a device is touched. Once an NPU is open, a second call
    with the same arguments returns an equal ``Device`` and does nothing.

    Args:
        device: ``"auto"`` (an NPU where one opens, else a GPU where TensorFlow sees
            one, else the CPU), or one of the three.
        precision_mode: a name from the table or one of the newer ones.
        threads: that one operation may use on the CPU; 0 leaves it to TensorFlow. Small
            steps run faster on one: waking a second thread costs more than it does.
        steps_per_execution: of the models that will be compiled. An NPU wants to know
            before it is opened, see ``set_loop_size``; other devices do not ask.
        loss_scale: False trains in float16 without a loss scale, as the published ports
            do; ``Device.notes`` then says what that costs.
        **launch: fields of ``lib.hardware.launch_options.LaunchOptions``. They are
        checked on
            every device and in force on an NPU.

    Returns:
        A ``Device``.

    Raises:
        InputError: an unknown name or option, options that exclude each other, a file
            that is not as it must be, a device that is not there, another number of
            threads than this kernel computes with already, an ``$NPU_LOOP_SIZE`` that
            contradicts ``steps_per_execution``, or other arguments than those that the
            NPU of this kernel was opened with.
    """
    global _npu
    for name, value, allowed in (
        ("device", device, DEVICES),
        ("precision_mode", precision_mode, PRECISION_MODES),
    ):
        if value not in allowed:
            raise InputError(f'{name}="{value}": allowed are {", ".join(allowed)}.')
    for name in launch:
        if name not in NAMES:
            raise InputError(f"{name}: no launch option; there are {', '.join(NAMES)}.")
    if type(steps_per_execution) is not int or steps_per_execution < 1:
        raise InputError(
            f"steps_per_execution={steps_per_execution!r}: give a whole number, 1 or "
            "more."
        )
    options = LaunchOptions(**launch)
    number = logical_id()
    wish = {
        "device": device,
        "precision_mode": precision_mode,
        "steps_per_execution": steps_per_execution,
        "ASCEND_DEVICE_ID": number,
        **asdict(options),
    }
    if _npu is not None:
        _refuse_another_wish(wish)
        return _with_notes(_npu[1], loss_scale)
    settings = options.settings(precision_mode)
    notes, fallback = [], None
    team = workers.announced()
    if device in ("auto", "npu") and team.engine != "tensorflow":
        try:
            name, notes, team = ascend.open(
                number, precision_mode, settings, steps_per_execution
            )
        except ascend.Unavailable as reason:
            if team.size > 1:
                raise InputError(
                    f"RANK_SIZE={team.size}: this process trains with others, on NPUs, "
                    f"and {reason}."
                ) from None
            if device == "npu":
                raise InputError(f'device="npu": {reason}; or use "auto".') from None
            short = str(reason).partition(";")[0]
            notes.append(f"no NPU: {short}")
            if reason.installed:
                fallback = short
                sys.stderr.write(f"!!! NOT ON AN NPU: {reason}\n")
        else:
            if threads:
                notes.append(f"threads={threads}: not applicable on an NPU")
            opened = _card(name, precision_mode, notes, team)
            _npu = wish, opened
            return _with_notes(opened, loss_scale)
    if device == "npu":
        raise InputError('device="npu": TF_CONFIG is for CPUs and GPUs; unset it.')
    notes += [f"{name}: not applicable without an NPU" for name in options.asked_for()]
    opened = _processor(device, precision_mode, threads, notes)
    return _with_notes(replace(opened, fallback=fallback), loss_scale)


def set_loop_size(steps):
    """Tells an open NPU how many steps the next call of a model takes.

    With another number it would take too many steps, or wait for ever.
    ``fit`` does it; who calls ``model.fit`` with ``steps_per_execution`` calls
    it before. Other devices do not ask.
    """
    if _npu is not None:
        ascend.set_loop_size(steps)


@contextmanager
def host():
    """Where tensors are made on the host: ``with host(): ...``, or ``@host()``.

    On an NPU ``tf.device`` does nothing, so tables that only the input pipeline reads
    would be made on the card.
    """
    from tensorflow.python.eager import context

    with context.device("CPU:0"):
        yield


def logical_id():
    """The device number of the original scripts: ``$ASCEND_DEVICE_ID``, 0 where unset.

    Raises:
        InputError: it is not a whole number.
    """
    text = os.environ.get("ASCEND_DEVICE_ID", "0")
    if not text.isdecimal():
        raise InputError(f"ASCEND_DEVICE_ID={text!r}: give a whole number, 0 or more.")
    return int(text)


def _with_notes(opened, loss_scale):
    """Adds the notes on precision that a run's record should have."""
    notes = list(opened.notes)
    precision = ascend.NEWER_MODES.get(opened.precision_mode, opened.precision_mode)
    if opened.kind == "npu" and precision == "force_fp16":
        notes.append("force_fp16: the vendor means it for inference, not for training")
    if not loss_scale and opened.matmul_dtype == "float16":
        notes.append(
            "no loss scale, as in the published ports: float16 gradients below 6e-8 "
            "become 0, so training may stall"
        )
    return replace(opened, notes=tuple(notes), loss_scale=loss_scale)


def _refuse_another_wish(wish):
    for name, value in wish.items():
        first = _npu[0][name]
        if value != first:
            raise InputError(
                f"{name}={value!r}: this kernel computes on an NPU that was opened "
                f"with {first!r}; restart the kernel."
            )


def _card(name, precision_mode, notes, team):
    precision = ascend.NEWER_MODES.get(precision_mode, precision_mode)
    matmul_dtype, note = "float16", "the card lowers float32 products by itself"
    if precision == "must_keep_origin_dtype":
        matmul_dtype, note = "float32", "as asked"
    if team[0] > 1:
        workers.join(*team, "hccl")
    return Device("npu", name, precision_mode, matmul_dtype, note, tuple(notes), *team)


def _processor(device, precision_mode, threads, notes):
    from lib.hardware import collectives

    kind, name, has_bf16 = choose(device, threads)
    if device == "auto" and kind == "cpu":
        notes.append("no GPU: TensorFlow sees none")
    precision = ascend.NEWER_MODES.get(precision_mode, precision_mode)
    matmul_dtype, note = "float32", "as asked"
    if precision == "force_fp16":
        matmul_dtype = "float16"
    elif precision == "mixed_bfloat16":
        matmul_dtype = "bfloat16"
    elif precision != "must_keep_origin_dtype":
        if has_bf16:
            matmul_dtype = "bfloat16"
        else:
            note = f"this {kind} has no bfloat16 instructions that TensorFlow uses"
    team = collectives.join()
    return Device(
        kind,
        name,
        precision_mode,
        matmul_dtype,
        note,
        tuple(notes),
        team.size,
        team.rank,
    )


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
    from lib.hardware.tensorflow import tf

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
    from lib.hardware.tensorflow import tf

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
