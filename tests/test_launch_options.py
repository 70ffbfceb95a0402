"""Launch options are checked as a card would check them, and before it is asked."""

import json

import pytest

from lib.errors import InputError
from lib.hardware import launch_options
from lib.hardware.launch_options import LaunchOptions

MODE = "allow_mix_precision"


def settings(mode=MODE, **options):
    return LaunchOptions(**options).settings(mode)


def refused(mode=MODE, **options):
    with pytest.raises(InputError) as caught:
        settings(mode, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_is_set_where_nothing_is_asked_for():
    assert settings() == {}


def test_renumbered_cards_are_not_profiled(tmp_path, monkeypatch):
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "4,5")
    sentence = refused(profiling=True, profiling_dump_path=str(tmp_path / "p"))
    assert sentence.startswith("profiling=True with ASCEND_RT_VISIBLE_DEVICES set")
    assert not (tmp_path / "p").exists()
    assert settings() == {}


def test_a_data_dump_names_its_steps_and_makes_its_folder(tmp_path):
    path = tmp_path / "a" / "b"
    found = settings(
        data_dump_flag=True, data_dump_step="0|5-7", data_dump_path=str(path)
    )
    assert path.is_dir()
    assert found == {
        "dump_config.enable_dump": True,
        "dump_config.dump_path": str(path),
        "dump_config.dump_step": "0|5-7",
        "dump_config.dump_mode": "all",
    }


def test_an_overflow_dump_makes_its_folder(tmp_path):
    path = tmp_path / "overflow"
    found = settings(over_dump=True, over_dump_path=str(path))
    assert path.is_dir()
    assert found == {
        "dump_config.enable_dump_debug": True,
        "dump_config.dump_path": str(path),
        "dump_config.dump_debug_mode": "all",
    }


def test_a_profile_is_json_and_its_folder_is_made(tmp_path):
    path = tmp_path / 'pro"file'
    found = settings(profiling=True, profiling_dump_path=str(path))
    assert path.is_dir()
    assert found["profiling_config.enable_profiling"] is True
    text = found["profiling_config.profiling_options"]
    assert json.loads(text)["output"] == str(path)
    assert json.loads(text)["training_trace"] == "on"


def test_the_two_dumps_exclude_each_other():
    assert refused(data_dump_flag=True, over_dump=True).startswith(
        "data_dump_flag and over_dump are both True"
    )


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    for switch, name in (
        ("over_dump", "over_dump_path"),
        ("data_dump_flag", "data_dump_path"),
        ("profiling", "profiling_dump_path"),
    ):
        sentence = refused(**{switch: True, name: str(tmp_path / "file" / "x")})
        assert sentence.startswith(f"{name}: {tmp_path}/file/x cannot be made")


@pytest.mark.parametrize("text", ["0", "10", "0|5-7|10", "|".join(["1"] * 100)])
def test_steps_to_dump(text):
    assert launch_options.is_dump_step(text)


@pytest.mark.parametrize(
    "text",
    ["", "a", "-1", "1.5", "5-5", "7-5", "1-2-3", "1||2", "1|", "1,2", " 1", "²"]
    + ["|".join(["1"] * 101), "9" * 5000],
)
def test_invalid_steps_to_dump(tmp_path, text):
    assert not launch_options.is_dump_step(text)
    sentence = refused(
        data_dump_flag=True, data_dump_step=text, data_dump_path=str(tmp_path)
    )
    assert sentence.startswith(f'data_dump_step="{text[:500]}')
    assert 'allowed is up to 100 steps or ranges of steps joined by "|"' in sentence


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"over_dump": "False"}, "over_dump='False': expected bool, found str"),
        ({"over_dump": 1}, "over_dump=1: expected bool, found int"),
        ({"data_dump_step": 10}, "data_dump_step=10: expected str, found int"),
        ({"over_dump": 1.0}, "over_dump=1.0: expected bool, found float"),
        ({"profiling": None}, "profiling=None: expected bool, found NoneType"),
        ({"data_dump_step": 1.5}, "data_dump_step=1.5: expected str, found float"),
        ({"data_dump_step": True}, "data_dump_step=True: expected str, found bool"),
        ({"mixlist_file": ["a"]}, "mixlist_file=['a']: expected str, found list"),
    ],
)
def test_a_value_of_another_type_is_refused(options, sentence):
    with pytest.raises(InputError) as caught:
        LaunchOptions(**options)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("switch", "name"),
    [
        ("over_dump", "over_dump_path"),
        ("data_dump_flag", "data_dump_path"),
        ("profiling", "profiling_dump_path"),
    ],
)
def test_a_dump_into_the_folder_of_an_empty_name_is_refused(switch, name):
    assert refused(**{switch: True, name: " "}) == f"{name} is empty: name a folder."


def mixlist(tmp_path, text):
    path = tmp_path / "ops_info.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return {"use_mixlist": True, "mixlist_file": str(path)}


