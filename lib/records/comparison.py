"""Combine run records into one table and into the groups that each figure compares."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import yaml

from lib import files
from lib.errors import InputError
from lib.records import run
from lib.records.parameters import LAUNCH

# Runs of one setting may differ in these: they change nothing that is trained.
UNTRAINED = {"seed", "output_dir", "label", "data_path"}
UNTRAINED |= {"with_baselines", "with_ablation", "evaluate_every"}
_BEFORE_METRICS = {  # column of a normalised record: column of the table
    "model": "model",
    "variant": "variant",
    "data.name": "data",
    "device.kind": "device",
    "device.matmul_dtype": "precision",
    "versions.tensorflow": "tensorflow",
    **{f"parameters.{x}": x for x in ("split", "batch_size", "epochs", "seed")},
}
_TIMING = ("examples_per_second", "peak_memory_mb", "wall_time_s")
_AFTER_METRICS = {**{f"timing.{name}": name for name in _TIMING}, "run": "run"}
Record = dict[str, Any]


def audit_steps(model: str) -> list[str]:
    """The labels of an audit's runs, in the order of notebook 06.

    Args:
        model: ``"stamp"`` or ``"mf"``; the file is ``ci/params/<model>_audit.yaml``.
    """
    path = files.ROOT / "ci" / "params" / f"{model}_audit.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))["vary"]
    return [changes["label"] for changes in settings.values()]


def table(records: Sequence[Record]) -> pd.DataFrame:
    """One row a record: model, data, device, metrics and speed."""
    rows = pd.json_normalize(records, max_level=1)
    metrics = {name: name[8:] for name in rows if name.startswith("metrics.")}
    columns = {**_BEFORE_METRICS, **metrics, **_AFTER_METRICS}
    return rows.reindex(columns=list(columns)).rename(columns=columns)


def by_question(records: Iterable[Record], model: str) -> dict[str, list[Record]]:
    """Groups the records of one model by the question that they answer.

    Returns:
        ``{title: records}``: one data set, split (STAMP: protocol) and order of clicks
        in each. A title can name a file.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        if record["model"] == model:
            parameters = record["parameters"]
            words = [record["data"]["name"], _rules(parameters)]
            words += map(parameters.get, ("test_share", "order", "evaluate_on"))
            title = ", ".join(str(word) for word in words if word is not None)
            title = re.sub(r"[^\w .,()+-]", "_", title)[:100]
            groups.setdefault(title, []).append(record)
    return groups


def _rules(parameters: Mapping[str, Any]) -> Any:
    """The split of the data: for STAMP a protocol, the default if not stated."""
    return parameters.get("split") or parameters.get("protocol", "srgnn")


def settings(group: Iterable[Record]) -> dict[str, list[Record]]:
    """Groups records that differ in nothing but the seed; one record of each seed.

    Args:
        group: records that answer one question.

    Returns:
        ``{label: records}``. The label is the parameter of that name, where it is set;
        else model, variant, epochs, precision, and the parameters in which settings
        of that variant differ.
    """
    alike: dict[str, dict[str, Record]] = {}
    for record in group:
        setting = {k: v for k, v in _trained_with(record).items() if v != ""}
        data = record["data"].get("sha256")
        key = [setting, data, record["model"], record["device"]]
        seeds = alike.setdefault(json.dumps(key, sort_keys=True), {})
        seeds[str(record["parameters"].get("seed"))] = record
    runs = [list(seeds.values()) for seeds in alike.values()]
    labelled: dict[str, list[Record]] = {}
    for same, described in zip(runs, _describe([same[0] for same in runs])):
        own_label = same[0]["parameters"].get("label") or described
        label = _escape(described if _escape(own_label) in labelled else own_label)
        unique = f"{label} ({len(labelled) + 1})" if label in labelled else label
        labelled[unique] = same
    return labelled


def _trained_with(record: Record) -> Record:
    """The parameters that make a record's setting.

    Older records hold the launch options one by one, newer ones under ``ascend``.
    """
    parameters = {**LAUNCH, **record["parameters"]}
    if isinstance(parameters.get("ascend"), dict):
        parameters.update(parameters.pop("ascend"))
    return {k: v for k, v in parameters.items() if k not in UNTRAINED}


def _name(record: Record) -> str:
    words = [record["model"], record["variant"]]
    words += [f"{record['parameters'].get('epochs')} ep."]
    words += [(record["device"] or {}).get("matmul_dtype")]
    return " ".join(str(word) for word in words if word)


def _describe(records: Sequence[Record]) -> list[str]:
    """A label of each setting: its name, and the parameters that tell it from others.

    These are the ones that differ among settings of its variant; of the precision mode,
    among settings of its name, which has the precision already.
    """
    names = pd.Series([_name(record) for record in records], dtype="object")
    variants = [str(record["variant"]) for record in records]
    values = pd.DataFrame(
        [{k: str(v) for k, v in _trained_with(one).items()} for one in records]
    ).drop(columns="epochs", errors="ignore")
    differ = values.groupby(variants).transform("nunique") > 1
    if "precision_mode" in values:
        mode = values["precision_mode"].groupby(names)
        differ["precision_mode"] = mode.transform("nunique") > 1
    differ &= values.notna()
    return [
        " ".join(
            [name, *(f"{key}={values.at[row, key]}" for key in values if told[key])]
        )
        for (row, told), name in zip(differ.iterrows(), names)
    ]


