"""The stand-in for ``npu_device`` is as strict as the package, or stricter."""

from cards import needs_the_card, run, run_job

pytestmark = needs_the_card


def test_public_names_are_attributes_and_never_sub_modules():
    found = run(
        """
def attempt(line):
    exec(line, {})
lines = (
    "from npu_device.train.optimizer import NpuLossScaleOptimizer",
    "from npu_device.distribute import all_reduce",
)
refused = [sentence_of(attempt, line, kind=ImportError) for line in lines]
import npu_device as npu
names = [
    npu.train.optimizer.NpuLossScaleOptimizer.__name__,
    npu.distribute.all_reduce.__name__,
    npu.distribute.broadcast.__name__,
    npu.distribute.npu_distributed_keras_optimizer_wrapper.__name__,
]
answer(refused=refused, names=names)
"""
    )
    for name, sentence in zip(found["names"], found["refused"]):
        assert sentence.startswith(f"cannot import name '{name}' from 'npu_device.")
        assert sentence.endswith("(unknown location)")


def test_the_card_is_the_default_device_of_every_thread_and_graph():
    found = run(
        """
import threading
from lib.hardware.tensorflow import tf
import npu_device as npu
from tensorflow.python.eager import context
handle = npu.open(3)
npu.open(3).as_default()
places = []
def place(make):
    places.append(make().device.rpartition(":")[2])
place(lambda: tf.zeros(1))
place(lambda: tf.Variable(1.0))
place(tf.function(lambda: tf.zeros(1)))
thread = threading.Thread(target=place, args=[lambda: tf.random.uniform([1])])
thread.start()
thread.join()
with tf.device("/CPU:0"):
    place(lambda: tf.ones(1))
with context.device("CPU:0"):
    place(lambda: tf.ones(1))
    with tf.device("/GPU:7"):
        place(lambda: tf.ones(2))
    with handle.scope():
        place(lambda: tf.ones(2))
answer(places=places, name=handle.name(), same=npu.open(3) is handle,
       other=sentence_of(npu.open, "3", kind=RuntimeError))
"""
    )
    assert found["places"] == ["1", "1", "1", "1", "1", "0", "0", "1"]
    assert found["name"].endswith("device:NPU:3")
    assert found["same"]
    assert found["other"] == "Failed create npu instance on device 3"


def test_graphs_are_changed_as_on_a_card():
    found = run(
        """
from lib.hardware.tensorflow import tf
import npu_device as npu
earlier = tf.function(lambda x: x + seen("earlier"))
graphs, places, tries = {}, [], []
def seen(name):
    graphs[name] = tf.compat.v1.get_default_graph().name
    return 1.0
npu.open().as_default()
tf.random.set_seed(1)
inner = tf.function(lambda x: x * seen("inner"), jit_compile=True)
@tf.function
def fussy(x):
    tries.append(1)
    if len(tries) == 1:
        raise ValueError("not as plain Python")
    return -x
@tf.function
def outer(x):
    seen("outer")
    def watch(value):
        places.append(tf.identity(value).device.rpartition(":")[2])
        return value
    x = tf.py_function(watch, [x], tf.float32)
    return earlier(inner(fussy(x)))
outcome = float(outer(tf.constant(2.0)))
ones = tf.ones([10_000])
@tf.function
def masks():
    return tf.nn.dropout(ones, 0.25, seed=5), tf.random.uniform([10_000], seed=5) > 0.25
dropped, of_cpu = masks()
answer(graphs=graphs, places=places, tries=len(tries), outcome=outcome,
       jit=bool(inner._jit_compile),
       same=float(tf.reduce_mean(tf.cast((dropped > 0) == of_cpu, tf.float32))),
       mean=float(tf.reduce_mean(dropped)), kept=float(tf.reduce_max(dropped)))
"""
    )
    assert len(set(found["graphs"].values())) == 1
    assert found["outcome"] == -1.0
    assert found["tries"] == 2
    assert found["places"] == ["0"]
    assert not found["jit"]
    assert found["same"] < 0.75
    assert abs(found["mean"] - 1) < 0.05
    assert abs(found["kept"] - 1 / 0.75) < 1e-6


