"""The models compile to graphs that an Ascend 910 runs: operations, types, shapes.

The lists are those of the contract of ``npu_device``. A graph is walked with every
function that it calls, so loops, branches and gradients are seen too.
"""

import itertools

import numpy as np
import pytest

from lib.data import ratings, sessions
from lib.hardware import ascend
from lib.hardware.device import Device
from lib.hardware.tensorflow import tf
from lib.models import mf, optimizers, published, stamp
from lib.training import pipeline
from lib.training.schedule import Schedule

BATCH = 64
# Types of tensors that the card takes; a resource is a variable or an iterator.
TYPES = {"bool", "uint8", "int32", "int64", "float16", "float32", "resource"}
# What the interfaces named unsupported or advised against become in a graph.
UNSUPPORTED = (
    "CheckNumerics",
    "DenseToSparse",
    "EagerPyFunc",
    "Einsum",
    "EnsureShape",
    "PyFunc",
    "Sparse",
    "Unique",  # supported, but its shape is unknown: every step would be compiled again
    "Xla",
)
SUPPORTED = ("SparseSoftmaxCrossEntropyWithLogits",)  # no sparse tensor in it


def nodes(graph):
    """The nodes of a graph and of every function in its library."""
    definition = graph.as_graph_def()
    bodies = [function.node_def for function in definition.library.function]
    return list(itertools.chain(definition.node, *bodies))


def types(node):
    """Names of the types that a node's attributes mention."""
    numbers = [a.type for a in node.attr.values() if a.type]
    numbers += itertools.chain(*(a.list.type for a in node.attr.values()))
    return {tf.dtypes.as_dtype(number).name for number in numbers}


def complaints(function, iterates=False):
    """What an Ascend 910 would not run of a concrete function.

    Args:
        function: the concrete function.
        iterates: whether it takes an iterator: Keras' own loop then has a handle to
            delete it, and messages of its assertions, which stay on the host.
    """
    found = set()
    for node in nodes(function.graph):
        if node.op.startswith(UNSUPPORTED) and node.op not in SUPPORTED:
            found.add(f"{node.op} is not supported")
        wrong = types(node) - TYPES
        if iterates and node.op == "Placeholder":
            wrong -= {"variant"}
        if iterates and node.op in ("Assert", "Const"):
            wrong -= {"string"}
        found |= {f"{node.op} with {name}" for name in wrong}
    for operation in function.graph.get_operations():
        for tensor in operation.outputs:
            if tensor.dtype.is_floating and not tensor.shape.is_fully_defined():
                found.add(f"{operation.type} of shape {tensor.shape}")
    return found


def stamp_case(data, **options):
    model = stamp.STAMP(data.n_items, 16, maxlen=10, **options)
    model.adapt(data.train)
    return model, data.train


def mf_case(data, **options):
    model = mf.MF(data.n_users, data.n_items, data.global_mean, **options)
    return model, data.train


def published_stamp(data):
    return published.STAMP(data.n_items, 16), data.train


def published_mf(data):
    return published.MF(data.n_users, data.n_items), data.train


CASES = {
    "STAMP": lambda: stamp_case(sessions.load("sample")),
    "STMP": lambda: stamp_case(sessions.load("sample"), attention=False),
    "STAMP, cosine, dropout": lambda: stamp_case(
        sessions.load("sample"), scale=16.0, dropout=0.1
    ),
    "STAMP, neighbours, positions": lambda: stamp_case(
        sessions.load("sample"), scale=16.0, neighbours=5, positions=True
    ),
    "MF": lambda: mf_case(ratings.load("sample")),
    "MF without bias": lambda: mf_case(ratings.load("sample"), use_bias=False),
    "STAMP as published": lambda: published_stamp(sessions.load("sample")),
    "MF as published": lambda: published_mf(ratings.load("sample")),
}


@pytest.fixture(autouse=True)
def no_sparse_products(monkeypatch):
    """As on a card."""
    monkeypatch.setattr(ascend, "is_open", lambda: True)


def compiled(name, steps_per_execution=4):
    """A model with variables, compiled as the notebooks do, with a scaled loss."""
    model, examples = CASES[name]()
    read = model.example_reader(examples)
    plan = Schedule(BATCH, steps_per_epoch=8).plan(len(examples))
    scale = Device("cpu", "", "force_fp16", "float16", "").scale
    model.compile(
        optimizer=scale(optimizers.make_adam(0.01, 100, "cosine")),
        loss=model.training_loss,
        steps_per_execution=steps_per_execution,
    )
    batch = tuple(map(tf.constant, read(np.arange(BATCH))))
    model(batch[0])
    return model, batch, pipeline.batches(read, plan, range(1))


@pytest.mark.parametrize("name", CASES)
def test_a_training_step_runs_on_the_card(name):
    model, batch, _ = compiled(name)
    step = tf.function(lambda *batch: model.train_step(batch))
    function = step.get_concrete_function(*batch)
    assert {"ResourceApplyAdam", "If"} <= {node.op for node in nodes(function.graph)}
    assert complaints(function) == set()


@pytest.mark.parametrize("name", ["STAMP", "MF"])
@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_the_training_function_of_keras_runs_on_the_card(name, steps_per_execution):
    model, _, dataset = compiled(name, steps_per_execution)
    function = model.make_train_function()
    if not hasattr(function, "get_concrete_function"):
        pytest.skip("Keras 3 does not hand out the function that it traces")
    function = function.get_concrete_function(iter(dataset))
    operations = {node.op for node in nodes(function.graph)}
    assert "IteratorGetNext" in operations
    assert ("While" in operations) == (steps_per_execution > 1)
    assert complaints(function, iterates=True) == set()


@pytest.mark.parametrize("name", CASES)
def test_evaluation_runs_on_the_card(name):
    model, batch, _ = compiled(name)
    if isinstance(model, stamp.STAMP):
        functions = [model.balance, model.log_loss]
    else:
        batch, functions = batch[:1], [model.stars]
    for function in functions:
        assert complaints(function.get_concrete_function(*batch)) == set()


def test_batches_are_int32_and_float32_and_of_one_shape():
    for name in ("STAMP", "MF"):
        _, _, dataset = compiled(name)
        for spec in dataset.element_spec:
            assert spec.dtype in (tf.int32, tf.float32)
            assert spec.shape[0] == BATCH


@pytest.mark.parametrize(
    ("compute", "complaint"),
    [
        (lambda x: tf.cast(tf.cast(x, tf.float64) + 1, x.dtype), "Cast with float64"),
        (lambda x: tf.cast(x, tf.bfloat16), "Cast with bfloat16"),
        (lambda x: tf.einsum("i,i->", x, x), "Einsum is not supported"),
        (lambda x: tf.py_function(abs, [x], x.dtype), "EagerPyFunc is not supported"),
        (lambda x: tf.unique(x)[0], "Unique is not supported"),
        (lambda x: tf.boolean_mask(x, x > 0), "GatherV2 of shape (None,)"),
    ],
)
def test_the_walk_sees_what_it_should_also_in_a_called_function(compute, complaint):
    inner = tf.function(compute)
    spec = tf.TensorSpec((3,), tf.float32)
    alone = inner.get_concrete_function(spec)
    assert complaint in complaints(alone)
    if "shape" not in complaint:
        called = tf.function(lambda x: inner(x)).get_concrete_function(spec)
        assert complaint in complaints(called)