def _escape(text: object) -> str:
    """Escapes $, which would start a formula in a figure."""
    return re.sub(r"\\?\$", r"\\$", str(text))


def compare(
    group: Sequence[Record], metric: str, published: pd.DataFrame
) -> tuple[dict[str, list[float]], list[str]]:
    """The results of a group of ``by_question``, baselines and published figures.

    Args:
        group: records that answer one question.
        metric: a name in their metrics.
        published: the table ``results/published.csv``.

    Returns:
        ``(values, ours)``: name -> list of numbers, one a seed; and the names of this
        repository's models. Published figures stand beside runs on the test part alone;
        a † marks those that are no figures of the test part, see the table.
    """
    values = {
        label: found
        for label, same in settings(group).items()
        if (found := [r["metrics"][metric] for r in same if metric in r["metrics"]])
    }
    ours = list(values)
    baselines: dict[str, list[float]] = {}
    for record in group:
        for name, metrics in record["baselines"].items():
            if metric in metrics:
                baselines.setdefault(_escape(name), []).append(metrics[metric])
    parameters = group[0]["parameters"]
    if parameters.get("evaluate_on", "test") != "test":
        return {**values, **baselines}, ours
    same_question = published["metric"] == metric
    same_question &= published["data"] == group[0]["data"]["name"]
    share = parameters.get("test_share")
    for column, value in (("split", _rules(parameters)), ("test_share", share)):
        same_question &= published[column].isna() | (published[column] == value)
    rows = published[same_question]
    marks = np.where(rows.get("stands", "") == "no", " †", "")
    figures = {name: [x] for name, x in zip(rows["model"] + marks, rows["value"])}
    return {**values, **baselines, **figures}, ours


def costs(records: Iterable[Record], steps: Sequence[str], metric: str) -> pd.DataFrame:
    """The result of each step of an audit: a row a step, as far as it was recorded.

    Args:
        records: runs of one model; runs that differ in the seed alone are one step.
        steps: their labels, in the order of the rows.
        metric: a name in their metrics.

    Returns:
        A table with the labels as index and the columns ``runs``, ``mean``, ``lowest``
        and ``highest`` of the metric, and ``seconds``, the median time of training.

    Raises:
        InputError: runs of one label that differ in more than the seed and the machine.
    """
    by_seed = {}
    for record in records:
        label, seed = map(record["parameters"].get, ("label", "seed"))
        if label in steps:
            by_seed[label, seed] = record
    _check_labels(by_seed.values())
    rows = [
        [label, record["metrics"][metric], record["timing"].get("train_s")]
        for (label, _), record in sorted(by_seed.items())
    ]
    frame = pd.DataFrame(rows, columns=["setting", "value", "seconds"])
    frame = frame.astype({"value": "float64", "seconds": "float64"})
    table = frame.groupby("setting").agg(
        runs=("value", "size"),
        mean=("value", lambda values: values.mean()),  # adds in order, unlike "mean"
        lowest=("value", "min"),
        highest=("value", "max"),
        seconds=("seconds", "median"),
    )
    return table.loc[[label for label in steps if label in table.index]]


def _check_labels(records: Iterable[Record]) -> None:
    """Raises InputError unless the runs of a label are one setting on any machine."""
    rows = []
    for record in records:
        setting = {k: v for k, v in _trained_with(record).items() if v != ""}
        setting["precision_mode"] = (record["device"] or {}).get("matmul_dtype")
        setting["data"] = record["data"].get("sha256")
        values = {key: str(value) for key, value in sorted(setting.items())}
        rows.append({"label": record["parameters"]["label"], **values})
    if not rows:
        return
    for label, same in pd.DataFrame(rows).groupby("label"):
        counts = same.nunique(dropna=False)
        if (counts > 1).any():
            raise InputError(
                f'label "{label}": its runs differ in '
                f"{', '.join(counts.index[counts > 1])}; a label is one setting, so "
                "leave the folders of the others out of records."
            )


def peers(benches: Mapping[str, Any]) -> pd.DataFrame:
    """The results of other programs on our splits, in the form of ``published.csv``."""
    if "peers" not in benches:
        return pd.DataFrame()
    rows = benches["peers"]["rows"].rename(columns={"label": "model"})
    keys = ["model", "data", "split", "test_share"]
    return rows.assign(data="ml-1m").melt(keys, ["rmse", "mae"], "metric")


def benches(text: str) -> dict[str, Any]:
    """Reads the files of ``ci/bench.sh`` below the folders of ``run.folders``.

    Returns:
        ``{"stamp": ..., "mf": ...}``, each with its ``rows`` as a table.

    Raises:
        InputError: a JSON file in a folder ``bench`` is not one of them.
    """
    read = {}
    paths = [p for f in run.folders(text) for p in sorted(f.rglob("bench/*.json"))]
    for path in paths:
        try:
            bench = files.read_json(path)
            for row in bench["rows"]:
                if not {"label", "batch_size", "per_second"} <= set(row):
                    raise ValueError("a row is incomplete")
            read[bench["bench"]] = {**bench, "rows": pd.DataFrame(bench["rows"])}
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise InputError(
                f"{path} was not written by ci/bench.sh: remove it, or run that again."
            ) from error
    return read