def test_options_are_checked_when_they_are_set():
    found = run(
        """
import npu_device as npu
options = npu.global_options()
def assign(name, value, group=None):
    setattr(getattr(options, group) if group else options, name, value)
def refused(*args):
    for kind in (ValueError, TypeError, npu.ContractBroken):
        try:
            return sentence_of(assign, *args, kind=kind) and kind.__name__
        except (ValueError, TypeError, npu.ContractBroken):
            continue
wrong = [
    ("auto_tune_mode", "RL"), ("precision_mode", "fp8"), ("jit_compile", "True"),
    ("jit_compile", True), ("deterministic", "1"), ("hcom_parallel", "True"),
    ("enable_dump", None, "dump_config"), ("aoe_mode", 2, "aoe_config"),
    ("dump_config", {}), ("oo_level", "O3"), ("precision_mode", None),
]
right = [
    ("deterministic", True), ("deterministic", 1.0), ("hcom_parallel", 1),
    ("topo_sorting_mode", None), ("modify_mixlist", {"a": 1}),
    ("dump_mode", "all", "dump_config"),
]
unknown = sentence_of(assign, "auto_tune_mode", "RL", kind=ValueError)
closed = sentence_of(assign, "precision_mode", "fp8", kind=ValueError)
typed = sentence_of(assign, "jit_compile", True, kind=TypeError)
answer(wrong=[refused(*case) for case in wrong], right=[refused(*c) for c in right],
       value=options.deterministic.value, sentences=[unknown, closed, typed])
"""
    )
    assert found["wrong"] == [
        *("ValueError", "ValueError", "ValueError", "TypeError", "TypeError"),
        *("TypeError", "TypeError", "ValueError", "ContractBroken", "ValueError"),
        "ValueError",
    ]
    assert found["right"] == [None] * 6
    assert found["value"] == "1.0"
    unknown, closed, typed = found["sentences"]
    assert unknown.startswith("NpuConfig has no option auto_tune_mode, all options [")
    assert closed.startswith("'fp8' not in optional list [")
    assert typed == "Expected <class 'str'>, got <class 'bool'>"


def test_a_newer_release_has_more_options_and_an_older_one_fewer():
    code = """
import npu_device as npu
options = npu.global_options()
def has(name):
    return sentence_of(getattr, options, name, kind=ValueError) is None
names = ["oo_level", "compile_dynamic_mode", "deterministic", "auto_tune_mode"]
profile = json.loads(options.profiling_config.profiling_options.value)
answer(has=[has(name) for name in names], keys=sorted(profile))
"""
    has = {"2022": [False, False, False, True], "9": [True, True, True, False]}
    for release, expected in has.items():
        found = run(code, STAND_IN_RELEASE=release)
        assert found["has"] == expected
        assert ("task_time" in found["keys"]) == (release == "9")
        assert ("task_trace" in found["keys"]) == (release != "9")


def test_the_package_checks_its_options_when_it_opens(tmp_path):
    (tmp_path / "list.json").write_text("{}")
    (tmp_path / "no.json").write_text("no JSON")
    found = run(
        """
import npu_device as npu
options, folder = npu.global_options(), os.environ["FOLDER"]
plain = {}
def opened(**settings):
    for name, value in settings.items():
        group, _, option = name.rpartition("__")
        holder = getattr(options, group) if group else options
        plain.setdefault(name, holder._values[option])
        setattr(holder, option, value)
    sentence = sentence_of(npu.open, kind=RuntimeError)
    for name, value in plain.items():
        group, _, option = name.rpartition("__")
        (getattr(options, group) if group else options)._values[option] = value
    return sentence.partition(" : ")[2].partition(":")[0]
dump = {"dump_config__enable_dump": True, "dump_config__dump_path": folder}
mixed = {"precision_mode": "allow_mix_precision"}
found = [
    opened(**mixed, precision_mode_v2="mixed_float16"),
    opened(precision_mode="allow_mix_precision_bf16"),
    opened(modify_mixlist=folder + "/list.json"),
    opened(**mixed, modify_mixlist=folder + "/none.json"),
    opened(**mixed, modify_mixlist=folder + "/no.json"),
    opened(op_precision_mode=folder + "/none.ini"),
    opened(graph_compiler_cache_dir=folder + "/none"),
    opened(**dump, dump_config__enable_dump_debug=True),
    opened(dump_config__enable_dump=True),
    opened(**{**dump, "dump_config__dump_path": folder + "/none"}),
    opened(**dump, dump_config__dump_step="7-5"),
    opened(**dump, dump_config__dump_step="5-5"),
    opened(**dump, dump_config__dump_step="1,2"),
    opened(**dump, dump_config__dump_step="|".join(map(str, range(101)))),
]
options.op_debug_level = 0
for name, value in dump.items():
    setattr(options.dump_config, name.rpartition("__")[2], value)
options.dump_config.dump_step = "|".join(["0", "5-7"] * 50)
options.precision_mode = mixed["precision_mode"]
options.modify_mixlist = folder + "/list.json"
npu.open()
late = sentence_of(setattr, options, "precision_mode", "force_fp16",
                   kind=npu.ContractBroken)
answer(found=found, late=late)
""",
        FOLDER=str(tmp_path),
    )
    expected = ["E10001"] * 14
    expected[0], expected[8] = "E10056", "E10058"
    assert found["found"] == expected
    assert found["late"].startswith("precision_mode was set after open")


