"""What the graph engine says of the options while a card is opened."""

import json
import os
import re
from pathlib import Path

from npu_device.configs.npu_config import global_options

_MIXED = ("allow_mix_precision", "allow_mix_precision_fp16", "mixed_float16")


def complaint():
    """The first complaint about the options; None where they are in order."""
    options = global_options()
    options.warn_of_deprecated()
    return next(filter(None, _complaints(options)), None)


def _complaints(options):
    mode, version_2 = options.precision_mode.value, options.precision_mode_v2.value
    if mode and version_2:
        yield "E10056: precision_mode and precision_mode_v2 are both set"
    for name in (mode, version_2):
        if name and re.search("bf16|bfloat16|hif8", name):
            yield f"E10001: this card does not compute in {name}"
    if options.modify_mixlist.value and (version_2 or mode) not in _MIXED:
        yield "E10001: modify_mixlist without a mixed precision mode"
    for name in ("modify_mixlist", "fusion_switch_file", "op_precision_mode"):
        path = getattr(options, name).value
        if path and not Path(path).is_file():
            yield f"E10001: {name}: no file {path}"
    if options.modify_mixlist.value:
        yield _of_mixlist(Path(options.modify_mixlist.value).read_text())
    folder = options.graph_compiler_cache_dir.value
    if folder and not Path(folder).is_dir():
        yield f"E10001: graph_compiler_cache_dir: no folder {folder}"
    yield _of_dump(options.dump_config)
    if options.profiling_config.enable_profiling.value == "1":
        profile = json.loads(options.profiling_config.profiling_options.value)
        if not os.access(profile["output"], os.W_OK):
            yield "profiling: output is no folder to write to"
        if not {"task_trace", "task_time"} & set(profile):
            yield "profiling: neither task_trace nor task_time"


def _of_mixlist(text):
    try:
        lists = json.loads(text)
    except ValueError:
        return "E10001: modify_mixlist is not JSON"
    known = isinstance(lists, dict) and set(lists) <= {
        "black-list", "white-list", "gray-list"
    }  # fmt: skip
    return None if known else "E10001: modify_mixlist names other lists"


def _of_dump(dump):
    kinds = [dump.enable_dump.value, dump.enable_dump_debug.value]
    path, step = dump.dump_path.value, dump.dump_step.value
    if kinds == ["1", "1"]:
        return "E10001: enable_dump and enable_dump_debug are both set"
    if "1" in kinds and not path:
        return "E10058: dump_path is not set"
    if "1" in kinds and not (
        Path(path).is_dir() and os.access(path, os.R_OK | os.W_OK)
    ):
        return "E10001: dump_path is no folder to write to"
    if step:
        items = step.split("|")
        ranges = [re.fullmatch(r"(\d+)(?:-(\d+))?", item) for item in items]
        if len(items) > 100 or not all(
            found and (not found[2] or int(found[1]) < int(found[2]))
            for found in ranges
        ):
            return f"E10001: dump_step {step}"
    return None
