"""``global_options()``: every name, its default, and the values that it takes."""

import os
import sys

from npu_device.contract import calls, fail

RELEASE = os.environ.get("STAND_IN_RELEASE", "2023")
OLD, NEW = RELEASE == "2022", RELEASE == "9"
ON_OFF, ANY = (True, False), None  # ANY: not checked when it is set
_DEPRECATED = "op_select_implmode optypelist_for_implmode variable_format_optimize"
_MODES = (
    "allow_fp32_to_fp16 force_fp16 force_fp32 must_keep_origin_dtype "
    "allow_mix_precision"
)
_NEWER_MODES = (
    "cube_fp16in_fp32out allow_mix_precision_fp16 allow_mix_precision_bf16 "
    "allow_fp32_to_bf16"
)
_V2_MODES = "fp16 origin cube_fp16in_fp32out mixed_float16 mixed_bfloat16"
_PROFILE = (
    '{"output":"./","training_trace":"on","%s":"on","hccl":"on","aicpu":"on",'
    '"aic_metrics":"PipeUtilization","msproftx":"off"}'
) % ("task_time" if NEW else "task_trace")
_UNCHECKED = (
    "modify_mixlist customize_dtypes op_precision_mode optypelist_for_implmode "
    "fusion_switch_file enable_scope_fusion_passes graph_memory_max_size "
    "variable_memory_max_size op_compiler_cache_dir stream_max_parallel_num "
    "hcom_multi_mode op_debug_config debug_dir graph_exec_timeout "
    "graph_compiler_cache_dir"
)


class OptionValue:
    """What reading an option gives: its text is in ``value``, None where unset."""

    def __init__(self, value):
        text = str(value)
        self.value = {"None": None, "True": "1", "False": "0"}.get(text, text)


class _Group:
    def __init__(self, kind, path, table, groups=()):
        vars(self).update(_kind=kind, _path=path, _table=table, _groups=dict(groups))
        vars(self)["_values"] = {name: default for name, (default, _) in table.items()}

    def __getattr__(self, name):
        if name in self._groups:
            return self._groups[name]
        self._require(name)
        return OptionValue(self._values[name])

    def __setattr__(self, name, value):
        if name in self._groups:
            fail(f"{name} was assigned as a whole: its options are lost")
        self._require(name)
        default, allowed = self._table[name]
        if allowed is not ANY and value not in allowed:
            if default is not None and type(value) is not type(default) and not OLD:
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

    def text(self, name):
        """What is sent to the graph engine; None where there is nothing to send."""
        return OptionValue(self._values.get(name)).value

    def warn_of_deprecated(self):
        for name in (*_DEPRECATED.split(), "op_debug_level"):
            if self.text(name) is not None:
                sys.stdout.write(f"[warning][tf_adapter] {name} is deprecated\n")


def _top():
    table = {
        "graph_run_mode": (1, (0, 1)),
        "deterministic": (0, (0, 1)),
        "precision_mode": (None, f"{_MODES} {_NEWER_MODES}".split()),
        "precision_mode_v2": (None, _V2_MODES.split()),
        "op_select_implmode": (None, ("high_performance", "high_precision")),
        "variable_format_optimize": (None, ON_OFF),
        "op_compiler_cache_mode": ("enable", ("enable", "disable", "force")),
        "ac_parallel_enable": (None, ("0", "1")),
        "hcom_parallel": (True, ON_OFF),
        "is_tailing_optimization": (False, ON_OFF),
        "op_debug_level": (None, (0, 1, 2, 3, 4)),
        "enable_exception_dump": (2, (0, 1, 2)),
        "enable_small_channel": (False, ON_OFF),
        "topo_sorting_mode": (None, (0, 1, None)),
        "overflow_flag": (1, (0, 1)),
        "stream_sync_timeout": (-1, ANY),
        "event_sync_timeout": (-1, ANY),
        "external_weight": (False, ON_OFF),
        "jit_compile": ("auto", ("true", "false", "auto")),
        **dict.fromkeys(_UNCHECKED.split(), (None, ANY)),
    }
    if NEW:
        table.update(
            precision_mode_v2=(None, f"{_V2_MODES} cube_hif8 mixed_hif8".split()),
            quant_dumpable=(None, ("0", "1")),
            execute_times=(-1, ANY),
            input_fusion_size=(131072, ANY),
            compile_dynamic_mode=(False, ON_OFF),
            shape_generalization_mode=("STRICT", ("STRICT", "FULL", "ADAPTIVE")),
            all_tensor_not_empty=(False, ON_OFF),
            input_batch_cpy=(False, ON_OFF),
            auto_multistream_parallel_mode=(None, ANY),
            export_compile_stat=(1, (0, 1, 2)),
            aicore_num=(None, ANY),
            oo_constant_folding=(True, ON_OFF),
            oo_level=("O3", ("O0", "O1", "O2", "O3")),
            optimization_switch=(None, ANY),
        )
    if OLD:
        for name in ("precision_mode_v2", "op_precision_mode", "deterministic"):
            del table[name]
        table.update(
            precision_mode=("allow_fp32_to_fp16", _MODES.split()),
            op_compiler_cache_mode=("disable", ("enable", "disable", "force")),
            hcom_parallel=(False, ON_OFF),
            enable_exception_dump=(0, (0, 1)),
            jit_compile=(True, ON_OFF),
            auto_tune_mode=(None, ANY),
        )
    return table


def _groups():
    dump = {
        "enable_dump": (False, ON_OFF),
        "dump_path": (None, ANY),
        "dump_step": (None, ANY),
        "dump_mode": ("output", ("input", "output", "all")),
        "enable_dump_debug": (False, ON_OFF),
        "dump_debug_mode": ("all", ("aicore_overflow", "atomic_overflow", "all")),
    }
    if not OLD:
        dump.update(dump_data=("tensor", ("tensor", "stats")), dump_layer=(None, ANY))
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
        "static_memory_policy": (0, range(5 if NEW else 3)),
    }
    if NEW:
        memory["variable_use_1g_huge_page"] = (0, (0, 1, 2))
    kinds = {"NpuDumpConfig": dump, "NpuProfilingConfig": profiling}
    kinds.update(NpuAoeConfig=aoe, MemoryConfig=memory)
    names = ("dump_config", "profiling_config", "aoe_config", "memory_config")
    for name, (kind, table) in zip(names, kinds.items()):
        yield name, _Group(kind, f"{name}.", table)


_options = _Group("NpuConfig", "", _top(), _groups())


def global_options():
    """The one set of options of this process."""
    return _options
