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
    assert settings() == []
    assert LaunchOptions().asked_for() == []


def test_the_options_of_a_notebook_are_picked_out_of_its_parameters():
    found = launch_options.of({"epochs": 2, "over_dump": True, "data_dump_step": "3"})
    assert found == {"over_dump": True, "data_dump_step": "3"}


def test_renumbered_cards_are_not_profiled(tmp_path, monkeypatch):
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "4,5")
    sentence = refused(profiling=True, profiling_dump_path=str(tmp_path / "p"))
    assert sentence.startswith("profiling=True with ASCEND_RT_VISIBLE_DEVICES set")
    assert not (tmp_path / "p").exists()
    assert settings() == []


def test_a_data_dump_names_its_steps_and_makes_its_folder(tmp_path):
    path = tmp_path / "a" / "b"
    found = settings(
        data_dump_flag=True, data_dump_step="0|5-7", data_dump_path=str(path)
    )
    assert path.is_dir()
    assert found == [
        ("dump_config", "enable_dump", True),
        ("dump_config", "dump_path", str(path)),
        ("dump_config", "dump_step", "0|5-7"),
        ("dump_config", "dump_mode", "all"),
    ]


def test_an_overflow_dump_makes_its_folder(tmp_path):
    path = tmp_path / "overflow"
    found = settings(over_dump=True, over_dump_path=str(path))
    assert path.is_dir()
    assert found == [
        ("dump_config", "enable_dump_debug", True),
        ("dump_config", "dump_path", str(path)),
        ("dump_config", "dump_debug_mode", "all"),
    ]


def test_a_profile_is_json_and_its_folder_is_made(tmp_path):
    path = tmp_path / 'pro"file'
    (_, (group, name, text)) = settings(profiling=True, profiling_dump_path=str(path))
    assert path.is_dir()
    assert (group, name) == ("profiling_config", "profiling_options")
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
    + ["|".join(["1"] * 101)],
)
def test_no_steps_to_dump(tmp_path, text):
    assert not launch_options.is_dump_step(text)
    sentence = refused(
        data_dump_flag=True, data_dump_step=text, data_dump_path=str(tmp_path)
    )
    assert sentence.startswith(f'data_dump_step="{text}": allowed is up to 100 steps')


def test_a_switch_is_true_or_false_and_no_text():
    with pytest.raises(InputError, match="over_dump='False': expected bool, found str"):
        LaunchOptions(over_dump="False")


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
        assert settings(mode, **options) == [("", "modify_mixlist", path)]


@pytest.mark.parametrize(
    ("lists", "sentence"),
    [
        ("", "is empty"),
        ("{'black-list': {}}", "not JSON"),
        ('{"black-list": {"to-add": ["X"],}}', "comments and trailing commas"),
        ("[1]", "expected an object in braces"),
        ({"blacklist": {}}, '"blacklist": allowed are black-list, white-list'),
        ({"black-list": {"add": []}}, 'black-list: "add": allowed are to-add'),
        ({"black-list": ["X"]}, "black-list: expected an object"),
        ({"black-list": {"to-add": "X"}}, '"to-add" of black-list must be a list'),
        ({"black-list": {"to-add": [1]}}, '"to-add" of black-list must be a list'),
        (
            {"black-list": {"to-add": ["X"], "to-remove": ["X"]}},
            "X is added to ['black-list'] and removed from ['black-list']",
        ),
        (
            {"black-list": {"to-add": ["X"]}, "white-list": {"to-add": ["X"]}},
            "X is added to ['black-list', 'white-list'] and removed from no list",
        ),
        ('{"black-list": {}, "black-list": {}}', '"black-list" stands there twice'),
    ],
)
def test_no_mix_lists(tmp_path, lists, sentence):
    options = mixlist(tmp_path, lists)
    found = refused(**options)
    assert sentence in found
    assert found.startswith("mixlist_file")
    assert options["mixlist_file"] in found


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
    assert settings(**options) == [("", "fusion_switch_file", path)]


@pytest.mark.parametrize(
    ("switches", "sentence"),
    [
        ("\n \n", "is empty"),
        ('{"Switch": {"GraphFusion": {"A": "off",}}}', "not JSON"),
        ("APass", '"APass" is neither JSON nor a line such as'),
        ("APass:no", "APass is 'no'; allowed are"),
        ("APass:on\nAPass:off", "APass stands there twice"),
        ({"Switch": {"GraphFusion": {"A": True}}}, "A is True; allowed are"),
        ({"Switch": {"Graph": {}}}, 'Switch: "Graph": allowed are GraphFusion'),
        ({"Switch": {"UBFusion": ["A"]}}, "UBFusion: expected an object"),
        ({"GraphFusion": {}}, '"GraphFusion": allowed are Switch'),
        ({}, "Switch: expected an object"),
        (
            '{"Switch": {"UBFusion": {"A": "on", "A": "off"}}}',
            '"A" stands there twice',
        ),
    ],
)
def test_no_fusion_switches(tmp_path, switches, sentence):
    found = refused(**fusion(tmp_path, switches))
    assert sentence in found
    assert found.startswith("fusion_off_file")


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
    assert "cannot be read (not UTF-8)" in refused(**{switch: True, name: str(missing)})
