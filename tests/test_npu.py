"""An NPU is opened in the order that its package wants, and says what it could not do.

No card is needed: ``tests/stand_in`` keeps the contract of ``npu_device``. What it
changes lasts as long as the process, so every case below has one of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lib.sources import ROOT

STAND_IN = Path(__file__).parent / "stand_in"
# What the cases share: answer() prints, sentence_of() returns the text of an error.
START = """
import json, os, sys
from lib import device
from lib.errors import InputError

def answer(**values):
    print(json.dumps(values))

def sentence_of(function, *args, kind=InputError, **options):
    try:
        function(*args, **options)
    except kind as error:
        return str(error)
"""


def beside_the_stand_in(*command, **environment):
    """Runs a command beside the stand-in and returns what it prints."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("ASCEND_DEVICE_ID", "NPU_LOOP_SIZE", "RANK_SIZE")
    }
    kept["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(STAND_IN)])
    done = subprocess.run(
        [sys.executable, *command],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run(code, **environment):
    """Runs a case beside the stand-in and returns what it answers."""
    said = beside_the_stand_in("-c", START + code, **environment)
    return json.loads(said.splitlines()[-1])


TRAIN = """
from lib import mf, optimizers, ratings, results, sessions, stamp, training
options = json.loads(os.environ["OPTIONS"])
opened = device.open(**options)
same = device.open(**options) is opened
other = sentence_of(device.open, **{**options, "data_dump_step": "3"})
from lib.quiet import tf
import npu_device
training.set_seed(0)

def train(model, data, take, loss, evaluate, steps_per_execution):
    run = results.Run("npu", {"output_dir": os.environ["OUTPUT"]}, {"name": loss[0]})
    model.compile(
        optimizer=opened.scaled(optimizers.adam(0.01, 24, "cosine")),
        loss=loss[1],
        steps_per_execution=steps_per_execution,
    )
    return training.fit(
        model, take, len(data.train), run, 128, 3, steps_per_epoch=10,
        evaluate=lambda: evaluate(model),
    )[0]

clicks = sessions.load("sample")
first = stamp.STAMP(clicks.n_items, 16, matmul_dtype=opened.cast_dtype)
stars = ratings.load("sample")
second = mf.MF(stars.n_users, stars.n_items, stars.global_mean)
of_stamp = (
    first, clicks, stamp.batch_of(clicks.train, 10), ("a", first.cross_entropy),
    lambda model: stamp.evaluate(model, clicks.test, 10),
)
of_mf = (
    second, stars, mf.batch_of(stars.train), ("b", "mse"),
    lambda model: mf.evaluate(model, stars.test),
)
answer(
    device=opened.record(),
    same=same,
    other=other,
    histories=[train(*of_stamp, 4), train(*of_mf, 5)],
    untold=(
        npu_device.set_npu_loop_size(3),
        sentence_of(second.fit, kind=npu_device.ContractBroken),
    ),
    scales=type(first.optimizer).__name__,
    calls=npu_device.calls,
    broken=npu_device.broken,
    number=os.environ["ASCEND_DEVICE_ID"],
    tensorflow=tf.__version__,
)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Both models, trained on the stand-in with every option that goes together."""
    folder = tmp_path_factory.mktemp("npu")
    (folder / "mix.json").write_text('{"black-list": {"to-add": ["ReduceSumD"]}}')
    (folder / "fusion.cfg").write_text("SomePass:off\n")
    options = {
        "device": "auto",
        "precision_mode": "mixed_float16",
        "threads": 1,
        "steps_per_execution": 4,
        "data_dump_flag": True,
        "data_dump_step": "2|5-7",
        "data_dump_path": str(folder / "dump"),
        "profiling": True,
        "profiling_dump_path": str(folder / "profile"),
        "use_mixlist": True,
        "mixlist_file": str(folder / "mix.json"),
        "fusion_off_flag": True,
        "fusion_off_file": str(folder / "fusion.cfg"),
    }
    found = run(TRAIN, OPTIONS=json.dumps(options), OUTPUT=str(folder / "output"))
    return folder, found


def test_calls_come_in_the_order_of_the_contract(trained):
    folder, found = trained
    calls = [tuple(call) for call in found["calls"]]
    scale = ("NpuLossScaleOptimizer", "Adam")
    profile = calls.pop(7)
    untold = [("set_npu_loop_size", 3), ("fit", 5)]  # what the case does wrong at last
    assert profile[:2] == ("option", "profiling_config.profiling_options")
    assert json.loads(profile[2])["output"] == str(folder / "profile")
    assert calls == [
        ("import", "4"),
        ("option", "precision_mode_v2", "mixed_float16"),
        ("option", "dump_config.enable_dump", True),
        ("option", "dump_config.dump_path", str(folder / "dump")),
        ("option", "dump_config.dump_step", "2|5-7"),
        ("option", "dump_config.dump_mode", "all"),
        ("option", "profiling_config.enable_profiling", True),
        ("option", "modify_mixlist", str(folder / "mix.json")),
        ("option", "fusion_switch_file", str(folder / "fusion.cfg")),
        ("open", 0),
        ("opened", 0),
        ("as_default",),
        scale,
        ("set_npu_loop_size", 4),
        ("fit", 4),
        scale,
        ("set_npu_loop_size", 5),
        ("fit", 5),
        *untold,
    ]
    assert found["broken"] == ["fit takes 5 steps a call, the loop size is 3"]
    assert found["number"] == "0"


def test_the_record_says_that_it_was_an_npu(trained):
    record = trained[1]["device"]
    assert (record["kind"], record["name"]) == ("npu", "Ascend NPU:0")
    assert record["precision_mode"] == "mixed_float16"
    assert record["matmul_dtype"] == "float16"
    assert "threads=1: not applicable on an NPU" in record["notes"]
    supported = "npu_device supports TensorFlow 2.6.5" not in record["notes"]
    assert supported == (trained[1]["tensorflow"] == "2.6.5")


def test_a_second_call_is_the_same_device_or_an_error(trained):
    assert trained[1]["same"]
    assert trained[1]["other"] == (
        "data_dump_step='3': this kernel computes on an NPU that was opened with "
        "'2|5-7'; restart the kernel."
    )


def test_both_models_train_on_it(trained):
    for history in trained[1]["histories"]:
        assert [row["epoch"] for row in history] == [1, 2, 3]
        assert history[-1]["loss"] < history[0]["loss"]
    assert trained[1]["scales"] == "NpuLossScaleOptimizer"


def test_an_older_release_gets_the_older_name_and_float32_no_scale(tmp_path):
    found = run(
        """
opened = device.open("npu", "origin", over_dump=True, over_dump_path=sys.argv[-1])
import npu_device
from lib.quiet import tf
adam = tf.keras.optimizers.Adam()
with tf.device("/GPU:7"):
    inert = tf.zeros(1).device
answer(
    record=opened.record(), calls=npu_device.calls, inert=inert,
    plain=opened.scaled(adam) is adam,
    elsewhere=sentence_of(device.open, "cpu", "origin"),
)
""".replace("sys.argv[-1]", repr(str(tmp_path))),
        STAND_IN_RELEASE="2022",
        ASCEND_DEVICE_ID="3",
        NPU_LOOP_SIZE="1558",
    )
    assert found["record"]["notes"][0] == (
        'this npu_device does not know "origin": '
        'precision_mode="must_keep_origin_dtype" is set, the same by its older name'
    )
    assert found["record"]["matmul_dtype"] == "float32"
    assert found["plain"]
    assert found["calls"][:8] == [
        ["import", "1"],
        ["option", "precision_mode", "must_keep_origin_dtype"],
        ["option", "dump_config.enable_dump_debug", True],
        ["option", "dump_config.dump_path", str(tmp_path)],
        ["option", "dump_config.dump_debug_mode", "all"],
        ["open", 3],
        ["opened", 3],
        ["as_default"],
    ]
    assert found["inert"].endswith("CPU:0")
    assert found["elsewhere"].startswith("device='cpu': this kernel computes on an NPU")


def test_an_npu_that_does_not_open_is_an_error_by_name_and_a_step_down_by_auto():
    found = run(
        """
named = sentence_of(device.open, "npu")
auto = device.open("auto")
from lib.quiet import tf
tf.zeros(1)
again = sentence_of(device.open, "npu", steps_per_execution=2)
bfloat16 = sentence_of(device.open, "npu", "mixed_bfloat16")
tries = [call for call in sys.modules["npu_device"].calls if call[0] == "open"]
answer(named=named, kind=auto.kind, notes=auto.notes, again=again, b=bfloat16,
       tries=len(tries))
""",
        STAND_IN_CARD="no device 0\nat line 7",
    )
    assert found["named"] == (
        'device="npu": npu_device.open failed (RuntimeError: Failed open npu device '
        "0 : no device 0); look at ASCEND_DEVICE_ID, and whether another process "
        'computes on that card, then restart the kernel; or use "auto".'
    )
    assert found["kind"] in ("gpu", "cpu")
    assert found["notes"][0].startswith("no NPU: npu_device.open failed (RuntimeError")
    assert found["again"] == found["named"]
    assert found["tries"] == 1
    assert found["b"].startswith('device="npu": an Ascend 910 has no bfloat16')


def test_a_package_that_does_not_import_says_what_to_source_and_install():
    found = run(
        """
named = sentence_of(device.open, "npu")
auto = device.open("auto", "force_fp16")
from lib.quiet import tf
scaled = type(auto.scaled(tf.keras.optimizers.Adam())).__name__
answer(named=named, kind=auto.kind, notes=auto.notes, scaled=scaled)
""",
        STAND_IN_IMPORT="libge_runner.so: cannot open shared object file",
    )
    assert found["named"].startswith(
        'device="npu": npu_device does not import (ImportError: libge_runner.so: '
        "cannot open shared object file); on a host with an Ascend card, source CANN's "
    )
    assert "TensorFlow 2.6.5 on Python 3.9" in found["named"]
    assert found["kind"] in ("gpu", "cpu")
    assert found["notes"][0].startswith("no NPU: npu_device does not import")
    assert found["scaled"] == "LossScaleOptimizer"


def test_what_was_made_before_an_npu_opens_stops_it_and_the_stand_in_is_strict():
    found = run(
        """
from lib.quiet import tf
before = tf.Variable([1.0])
used = sentence_of(device.open, "auto")
imported = "npu_device" in sys.modules

import npu_device as npu
def assign(target, name, value):
    setattr(target, name, value)
options = npu.global_options()
unknown = sentence_of(assign, options, "auto_tune_mode", "RL", kind=ValueError)
closed = sentence_of(assign, options, "precision_mode", "fp8", kind=ValueError)
typed = sentence_of(assign, options, "jit_compile", True, kind=TypeError)
group = sentence_of(assign, options, "dump_config", {}, kind=npu.ContractBroken)
integer = sentence_of(npu.set_npu_loop_size, "4", kind=TypeError)
os.environ["RANK_SIZE"] = "8"
cluster = sentence_of(npu.open, kind=RuntimeError)
os.environ["RANK_SIZE"] = "1"
npu.open(0).as_default()
late = sentence_of(assign, options, "precision_mode", "force_fp16",
                   kind=npu.ContractBroken)
second = sentence_of(npu.open, 1, kind=RuntimeError)
try:
    lost = before.numpy() is None
except tf.errors.FailedPreconditionError:
    lost = True
npu.distribute.broadcast([tf.Variable(1.0)])
npu.distribute.all_reduce([tf.zeros(1), None], "sum")
wide = sentence_of(npu.distribute.all_reduce, tf.zeros(1, tf.float64),
                   kind=npu.ContractBroken)
answer(used=used, imported=imported, unknown=unknown, closed=closed, typed=typed,
       group=group, integer=integer, late=late, second=second, lost=lost, wide=wide,
       cluster=cluster, broken=npu.broken, calls=npu.calls, tensorflow=tf.__version__)
"""
    )
    assert found["used"].startswith("TensorFlow has computed in this kernel already")
    assert not found["imported"]
    assert found["unknown"].startswith("NpuConfig has no option auto_tune_mode, all")
    assert found["closed"].startswith("'fp8' not in optional list")
    assert found["typed"].startswith("Expected <class 'str'>, got <class 'bool'>")
    assert found["integer"].startswith("loop_size must be int")
    assert found["cluster"].startswith("CM_CHIEF_IP and RANK_TABLE_FILE are all not")
    assert found["second"] == "Failed create npu instance on device 1"
    assert found["lost"] or found["tensorflow"] != "2.6.5"
    assert found["broken"] == [
        found["group"],
        "tensors were made before open: they are lost",
        found["late"],
        found["wide"],
    ]
    assert found["calls"][-2:] == [["broadcast", 1, 0], ["all_reduce", "sum"]]


CLUSTER = """
from lib import optimizers, results, sessions, stamp, training
opened = device.open("npu", "allow_mix_precision")
import npu_device
clicks = sessions.load("sample")
model = stamp.STAMP(clicks.n_items, 16)
model.compile(opened.scaled(optimizers.adam(0.01, 1)), loss=model.cross_entropy)
run = results.Run("n", {"output_dir": os.environ["OUTPUT"]}, results.describe(clicks))
history, timing = training.fit(
    model, stamp.batch_of(clicks.train, 10), len(clicks.train), run, 128, 1,
    steps_per_epoch=3,
)
answer(record=opened.record(), calls=npu_device.calls, timing=timing)
"""


def test_cards_that_train_together_share_variables_and_gradients(tmp_path):
    found = run(
        CLUSTER,
        OUTPUT=str(tmp_path),
        RANK_SIZE="8",
        RANK_ID="0",
        RANK_TABLE_FILE=str(tmp_path / "table.json"),
    )
    assert (found["record"]["workers"], found["record"]["rank"]) == (8, 0)
    kinds = [call[0] for call in found["calls"]]
    wrapper = kinds.index("npu_distributed_keras_optimizer_wrapper")
    # Around the loss scale; then all cards start from one card's variables.
    assert kinds[wrapper - 1] == "NpuLossScaleOptimizer"
    assert wrapper < kinds.index("broadcast") < kinds.index("fit")
    assert ["broadcast", 10, 0] in found["calls"]
    assert ["all_reduce", "mean"] in found["calls"]
    assert "broken" not in kinds
    per_worker = found["timing"]["examples_per_second"] / 8
    assert found["timing"]["examples_per_second_per_worker"] == pytest.approx(
        per_worker, abs=0.1
    )


@pytest.mark.parametrize(
    ("number", "quick"), [("03", "with_baselines=false"), ("04", "with_ablation=false")]
)
def test_the_notebooks_run_on_it_headless(tmp_path, number, quick):
    calls = tmp_path / "calls.json"
    beside_the_stand_in(
        "ci/run.py", "--only", number, "--executed", str(tmp_path / "executed"),
        *("--set", "device=npu", "--set", "epochs=2", "--set", quick),
        *("--set", f"output_dir={tmp_path}"),
        STAND_IN_CALLS=str(calls), ASCEND_DEVICE_ID="5",
    )  # fmt: skip
    calls = [tuple(json.loads(line)) for line in calls.read_text().splitlines()]
    (loop_size,) = {call[1] for call in calls if call[0] == "fit"}
    assert calls == [
        ("import", str(loop_size)),
        ("option", "precision_mode", "allow_mix_precision"),
        ("open", 5),
        ("opened", 5),
        ("as_default",),
        ("NpuLossScaleOptimizer", "Adam"),
        ("set_npu_loop_size", loop_size),
        ("fit", loop_size),
    ]
    (record,) = tmp_path.rglob("result.json")
    record = json.loads(record.read_text())
    assert record["device"]["kind"] == "npu"
    assert len(record["history"]) == 2
