"""A schedule refuses the values it cannot train with, and counts steps and examples."""

from dataclasses import asdict, replace

import pytest
from shared import refusal

from lib.data import ratings, sessions
from lib.errors import InputError
from lib.evaluation import metrics
from lib.hardware import workers
from lib.hardware.device import Device, select_device
from lib.models import mf, stamp
from lib.records.parameters import Parameters
from lib.training.fit import set_seed
from lib.training.schedule import Schedule

CPU = Device("cpu", "a processor", "must_keep_origin_dtype", "float32", "as asked")
INFINITE = [float("nan"), float("inf"), -float("inf")]
NO_COUNT = [0, -1, 2**31, 1.0, True]
NO_NUMBER_OF_STEPS = [-1, 2**31, 0.5, False]
NO_SEED = [-1, 2**20, 0.0, True]


# --- values --------------------------------------------------------------------------

REFUSED = {
    "batch_size": NO_COUNT,
    "epochs": NO_COUNT,
    "evaluate_every": NO_COUNT,
    "steps_per_epoch": NO_NUMBER_OF_STEPS,
    "steps_per_execution": NO_NUMBER_OF_STEPS,
    "seed": NO_SEED,
    "learning_rate": [0, -0.1, 1e-300, 1e39, *INFINITE],
    "rate_scaling": ["", "cubic"],
    "schedule": ["", "linear"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in REFUSED for value in REFUSED[name]]
)
def test_a_value_that_cannot_be_trained_with_is_refused(name, value):
    field = "decay" if name == "schedule" else name
    sentence = refusal(Schedule, **{field: value})
    assert sentence.startswith((f"{name}={value!r}: ", f'{name}="{value}": '))
    assert "allowed are " in sentence or "choose a whole number" in sentence
    assert refusal(Schedule.from_parameters, {name: value}) == sentence


def test_the_extreme_values_are_allowed():
    for seed in (0, 2**20 - 1):
        Schedule(seed=seed)
    ones = dict.fromkeys(("batch_size", "epochs", "evaluate_every"), 1)
    Schedule(**ones, steps_per_epoch=0, steps_per_execution=0, learning_rate=1e-37)
    most = dict.fromkeys([*ones, "steps_per_epoch", "steps_per_execution"], 2**31 - 1)
    Schedule(**most, learning_rate=1e37)


def test_a_changed_schedule_is_checked_too():
    with pytest.raises(InputError, match="epochs=0: choose a whole number, 1 or more"):
        replace(Schedule(), epochs=0)


def test_a_schedule_takes_its_fields_from_the_parameters_of_a_notebook():
    given = {"epochs": 7, "schedule": "cosine", "static": False, "seed": 3}
    others = {"data_path": "sample", "maxlen": 9, "top_k": 20}
    taken = Schedule.from_parameters(Parameters({**others, **given}))
    assert asdict(taken) == {
        **asdict(Schedule()),
        "epochs": 7,
        "decay": "cosine",
        "static": False,
        "seed": 3,
    }
    assert Schedule.from_parameters(Parameters(others)) == Schedule()


# --- steps and examples --------------------------------------------------------------


@pytest.mark.parametrize(
    ("static", "steps_per_epoch", "steps"),
    [(True, 0, 4), (False, 0, 5), (True, 3, 3), (False, 3, 3)],
)
def test_an_epoch_is_all_of_its_batches_or_the_first(static, steps_per_epoch, steps):
    options = {"static": static, "steps_per_epoch": steps_per_epoch}
    assert Schedule(batch_size=5, **options).plan(23).steps == steps


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("call", [1, 2, 3, 0])
def test_a_call_takes_whole_groups_of_steps(static, call):
    plan = Schedule(5, static=static, steps_per_execution=call).plan(23)
    batches = 4 if static else 5
    assert plan.steps_per_call == (call or batches)
    assert plan.steps % plan.steps_per_call == 0
    assert batches - plan.steps_per_call < plan.steps <= batches


def test_the_examples_of_an_epoch_are_counted_with_its_partial_batch():
    plan = Schedule(5, static=False).plan(23)
    assert [plan.count_examples(k, k + 1) for k in range(5)] == [5, 5, 5, 5, 3]
    assert plan.count_examples(0, 5) == 23


