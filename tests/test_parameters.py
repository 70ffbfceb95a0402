"""Parameters are checked by name and type before anything runs."""

import json

import execute
import papermill
import plan
import pytest
import yaml
from shared import refusal, the_only

from lib.hardware import launch_options
from lib.records import parameters

CELL = """\
epochs: int = 2  # passes
learning_rate: float = 0.1  # of Adam
variant: str = "paper"  # paper or stmp
static: bool = True
rates: dict = {"schedule": "constant", "factor": 1.0}
ascend: dict = {}
output_dir: str = "output"
"""
DEFAULTS = {"epochs": 2, "learning_rate": 0.1, "variant": "paper", "static": True}
DEFAULTS |= {"schedule": "constant", "factor": 1.0, "ascend": {}}
DEFAULTS |= {"output_dir": "output"}


def notebook(*cells, injected=""):
    """The globals of a notebook after cells were run, by IPython and by papermill."""
    cells = [*(cells or [CELL])]
    if injected:
        cells.append(f"# Parameters\n{injected}\n")
    space = {}
    for cell in cells:
        exec(cell, space)
    return {**space, "In": ["", "import x  # fails", "%magic(", *cells, "check()"]}


def checked(injected="", **allowed):
    return parameters.check(notebook(injected=injected), **allowed)


def test_the_parameters_and_nothing_else_are_returned_in_their_order():
    values = checked("epochs = 5")
    assert dict(values) == {**DEFAULTS, "epochs": 5}
    assert list(values) == list(DEFAULTS)
    assert values.epochs == values["epochs"] == 5


def test_they_are_read_only_and_the_notebook_s_own_names_stay():
    space = notebook(injected="learning_rate = 1")
    before = dict(space)
    values = parameters.check(space)
    assert space == before
    assert values.learning_rate == 1.0
    with pytest.raises(AttributeError, match="read-only"):
        values.epochs = 3
    with pytest.raises(AttributeError, match='assigns no "epoch"'):
        _ = values.epoch
    with pytest.raises(TypeError, match="item assignment"):
        values["epochs"] = 3
    assert values.epochs == 2


def test_a_whole_number_is_accepted_for_a_float_but_not_the_reverse():
    assert checked("learning_rate = 1").learning_rate == 1.0
    assert type(checked("factor = 2").factor) is float
    sentence = refusal(checked, "epochs = 2.0")
    assert sentence.startswith("epochs=2.0: expected int, found float")


@pytest.mark.parametrize(("given", "switch"), [(0, False), (1, True)])
def test_0_and_1_are_accepted_for_a_switch_as_the_published_scripts_write_it(
    given, switch
):
    assert checked(f"static = {given}").static is switch


def test_a_number_is_accepted_for_a_text():
    assert checked("variant = 3").variant == "3"
    assert checked("ascend = {'data_dump_step': 10}").ascend == {"data_dump_step": "10"}


@pytest.mark.parametrize(
    "cell",
    [
        CELL.replace(": int", "").replace(": float", "").replace(": bool", ""),
        CELL.replace(": dict", "").replace(": str", ""),
        CELL.replace(" = 2  #", "=2#").replace("epochs: int", "epochs : int"),
        CELL.replace('"constant", ', '"constant",\n    '),
    ],
)
def test_a_parameter_counts_however_its_line_is_spelled(cell):
    assert cell != CELL
    assert dict(parameters.check(notebook(cell))) == DEFAULTS
    assert parameters.check(notebook(cell, injected="epochs = 7")).epochs == 7
    sentence = refusal(parameters.check, notebook(cell, injected="epochs = 'a'"))
    assert sentence.startswith("epochs='a': expected int, found str")


def test_the_newest_parameters_cell_counts_and_what_was_injected_before_does_not():
    injected = "# Parameters\nepochs = 9\nnosuch = 1\n"
    edited = CELL.replace("epochs: int = 2", "passes: int = 3")
    scratch = "output_dir = make(3)"  # no literal: some other cell
    space = notebook(CELL, injected, edited)
    space["In"].append(scratch)
    values = parameters.check(space)
    assert values.passes == 3
    assert "epochs" not in values


@pytest.mark.parametrize("leave", ["In", "__annotations__"])
def test_annotations_are_enough_where_no_cells_are_kept(leave):
    space = notebook()
    space["In" if leave == "__annotations__" else "__annotations__"] = {}
    assert dict(parameters.check(space)) == DEFAULTS


