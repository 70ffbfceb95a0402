"""What the bench measures: groups of rows; the rows of a group alternate."""


def _ours(kind, batch_size, precision, label):
    options = {"kind": kind, "batch_size": batch_size, "matmul_dtype": precision}
    if kind in ("fit", "raw"):
        options["steps"] = max(3, 4096 // batch_size)
    return {
        "label": label,
        "script": "stamp_ours.py",
        "options": options,
        "shown": {"batch_size": batch_size, "precision": precision, "kind": kind},
    }


def _recbole(batch_size):
    return {
        "label": "RecBole",
        "script": "stamp_recbole.py",
        "options": {"batch_size": batch_size, "steps": max(3, 2048 // batch_size)},
        "shown": {"batch_size": batch_size, "precision": "float32", "kind": "peer"},
        "peer": True,
    }


def _naive(batch_size):
    return {
        "label": "naive",
        "script": "stamp_naive.py",
        "options": {"batch_size": batch_size},
        "shown": {"batch_size": batch_size, "precision": "float32", "kind": "naive"},
    }


def _stamp_groups():
    groups = {
        "naive": [_naive(128), _ours("fit", 128, "float32", "ours, float32")],
        "evaluation": [_ours("evaluate", 256, "float32", "ours, evaluation")],
    }
    for batch_size in (128, 256, 512, 1024):
        groups[f"batch {batch_size}"] = [
            _ours("fit", batch_size, "float32", "ours, float32"),
            _ours("fit", batch_size, "bfloat16", "ours, bfloat16"),
            _recbole(batch_size),
            _ours("raw", batch_size, "float32", "ours without Keras' loop"),
            _ours("floor", batch_size, "float32", "floor, float32"),
            _ours("floor", batch_size, "bfloat16", "floor, bfloat16"),
        ]
    return groups


PLANS = {
    "stamp": {
        "groups": _stamp_groups(),
        "compare": ("RecBole", "naive", "floor, float32"),
    }
}
