"""Combine run records into one table and into the groups that each figure compares."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from lib import files
from lib.errors import InputError
from lib.records import run
from lib.records.parameters import LAUNCH

# Runs of one setting may differ in these: they change nothing that is trained.
UNTRAINED = {"seed", "output_dir", "label", "data_path"}
UNTRAINED |= {"with_baselines", "with_ablation", "evaluate_every"}
# Parameters that came later, with the values that runs before had.
_LATER = {"solver": "adam", "samples": 32, "extension": "none", "shuffle": "all"}
_LATER |= {"checkpoint_every": 0, "neighbours": 0, "positions": False}
_LATER |= {"protocol": "srgnn", "rate_scaling": "none"}
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
_TIMING = ("examples_per_second", "peak_memory_mb", "train_s", "wall_time_s")
_AFTER_METRICS = {**{f"timing.{name}": name for name in _TIMING}, "run": "run"}
_WORDS = yaml.safe_load(Path(__file__).with_name("words.yaml").read_text("utf-8"))
Record = dict[str, Any]


def audit_steps(model: str) -> list[str]:
    """The labels of an audit's runs, in the order of notebooks 06 and 13.

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
        ``{title: records}``, the title in words: data of one content, one split (STAMP:
        protocol), one order of clicks and one part of the data in each; models that
        are told the times of the ratings apart from others.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record["model"] == model:
            parameters = record["parameters"]
            words = [record["data"]["name"], _rules(parameters)]
            words += map(parameters.get, ("test_share", "order", "evaluate_on"))
            words.append("told the times" if _knows_times(parameters) else None)
            said = [_say(word) for word in words if word not in (None, "test")]
            title = re.sub(r"[^\w .,()+%'-]", "_", ", ".join(said))[:100]
            content = str(record["data"].get("sha256"))
            groups.setdefault((title, content), []).append(record)
    titles = [title for title, _ in groups]
    return {
        f"{title} ({content[:8]})" if titles.count(title) > 1 else title: same
        for (title, content), same in groups.items()
    }


def _say(value: object) -> str:
    """A parameter's value in words; a float is the share of the data held out."""
    text = f"{100 * value:g} % held out" if isinstance(value, float) else str(value)
    return _WORDS["parameters"].get(text, text)