@pytest.mark.parametrize(
    "lists",
    [
        {},
        {"black-list": {"to-add": ["ReduceSumD", "Log"]}},
        {"white-list": {"to-remove": ["Gather"]}, "gray-list": {}},
        {"black-list": {"to-add": ["X"]}, "white-list": {"to-remove": ["X"]}},
        {"gray-list": {"to-add": ["X"], "to-remove": ["Y"]}},
    ],
)
def test_mix_lists(tmp_path, lists):
    options = mixlist(tmp_path, lists)
    path = options["mixlist_file"]
    for mode in launch_options.MIXED_MODES:
        assert settings(mode, **options) == {"modify_mixlist": path}


@pytest.mark.parametrize(
    ("lists", "reason"),
    [
        ("", "Expecting value"),
        (" \n", "Expecting value"),
        ("{'black-list': {}}", "Expecting property name"),
        ('{"black-list": {"to-add": ["X"],}}', "line 1 column"),
        ("black-list:off", "Expecting value"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_a_mix_list_that_is_no_json(tmp_path, lists, reason):
    options = mixlist(tmp_path, lists)
    sentence = refused(**options)
    start = f"mixlist_file: {options['mixlist_file']} cannot be read ("
    assert sentence.startswith(start)
    assert reason in sentence[len(start) :]
    assert "expected a text file with JSON, without comments" in sentence


@pytest.mark.parametrize(
    ("lists", "place"),
    [
        ([], ": the file: [] is not of type 'object'"),
        ({"blacklist": {}}, ": the file: Additional properties are not allowed"),
        ({"black-list": {"add": []}}, ': ["black-list"]: Additional properties'),
        ({"black-list": {"to-add": "X"}}, ': ["black-list"]["to-add"]: \'X\' is not'),
    ],
)
def test_a_mix_list_of_another_form(tmp_path, lists, place):
    options = mixlist(tmp_path, lists)
    sentence = refused(**options)
    assert sentence.startswith(f"mixlist_file: {options['mixlist_file']}{place}")
    assert '{"black-list": {"to-add": ["ReduceSumD"]}}' in sentence


def test_a_mix_list_wants_mixed_precision(tmp_path):
    sentence = refused("force_fp16", **mixlist(tmp_path, {}))
    assert sentence.startswith('use_mixlist=True with precision_mode="force_fp16"')


def fusion(tmp_path, text):
    path = tmp_path / "fusion_switch.cfg"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return {"fusion_off_flag": True, "fusion_off_file": str(path)}


@pytest.mark.parametrize(
    "switches",
    [
        {"Switch": {"GraphFusion": {"ALL": "off", "A": "on"}, "UBFusion": {}}},
        {"Switch": {}, "Priority": {"A": 1}},
        "FirstPass:off\nSecondPass : on\n\n",
    ],
)
def test_fusion_switches(tmp_path, switches):
    options = fusion(tmp_path, switches)
    path = options["fusion_off_file"]
    assert settings(**options) == {"fusion_switch_file": path}


@pytest.mark.parametrize(
    ("switches", "reason"),
    [
        ("\n \n", "Expecting value"),
        ('{"Switch": {"GraphFusion": {"A": "off",}}}', "line 1 column"),
        ("APass", "Expecting value"),
        ("APass:on\nBPass:no", "Expecting value"),
        (":on", "Expecting value"),
        ("APass:on:off", "Expecting value"),
    ],
)
def test_invalid_fusion_switches(tmp_path, switches, reason):
    options = fusion(tmp_path, switches)
    sentence = refused(**options)
    start = f"fusion_off_file: {options['fusion_off_file']} cannot be read ("
    assert sentence.startswith(start)
    assert reason in sentence[len(start) :]
    assert sentence.endswith('may hold lines such as "SomePass:off" instead).')


@pytest.mark.parametrize(
    ("switches", "place"),
    [
        ({"switch": {}}, ": the file: 'Switch' is a required property"),
        ({"Switch": {"UBFusion": {"A": "no"}}}, ': ["Switch"]["UBFusion"]["A"]: \'no'),
    ],
)
def test_fusion_switches_of_another_form(tmp_path, switches, place):
    options = fusion(tmp_path, switches)
    sentence = refused(**options)
    assert sentence.startswith(f"fusion_off_file: {options['fusion_off_file']}{place}")
    assert sentence.endswith("or lines such as SomePass:off.")


@pytest.mark.parametrize(
    ("switch", "name"),
    [("use_mixlist", "mixlist_file"), ("fusion_off_flag", "fusion_off_file")],
)
def test_a_file_that_is_not_there_or_no_text(tmp_path, switch, name):
    missing = tmp_path / "missing"
    assert refused(**{switch: True, name: str(missing)}).startswith(
        f"{name}: {missing} cannot be read (No such file"
    )
    missing.write_bytes(b"\xff\xfe{}")
    assert "can't decode byte 0xff" in refused(**{switch: True, name: str(missing)})
