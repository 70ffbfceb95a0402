"""An NPU is opened in the order that its package requires, and both models train on it.

No card is needed: ``tests/stand_in`` keeps the contract of ``npu_device``.
"""

import json

import numpy as np
import pytest
from cards import IMPORTS, NEEDS, needs_the_card, outputs, run, run_job, start

TRAIN = """
from lib.data import ratings, sessions
from lib.models import mf, stamp
from lib.records.run import Run
from lib.training.fit import fit, set_seed
from lib.training.schedule import Schedule
options = json.loads(os.environ["OPTIONS"])
launch_options = options.pop("launch_options")
opened = select_device(**options, launch_options=launch_options)
same = select_device(**options, launch_options=launch_options) == opened
changed = {**launch_options, "data_dump_step": "3"}
other = sentence_of(select_device, **options, launch_options=changed)
import npu_device
set_seed(0)

def train(model, data, steps_per_execution, evaluate):
    schedule = Schedule(
        128, 3, 0.01, "cosine", steps_per_epoch=10,
        steps_per_execution=steps_per_execution,
    )
    name = type(model).__name__
    run = Run("npu", {"output_dir": os.environ["OUTPUT"]}, {"name": name}, opened)
    return fit(
        model, data.train, schedule, opened, run, lambda: evaluate(model, data.test)
    )[0]

clicks = sessions.load("sample")
first = stamp.STAMP(clicks.n_items, 16, 10, matmul_dtype=opened.cast_dtype)
stars = ratings.load("sample")
second = mf.MF(stars.n_users, stars.n_items, stars.global_mean)
answer(
    device=opened.record(),
    same=same,
    other=other,
    histories=[
        train(first, clicks, 4, stamp.evaluate), train(second, stars, 5, mf.evaluate)
    ],
    untold=(
        npu_device.set_npu_loop_size(3),
        sentence_of(second.fit, kind=npu_device.ContractBroken),
    ),
    scales=type(first.optimizer).__name__,
    calls=npu_device.calls,
    broken=npu_device.broken,
    number=os.environ["ASCEND_DEVICE_ID"],
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
        "launch_options": {
            "data_dump_flag": True,
            "data_dump_step": "2|5-7",
            "data_dump_path": str(folder / "dump"),
            "profiling": True,
            "profiling_dump_path": str(folder / "profile"),
            "use_mixlist": True,
            "mixlist_file": str(folder / "mix.json"),
            "fusion_off_flag": True,
            "fusion_off_file": str(folder / "fusion.cfg"),
        },
    }
    found = run(TRAIN, OPTIONS=json.dumps(options), OUTPUT=str(folder / "output"))
    return folder, found


@needs_the_card
def test_calls_come_in_the_order_of_the_contract(trained):
    folder, found = trained
    calls = [tuple(call) for call in found["calls"]]
    scale = ("NpuLossScaleOptimizer", "Adam")
    profile = calls.pop(9)
    untold = [("set_npu_loop_size", 3), ("fit", 5)]  # the last mistakes of the case
    assert profile[:2] == ("option", "profiling_config.profiling_options")
    assert json.loads(profile[2])["output"] == str(folder / "profile")
    assert calls == [
        ("import", "1"),
        ("set_npu_loop_size", 4),
        ("option", "precision_mode", "allow_mix_precision"),
        ("option", "op_compiler_cache_mode", "enable"),
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


@needs_the_card
def test_the_record_says_that_it_was_an_npu(trained):
    record = trained[1]["device"]
    assert (record["kind"], record["name"]) == ("npu", "Ascend NPU:0")
    assert record["precision_mode"] == "mixed_float16"
    assert record["matmul_dtype"] == "float16"
    assert "threads=1: not applicable on an NPU" in record["notes"]


@needs_the_card
def test_a_second_call_is_the_same_device_or_an_error(trained):
    assert trained[1]["same"]
    assert trained[1]["other"] == (
        "data_dump_step='3': this kernel computes on an NPU that was opened with "
        "'2|5-7'; restart the kernel."
    )


@needs_the_card
def test_both_models_train_on_it(trained):
    for history in trained[1]["histories"]:
        assert [row["epoch"] for row in history] == [1, 2, 3]
        assert history[-1]["loss"] < history[0]["loss"]
    assert trained[1]["scales"] == "NpuLossScaleOptimizer"


@needs_the_card
def test_a_newer_name_works_on_an_older_release_and_float32_gets_no_scale(tmp_path):
    found = run(
        """
