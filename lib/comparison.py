"""Many records: one table, and what stands beside what in a figure."""

import json
import re

import pandas as pd

from lib import files, sources
from lib.errors import InputError

# Runs of one setting may differ in these: they change nothing that is trained.
NOT_ASKED = (
    "seed",
    "output_dir",
    "label",
    "with_baselines",
    "with_ablation",
    "evaluate_every",
    "data_path",
)


def table(records):
    """One row a record: what was run, on what, how well and how fast."""
    rows = []
    for record in records:
        device, parameters = record["device"] or {}, record["parameters"]
        row = {
            "model": record["model"],
            "variant": record["variant"],
            "data": record["data"]["name"],
            "device": device.get("kind"),
            "precision": device.get("matmul_dtype"),
            "tensorflow": record["versions"].get("tensorflow"),
        }
        for name in ("split", "batch_size", "epochs", "seed"):
            row[name] = parameters.get(name)
        row.update(record["metrics"])
        for name in ("examples_per_second", "peak_memory_mb", "wall_time_s"):
            row[name] = record["timing"].get(name)
        rows.append({**row, "run": record["run"]})
    return pd.DataFrame(rows)


def by_question(records, model):
    """Groups the records of one model by what was predicted.

    Returns:
        ``{title: records}``: one data set, split (STAMP: protocol) and order of clicks
        in each. A title can name a file.
    """
    groups = {}
    for record in records:
        if record["model"] == model:
            parameters, title = record["parameters"], [record["data"]["name"]]
            title.append(_rules(parameters))
            title += map(parameters.get, ("test_share", "order", "evaluate_on"))
            title = ", ".join(str(word) for word in title if word is not None)
            title = re.sub(r"[^\w .,()+-]", "_", title)[:100]
            groups.setdefault(title, []).append(record)
    return groups


def _rules(parameters):
    """What splits a record's data: for STAMP a protocol, the default if not stated."""
    return parameters.get("split") or parameters.get("protocol", "srgnn")


def settings(group):
    """Records that differ in nothing but the seed, together; one of each seed.

    Args:
        group: records that answer one question.

    Returns:
        ``{label: records}``. The label is the parameter of that name, where it is set;
        else model, variant, epochs, precision, and the parameters in which the group's
        settings differ.
    """
    alike = {}
    for record in group:
        stated = record["parameters"].items()
        asked = {k: v for k, v in stated if k not in NOT_ASKED and v != ""}
        data = record["data"].get("sha256")
        key = json.dumps(
            [asked, data, record["model"], record["device"]], sort_keys=True
        )
        alike.setdefault(key, {})[record["parameters"].get("seed")] = record
    alike = [list(of_seeds.values()) for of_seeds in alike.values()]
    chosen = [same[0]["parameters"] for same in alike]
    differ = [
        name
        for name in chosen[0]
        if name not in (*NOT_ASKED, "epochs", "variant")
        and len({str(known[name]) for known in chosen if name in known}) > 1
    ]
    found = {}
    for same, parameters in zip(alike, chosen):
        first = same[0]
        words = [first["model"], first["variant"], f"{parameters.get('epochs')} ep."]
        words += [(first["device"] or {}).get("matmul_dtype")]
        words += [f"{name}={parameters[name]}" for name in differ if name in parameters]
        label = _plain(" ".join(str(word) for word in words if word))
        given = _plain(parameters.get("label") or label)
        found[label if given in found else given] = same
    return found


def _plain(text):
    """Text that a figure shows as it is: between two $ it would be read as formulas."""
    return re.sub(r"\\?\$", r"\\$", str(text))


def compare(group, metric, published):
    """What a group of ``by_question`` reached, beside baselines and the literature.

    Args:
        group: records that answer one question.
        metric: a name in their metrics.
        published: the table ``results/published.csv``.

    Returns:
        ``(values, ours)``: name -> list of numbers, one a seed; and the names that are
        runs of ours. Published figures stand beside runs on the test part alone.
    """
    values = {
        label: [record["metrics"][metric] for record in same]
        for label, same in settings(group).items()
    }
    ours = list(values)
    beside = {}
    for record in group:
        for name, found in record["baselines"].items():
            if metric in found:
                beside.setdefault(_plain(name), []).append(found[metric])
    values.update(beside)
    first = group[0]
    known = published[
        (published["metric"] == metric)
        & (published["data"] == first["data"]["name"])
        & (first["parameters"].get("evaluate_on", "test") == "test")
    ]
    asked = {"split": _rules(first["parameters"])}
    asked["test_share"] = first["parameters"].get("test_share")
    for column, value in asked.items():  # empty where it does not apply
        known = known[known[column].isna() | (known[column] == value)]
    values.update({row["model"]: [row["value"]] for _, row in known.iterrows()})
    return values, ours


def peers(benches):
    """What other programs reached on our splits, in the form of ``published.csv``."""
    rows = [
        {
            "model": row["label"],
            "data": "ml-1m",
            "split": row["split"],
            "test_share": row["test_share"],
            "metric": metric,
            "value": row[metric],
        }
        for _, row in benches.get("peers", {"rows": pd.DataFrame()})["rows"].iterrows()
        for metric in ("rmse", "mae")
    ]
    return pd.DataFrame(rows)


def benches(folder):
    """What ``ci/bench.sh`` left below a folder: ``{"stamp": ..., "mf": ...}``.

    Raises:
        InputError: a file in a folder ``bench`` is none of them.
    """
    found = {}
    for path in sorted(sources.resolve(folder).rglob("bench/*.json")):
        try:
            bench = files.read_json(path)
            assert all(
                {"label", "batch_size", "per_second"} <= set(row)
                for row in bench["rows"]
            )
            found[bench["bench"]] = {**bench, "rows": pd.DataFrame(bench["rows"])}
        except (OSError, ValueError, TypeError, LookupError, AssertionError):
            raise InputError(
                f"{path} was not written by ci/bench.sh: remove it, or run that again."
            ) from None
    return found
