"""A device is the one that its record names; invalid input ends in one sentence."""

import importlib.util
import json
import subprocess
import sys

import pytest

from lib.errors import InputError
from lib.hardware import device
from lib.hardware.device import select_device
from lib.hardware.tensorflow import tf

TENSORFLOW_26 = tf.__version__.startswith("2.6.")


def test_the_cpu_can_be_selected_again_and_again():
    assert select_device("cpu") == select_device("cpu")
    assert select_device("cpu").kind == "cpu"
    assert select_device("auto").kind in ("cpu", "gpu")


@pytest.mark.parametrize(
    ("mode", "flags", "dtype"),
    [
        ("must_keep_origin_dtype", {"amx_bf16"}, "float32"),
        ("allow_mix_precision", {"amx_bf16"}, "bfloat16"),
        ("allow_fp32_to_fp16", {"avx512_bf16"}, "bfloat16"),
        ("allow_mix_precision", {"avx2"}, "float32"),
        ("allow_fp32_to_fp16", set(), "float32"),
        ("force_fp16", set(), "float16"),
        ("mixed_bfloat16", set(), "bfloat16"),
        ("force_fp32", {"amx_bf16"}, "bfloat16"),
        ("mixed_float16", {"amx_bf16"}, "bfloat16"),
        ("mixed_float16", set(), "float32"),
        ("allow_mix_precision_fp16", {"amx_bf16"}, "bfloat16"),
        ("cube_fp16in_fp32out", set(), "float32"),
        ("origin", {"amx_bf16"}, "float32"),
        ("fp16", set(), "float16"),
    ],
)
def test_precision_in_force_follows_the_table(monkeypatch, mode, flags, dtype):
    monkeypatch.setattr(device, "read_cpu", lambda: ("some processor", flags))
    opened = select_device("cpu", mode)
    if TENSORFLOW_26 and dtype == "bfloat16" and mode != "mixed_bfloat16":
        dtype = "float32"  # there it would be slower, so only its own name gives it
    assert opened.matmul_dtype == dtype
    assert opened.precision_mode == mode
    assert opened.cast_dtype == dtype
    if mode.startswith("allow") and dtype == "float32":
        assert opened.note.startswith("this cpu has no bfloat16 instructions")


def test_threads_are_set_before_the_first_operation_and_not_after():
    code = """
from lib.hardware.device import select_device
from lib.errors import InputError
select_device("cpu", threads=1)
select_device("cpu", threads=1)
from lib.hardware.tensorflow import tf
tf.zeros(1)
select_device("cpu", threads=1)
try:
    select_device("cpu", threads=2)
except InputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "threads=2: this kernel computes already" in done.stdout, done.stderr


def test_only_float16_gets_a_loss_scale():
    optimizer = object()
    assert select_device("cpu", "allow_mix_precision").scale(optimizer) is optimizer
    from lib.hardware.tensorflow import tf

    adam = tf.keras.optimizers.Adam()
    scaled = select_device("cpu", "force_fp16").scale(adam)
    assert scaled.inner_optimizer is adam


def test_without_a_loss_scale_float16_stays_plain_and_the_record_says_its_cost():
    adam = tf.keras.optimizers.Adam()
    opened = select_device("cpu", "force_fp16", loss_scale=False)
    assert opened.scale(adam) is adam
    (note,) = opened.record()["notes"]
    assert note.startswith("no loss scale, as in the published ports")
    for mode in ("must_keep_origin_dtype", "mixed_bfloat16"):
        plain = select_device("cpu", mode, loss_scale=False).record()
        assert plain == select_device("cpu", mode).record()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"device": "tpu"}, 'device="tpu": allowed are "auto", "npu", "gpu", "cpu".'),
        ({"device": "npu"}, 'device="npu": npu_device is not installed; on a host'),
        ({"precision_mode": "fp8"}, 'precision_mode="fp8": allowed are "allow_mix'),
        (
            {"steps_per_execution": 0},
            "steps_per_execution=0: choose a whole number, 1 or more",
        ),
        (
            {"launch_options": {"auto_tune": True}},
            'launch option="auto_tune": allowed are "over_dump",',
        ),
        (
            {
                "device": "npu",
                "launch_options": {"data_dump_flag": True, "over_dump": True},
            },
            "data_dump_flag and over_dump are both True",
        ),
        (
            {
                "launch_options": {
                    "fusion_off_flag": True,
                    "fusion_off_file": "/no/file",
                }
            },
            "fusion_off_file: /no/file cannot be read",
        ),
    ],
)
def test_an_invalid_argument_is_an_error_of_one_sentence(options, sentence):
    if options == {"device": "npu"} and importlib.util.find_spec("npu_device"):
        pytest.skip("this machine has npu_device")
    with pytest.raises(InputError) as caught:
        select_device(**options)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_a_record_says_why_no_better_device_was_selected():
    if importlib.util.find_spec("npu_device"):
        pytest.skip("this machine has npu_device")
    opened = select_device("auto")
    assert opened.notes[0] == "no NPU: npu_device is not installed"
    if opened.kind == "cpu":
        assert opened.notes[1] == "no GPU: TensorFlow sees none"
    assert select_device("cpu").notes == ()


def test_options_of_an_npu_are_checked_and_reported_elsewhere(tmp_path):
    options = {"over_dump": True, "over_dump_path": str(tmp_path)}
    opened = select_device("cpu", launch_options=options)
    assert opened.notes == ("over_dump: not applicable without an NPU",)
    options = {"profiling": True, "profiling_dump_path": str(tmp_path)}
    assert select_device("cpu", launch_options=options).notes == ()  # TensorFlow's
    assert json.loads(json.dumps(opened.record())) == opened.record()


def test_a_gpu_that_is_not_there_is_an_error():
    from lib.hardware.tensorflow import tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(InputError, match="TensorFlow sees no GPU here"):
        select_device("gpu")


def test_the_device_number_comes_from_the_environment(monkeypatch):
    monkeypatch.delenv("ASCEND_DEVICE_ID", raising=False)
    assert device.logical_id() == 0
    monkeypatch.setenv("ASCEND_DEVICE_ID", "5")
    assert device.logical_id() == 5
    monkeypatch.setenv("ASCEND_DEVICE_ID", "npu0")
    with pytest.raises(InputError, match="ASCEND_DEVICE_ID='npu0'"):
        device.logical_id()