def test_mistakes_around_open_and_the_loop_size_are_found():
    found = run(
        """
from lib.hardware.tensorflow import tf
before = tf.Variable([1.0])
import npu_device as npu
from npu_device import npu_device as session
at_import = session.loop_size_now
integer = sentence_of(npu.set_npu_loop_size, "4", kind=TypeError)
sizes = []
for size in (4, 0, -1):
    npu.set_npu_loop_size(size)
    sizes.append(session.loop_size_now)
from hccl.manage.api import get_rank_id
early = sentence_of(get_rank_id, kind=RuntimeError)
os.environ["RANK_SIZE"] = "8"
cluster = sentence_of(npu.open, kind=RuntimeError)
os.environ["CM_WORKER_SIZE"] = "8"
both = sentence_of(npu.open, kind=ValueError)
del os.environ["RANK_SIZE"], os.environ["CM_WORKER_SIZE"]
npu.open().as_default()
lost = sentence_of(before.numpy, kind=tf.errors.FailedPreconditionError)
answer(at_import=at_import, integer=integer, sizes=sizes, early=early, both=both,
       cluster=cluster, lost=lost, broken=npu.broken)
""",
        NPU_LOOP_SIZE="0",
    )
    assert found["at_import"] == 1
    assert found["integer"].startswith("loop_size must be int")
    assert found["sizes"] == [4, 4, 4]
    assert found["early"].startswith("get_rank_id")
    assert found["cluster"] and found["both"] and found["lost"]  # noqa: PT018
    assert found["broken"] == ["tensors were made before open: they are lost"]


COLLECTIVES = """
import npu_device as npu
from lib.hardware.tensorflow import tf
handle = npu.open().as_default()
rank = handle.worker_id
mine = tf.constant([1.0, 2.0]) * (rank + 1)
reduced = {
    name: npu.distribute.all_reduce(mine, name).numpy().tolist()
    for name in ("mean", "sum", "max", "min", "prod")
}
rows = tf.IndexedSlices(tf.ones([1, 2]), tf.constant([rank]), tf.constant([3, 2]))
listed = npu.distribute.all_reduce([rows, None, tf.constant([rank, 1])], "sum")
variables = [tf.Variable([rank + 1.0]), tf.Variable(rank, dtype=tf.int64)]
npu.distribute.broadcast(variables, root_rank=1)
refused = [
    sentence_of(npu.distribute.all_reduce, value, kind=npu.ContractBroken)
    for value in (tf.zeros(1, tf.float64), tf.zeros(1, tf.int32))
]
no_variable = sentence_of(npu.distribute.broadcast, mine, kind=AttributeError)
tf.config.run_functions_eagerly(True)
eager = sentence_of(npu.distribute.all_reduce, mine, kind=npu.ContractBroken)
tf.config.run_functions_eagerly(False)

optimizer = npu.train.optimizer.NpuLossScaleOptimizer(tf.keras.optimizers.SGD(1.0))
wrapped = npu.distribute.npu_distributed_keras_optimizer_wrapper(optimizer)
no_aggregate = sentence_of(
    lambda: npu.train.optimizer.NpuLossScaleOptimizer("sgd"), kind=TypeError
)
empty = sentence_of(wrapped.apply_gradients, [], kind=ValueError)
weight, scales = tf.Variable([1.0]), []
@tf.function
def step(factor):
    with tf.GradientTape() as tape:
        loss = optimizer.get_scaled_loss(factor * tf.reduce_sum(weight))
    gradients = optimizer.get_unscaled_gradients(tape.gradient(loss, [weight]))
    wrapped.apply_gradients(zip(gradients, [weight]))
for factor in (0.5 * rank, 1e6 * rank, 0.25):  # in the second, rank 1 overflows
    step(tf.constant(factor))
    scales.append([float(optimizer.loss_scale), float(weight[0])])

last = sentence_of(
    npu.distribute.all_reduce, tf.zeros(2 + rank), kind=npu.ContractBroken
)
answer(
    rank=rank, workers=handle.workers_num, reduced=reduced, refused=refused,
    listed=[v if v is None else v.numpy().tolist() for v in listed],
    variables=[v.numpy().tolist() for v in variables], no_variable=no_variable,
    eager=eager, same=wrapped is optimizer, empty=empty is not None, scales=scales,
    text=no_aggregate is not None, last=last,
)
"""