dump = {"over_dump": True, "over_dump_path": os.environ["FOLDER"]}
opened = select_device("npu", "origin", launch_options=dump)
import npu_device
from lib.hardware.tensorflow import tf
adam = tf.keras.optimizers.Adam()
with tf.device("/GPU:7"):
    inert = tf.zeros(1).device
answer(
    record=opened.record(), calls=npu_device.calls, inert=inert,
    plain=opened.scale(adam) is adam,
    elsewhere=sentence_of(select_device, "cpu", "origin"),
)
""",
        FOLDER=str(tmp_path),
        STAND_IN_RELEASE="2022",
        ASCEND_DEVICE_ID="3",
        NPU_LOOP_SIZE="1",
    )
    assert found["record"]["matmul_dtype"] == "float32"
    assert found["plain"]
    assert found["calls"][:10] == [
        ["import", "1"],
        ["set_npu_loop_size", 1],
        ["option", "precision_mode", "must_keep_origin_dtype"],
        ["option", "op_compiler_cache_mode", "enable"],
        ["option", "dump_config.enable_dump_debug", True],
        ["option", "dump_config.dump_path", str(tmp_path)],
        ["option", "dump_config.dump_debug_mode", "all"],
        ["open", 3],
        ["opened", 3],
        ["as_default"],
    ]
    assert found["inert"].endswith("CPU:1")  # the card of the stand-in
    assert found["elsewhere"].startswith("device='cpu': this kernel computes on an NPU")


@needs_the_card
def test_an_npu_that_does_not_open_is_an_error_by_name_and_a_step_down_by_auto():
    found = run(
        """
named = sentence_of(select_device, "npu")
auto = select_device("auto", threads=1)
from lib.hardware.tensorflow import tf
where = tf.zeros(1).device
again = sentence_of(select_device, "npu", steps_per_execution=2)
bfloat16 = sentence_of(select_device, "npu", "mixed_bfloat16")
import tempfile
profile = {"profiling": True, "profiling_dump_path": tempfile.mkdtemp()}
asked = sentence_of(select_device, launch_options=profile)
tries = [call for call in sys.modules["npu_device"].calls if call[0] == "open"]
answer(named=named, kind=auto.kind, notes=auto.notes, again=again, b=bfloat16,
       tries=len(tries), where=where, fallback=auto.fallback, asked=asked)
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
    assert found["fallback"] == found["notes"][0].partition(": ")[2]
    assert found["stderr"].count("!!! NOT ON AN NPU: npu_device.open failed") == 1
    assert found["where"].endswith("CPU:0")
    assert found["again"] == found["named"]
    assert found["asked"].startswith(
        "profiling=True is for an NPU, and npu_device.open"
    )
    assert found["tries"] == 1
    assert found["b"].startswith('device="npu": an Ascend 910 has no bfloat16')


