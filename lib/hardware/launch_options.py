"""The options of the published Ascend launch scripts, checked before a card is opened.

Nothing here needs TensorFlow or a card, so a slip is found on any machine. What the
options become is a list of settings of ``npu_device``, which ``lib.hardware.ascend``
applies.
"""

import json
import os
import re
from dataclasses import dataclass, fields

from lib import files
from lib.errors import InputError

MIXED_MODES = ("allow_mix_precision", "allow_mix_precision_fp16", "mixed_float16")
DUMP_STEP = 'up to 100 steps or ranges of steps joined by "|", as in "0|5-7|10"'
_MIX_LISTS = ("black-list", "white-list", "gray-list")
_FUSION_SECTIONS = ("Switch", "Priority", "ExceptionalPassOfO1Level")
_FUSION_GROUPS = ("GraphFusion", "UBFusion")
_COLLECTED = {  # what a profile holds, beside the two ends of a step, found by itself
    "training_trace": "on",
    "task_trace": "on",  # lib.hardware.ascend sets task_time where the release has it
    "aicpu": "on",
    "fp_point": "",
    "bp_point": "",
    "aic_metrics": "PipeUtilization",
}


@dataclass(frozen=True)
class LaunchOptions:
    """The options, named and set as in the scripts; a relative path starts at the root.

    Attributes:
        over_dump: write the inputs and outputs of operations that overflow.
        over_dump_path: folder for them; made where it is missing.
        data_dump_flag: write what every operation reads and writes.
        data_dump_step: of these steps only: ``"10"``, ``"0|5-7|10"``.
        data_dump_path: folder for them; made where it is missing.
        profiling: record where the time goes.
        profiling_dump_path: folder for the profile; made where it is missing.
        use_mixlist: change the lists of operations that mixed precision lowers.
        mixlist_file: JSON that says how, see ``check_mixlist``.
        fusion_off_flag: switch fusions of operations on or off.
        fusion_off_file: says which, see ``check_fusion_switch``.
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

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not type(field.default):
                raise InputError(
                    f"{field.name}={value!r}: expected {type(field.default).__name__}, "
                    f"found {type(value).__name__}."
                )

    def asked_for(self):
        """Names of the switches that are on."""
        return [f.name for f in fields(self) if getattr(self, f.name) is True]

    def settings(self, precision_mode):
        """Checks everything that is switched on and makes the folders it needs.

        Returns:
            A list of ``(group, option, value)`` of ``npu_device.global_options()``;
            ``group`` is ``""`` for an option at the top.

        Raises:
            InputError: two options exclude each other, cards are renumbered while
                profiling, a folder cannot be made, a step list or a file is not as the
                card wants it.
        """
        if self.data_dump_flag and self.over_dump:
            raise InputError(
                "data_dump_flag and over_dump are both True: a card writes one kind of "
                "dump at a time; set one of them to False."
            )
        if self.use_mixlist and precision_mode not in MIXED_MODES:
            raise InputError(
                f'use_mixlist=True with precision_mode="{precision_mode}": the lists '
                f"belong to mixed precision; use {MIXED_MODES[0]}, or "
                "use_mixlist=False."
            )
        found = []
        if self.data_dump_flag:
            if not is_dump_step(self.data_dump_step):
                raise InputError(
                    f'data_dump_step="{self.data_dump_step}": allowed is {DUMP_STEP}.'
                )
            path = _folder("data_dump_path", self.data_dump_path)
            found += [
                ("dump_config", "enable_dump", True),
                ("dump_config", "dump_path", path),
                ("dump_config", "dump_step", self.data_dump_step),
                ("dump_config", "dump_mode", "all"),
            ]
        if self.over_dump:
            path = _folder("over_dump_path", self.over_dump_path)
            found += [
                ("dump_config", "enable_dump_debug", True),
                ("dump_config", "dump_path", path),
                ("dump_config", "dump_debug_mode", "all"),
            ]
        if self.profiling:
            if "ASCEND_RT_VISIBLE_DEVICES" in os.environ:
                raise InputError(
                    "profiling=True with ASCEND_RT_VISIBLE_DEVICES set: CANN does not "
                    "profile renumbered cards; unset it and choose the card by "
                    "ASCEND_DEVICE_ID."
                )
            path = _folder("profiling_dump_path", self.profiling_dump_path)
            options = json.dumps({"output": path, **_COLLECTED})
            found += [
                ("profiling_config", "enable_profiling", True),
                ("profiling_config", "profiling_options", options),
            ]
        if self.use_mixlist:
            path = files.resolve(self.mixlist_file)
            check_mixlist(_read("mixlist_file", path), f"mixlist_file={path}")
            found.append(("", "modify_mixlist", str(path)))
        if self.fusion_off_flag:
            path = files.resolve(self.fusion_off_file)
            check_fusion_switch(
                _read("fusion_off_file", path), f"fusion_off_file={path}"
            )
            found.append(("", "fusion_switch_file", str(path)))
        return found


NAMES = tuple(field.name for field in fields(LaunchOptions))


def of(parameters):
    """The launch options among a notebook's parameters, for ``device.open``."""
    return {name: parameters[name] for name in NAMES if name in parameters}