def _knows_times(parameters: Mapping[str, Any]) -> bool:
    """Whether a model is told when the rating that it predicts was given."""
    return parameters.get("extension") in ("times", "both")


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
        ``{label: records}``. Without the parameter ``label``, model and variant name a
        setting. Settings of one name also tell the parameters in which they differ;
        if exactly one of them has the name as its ``label``, it keeps the bare name.
    """
    newest: dict[tuple[str, str], Record] = {}
    for record in sorted(group, key=lambda r: str(r["timing"].get("finished_at", ""))):
        seed = str(record["parameters"].get("seed"))
        newest[json.dumps(_key(record), sort_keys=True), seed] = record
    same: dict[str, list[Record]] = {}
    for key, seed in sorted(newest):
        same.setdefault(key, []).append(newest[key, seed])
    namesakes: dict[str, list[list[Record]]] = {}
    for records in same.values():
        namesakes.setdefault(_name(records[0]), []).append(records)
    labelled: dict[str, list[Record]] = {}
    for name, alike in namesakes.items():
        chosen = [each for each in alike if each[0]["parameters"].get("label")]
        for records, told in zip(alike, _differences([each[0] for each in alike])):
            own = name if chosen == [records] else ", ".join([name, *told])
            unique = f"{own} ({len(labelled) + 1})" if own in labelled else own
            labelled[unique] = records
    return dict(sorted(labelled.items()))


def _differences(records: Sequence[Record]) -> list[list[str]]:
    """Tells for each of several settings the parameters in which they differ."""
    keys = pd.DataFrame([{k: str(v) for k, v in _key(r).items()} for r in records])
    keys = keys.dropna(axis=1).loc[:, lambda table: table.nunique() > 1]
    products = [(record["device"] or {}).get("matmul_dtype") for record in records]
    told = []
    for number, product in enumerate(products):
        row = keys.iloc[number]
        words = {k: f"{k} {v}".replace("_", " ") for k, v in row.items()}
        if "precision_mode" in words:
            words["precision_mode"] = str(product)
        told.append([_escape(text) for text in words.values()])
    return told


def _name(record: Record) -> str:
    """The parameter ``label``, or else the model, its variant and solver in words."""
    parameters, words = record["parameters"], _WORDS["settings"]
    told = (str(record["variant"]), str(parameters.get("solver")))
    name = str(record["model"]).upper() + "".join(words.get(word, "") for word in told)
    return _escape(parameters.get("label") or name)


def _key(record: Record) -> Record:
    """What makes a record's setting: model, content of the data, parameters.

    Older records hold the launch options one by one, newer ones under ``ascend``, and
    lack parameters that came later.
    """
    parameters = {**LAUNCH, **_LATER, **record["parameters"]}
    if isinstance(parameters.get("ascend"), dict):
        parameters.update(parameters.pop("ascend"))
    kept = {k: v for k, v in parameters.items() if k not in UNTRAINED and v != ""}
    workers = (record["device"] or {}).get("workers", 1)
    data = record["data"].get("sha256")
    return {**kept, "model": record["model"], "data": data, "workers": workers}


def _escape(text: object) -> str:
    """Escapes $, which would start a formula in a figure."""
    return re.sub(r"\\?\$", r"\\$", str(text))


def compare(group: Sequence[Record], others: pd.DataFrame) -> pd.DataFrame:
    """The results of a group of ``by_question``, baselines and results of others.

    Args:
        group: records that answer one question.
        others: the table ``results/published.csv``, and that of ``peers``.

    Returns:
        The columns of ``table``, and ``name`` and ``kind``: ``"ours"`` (one row a
        seed, with its ``history`` and ``epoch_s``), ``"baseline"`` (from the same
        records) or ``"other"``. Results of others
        stand beside runs on the test part alone; a † marks published figures that are
        no figures of the test part.
    """
    rows: list[dict[str, Any]] = []
    for label, same in settings(group).items():
        ours = table(same).assign(name=label, kind="ours")
        ours["history"] = [record["history"] for record in same]
        ours["epoch_s"] = [record["timing"].get("epoch_s", []) for record in same]
        rows += ours.to_dict("records")
        for record in same:
            fits = record["timing"].get("baselines", {})
            for name, metrics in record["baselines"].items():
                row = {**metrics, "name": _escape(name), "kind": "baseline"}
                row["processor"] = (record["device"] or {}).get("name")
                rows.append({**row, "train_s": fits.get(name, {}).get("fit_s")})
    parameters = group[0]["parameters"]
    is_tested = parameters.get("evaluate_on", "test") == "test"
    if is_tested and not _knows_times(parameters):
        same_question = others["data"] == group[0]["data"]["name"]
        share = parameters.get("test_share")
        for column, value in (("split", _rules(parameters)), ("test_share", share)):
            same_question &= others[column].isna() | (others[column] == value)
        for name, found in others[same_question].groupby("model", sort=False):
            row = {**dict(zip(found["metric"], found["value"])), "kind": "other"}
            row["name"] = f"{name} †" if "no" in set(found.get("stands", "")) else name
            more = found.reindex(columns=["train_s", "processor"]).iloc[0]
            rows.append({**row, **more})
    return pd.DataFrame(rows)


def precisions(records: Iterable[Record], metric: str) -> pd.DataFrame:
    """Compares runs that differ in the type of their matrix products alone.

    Returns:
        A row for each ``setting`` and ``precision`` that one machine has run, as far as
        it has run it in float32 too: the mean of the metric, the median rate, the
        largest memory, and ``speed``, the rate divided by that in float32.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        machine = (record["device"] or {}).get("name")
        key = json.dumps({**_key(record), "precision_mode": machine}, sort_keys=True)
        groups.setdefault(key, []).append(record)
    columns = {metric: "mean", "examples_per_second": "median", "peak_memory_mb": "max"}
    found = {}
    for same in groups.values():
        means = table(same).groupby("precision").agg(columns)[::-1]
        if "float32" in means.index and len(means) > 1:
            rate = means["examples_per_second"]
            found[_name(same[0])] = means.assign(speed=rate / rate["float32"])
    found = found or {"": pd.DataFrame(columns=[*columns, "speed"])}
    return pd.concat(found, names=["setting", "precision"])