@needs_the_card
def test_a_package_that_does_not_import_says_what_to_source_and_install():
    found = run(
        """
named = sentence_of(select_device, "npu")
auto = select_device("auto", "force_fp16")
from lib.hardware.tensorflow import tf
scaled = type(auto.scale(tf.keras.optimizers.Adam())).__name__
tf.Variable([1.0])
used = sentence_of(select_device, "auto")
answer(named=named, kind=auto.kind, notes=auto.notes, scaled=scaled,
       fallback=auto.fallback, used=used)
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
    assert found["fallback"].startswith("npu_device does not import (ImportError")
    assert "!!! NOT ON AN NPU: npu_device does not import" in found["stderr"]
    assert found["scaled"] == "LossScaleOptimizer"
    # A kernel that has computed opens no NPU, whatever the import would say now.
    assert found["used"].startswith("TensorFlow has computed in this kernel already")


@needs_the_card
def test_bfloat16_leaves_an_installed_card_with_a_conspicuous_line():
    found = run(
        """
auto = select_device("auto", "mixed_bfloat16")
answer(kind=auto.kind, fallback=auto.fallback)
"""
    )
    assert found["kind"] == "cpu"
    assert found["fallback"] == "an Ascend 910 has no bfloat16"
    assert "!!! NOT ON AN NPU: an Ascend 910 has no bfloat16" in found["stderr"]


@pytest.mark.skipif(
    IMPORTS, reason="this is what users of another TensorFlow than 2.6 see"
)
def test_with_another_tensorflow_the_package_is_there_and_not_usable():
    found = run(
        """
named = sentence_of(select_device, "npu")
auto = select_device("auto")
answer(named=named, kind=auto.kind, notes=auto.notes, fallback=auto.fallback)
"""
    )
    assert found["named"].startswith(
        'device="npu": npu_device does not import (ImportError: built for TensorFlow '
        "2.6, found "
    )
    assert "with TensorFlow 2.6.5 on Python 3.9" in found["named"]
    assert found["kind"] in ("gpu", "cpu")
    assert found["notes"][0] == f"no NPU: {found['fallback']}"
    assert "!!! NOT ON AN NPU: npu_device does not import" in found["stderr"]


@needs_the_card
def test_a_loop_size_of_the_user_is_kept_or_refused_and_cann_9_has_task_time(tmp_path):
    found = run(
        """
profile = {"profiling": True, "profiling_dump_path": os.environ["FOLDER"]}
refused = sentence_of(select_device, "npu", steps_per_execution=4)
tried = "npu_device" in sys.modules
select_device("npu", steps_per_execution=1558, launch_options=profile)
package = sys.modules["npu_device"]
options = package.global_options().profiling_config.profiling_options
answer(refused=refused, tried=tried, calls=package.calls,
       profile=json.loads(options.value), after=os.environ["NPU_LOOP_SIZE"])
""",
        NPU_LOOP_SIZE="1558",
        STAND_IN_RELEASE="9",
        FOLDER=str(tmp_path),
    )
    assert found["refused"].startswith("NPU_LOOP_SIZE=1558, but the models of this run")
    assert not found["tried"]
    assert found["calls"][:2] == [["import", "1558"], ["set_npu_loop_size", 1558]]
    assert found["after"] == "1558"
    assert found["profile"]["task_time"] == "on"
    assert "task_trace" not in found["profile"]
    assert found["profile"]["training_trace"] == "on"


HOST = """
import numpy as np
opened = select_device("npu")
from lib.data import ratings, sessions
from lib.models import mf, stamp
from lib.training import pipeline
from lib.training.fit import make_variables
from lib.training.schedule import Schedule
from lib.hardware.tensorflow import tf

def places(tensors):
    return sorted({t.device.rpartition(":")[2] for t in tensors})

def found(model, examples):
    read = model.example_reader(examples)
    make_variables(model, read)
    plan = Schedule(64, steps_per_epoch=4).plan(len(examples), opened)
    batches = pipeline.batches(read, plan, range(1), opened)
    return {
        "read": [type(part).__name__ for part in read(np.arange(2))],
        "shapes": [spec.shape.as_list() for spec in batches.element_spec],
        "steps": sum(1 for batch in batches),
        "weights": places(model.trainable_variables),
    }

clicks, stars = sessions.load("sample"), ratings.load("sample")
answer(
    stamp=found(stamp.STAMP(clicks.n_items, 16), clicks.train),
    mf=found(mf.MF(stars.n_users, stars.n_items, 3.0), stars.train),
)
"""


@needs_the_card
def test_the_pipeline_reads_on_the_host_in_static_shapes_and_weights_are_on_the_card():
    found = run(HOST)
    for name, shapes in (("stamp", [[64, 19], [64]]), ("mf", [[64, 2], [64, 1]])):
        assert found[name]["read"] == ["ndarray", "ndarray"], name
        assert found[name]["shapes"] == shapes, name
        assert found[name]["steps"] == 4, name
        assert found[name]["weights"] == ["1"], name


OVERFLOW = """
opened = select_device("npu")
from lib.data import sessions
from lib.models import optimizers, stamp
from lib.training import pipeline
from lib.training.fit import make_variables, set_seed
from lib.training.schedule import Schedule
from lib.hardware.tensorflow import tf
set_seed(0)
clicks = sessions.load("sample")
model = stamp.STAMP(clicks.n_items, 16, maxlen=10)
read = model.example_reader(clicks.train)
plan = Schedule(128, steps_per_epoch=10).plan(len(clicks.train), opened)
steep = lambda targets, query: 1e6 * model.training_loss(targets, query)
if os.environ["SCALE"] == "card":
    optimizer = opened.scale(optimizers.make_adam(0.01, 60))
else:
    plain = optimizers.make_adam(0.01, 60)
    optimizer = tf.keras.mixed_precision.LossScaleOptimizer(plain)
model.compile(optimizer, loss=steep)
steps = []

class Watch(tf.keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs):
        finite = getattr(optimizer, "last_step_finite", None)
        weight = float(tf.reduce_sum(model.kernel_t))
        steps.append([float(optimizer.loss_scale), weight, logs["loss"],
                      int(optimizer.iterations), None if finite is None else
                      bool(finite.numpy())])

make_variables(model, read)
before = float(tf.reduce_sum(model.kernel_t))
opened.set_loop_size(1)
model.fit(pipeline.batches(read, plan, range(6), opened), epochs=6, steps_per_epoch=10,
          shuffle=False, verbose=0, callbacks=[Watch()])
answer(steps=steps, before=before)
"""


@needs_the_card
def test_an_overflow_halves_the_scale_skips_the_step_and_training_recovers():
    found = run(OVERFLOW, SCALE="card")
    scales, weights, losses, iterations, finite = zip(*found["steps"])
    assert finite[:3] == (False, False, False)
    scale, weight = 2.0**15, found["before"]
    for step, is_finite in enumerate(finite):
        assert (scales[step] == scale) == is_finite
        assert scales[step] in (scale, scale / 2)
        assert (weights[step] != weight) == is_finite
        scale, weight = scales[step], weights[step]
    assert iterations == tuple(range(1, 61))
    assert sum(finite[-20:]) > 15
    assert losses[-1] < 0.96 * losses[0]


@needs_the_card
def test_the_loss_scale_of_keras_would_not_see_it():
    found = run(OVERFLOW, SCALE="keras")
    assert {step[0] for step in found["steps"]} == {2.0**15}


JOB = """
opened = select_device("npu", "allow_mix_precision")
from lib.data import ratings, sessions
from lib.models import mf, stamp
from lib.records.run import Run
from lib.training.fit import fit, set_seed
from lib.training.schedule import Schedule
import npu_device
rank, alone = opened.rank, os.environ.get("ALONE")

def make(name):
    if name == "stamp":
        data = sessions.load("sample")
        model = stamp.STAMP(data.n_items, 16, 10, seed=rank)  # each with other weights
        return data, model, lambda: stamp.evaluate(model, data.test)
    data = ratings.load("sample")
    model = mf.MF(data.n_users, data.n_items, data.global_mean, seed=rank)
    return data, model, lambda: mf.evaluate(model, data.test)

def train(name):
    set_seed(0)
    first, start, judged = len(npu_device.calls), [], []
    data, model, judge = make(name)
    build = model.build

    def watched(shape):
        build(shape)
        start.extend(float(w.numpy().sum()) for w in model.trainable_variables)

    def evaluate():
        judged.append(judge())
        return judged[-1]

    def train_it():
        schedule = Schedule(128, 3, 0.01, steps_per_epoch=5)
        evaluates = evaluate if rank == 0 or not alone else None
        result.extend(fit(model, data.train, schedule, opened, run, evaluates))

    model.build = watched
    result = []
    run = Run(name, {"output_dir": os.environ["OUTPUT"]}, {"name": "a"}, opened)
    broken = sentence_of(train_it, kind=npu_device.ContractBroken)
    history, timing = result or (None, None)
    return dict(
        record=opened.record(), history=history, timing=timing, broken=broken,
        judged=judged, calls=npu_device.calls[first:], start=start, drops_as=model.rank,
        weights=[w.numpy().tolist() for w in model.trainable_variables],
    )

answer(**{name: train(name) for name in os.environ["MODELS"].split()})
"""


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """A job of two workers, the same trainings in one process, and their folder."""
    if not IMPORTS:
        pytest.skip(NEEDS)
    folder = tmp_path_factory.mktemp("jobs")
    ranks = run_job(JOB, folder, MODELS="stamp mf", OUTPUT=str(folder / "output"))
    one = run(JOB, MODELS="stamp mf", OUTPUT=str(folder / "one"))
    return ranks, one, folder / "output"


@pytest.fixture(scope="module", params=["stamp", "mf"])
def job(request, jobs):
    """What two workers, and one, say of a model; and the folder of the workers."""
    ranks, one, output = jobs
    name = request.param
    return [found[name] for found in ranks], one[name], output, name


def weights_of(found):
    return [np.array(weight) for weight in found["weights"]]


def test_two_cards_train_what_one_does_on_the_same_batches(job):
    ranks, one, _, _ = job
    assert ranks[0]["start"] == one["start"] != ranks[1]["start"]
    for first, second, alone in zip(*map(weights_of, (*ranks, one))):
        np.testing.assert_array_equal(first, second)
        # Sums in another order: 3e-7 at most here.
        np.testing.assert_allclose(first, alone, atol=1e-5)


def test_the_history_of_two_cards_is_the_mean_over_both(job):
    ranks, one, _, _ = job
    assert ranks[0]["history"] == ranks[1]["history"]
    for both, alone in zip(ranks[0]["history"], one["history"]):
        assert both["loss"] == pytest.approx(alone["loss"], rel=1e-5)


def test_every_card_evaluates_and_the_first_alone_writes(job):
    ranks, _, output, name = job
    assert len(ranks[0]["judged"]) == 3
    assert ranks[0]["judged"] == ranks[1]["judged"]
    written = {path.name for path in output.rglob("1/**/*") if path.is_file()}
    assert written == {"train_1.log"}
    assert list(output.glob(f"0/{name}-*/ckpt/ckpt-3.index"))


def test_two_cards_start_alike_and_average_before_they_look_for_overflow(job):
    ranks, one, _, _ = job
    for rank, found in enumerate(ranks):
        assert (found["record"]["workers"], found["record"]["rank"]) == (2, rank)
        assert found["drops_as"] == rank  # else all would draw the same dropout masks
        kinds = [call[0] for call in found["calls"]]
        wrapper = kinds.index("npu_distributed_keras_optimizer_wrapper")
        assert kinds[wrapper - 1] == "NpuLossScaleOptimizer"
        assert wrapper < kinds.index("broadcast") < kinds.index("fit")
        training = found["calls"][kinds.index("fit") :]  # the cards have agreed before
        reductions = [call[1] for call in training if call[0] == "all_reduce"]
        assert reductions[:2] == ["mean", "sum"]  # gradients, then the overflow flag
        per_worker = found["timing"]["examples_per_second"] / 2
        assert found["timing"]["examples_per_second_per_worker"] == pytest.approx(
            per_worker, abs=0.1
        )
    assert "all_reduce" not in {call[0] for call in one["calls"]}


@needs_the_card
def test_a_graph_of_one_card_alone_would_be_seen(tmp_path):
    ranks = run_job(
        JOB, tmp_path, MODELS="mf", OUTPUT=str(tmp_path / "o"), ALONE="1",
        STAND_IN_TIMEOUT="30",
    )  # fmt: skip
    for found in (answer["mf"] for answer in ranks):
        assert found["broken"].startswith("ranks disagree: rank ")
        assert "graph" in found["broken"]


@needs_the_card
@pytest.mark.parametrize(
    ("number", "setting"), [("03", "with_baselines=false"), ("04", "latent_dim=4")]
)
def test_the_notebooks_run_on_it_headless(tmp_path, number, setting):
    calls = tmp_path / "calls.json"
    command = start(
        "ci/execute.py", "--only", number, "--executed", str(tmp_path / "executed"),
        *("--set", "device=npu", "--set", "epochs=2", "--set", setting),
        *("--set", f"output_dir={tmp_path}"),
        STAND_IN_CALLS=str(calls), ASCEND_DEVICE_ID="5",
    )  # fmt: skip
    outputs(command)
    calls = [tuple(json.loads(line)) for line in calls.read_text().splitlines()]
    (loop_size,) = {call[1] for call in calls if call[0] == "fit"}
    assert calls == [
        ("import", "1"),
        ("set_npu_loop_size", loop_size),
        ("option", "precision_mode", "allow_mix_precision"),
        ("option", "op_compiler_cache_mode", "enable"),
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
