"""What comes from outside runs no code, leaves no folder and ends in no traceback."""

import ast
import gzip
import json
import shutil
from copy import deepcopy

import execute
import nbformat
import plan
import pytest
import rank_table
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import files
from lib.data import ratings, readers, sources
from lib.data.engines import DuckDB
from lib.errors import InputError
from lib.files import ROOT
from lib.hardware import launch_options
from lib.hardware.device import Device
from lib.models import mf
from lib.records import comparison, parameters
from lib.records.run import Run, describe
from lib.records.run import load as load_records
from lib.serving import trained
from lib.training.checkpoints import Checkpoints
from lib.training.fit import Schedule, fit

# --- no code -------------------------------------------------------------------------

MODULES = "pickle cPickle _pickle dill cloudpickle joblib shelve marshal"
CALLS = "eval exec compile __import__ load_model read_pickle to_pickle extractall"
CALLS += " unpack_archive system popen unsafe_load full_load load_all"


def code():
    """Name and text of everything that the repository runs."""
    for folder in ("lib", "ci"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    for name, cell in code_cells():
        yield name, cell.source


def code_cells():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
            if cell.cell_type == "code":
                yield f"{path.name}, cell {number}", cell


def dangers(text):
    """What a piece of Python does that could run what it reads."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name in MODULES.split()]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module] if node.module in MODULES.split() else []
        elif isinstance(node, ast.Call):
            options = {word.arg: word.value for word in node.keywords}
            owner, _, name = ast.unparse(node.func).rpartition(".")
            if name in CALLS.split() and not (name == "compile" and owner):
                found.append(name)  # model.compile and re.compile are not compile
            if (owner, name) in [("yaml", "load"), ("torch", "load")]:
                found.append(f"{owner}.{name}")
            if (owner, name) in [("np", "load"), ("numpy", "load")]:
                allowed = ast.unparse(options.get("allow_pickle", node.func))
                found += [] if allowed == "False" else ["np.load"]
            if "shell" in options:
                found.append("shell")
    return found


def test_nothing_that_is_read_can_run_as_code():
    assert {where: dangers(text) for where, text in code() if dangers(text)} == {}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "eval('1')",
        "builtins.exec(text)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "pd.read_pickle(path)",
        "zipfile.ZipFile(path).extractall()",
        "subprocess.run(text, shell=True)",
        "tf.keras.models.load_model(path)",
    ],
)
def test_the_search_for_such_code_finds_it(text):
    assert len(dangers(text)) == 1


def test_harmless_code_is_let_pass():
    harmless = "model.compile('adam'); np.load(path, allow_pickle=False)"
    assert dangers(harmless + "; yaml.safe_load(text); re.compile('a')") == []


# --- anything that could be in a file or a parameter ---------------------------------

JUNK = [None, True, -1, 0, 2**31, 10**400, -0.5, 1e308, float("nan"), float("inf")]
JUNK += ["", " ", "0", "nan", "../../x", "/", "~nobody/x", "a\nb", "\0", "x" * 5000]
JUNK += ["__import__('os').system('x')", "é" * 200, "$x^$", "<script>", [], {}, [[]]]
JUNK += [[1, "a"], {"a": {"b": None}}, {"": []}, ["a"] * 3, [{}], "{", b"x".hex()]


@st.composite
def changed(draw, document):
    """A document of JSON in which something is something else, or is not there."""
    document = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 2))):
        at = document
        while True:
            if not isinstance(at, (dict, list)) or not at:
                break
            keys = sorted(at) if isinstance(at, dict) else range(len(at))
            key = draw(st.sampled_from(list(keys)))
            deeper = isinstance(at[key], (dict, list)) and at[key]
            if deeper and draw(st.integers(0, 3)):
                at = at[key]
                continue
            if draw(st.booleans()):
                at[key] = deepcopy(draw(st.sampled_from(JUNK)))  # it may change too
            else:
                del at[key]
            break
    return document


texts = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [b"", b"{", b"[" * 10**5, b'{"a":' * 10**5, b"\xff\xfe{}", b"null"]
    ),
    st.sampled_from([b"[]", b"1e999", b"9" * 5000, b'"\\ud800"', b"NaN", b"\0" * 9]),
)


def ends_well(function, *arguments):
    """A call gives a result or one sentence; the result, or None."""
    refusal = None
    try:
        return function(*arguments)
    except InputError as error:
        refusal = str(error)
    assert "\n" not in refusal
    assert len(refusal) < 1500
    return None


many = settings(max_examples=40)


# --- records -------------------------------------------------------------------------

RECORD = {
    "schema": 1,
    "run": "a-1",
    "notebook": "03_stamp",
    "model": "stamp",
    "variant": "paper",
    "parameters": {"output_dir": "output", "epochs": 1, "label": ""},
    "data": {"name": "toy", "sha256": "0", "counts": {"clicks": 3}},
    "device": {"kind": "cpu", "matmul_dtype": "float32", "workers": 1},
    "versions": {"python": "3"},
    "git_commit": None,
    "seed": 0,
    "history": [{"epoch": 1, "loss": 1.0, "hr_at_20": 0.5}],
    "metrics": {"hr_at_20": 0.5},
    "baselines": {"POP": {"hr_at_20": 0.1}},
    "timing": {"epoch_s": [1.0], "wall_time_s": 2.0},
}


def shown(folder):
    """What notebook 05 makes of a folder of records."""
    records = load_records(folder)
    page = comparison.table(records).to_html()
    for question, group in comparison.by_question(records, "stamp").items():
        assert (folder / f"{question}.png").parent == folder
        comparison.settings(group)
        page += question
    return page


@many
@given(record=changed(RECORD))
def test_a_changed_record_is_shown_or_refused(tmp_path_factory, record):
    folder = tmp_path_factory.getbasetemp()
    (folder / "result.json").write_text(json.dumps(record))
    ends_well(shown, folder)


@many
@given(text=texts)
def test_a_file_of_anything_is_no_record(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp()
    (folder / "result.json").write_bytes(text)
    assert ends_well(load_records, folder) is None


@given(record=changed(RECORD))
def test_a_changed_record_in_the_way_of_a_run_is_refused_or_its_own(
    tmp_path_factory, record
):
    folder, data = tmp_path_factory.getbasetemp() / "runs", RECORD["data"]
    run = Run("03_stamp", {"output_dir": str(folder)}, data)
    path = run.folder / "result.json"
    path.write_text(json.dumps(record))
    ends_well(Run, "03_stamp", {"output_dir": str(folder)}, data)
    path.unlink()


@pytest.mark.parametrize("field", ["label", "variant", "data", "model"])
def test_a_script_in_a_record_is_shown_as_text(tmp_path, field):
    script = "<script>alert('$x$')</script>/../../x"
    record = json.loads(json.dumps(RECORD))
    record["parameters"]["label"] = script if field == "label" else ""
    if field == "data":
        record["data"]["name"] = script
    elif field != "label":
        record[field] = script
    (tmp_path / "result.json").write_text(json.dumps(record))
    page = shown(tmp_path)
    assert "<script" not in page
    group = load_records(tmp_path)
    (label,) = comparison.settings(group)
    assert "$" not in label.replace(r"\$", "")
    assert "/" not in "".join(comparison.by_question(group, record["model"]))


@many
@given(bench=changed({"bench": "mf", "rows": [{"label": "a", "batch_size": 1}]}))
def test_a_changed_bench_is_read_or_refused(tmp_path_factory, bench):
    folder = tmp_path_factory.getbasetemp() / "of-bench"
    (folder / "bench").mkdir(parents=True, exist_ok=True)
    (folder / "bench" / "mf.json").write_text(json.dumps(bench))
    ends_well(comparison.benches, folder)


# --- models and checkpoints ----------------------------------------------------------

CPU = Device("cpu", "", "must_keep_origin_dtype", "float32", "")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny MF after one epoch, and a function that trains it for another."""
    folder, data = tmp_path_factory.mktemp("model"), ratings.load("sample")
    described = describe(data)

    def train(epochs):
        run = Run("m", {"output_dir": str(folder)}, described, CPU)
        run.model = mf.MF(data.n_users, data.n_items, data.global_mean, 2)
        trained.keep(run, run.model, data.item_ids, data.user_ids)
        fit(run.model, data.train, Schedule(64, epochs, steps_per_epoch=1), CPU, run)
        return run

    return train(1)


@many
@given(data=st.data())
def test_a_changed_model_file_is_loaded_or_refused(run, tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "changed"
    shutil.copytree(run.folder, folder, dirs_exist_ok=True)
    kept = json.loads((run.folder / "model.json").read_text())
    kept["item_ids"] = kept["item_ids"][:3] if data.draw(st.booleans()) else [1]
    kept["arguments"]["n_items"] = len(kept["item_ids"])
    (folder / "model.json").write_text(json.dumps(data.draw(changed(kept))))
    ends_well(trained.load, folder)


@many
@given(name=st.sampled_from(["model.json", "ckpt/checkpoint"]), text=texts)
def test_a_model_of_anything_is_refused(run, tmp_path_factory, name, text):
    folder = tmp_path_factory.getbasetemp() / "spoilt"
    shutil.copytree(run.folder, folder, dirs_exist_ok=True)
    (folder / name).write_bytes(text)
    assert ends_well(trained.load, folder) is None


@many
@given(data=st.data())
def test_a_changed_state_of_a_training_is_used_or_refused(run, data):
    path = run.folder / "ckpt" / "ckpt-1.json"
    whole = path.read_text()
    try:
        if data.draw(st.booleans()):
            path.write_text(json.dumps(data.draw(changed(json.loads(whole)))))
        else:
            path.write_bytes(data.draw(texts))
        progress = ends_well(Checkpoints(run, run.model, CPU).resume, 9)
        assert progress is None or len(progress.history) == 1
    finally:
        path.write_text(whole)


# --- what the command line and the launch scripts read -------------------------------

ADDRESSES = {number: f"192.0.2.1{number}" for number in range(8)}


@many
@given(table=changed(rank_table.make([0, 1], ADDRESSES)))
def test_a_changed_rank_table_is_read_or_refused(tmp_path_factory, table):
    path = tmp_path_factory.getbasetemp() / "table.json"
    path.write_text(json.dumps(table))
    ends_well(rank_table.read, path)


@many
@given(text=texts)
def test_a_file_of_anything_is_no_rank_table_and_no_list_of_addresses(
    tmp_path_factory, text
):
    path = tmp_path_factory.getbasetemp() / "table.json"
    path.write_bytes(text)
    assert ends_well(rank_table.read, path) is None
    assert not ends_well(rank_table.read_addresses, path)


@many
@given(text=texts)
def test_files_of_anything_for_the_card_are_taken_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "ops_info.json"
    path.write_bytes(text)
    for switch, name in (
        ("use_mixlist", "mixlist_file"),
        ("fusion_off_flag", "fusion_off_file"),
    ):
        options = launch_options.LaunchOptions(**{switch: True, name: str(path)})
        ends_well(options.settings, "allow_mix_precision")


BAD_PARAMS = {
    "code": "notebook: 01_explore_data\nx: !!python/object/apply:os.getcwd []",
    "no YAML": "notebook: [",
    "no text": b"\xff\xfe\x00",
    "a list": "- 1",
    "empty": "",
    "nested": "[" * 2000,
    "another folder": "notebook: ../../x",
    "a number": "notebook: 3",
    "no list": "notebook: 02_preprocess\nvary: [1]",
    "no table": "notebook: 02_preprocess\nvary: {a: 1}",
    "a key of code": "notebook: 02_preprocess\n'x = 1; import os': 1",
    "a date": "notebook: 02_preprocess\nseed: 2020-01-01",
    "nothing": "notebook: 02_preprocess\nseed:",
    "a table": "notebook: 02_preprocess\nseed: {a: 1}",
    "an empty list": "notebook: 02_preprocess\nseed: []",
    "itself": "notebook: 02_preprocess\nseed: &a [*a]",
    "the same twice": "notebook: 02_preprocess\nseed: [1, 1]",
    "a million runs": "notebook: 02_preprocess\n"
    + "\n".join(f"{name}: {list(range(1000))}" for name in ("seed", "order")),
}


@pytest.mark.parametrize("text", BAD_PARAMS.values(), ids=BAD_PARAMS)
def test_a_params_file_of_anything_ends_in_one_line(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SystemExit) as caught:
        plan.list_runs(execute.parse_options(["--params", str(path)]))
    assert str(caught.value).count("\n") == 0
    assert "params" in str(caught.value)


@pytest.mark.parametrize("value", ["!!python/name:os.system", "[", "&a [*a]", "{a: b}"])
def test_an_override_of_anything_ends_in_one_line(value):
    with pytest.raises(SystemExit) as caught:
        plan.list_runs(
            execute.parse_options(["--only", "02", "--set", f"seed={value}"])
        )
    assert str(caught.value).count("\n") == 0
    assert "seed" in str(caught.value)


def test_a_notebook_named_twice_is_said_to_be():
    with pytest.raises(SystemExit, match="--only: the same run twice"):
        plan.list_runs(execute.parse_options(["--only", "02,02"]))


def test_a_value_with_slashes_in_a_list_names_no_folder(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("notebook: 02_preprocess\nmovielens_path: [sample, ../../../x]")
    runs = plan.list_runs(execute.parse_options(["--params", str(path)]))
    assert not any("/" in name for name, *_ in runs)


# --- parameters ----------------------------------------------------------------------


def parameter_cells():
    """``(name of the notebook, source, {name: default})`` of each notebook."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if "parameters" in cell.metadata.get("tags", ()):
                yield path.stem, cell.source, plan.defaults_of(path)


CELLS = list(parameter_cells())


@pytest.mark.parametrize("cell", CELLS, ids=[stem for stem, *_ in CELLS])
def test_a_parameter_of_any_type_and_value_is_accepted_or_refused(cell):
    _, source, defaults = cell
    inside = parameters.groups(defaults)
    entries = {**parameters.LAUNCH, **defaults}
    for group in {*inside.values()}:
        entries.update(defaults[group])
    given = [{name: value} for name in entries for value in JUNK]
    given += [
        {group: {name: value}} for name, group in inside.items() for value in JUNK
    ]
    for values in given:
        injected = "\n".join(["# Parameters", *(f"{name} = 0" for name in values)])
        space = {**defaults, **values, "In": [source, injected]}
        accepted = ends_well(parameters.check, space)
        for name, value in (accepted or {}).items():
            assert type(value) is type(entries[name])
            json.dumps(value, allow_nan=False)  # it fits a record


@pytest.mark.parametrize("path", [text for text in JUNK if isinstance(text, str)])
def test_a_path_of_anything_is_found_or_refused(path, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROOT", tmp_path / "deep" / "deeper")
    data = {"name": "toy"}
    for function, *arguments in (
        (sources.find, sources.DIGINETICA, path),
        (sources.find, sources.MOVIELENS, path),
        (load_records, f"{tmp_path}/{path}"),
        (Run, "n", {"output_dir": path if path != "/" else "."}, data),
        (trained.load, path),
        (launch_options.LaunchOptions(use_mixlist=True, mixlist_file=path).settings,)
        + ("allow_mix_precision",),
    ):
        ends_well(function, *arguments)


# --- data files ----------------------------------------------------------------------

VIEWS = b"sessionId;userId;itemId;timeframe;eventdate\n7;NA;30;500;2016-05-25\n"
STARS = b"2::10::5::978300760\n1::10::3::978302109\n"
pieces = st.one_of(
    st.binary(max_size=30),
    st.sampled_from([b"sessionId;", b"itemId;itemId;", b"\r", b";" * 9, b"\x1f\x8b"]),
    st.sampled_from([b"\n\n", b'"', b"\0", b"::", b"9" * 400, b"\xef\xbb\xbf", b"#"]),
)


@settings(max_examples=60)
@given(data=st.data())
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of pandas
@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("name", [sources.DIGINETICA, sources.MOVIELENS])
def test_a_data_file_of_anything_is_read_or_refused(tmp_path_factory, name, gz, data):
    folder = tmp_path_factory.getbasetemp() / f"data{gz}"
    folder.mkdir(exist_ok=True)
    whole = VIEWS if name == sources.DIGINETICA else STARS
    first, last = sorted(data.draw(st.integers(0, len(whole))) for _ in range(2))
    spoilt = whole[:first] + data.draw(pieces) + whole[last:]
    path = folder / f"{name}{gz}"
    path.write_bytes(gzip.compress(spoilt) if gz and len(spoilt) % 2 else spoilt)
    source = sources.Source("toy", folder)
    if name == sources.DIGINETICA:
        ends_well(readers.read_views, source, DuckDB())
        ends_well(readers.read_side_file, source, name)
    else:
        ends_well(readers.read_movielens, source, DuckDB())
        ends_well(readers.read_side_file, source, name, ["a", "b", "c", "d"])
