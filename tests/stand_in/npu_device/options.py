"""``global_options()``: every name, its default, and the values that it takes."""

import os

from npu_device.contract import calls, fail

OLD = os.environ.get("STAND_IN_RELEASE") == "2022"
ON_OFF = (True, False)
ANY = None  # not checked when it is set
_MODES = (
    "allow_fp32_to_fp16",
    "force_fp16",
    "force_fp32",
    "must_keep_origin_dtype",
    "allow_mix_precision",
)
_NEWER_MODES = (
    "cube_fp16in_fp32out",
    "allow_mix_precision_fp16",
    "allow_mix_precision_bf16",
    "allow_fp32_to_bf16",
)
_V2_MODES = (
    "fp16",
    "origin",
    "cube_fp16in_fp32out",
    "mixed_float16",
    "mixed_bfloat16",
)
_PROFILE = (
    '{"output":"./","training_trace":"on","task_trace":"on","hccl":"on","aicpu":"on",'
    '"aic_metrics":"PipeUtilization","msproftx":"off"}'
)


class _Value:
    """What reading an option gives: its text is in ``value``."""

    def __init__(self, value):
        text = {True: "1", False: "0"}[value] if isinstance(value, bool) else value
        self.value = None if text is None else str(text)


class _Group:
    def __init__(self, kind, path, table, groups=()):
        vars(self).update(_kind=kind, _path=path, _table=table, _groups=dict(groups))
        vars(self)["_values"] = {name: default for name, (default, _) in table.items()}

    def __getattr__(self, name):
        if name in self._groups:
            return self._groups[name]
        self._require(name)
        return _Value(self._values[name])

    def __setattr__(self, name, value):
        if name in self._groups:
            fail(f"{name} was assigned as a whole: its options are lost")
        self._require(name)
        default, allowed = self._table[name]
        if allowed is not ANY and value not in allowed:
            if default is not None and type(value) is not type(default):
                raise TypeError(f"Expected {type(default)}, got {type(value)}")
            raise ValueError(f"'{value}' not in optional list {list(allowed)}")
        if ("opened",) in [call[:1] for call in calls]:
            fail(f"{self._path}{name} was set after open: it has no effect")
        self._values[name] = value
        calls.append(("option", self._path + name, value))

    def _require(self, name):
        if name not in self._table:
            names = [*self._table, *self._groups]
            raise ValueError(f"{self._kind} has no option {name}, all options {names}")


def _tree():
    top = {
        "graph_run_mode": (1, (0, 1)),
        "deterministic": (0, (0, 1)),
        "precision_mode": (None, _MODES + (() if OLD else _NEWER_MODES)),
        "precision_mode_v2": (None, _V2_MODES),
        "modify_mixlist": (None, ANY),
        "customize_dtypes": (None, ANY),
        "op_precision_mode": (None, ANY),
        "op_select_implmode": (None, ("high_performance", "high_precision")),
        "optypelist_for_implmode": (None, ANY),
        "fusion_switch_file": (None, ANY),
        "enable_scope_fusion_passes": (None, ANY),
        "variable_format_optimize": (None, ON_OFF),
        "graph_memory_max_size": (None, ANY),
        "variable_memory_max_size": (None, ANY),
        "op_compiler_cache_mode": ("enable", ("enable", "disable", "force")),
        "op_compiler_cache_dir": (None, ANY),
        "stream_max_parallel_num": (None, ANY),
        "ac_parallel_enable": (None, ("0", "1")),
        "hcom_parallel": (True, ON_OFF),
        "hcom_multi_mode": (None, ANY),
        "is_tailing_optimization": (False, ON_OFF),
        "op_debug_level": (None, (0, 1, 2, 3, 4)),
        "op_debug_config": (None, ANY),
        "debug_dir": (None, ANY),
        "enable_exception_dump": (2, (0, 1, 2)),
        "enable_small_channel": (False, ON_OFF),
        "graph_exec_timeout": (None, ANY),
        "topo_sorting_mode": (None, (0, 1, None)),
        "overflow_flag": (1, (0, 1)),
        "stream_sync_timeout": (-1, ANY),
        "event_sync_timeout": (-1, ANY),
        "external_weight": (False, ON_OFF),
        "jit_compile": ("auto", ("true", "false", "auto")),
        "graph_compiler_cache_dir": (None, ANY),
    }
    if OLD:
        del top["precision_mode_v2"], top["op_precision_mode"], top["deterministic"]
    dump = {
        "enable_dump": (False, ON_OFF),
        "dump_path": (None, ANY),
        "dump_step": (None, ANY),
        "dump_mode": ("output", ("input", "output", "all")),
        "enable_dump_debug": (False, ON_OFF),
        "dump_debug_mode": ("all", ("aicore_overflow", "atomic_overflow", "all")),
        "dump_data": ("tensor", ("tensor", "stats")),
        "dump_layer": (None, ANY),
    }
    profiling = {
        "enable_profiling": (False, ON_OFF),
        "profiling_options": (_PROFILE, ANY),
    }
    aoe = {
        "aoe_mode": (None, ("1", "2", "4")),
        "work_path": ("./", ANY),
        "aoe_config_file": (None, ANY),
    }
    memory = {
        "atomic_clean_policy": (0, (0, 1)),
        "static_memory_policy": (0, (0, 1, 2)),
    }
    groups = [
        ("dump_config", "NpuDumpConfig", dump),
        ("profiling_config", "NpuProfilingConfig", profiling),
        ("aoe_config", "NpuAoeConfig", aoe),
        ("memory_config", "MemoryConfig", memory),
    ]
    groups = [(name, _Group(kind, f"{name}.", table)) for name, kind, table in groups]
    return _Group("NpuConfig", "", top, groups)


_options = _tree()


def global_options():
    """The one set of options of this process."""
    return _options
