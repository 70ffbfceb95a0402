"""The options of the published Ascend launch scripts, checked before a card is opened.

This module needs neither TensorFlow nor a card, so mistakes are found on any machine.
It turns the options into settings of ``npu_device``, which ``lib.hardware.ascend``
applies.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, fields
from typing import Any

import jsonschema

from lib import files
from lib.errors import InputError

MIXED_MODES = ("allow_mix_precision", "allow_mix_precision_fp16", "mixed_float16")
_LINES = re.compile(r"([^:\s]+\s*:\s*(on|off)\s+)+")  # of the older fusion file
_NAMES = {"type": "array", "items": {"type": "string"}}  # of types of operations
_LIST = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"to-add": _NAMES, "to-remove": _NAMES},
}
_PASSES = {"type": "object", "additionalProperties": {"enum": ["on", "off"]}}
_KINDS = {"type": "object", "properties": {"GraphFusion": _PASSES, "UBFusion": _PASSES}}
_FORMATS: dict[str, dict[str, Any]] = {  # option -> JSON schema of its file
    "mixlist_file": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            f"{colour}-list": _LIST for colour in ("black", "white", "gray")
        },
    },
    "fusion_off_file": {
        "type": "object",
        "required": ["Switch"],
        "properties": {"Switch": _KINDS},
    },
}
_FORMS = {
    "mixlist_file": '{"black-list": {"to-add": ["ReduceSumD"]}}, also with '
    '"white-list" and "to-remove"',
    "fusion_off_file": '{"Switch": {"GraphFusion": {"SomePass": "off"}, "UBFusion": '
    '{"ALL": "off"}}}, or lines such as SomePass:off',
}
_PROFILE = {  # the data that a profile collects
    "training_trace": "on",
    "task_trace": "on",  # lib.hardware.ascend sets task_time where the release has it
    "aicpu": "on",
    "fp_point": "",  # empty: CANN finds the first and the last operation of a step
    "bp_point": "",
    "aic_metrics": "PipeUtilization",
}


@dataclass(frozen=True)
class LaunchOptions:
    """The options, with the names and defaults of the scripts.

    Relative paths start at the repository's root.

    Raises:
        InputError: a value of the wrong type.

    Attributes:
        over_dump: write the inputs and outputs of operations that overflow.
        over_dump_path: folder for them; made if missing.
        data_dump_flag: write the inputs and outputs of every operation.
        data_dump_step: only of these steps: ``"10"``, ``"0|5-7|10"``.
        data_dump_path: folder for them; made if missing.
        profiling: measure the time of every operation.
        profiling_dump_path: folder for the profile; made if missing.
        use_mixlist: change which operations mixed precision lowers.
        mixlist_file: JSON with the changes. An operation in ``black-list`` keeps
            float32, one in ``white-list`` may be lowered, one in ``gray-list`` follows
            the operation before it:
            ``{"black-list": {"to-add": ["ReduceSumD"]}}``.
        fusion_off_flag: switch fusion passes on or off.
        fusion_off_file: says which; ``ALL`` stands for every pass that is not listed.
            JSON, ``{"Switch": {"GraphFusion": {"ALL": "off"}, "UBFusion": {}}}``, or in
            the older format lines such as ``SomePass:off``.
    """

    over_dump: bool = False
    over_dump_path: str = "output/overflow_dump"
    data_dump_flag: bool = False
    data_dump_step: str = "10"
    data_dump_path: str = "output/data_dump"
    profiling: bool = False
    profiling_dump_path: str = "output/profiling"
    use_mixlist: bool = False
    mixlist_file: str = "ops_info.json"
    fusion_off_flag: bool = False
    fusion_off_file: str = "fusion_switch.cfg"

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            if type(value) is not kind:
                raise InputError(
                    f"{field.name}={value!r}: expected {kind.__name__}, found "
                    f"{type(value).__name__}."
                )

    def settings(self, precision_mode: str) -> dict[str, Any]:
        """Checks the options that are switched on and makes the folders they need.

        Returns:
            The settings for ``npu_device.global_options()``, by their dotted names.

        Raises:
            InputError: two options exclude each other, cards are renumbered while
                profiling, a folder cannot be made, a list of steps is invalid, a file
                cannot be read or has the wrong format.
        """
        self._check(precision_mode)
        settings: dict[str, Any] = {}
        if self.data_dump_flag:
            settings["dump_config.enable_dump"] = True
            settings["dump_config.dump_path"] = self._folder("data_dump_path")
            settings["dump_config.dump_step"] = self.data_dump_step
            settings["dump_config.dump_mode"] = "all"
        if self.over_dump:
            settings["dump_config.enable_dump_debug"] = True
            settings["dump_config.dump_path"] = self._folder("over_dump_path")
            settings["dump_config.dump_debug_mode"] = "all"
        if self.profiling:
            profile = {"output": self._folder("profiling_dump_path"), **_PROFILE}
            settings["profiling_config.enable_profiling"] = True
            settings["profiling_config.profiling_options"] = json.dumps(profile)
        if self.use_mixlist:
            settings["modify_mixlist"] = self._config("mixlist_file")
        if self.fusion_off_flag:
            settings["fusion_switch_file"] = self._config("fusion_off_file")
        return settings

    def _check(self, precision_mode: str) -> None:
        """Raises InputError if options exclude each other, or for an invalid step."""
        if self.use_mixlist and precision_mode not in MIXED_MODES:
            raise InputError(
                f'use_mixlist=True with precision_mode="{precision_mode}": the lists '
                f"belong to mixed precision; use {MIXED_MODES[0]}, or "
                "use_mixlist=False."
            )
        if self.data_dump_flag and self.over_dump:
            raise InputError(
                "data_dump_flag and over_dump are both True: a card writes one kind of "
                "dump at a time; set one of them to False."
            )
        if self.data_dump_flag and not is_dump_step(self.data_dump_step):
            raise InputError(
                f'data_dump_step="{self.data_dump_step}": allowed is up to 100 steps '
                'or ranges of steps joined by "|", as in "0|5-7|10".'
            )
        if self.profiling and "ASCEND_RT_VISIBLE_DEVICES" in os.environ:
            raise InputError(
                "profiling=True with ASCEND_RT_VISIBLE_DEVICES set: CANN does not "
                "profile renumbered cards; unset it and choose the card by "
                "ASCEND_DEVICE_ID."
            )

    def _folder(self, name: str) -> str:
        """Returns the absolute path of the folder in option ``name``; makes it."""
        return str(files.make_folder(name, getattr(self, name)))

    def _config(self, name: str) -> str:
        """Returns the absolute path of the file in option ``name``; checks its format.

        Only the card's compiler knows which operations and passes there are.
        """
        path = files.resolve(getattr(self, name))
        try:
            text = path.read_text(encoding="utf-8").strip() + "\n"
            if name == "mixlist_file" or not _LINES.fullmatch(text):
                jsonschema.validate(json.loads(text), _FORMATS[name])
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(
                f"{name}: {path} cannot be read "
                f"({getattr(error, 'strerror', None) or error}): expected a text file "
                "with JSON, without comments and trailing commas (a fusion file may "
                'hold lines such as "SomePass:off" instead).'
            ) from error
        except jsonschema.ValidationError as error:
            place = "".join(f'["{key}"]' for key in error.absolute_path) or "the file"
            raise InputError(
                f"{name}: {path}: {place}: {error.message}; the form is {_FORMS[name]}."
            ) from error
        return str(path)


NAMES = tuple(field.name for field in fields(LaunchOptions))


def is_dump_step(text: str) -> bool:
    """Returns whether ``text`` is a list of steps as a card reads it."""
    items = text.split("|")
    steps = [re.fullmatch("([0-9]{1,9})(?:-([0-9]{1,9}))?", item) for item in items]
    return len(items) <= 100 and all(
        step and (step[2] is None or int(step[1]) < int(step[2])) for step in steps
    )