def costs(records: Sequence[Record], steps: Sequence[str], metric: str) -> pd.DataFrame:
    """The result of each step of an audit: a row a step, as far as it was recorded.

    Fixes are added one after the other; a label that ends in " alone" is one fix, added
    to the first step.

    Args:
        records: runs of one model; runs that differ in the seed alone are one step.
        steps: their labels, in the order of the rows.
        metric: a name in their metrics.

    Returns:
        A table with the labels as index and the columns ``runs``, ``mean`` of the
        metric, ``change`` of the mean by the fix, ``lowest``, ``highest``, and
        ``seconds``, the median time of training.

    Raises:
        InputError: runs of one label that differ in more than the seed and the machine,
            or no run of the first step.
    """
    rows = {}
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
            spread = (sum(values) / len(values), values.min(), values.max())
            rows[label] = (len(same), *spread, times.median())
    if steps[0] not in rows:
        raise InputError(
            f'records: no run with the label "{steps[0]}"; the file of ci/params that '
            "has this label makes it."
        )
    columns = ["runs", "mean", "lowest", "highest", "seconds"]
    audited = pd.DataFrame.from_dict(rows, "index", columns=columns)
    means, is_alone = audited["mean"], audited.index.str.endswith(" alone")
    audited.insert(2, "change", means - means.shift().mask(is_alone, means.iloc[0]))
    return audited.rename_axis("setting")


def peers(benches: Mapping[str, Any]) -> pd.DataFrame:
    """What benches measured on our splits, in the form of ``published.csv``."""
    rows = [
        {**about, "processor": benches[name]["device"].get("name"), **row}
        for name, about in _WORDS["benches"].items()
        if name in benches
        for row in benches[name]["rows"].to_dict("records")
        if row.get("kind") in ("peer", "als", "best")
    ]
    keys = ["label", "data", "split", "test_share", "seconds", "processor"]
    metrics = ["rmse", "mae", "hr_at_20", "mrr_at_20"]
    wide = pd.DataFrame(rows, columns=keys + metrics).drop_duplicates(keys[:4])
    names = {"label": "model", "seconds": "train_s"}
    return (
        wide.melt(keys, metrics, "metric")
        .dropna(subset=["value"])
        .rename(columns=names)
    )


def benches(text: str) -> dict[str, Any]:
    """Reads the files of ``ci/bench.sh`` below the folders of ``run.folders``.

    Returns:
        ``{"stamp": ..., "mf": ..., "data": ...}``, each with its ``rows`` as a table;
        those of ``data`` are its turns.

    Raises:
        InputError: a JSON file in a folder ``bench`` is not one of them.
    """
    read = {}
    paths = [p for f in run.folders(text) for p in sorted(f.rglob("bench/*.json"))]
    for path in paths:
        try:
            bench = files.read_json(path)
            rows, needed = bench.get("rows"), {"label", "batch_size", "per_second"}
            if bench["bench"] == "data":
                rows, needed = bench["turns"], {"label", "size", "seconds", "peak_mb"}
            if not all(needed <= set(row) for row in rows):
                raise ValueError("a row is incomplete")
            read[bench["bench"]] = {**bench, "rows": pd.DataFrame(rows)}
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise InputError(
                f"{path} was not written by ci/bench.sh: remove it, or run that again."
            ) from error
    return read