def test_several_workers_share_no_partial_batch_and_tensorflow_s_take_single_steps():
    schedule = Schedule(5, steps_per_execution=4)
    assert schedule.plan(23, replace(CPU, workers=2)).steps_per_call == 1
    assert schedule.plan(23, replace(CPU, kind="npu", workers=2)).steps_per_call == 4
    sentence = refusal(
        replace(schedule, static=False).plan, 23, replace(CPU, workers=2)
    )
    assert sentence.startswith("static=False: 2 workers cannot share the last partial ")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch_size": 24}, "batch_size=24, steps_per_epoch=0: 23 examples make 0 "),
        ({"steps_per_epoch": 5}, "steps_per_epoch=5: 23 examples make 4 batches"),
        ({"steps_per_execution": 9}, "steps_per_execution=9: an epoch has 4 steps"),
    ],
)
def test_more_than_an_epoch_has_is_refused(options, sentence):
    assert sentence in refusal(Schedule(**{"batch_size": 5, **options}).plan, 23)


# --- values that other functions use -------------------------------------------------


def make_stamp(**options):
    return stamp.STAMP(7, **options)


def make_mf(**options):
    return mf.MF(3, 4, 3.5, **options)


def load_sessions(**options):
    return sessions.load("sample", **options)


def load_ratings(**options):
    return ratings.load("sample", **options)


BOUNDED = [
    (set_seed, "seed", NO_SEED),
    (load_ratings, "seed", NO_SEED),
    (load_ratings, "test_share", [0.0, 1.0, -0.2, *INFINITE]),
    (load_sessions, "min_item_clicks", NO_COUNT),
    (load_sessions, "min_session_clicks", [1, 0, -1]),
    (make_stamp, "maxlen", NO_COUNT),
    (make_stamp, "embed_dim", NO_COUNT),
    (make_stamp, "dropout", [1, 1.5, -0.1, *INFINITE]),
    (make_stamp, "scale", [-1.0, 1e39, *INFINITE]),
    (make_mf, "latent_dim", NO_COUNT),
    (make_mf, "regularization", [-0.01, 1e39, *INFINITE]),
    (select_device, "threads", [-1, 1025, 1.0]),
    (select_device, "steps_per_execution", NO_COUNT),
]


@pytest.mark.parametrize(
    ("function", "name", "value"),
    [(function, name, value) for function, name, bad in BOUNDED for value in bad],
)
def test_a_value_is_refused_by_the_function_that_uses_it(function, name, value):
    sentence = refusal(function, **{name: value})
    assert sentence.startswith(f"{name}={value}: ")


@pytest.mark.parametrize("value", NO_COUNT)
def test_metrics_are_cut_off_at_a_rank(value):
    assert refusal(metrics.ranking_metrics, [1.0], value).startswith(f"k={value}: ")


@pytest.mark.parametrize("value", NO_COUNT)
def test_a_batch_is_shared_by_one_worker_or_more(value):
    sentence = refusal(workers.share_batch, 512, value)
    assert sentence.startswith(f"workers={value}: choose a whole number, 1 or more")


@pytest.mark.parametrize("value", [0, -1.0, 1e39, *INFINITE])
def test_cosine_scores_need_a_scale_which_other_variants_ignore(value):
    sentence = refusal(stamp.choose_variant, "normalized", value)
    assert sentence == f"scale={value}: allowed are numbers above 0, up to 1e+37."
    paper = {"attention": True, "scale": 0.0}
    assert stamp.choose_variant("paper", value) == paper
    assert stamp.choose_variant("stmp", value) == {**paper, "attention": False}
    assert stamp.choose_variant("normalized", 16.0) == {**paper, "scale": 16.0}
    assert 'variant="x": allowed are' in refusal(stamp.choose_variant, "x", 16.0)


@pytest.mark.parametrize("n_examples", [1, 7, 128, 10**6])
def test_a_brief_training_fits_any_number_of_examples(n_examples):
    recipe = Schedule.brief(n_examples, 128, 3, 0.01, seed=1)
    steps = recipe.plan(n_examples).steps
    assert 1 <= steps <= 400
    assert recipe.batch_size * steps <= n_examples
