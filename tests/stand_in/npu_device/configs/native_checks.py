"""What the graph engine says of the options while a card is opened."""

import json
import os
import re
from pathlib import Path

from npu_device.configs.npu_config import global_options

_MIXED = ("allow_mix_precision", "allow_mix_precision_fp16", "mixed_float16")
_LISTS = {"black-list", "white-list", "gray-list"}


def complaint():
    """The first complaint about the options; None where they are in order."""
    options = global_options()
    options.warn_of_deprecated()
    found = [*_of_top(options.text), *_of_dump(options.dump_config.text)]
    return next(iter(found + [*_of_profile(options.profiling_config.text)]), None)


def _of_top(text):
    mode, version_2 = text("precision_mode"), text("precision_mode_v2")
    if mode and version_2:
        yield "E10056: precision_mode and precision_mode_v2 are both set"
    for name in (mode, version_2):
        if name and re.search("bf16|bfloat16|hif8", name):
            yield f"E10001: this card does not compute in {name}"
    mixlist = text("modify_mixlist")
    if mixlist and (version_2 or mode) not in _MIXED:
        yield "E10001: modify_mixlist without a mixed precision mode"
    for name in ("modify_mixlist", "fusion_switch_file", "op_precision_mode"):
        if text(name) and not Path(text(name)).is_file():
            yield f"E10001: {name}: no file {text(name)}"
    if mixlist and Path(mixlist).is_file() and not _is_mixlist(mixlist):
        yield f"E10001: modify_mixlist: {mixlist} is not a list of operations"
    folder = text("graph_compiler_cache_dir")
    if folder and not Path(folder).is_dir():
        yield f"E10001: graph_compiler_cache_dir: no folder {folder}"


def _is_mixlist(path):
    try:
        return set(json.loads(Path(path).read_text())) <= _LISTS
    except (ValueError, TypeError):
        return False


def _of_dump(text):
    kinds = [text("enable_dump"), text("enable_dump_debug")]
    path, step = text("dump_path"), text("dump_step")
    if kinds == ["1", "1"]:
        yield "E10001: enable_dump and enable_dump_debug are both set"
    if "1" in kinds and not path:
        yield "E10058: dump_path is not set"
    elif "1" in kinds and not _is_usable(path):
        yield "E10001: dump_path is no folder to write to"
    if step and not _is_step_list(step):
        yield f"E10001: dump_step {step}"


def _is_usable(path):
    return Path(path).is_dir() and os.access(path, os.R_OK | os.W_OK)


def _is_step_list(text):
    items = text.split("|")
    found = [re.fullmatch(r"(\d+)(?:-(\d+))?", item) for item in items]
    return len(items) <= 100 and all(
        item and (not item[2] or int(item[1]) < int(item[2])) for item in found
    )


def _of_profile(text):
    if text("enable_profiling") == "1":
        profile = json.loads(text("profiling_options"))
        if not _is_usable(profile["output"]):
            yield "profiling: output is no folder to write to"
        if not {"task_trace", "task_time"} & set(profile):
            yield "profiling: neither task_trace nor task_time"