def is_dump_step(text):
    """Whether ``text`` lists steps as a card reads them, see ``DUMP_STEP``."""
    items = text.split("|")
    ranges = [re.fullmatch("([0-9]+)(?:-([0-9]+))?", item) for item in items]
    return len(items) <= 100 and all(
        found and (found[2] is None or int(found[1]) < int(found[2]))
        for found in ranges
    )


def check_mixlist(text, where):
    """Checks the file that changes the lists of mixed precision.

    An operation on the black list keeps float32, one on the white list may be lowered,
    one on the gray list follows the operation before it. For example, with types of
    operations as the card names them::

        {"black-list": {"to-add": ["ReduceSumD"]}}

    An operation may be added to one list, and removed from one other; nothing else.

    Raises:
        InputError: the text is not as said; the sentence begins with ``where``.
    """
    lists = _parse(text, where)
    _only(lists, _MIX_LISTS, where)
    added, removed = {}, {}
    for name, changes in lists.items():
        _only(changes, ("to-add", "to-remove"), f"{where}: {name}")
        for change, operations in changes.items():
            if not _is_list_of_text(operations):
                raise InputError(
                    f'{where}: "{change}" of {name} must be a list of operation types, '
                    'as in ["ReduceSumD"].'
                )
            for operation in set(operations):
                places = added if change == "to-add" else removed
                places.setdefault(operation, []).append(name)
    for operation in {**added, **removed}:
        to, from_ = added.get(operation, []), removed.get(operation, [])
        if len(to) > 1 or len(from_) > 1 or (to and to == from_):
            raise InputError(
                f"{where}: {operation} is added to {to or 'no list'} and removed from "
                f"{from_ or 'no list'}; allowed is to add it to one list and to remove "
                "it from one other."
            )


def check_fusion_switch(text, where):
    """Checks the file that switches fusion passes, in either of its two formats.

    The newer one is JSON, the older one a pass a line; ``ALL`` stands for every pass
    that is not named::

        {"Switch": {"GraphFusion": {"ALL": "off", "SomePass": "on"}, "UBFusion": {}}}

        SomePass:off

    Raises:
        InputError: the text is neither; the sentence begins with ``where``.
    """
    if text.lstrip().startswith("{"):
        sections = _parse(text, where)
        _only(sections, _FUSION_SECTIONS, where)
        groups = sections.get("Switch")
        _only(groups, _FUSION_GROUPS, f"{where}: Switch")
        for name, switches in groups.items():
            _only(switches, None, f"{where}: {name}")
            for fusion, value in switches.items():
                _check_switch(fusion, value, where)
        return
    seen = set()
    for line in filter(None, map(str.strip, text.splitlines())):
        fusion, colon, value = (part.strip() for part in line.partition(":"))
        if not colon or not fusion:
            raise InputError(
                f'{where}: "{line}" is neither JSON nor a line such as "SomePass:off".'
            )
        if fusion in seen:
            raise InputError(f"{where}: {fusion} stands there twice; keep one line.")
        seen.add(fusion)
        _check_switch(fusion, value, where)


def _check_switch(fusion, value, where):
    if value not in ("on", "off"):
        raise InputError(f'{where}: {fusion} is {value!r}; allowed are "on" and "off".')


def _folder(name, path):
    folder = files.resolve(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{name}: {folder} cannot be made ({error.strerror}): give a folder that "
            "you may write to."
        ) from None
    return str(folder)


def _read(name, path):
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{name}: {path} cannot be read "
            f"({getattr(error, 'strerror', None) or 'not UTF-8'}): give a text file."
        ) from None
    if not text.strip():
        raise InputError(f"{name}: {path} is empty.")
    return text


def _parse(text, where):
    def unique(pairs):
        keys = [key for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise InputError(f'{where}: "{key}" stands there twice; keep one.')
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}: not JSON ({error.msg} in line {error.lineno}); comments and "
            "trailing commas are not allowed."
        ) from None
    except InputError:
        raise
    except (ValueError, RecursionError):
        raise InputError(f"{where}: a number or a nesting is too large.") from None


def _only(found, allowed, where):
    """Raises InputError unless ``found`` is an object, with allowed keys if any."""
    if not isinstance(found, dict):
        raise InputError(f"{where}: expected an object in braces, found {found!r}.")
    for key in found:
        if allowed and key not in allowed:
            raise InputError(f'{where}: "{key}": allowed are {", ".join(allowed)}.')


def _is_list_of_text(value):
    return isinstance(value, list) and all(isinstance(x, str) and x for x in value)
