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
    "device.name": "processor",
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
        ``{title: records}``: data of one content, one split (STAMP: protocol) and one
        order of clicks in each. A title can name a file.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record["model"] == model:
            parameters = record["parameters"]
            words = [record["data"]["name"], _rules(parameters)]
            words += map(parameters.get, ("test_share", "order", "evaluate_on"))
            title = ", ".join(str(word) for word in words if word is not None)
            title = re.sub(r"[^\w .,()+-]", "_", title)[:100]
            content = str(record["data"].get("sha256"))
            groups.setdefault((title, content), []).append(record)
    titles = [title for title, _ in groups]
    return {
        f"{title} ({content[:8]})" if titles.count(title) > 1 else title: same
        for (title, content), same in groups.items()
    }


def _rules(parameters: Mapping[str, Any]) -> Any:
    """The split of the data: for STAMP a protocol, the default if not stated."""
    return parameters.get("split") or parameters.get("protocol", "srgnn")


def settings(group: Iterable[Record]) -> dict[str, list[Record]]:
    """Groups records that differ in nothing but the seed; one record of each seed.

    Settings are told apart by what was asked and by the content of the data, not by the
    machine: where two machines have run a setting and a seed, the later record counts.

    Args:
        group: records that answer one question.

    Returns:
        ``{label: records}``, with the label of the first record, see ``run.load``.
    """
    newest: dict[tuple[str, str], Record] = {}
    for record in sorted(group, key=lambda r: str(r["timing"].get("finished_at", ""))):
        seed = str(record["parameters"].get("seed"))
        newest[json.dumps(_key(record), sort_keys=True), seed] = record
    labelled: dict[str, list[Record]] = {}
    for key in dict.fromkeys(key for key, _ in newest):
        same = [newest[each] for each in sorted(newest) if each[0] == key]
        label = _escape(same[0]["label"])
        unique = f"{label} ({len(labelled) + 1})" if label in labelled else label
        labelled[unique] = same
    return dict(sorted(labelled.items()))


def _key(record: Record) -> Record:
    """What makes a record's setting: model, content of the data, parameters.

    Older records hold the launch options one by one, newer ones under ``ascend``, and
    the oldest lack parameters that are empty by default.
    """
    parameters = {**LAUNCH, **record["parameters"]}
    if isinstance(parameters.get("ascend"), dict):
        parameters.update(parameters.pop("ascend"))
    kept = {k: v for k, v in parameters.items() if k not in UNTRAINED and v != ""}
    workers = (record["device"] or {}).get("workers", 1)
    data = record["data"].get("sha256")
    return {**kept, "model": record["model"], "data": data, "workers": workers}


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
    named = settings(group)
    values = {
        label: found
        for label, same in named.items()
        if (found := [r["metrics"][metric] for r in same if metric in r["metrics"]])
    }
    ours = list(values)
    for record in (record for same in named.values() for record in same):
        for name, metrics in record["baselines"].items():
            if metric in metrics:
                values.setdefault(_escape(name), []).append(metrics[metric])
    parameters = group[0]["parameters"]
    if parameters.get("evaluate_on", "test") != "test":
        return values, ours
    same_question = published["metric"] == metric
    same_question &= published["data"] == group[0]["data"]["name"]
    share = parameters.get("test_share")
    for column, value in (("split", _rules(parameters)), ("test_share", share)):
        same_question &= published[column].isna() | (published[column] == value)
    rows = published[same_question]
    marks = np.where(rows.get("stands", "") == "no", " †", "")
    figures = {name: [x] for name, x in zip(rows["model"] + marks, rows["value"])}
    return {**values, **figures}, ours


def costs(records: Sequence[Record], steps: Sequence[str], metric: str) -> pd.DataFrame:
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
    rows = []
    for label in steps:
        runs = [r for r in records if r["parameters"].get("label") == label]
        keys = pd.DataFrame([{k: str(v) for k, v in _key(r).items()} for r in runs])
        different = [name for name in sorted(keys) if keys[name].nunique(False) > 1]
        if different:
            raise InputError(
                f'label "{label}": its runs differ in {", ".join(different)}; a label '
                "is one setting, so leave the folders of the others out of records."
            )
        for same in settings(runs).values():
            values = pd.Series([record["metrics"][metric] for record in same])
            times = pd.Series([record["timing"].get("train_s") for record in same])
            mean = sum(values) / len(values)
            rows.append(
                (label, len(same), mean, values.min(), values.max(), times.median())
            )
    columns = ["setting", "runs", "mean", "lowest", "highest", "seconds"]
    return pd.DataFrame(rows, columns=columns).set_index("setting")


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