def test_without_a_parameters_cell_the_sentence_says_which_to_run():
    assert refusal(parameters.check, {"In": ["epochs = 2"]}).startswith(
        "no parameters cell was run in this kernel: run the cell that assigns output_"
    )


@pytest.mark.parametrize(
    ("injected", "sentence"),
    [
        ("epochs = '3'", "epochs='3': expected int, found str"),
        ("epochs = True", "epochs=True: expected int, found bool"),
        ("epochs = None", "epochs=None: expected int, found NoneType"),
        ("static = 2", "static=2: expected bool, found int"),
        ("learning_rate = float('nan')", "learning_rate=nan: expected a finite number"),
        ("rates = {'schedule': 1.5e400}", "rates: schedule=inf: expected str"),
        (
            "rates = {'nosuch': 1}",
            'rates: unknown entry "nosuch"; it may have schedule',
        ),
        ("factor = 'x'", "rates: factor='x': expected float, found str"),
        (
            "ascend = {'profilng': True}",
            'ascend: unknown entry "profilng"; it may have ',
        ),
        ("ascend = {'profiling': 'yes'}", "ascend: profiling='yes': expected bool"),
        ("ascend = {'over_dump_path': {}}", "ascend: over_dump_path={}: expected str"),
        ("ascend = 3", "ascend=3: expected dict, found int"),
        ("epoch = 3", 'unknown parameter "epoch": this notebook has epochs, learning'),
    ],
)
def test_a_wrong_name_or_type_is_refused_in_one_sentence(injected, sentence):
    assert refusal(checked, injected).startswith(sentence)


def test_a_dict_without_entries_holds_any_plain_values():
    cell = CELL + "extra: dict = {}\n"
    given = {"a": 1, "b": "c", "d": True}
    values = parameters.check(notebook(cell, injected=f"extra = {given}"))
    assert values.extra == given
    for wrong in ({"a": {}}, {1: 2}, {"a": [1]}, {"a": None}):
        refusal(parameters.check, notebook(cell, injected=f"extra = {wrong}"))


def test_an_entry_of_a_group_is_a_parameter_and_keeps_its_default():
    assert dict(checked("rates = {'schedule': 'cosine'}")) == {
        **DEFAULTS,
        "schedule": "cosine",
    }
    assert checked("schedule = 'cosine'") == checked("rates = {'schedule': 'cosine'}")


def test_a_notebook_says_which_values_it_allows():
    assert checked(variant=("paper", "stmp")).variant == "paper"
    sentence = refusal(checked, "variant = 'best'", variant=("paper", "stmp"))
    assert sentence == 'variant="best": allowed are "paper", "stmp".'
    assert "cosine" in refusal(checked, schedule=("cosine",))


# --- launch options, by every route --------------------------------------------------


@pytest.mark.parametrize("option", launch_options.NAMES)
def test_a_launch_option_given_as_a_parameter_ends_in_how_to_write_it(option):
    value = parameters.LAUNCH[option]
    sentence = refusal(checked, f"{option} = {value!r}")
    way = f'-y "ascend: {{{option}: {json.dumps(value)}}}"'
    assert sentence.endswith(f"with papermill write {way}.")
    told = yaml.safe_load(way[len('-y "') : -1])  # as papermill reads it
    assert checked(f"ascend = {told['ascend']!r}").ascend == {option: value}


def test_it_is_written_as_a_switch_where_papermill_passes_a_text():
    assert refusal(checked, "profiling = 'true'") == (
        "profiling is a launch option of an Ascend: with papermill write "
        '-y "ascend: {profiling: true}".'
    )


def test_it_is_just_unknown_where_a_notebook_has_no_launch_options():
    cell = CELL.replace("ascend: dict = {}\n", "")
    space = notebook(cell, injected="profiling = True")
    assert refusal(parameters.check, space).startswith('unknown parameter "profiling"')


def planned(*arguments):
    options = execute.parse_options([*arguments])
    return [(path.stem, values) for _, path, values, _ in plan.list_runs(options)]


@pytest.mark.parametrize("number", ["03", "04"])
def test_set_reaches_ascend_for_every_published_name(number):
    arguments = [f"{k}={json.dumps(v)}" for k, v in parameters.LAUNCH.items()]
    words = [word for text in arguments for word in ("--set", text)]
    ((_, values),) = planned("--only", number, *words)
    assert values == {"ascend": parameters.LAUNCH}