def test_collectives_meet_and_ranks_agree(tmp_path):
    ranks = run_job(COLLECTIVES, tmp_path)
    for rank, found in enumerate(ranks):
        assert (found["rank"], found["workers"]) == (rank, 2)
        assert found["reduced"] == {
            "mean": [1.5, 3.0],
            "sum": [3.0, 6.0],
            "max": [2.0, 4.0],
            "min": [1.0, 2.0],
            "prod": [2.0, 8.0],
        }
        assert found["listed"] == [[[1, 1], [1, 1], [0, 0]], None, [1, 2]]
        assert found["variables"] == [[2.0], 1]
        assert found["refused"] == [
            "all_reduce of float64",
            "all_reduce: the mean of int32 would be float64",
        ]
        assert "assign" in found["no_variable"]
        assert found["eager"].endswith("a card runs collectives in graphs alone")
        assert found["same"]
        assert found["empty"]
        assert found["text"]
        # Mean gradients 0.25, (overflow: no step, half the scale), 0.25.
        assert found["scales"] == [[32768.0, 0.75], [16384.0, 0.75], [16384.0, 0.5]]
        assert found["last"].startswith("ranks disagree: rank ")


def test_a_rank_that_does_not_come_is_a_sentence_and_not_a_hang(tmp_path):
    # The rank is what hccl says; $RANK_ID is not set where ranks have no table.
    found = run(
        """
import npu_device as npu
from lib.hardware.tensorflow import tf
handle = npu.open().as_default()
missing = sentence_of(tf.function(lambda: tf.zeros(1)), kind=npu.ContractBroken)
answer(rank=handle.worker_id, missing=missing)
""",
        CM_WORKER_SIZE="2",
        CM_CHIEF_IP="127.0.0.1",
        STAND_IN_RANK="1",
        STAND_IN_FABRIC=str(tmp_path),
        STAND_IN_TIMEOUT="1",
    )
    assert found["rank"] == 1
    assert "rank 0 has not come in 1 s" in found["missing"]


def test_the_loss_scale_keeps_the_rules_of_the_package():
    found = run(
        """
import npu_device as npu
from lib.hardware.tensorflow import tf
npu.open().as_default()
Scale = npu.train.optimizer.NpuLossScaleOptimizer
sgd = tf.keras.optimizers.SGD
wrong = [
    sentence_of(Scale, sgd(), False, kind=ValueError),
    sentence_of(Scale, sgd(), False, 8.0, 3, kind=ValueError),
    sentence_of(Scale, sgd(), 1, kind=TypeError),
    sentence_of(Scale, "sgd", kind=TypeError),
    sentence_of(Scale(sgd()).apply_gradients, [], experimental_aggregate_gradients=True,
                kind=TypeError),
]
weight = tf.Variable(1.0)
def steps(optimizer, factors):
    found = []
    for factor in factors:
        with tf.GradientTape() as tape:
            loss = optimizer.get_scaled_loss(factor * weight)
        (gradient,) = tape.gradient(loss, [weight])
        largest = float(gradient)
        optimizer.apply_gradients([(gradient / optimizer.loss_scale, weight)])
        found.append([float(optimizer.loss_scale), largest, int(optimizer.iterations),
                      bool(optimizer.last_step_finite.numpy())])
    return found
dynamic = Scale(sgd(0.0), initial_scale=2.0, dynamic_growth_steps=2)
fixed = Scale(sgd(0.0), dynamic=False, initial_scale=2.0)
answer(
    wrong=[sentence is not None for sentence in wrong],
    dynamic=steps(dynamic, [1.0, 1.0, 1.0, 1e6, 1.0, 1.0, 1e6, 1e6, 1e6]),
    fixed=steps(fixed, [1.0, 1e6, 1.0]),
    keras=isinstance(dynamic, tf.keras.mixed_precision.LossScaleOptimizer),
    name=dynamic.last_step_finite.name,
)
"""
    )
    assert all(found["wrong"])
    assert found["keras"]
    assert found["name"].startswith("npu_last_step_finite")
    scales, gradients, iterations, finite = zip(*found["dynamic"])
    assert scales == (2.0, 4.0, 4.0, 2.0, 2.0, 4.0, 2.0, 1.0, 1.0)
    assert gradients[3] == 65504.0  # the largest float16, never infinity
    assert iterations == tuple(range(1, 10))
    assert finite == (True, True, True, False, True, True, False, False, False)
    assert [step[0] for step in found["fixed"]] == [2.0] * 3
    assert [step[3] for step in found["fixed"]] == [True, False, True]
