"""Many records: one table, and what stands beside what in a figure."""

import json

import pandas as pd

NOT_ASKED = ("seed", "output_dir")  # what two runs of one setting may differ in


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
        ``{title: records}``: one data set, split and order of clicks in each.
    """
    groups = {}
    for record in records:
        if record["model"] == model:
            parameters = record["parameters"]
            asked = [parameters.get(key) for key in ("split", "test_share", "order")]
            title = [record["data"]["name"], *asked, parameters.get("evaluate_on")]
            title = ", ".join(str(word) for word in title if word is not None)
            groups.setdefault(title, []).append(record)
    return groups


def compare(group, metric, published):
    """What a group of ``by_question`` reached, beside baselines and the literature.

    Args:
        group: records that answer one question.
        metric: a name in their metrics.
        published: the table ``results/published.csv``.

    Returns:
        ``(values, ours)``: name -> number, and the names that are runs of ours. Runs
        that differ in the seed alone are one entry, their mean; so are baselines.
    """
    alike = {}
    for record in group:
        asked = {k: v for k, v in record["parameters"].items() if k not in NOT_ASKED}
        key = json.dumps([asked, record["model"], record["device"]], sort_keys=True)
        alike.setdefault(key, []).append(record)
    settings = [same[0]["parameters"] for same in alike.values()]
    differ = [
        name
        for name in settings[0]
        if name not in (*NOT_ASKED, "epochs", "variant")
        and len({str(setting.get(name)) for setting in settings}) > 1
    ]
    values, beside = {}, {}
    for same, setting in zip(alike.values(), settings):
        words = [same[0]["model"], same[0]["variant"] or "", f"{setting['epochs']} ep."]
        words += [(same[0]["device"] or {}).get("matmul_dtype", "")]
        words += [f"{name}={setting.get(name)}" for name in differ]
        label = " ".join(word for word in words if word)
        values[label] = sum(record["metrics"][metric] for record in same) / len(same)
    ours = list(values)
    for record in group:
        for name, found in record["baselines"].items():
            if metric in found:
                beside.setdefault(name, []).append(found[metric])
    values.update({name: sum(found) / len(found) for name, found in beside.items()})
    first = group[0]
    known = published[
        (published["metric"] == metric) & (published["data"] == first["data"]["name"])
    ]
    for column in ("split", "test_share"):  # empty where it does not apply
        asked = first["parameters"].get(column)
        known = known[known[column].isna() | (known[column] == asked)]
    values.update(zip(known["model"], known["value"]))
    return values, ours