def test_set_leaves_notebooks_without_launch_options_alone():
    runs = dict(planned("--only", "02,03", "--set", "profiling=true"))
    assert runs == {"02_preprocess": {}, "03_stamp": {"ascend": {"profiling": True}}}


def test_params_files_and_their_lists_reach_ascend(tmp_path):
    path = tmp_path / "p.yaml"
    values = {"notebook": "03_stamp", "ascend": {"over_dump": True}, "epochs": 1}
    values |= {"data_dump_step": ["1", "2"], "fixes": "mask", "scale": 2.0}
    path.write_text(yaml.safe_dump(values))
    runs = planned("--params", str(path), "--set", "over_dump=false")
    group = {"variant_options": {"fixes": "mask", "scale": 2.0}, "epochs": 1}
    assert [values for _, values in runs] == [
        {"ascend": {"over_dump": False, "data_dump_step": step}, **group}
        for step in ("1", "2")
    ]


@pytest.mark.parametrize("text", ["ascend=3", "ascend={nosuch: 1}", "scoring=[1]"])
def test_a_group_with_other_entries_is_refused_by_the_plan(text):
    with pytest.raises(SystemExit, match=r': write "\{<name>: <value>\}"; the names'):
        planned("--only", "03", "--set", text)


@pytest.mark.parametrize("number", ["03", "04"])
def test_papermill_s_own_ways_reach_the_check(number, tmp_path):
    """As ``papermill -y "ascend: {profiling: true}"`` and ``-p profiling true`` do."""
    path = the_only(plan.NOTEBOOKS.glob(f"{number}_*.ipynb"), f"notebook {number}")
    cell = next(
        cell.source
        for cell in papermill.iorw.load_notebook_node(str(path)).cells
        if "parameters" in cell.metadata.tags
    )
    assert len(cell.splitlines()) <= 22

    def check(values):
        book = papermill.iorw.load_notebook_node(str(path))
        book = papermill.parameterize.parameterize_notebook(book, values)
        (added,) = (c for c in book.cells if "injected-parameters" in c.metadata.tags)
        return parameters.check(notebook(cell, added.source))

    assert check({"ascend": {"profiling": True}}).ascend == {"profiling": True}
    assert check({"fixes": "mask"}).fixes == "mask"
    assert '-y "ascend: {profiling: true}"' in refusal(check, {"profiling": "true"})


PUBLISHED = {
    "03": {"batch_size", "epochs", "steps_per_epoch", "learning_rate", "maxlen"},
    "04": {"batch_size", "epochs", "steps_per_epoch", "learning_rate", "latent_dim"},
}


@pytest.mark.parametrize("number", PUBLISHED)
def test_the_published_names_and_the_rest_of_a_recorded_run_can_be_set(number):
    path = the_only(plan.NOTEBOOKS.glob(f"{number}_*.ipynb"), f"notebook {number}")
    settable = {*plan.read_defaults(path), *parameters.groups(plan.read_defaults(path))}
    published = {"data_path", "precision_mode", "static", *launch_options.NAMES}
    assert published | PUBLISHED[number] <= settable
    for record in plan.ROOT.glob("results/*/*/seed-0/result.json"):
        content = json.loads(record.read_text())
        if content["notebook"] == path.stem:
            earlier = {"train_days", "with_ablation"}  # of earlier releases
            assert content["parameters"].keys() - earlier <= settable


# --- whose notebook it is ------------------------------------------------------------


def test_a_notebook_of_another_clone_is_refused(tmp_path, monkeypatch):
    """Its lib and its output folder would be those of the other clone."""
    other = tmp_path / "clone"
    for folder in ("notebooks", "output/notebooks", "lib/records"):
        (other / folder).mkdir(parents=True)
    (other / "lib/records/parameters.py").write_text("")
    for folder in ("notebooks", "output/notebooks"):
        monkeypatch.chdir(other / folder)
        sentence = refusal(checked)
        assert f"is in {other}, but its kernel imports lib from {plan.ROOT}" in sentence
        assert f"{other}/.venv" in sentence


def test_copies_of_a_notebook_outside_of_every_clone_run(tmp_path, monkeypatch):
    for folder in (tmp_path, plan.ROOT / "notebooks"):
        monkeypatch.chdir(folder)
        assert checked().epochs == 2
