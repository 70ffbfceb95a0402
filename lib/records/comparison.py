"""Many records: one table, and what stands beside what in a figure."""

import json
import re

import pandas as pd

from lib import files
from lib.errors import InputError
from lib.records import run

# Steps of the audit in notebook 06: the labels of ci/params/stamp_audit.yaml, mf_audit.
AUDIT = {
    "stamp": (
        *("+ mask", "+ m_s", "+ logits", "+ whole pass", "+ order of time"),
        *("+ SR-GNN's rules", "+ no penalty", "m_s alone", "logits alone"),
        *("whole pass alone", "order of time alone", "SR-GNN's rules alone"),
        "no penalty alone",
    ),
    "mf": (
        *("+ biases", "+ leak-free means", "+ shuffling", "+ split by time"),
        *("+ penalty per rating", "leak-free means alone", "shuffling alone"),
        *("split by time alone", "penalty per rating alone"),
    ),
}
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
        else model, variant, epochs, precision, and the parameters in which settings
        of that variant differ.
    """
    alike = {}
    for record in group:
        data = record["data"].get("sha256")
        key = json.dumps(
            [_asked(record), data, record["model"], record["device"]], sort_keys=True
        )
        alike.setdefault(key, {})[record["parameters"].get("seed")] = record
    alike = [list(of_seeds.values()) for of_seeds in alike.values()]
    firsts = [same[0] for same in alike]
    found = {}
    for same, first in zip(alike, firsts):
        label = _plain(" ".join([_name(first), *_differing(first, firsts)]))
        given = _plain(first["parameters"].get("label") or label)
        label = label if given in found else given
        found[f"{label} ({len(found) + 1})" if label in found else label] = same
    return found


def _asked(record):
    """The parameters that make a record's setting."""
    stated = record["parameters"].items()
    return {k: v for k, v in stated if k not in NOT_ASKED and v != ""}


def _name(record):
    words = [record["model"], record["variant"]]
    words += [f"{record['parameters'].get('epochs')} ep."]
    words += [(record["device"] or {}).get("matmul_dtype")]
    return " ".join(str(word) for word in words if word)


def _differing(record, others):
    """``name=value`` of what is not alike in all settings of the same variant."""
    alike = [other for other in others if other["variant"] == record["variant"]]
    told = {"precision_mode": [one for one in alike if _name(one) == _name(record)]}
    words = []
    for name, value in record["parameters"].items():
        known = [one["parameters"] for one in told.get(name, alike)]
        values = {str(one[name]) for one in known if name in one}
        if len(values) > 1 and name not in (*NOT_ASKED, "epochs"):
            words.append(f"{name}={value}")
    return words


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


def costs(records, steps, metric):
    """What each step of an audit reached: a row a step, as far as it was recorded.

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
    found = {}
    for record in records:
        of_seeds = found.setdefault(record["parameters"].get("label"), {})
        of_seeds[record["parameters"].get("seed")] = record
    shown = [label for label in steps if label in found]
    found = {label: _one_setting(label, found[label]) for label in shown}
    table = pd.DataFrame(
        index=pd.Index(shown, name="setting"),
        columns=["runs", "mean", "lowest", "highest", "seconds"],
        dtype="float64",
    )
    for label in table.index:
        values = pd.Series([record["metrics"][metric] for record in found[label]])
        seconds = [record["timing"].get("train_s") for record in found[label]]
        seconds = pd.Series(seconds, dtype="float64").dropna().median()
        spread = values.mean(), values.min(), values.max()
        table.loc[label] = [len(values), *spread, seconds]
    return table.astype({"runs": "int64"})


def _one_setting(label, of_seeds):
    """The runs of a label, checked: alike but for the seed and the machine."""
    runs = [of_seeds[seed] for seed in sorted(of_seeds)]
    made = [
        {
            **_asked(record),
            "precision_mode": (record["device"] or {}).get("matmul_dtype"),
            "data": record["data"].get("sha256"),
        }
        for record in runs
    ]
    names = sorted({name for one in made for name in one})
    differ = [n for n in names if len({str(one.get(n)) for one in made}) > 1]
    if differ:
        raise InputError(
            f'label "{label}": its runs differ in {", ".join(differ)}; a label is one '
            "setting, so leave the folders of the others out of records."
        )
    return runs


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


def benches(text):
    """What ``ci/bench.sh`` left below the folders of ``run.folders``.

    Returns:
        ``{"stamp": ..., "mf": ...}``, each with its ``rows`` as a table.

    Raises:
        InputError: a file in a folder ``bench`` is none of them.
    """
    found = {}
    paths = [p for f in run.folders(text) for p in sorted(f.rglob("bench/*.json"))]
    for path in paths:
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
