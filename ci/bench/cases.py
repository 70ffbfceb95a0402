"""The cases that the bench measures: groups of rows; the rows of a group alternate."""

from __future__ import annotations


def _ours(kind, batch_size, precision, label, maxlen=19):
    options = {"kind": kind, "batch_size": batch_size, "precision": precision}
    shown = {"batch_size": batch_size, "precision": precision, "kind": kind}
    if kind in ("fit", "cosine", "neighbours", "published", "raw"):
        options.update(steps=max(3, 4096 // batch_size), maxlen=maxlen)
        shown["window"] = maxlen
    script = "stamp_ours.py"
    return {"label": label, "script": script, "options": options, "shown": shown}


def _recbole(batch_size):
    return {
        "label": "RecBole",
        "script": "stamp_recbole.py",
        "options": {"batch_size": batch_size, "steps": max(3, 2048 // batch_size)},
        "shown": {"batch_size": batch_size, "precision": "float32", "kind": "peer"},
        "peer": True,
    }


def _session_peer(label, script, batch_size=512, **options):
    return {
        "label": label,
        "script": script,
        "options": {"batch_size": batch_size, **options},
        "shown": {"batch_size": batch_size, "precision": "float32", "kind": "peer"},
        "peer": True,
    }


def _naive_rows(precision, steps, maxlen=8):
    """The published way of computing and, on the same windows, ours.

    *Ours, same losses* trains the published network, so both compute the same numbers;
    *ours* trains ``lib.models.stamp.STAMP``.
    """
    shown = {"batch_size": 128, "precision": precision, "kind": "naive"}
    naive = {
        "label": "naive",
        "script": "stamp_naive.py",
        "options": {"batch_size": 128, "precision": precision, "steps": steps},
        "shown": {**shown, "window": maxlen},
    }
    return [
        naive,
        _ours("published", 128, precision, "ours, same losses", maxlen),
        _ours("fit", 128, precision, f"ours, {precision}", maxlen),
    ]


def _stamp_groups(low, on_card):
    steps = 50 if on_card else 4  # a step takes a second and more on a CPU
    groups = {"naive": _naive_rows("float32", steps)}
    if low == "float16":  # the published scripts ask for it on an NPU
        groups["naive, float16"] = _naive_rows(low, steps)
    else:
        groups["naive"].append(_ours("fit", 128, low, f"ours, {low}", 8))
    groups["evaluation"] = [_ours("evaluate", 256, "float32", "ours, evaluation")]
    groups["recommend"] = [
        _ours("recommend", 512, "float32", "ours, a file of sessions"),
        _ours("product", 512, "float32", "floor, product"),
    ]
    for precision in dict.fromkeys(("float32", low)):
        groups[f"options, {precision}"] = [
            _ours("cosine", 512, precision, "cosine"),
            _ours("neighbours", 512, precision, "cosine, neighbours and positions"),
        ]
    for batch_size in (128, 256, 512, 1024):
        steps = {"epochs": 1, "steps": max(3, 2048 // batch_size)}
        groups[f"batch {batch_size}"] = [
            _ours("fit", batch_size, "float32", "ours, float32"),
            _ours("fit", batch_size, low, f"ours, {low}"),
            _recbole(batch_size),
            _session_peer("keras-rs", "gru4rec_keras_rs.py", batch_size, **steps),
            _ours("raw", batch_size, "float32", "ours without Keras' loop"),
            _ours("floor", batch_size, "float32", "floor, float32"),
            _ours("floor", batch_size, low, f"floor, {low}"),
        ]
    return groups


def _mf(label, kind, batch_size, precision="float32", rounds=None, /, **options):
    row = {
        "label": label,
        "script": "mf_ours.py",
        "options": {"kind": kind, **options},
        "shown": {"batch_size": batch_size, "precision": precision, "kind": kind},
    }
    return {**row, "rounds": rounds} if rounds else row


def _peer(label, script, **options):
    return {
        "label": label,
        "script": script,
        "options": options,
        "shown": {"batch_size": 1, "precision": "float32", "kind": "peer"},
        "peer": True,
    }


SURPRISE_TUNED = {"n_factors": 32, "n_epochs": 40, "lr_all": 0.01, "reg_all": 0.05}


FAST_PEERS = (  # factors, iterations, penalty; one row for each RMSE to reach
    ("LIBMF", 16, 7, 0.05),
    ("LIBMF", 32, 20, 0.05),
    ("cornac", 32, 22, 0.05),
    ("cornac", 32, 40, 0.05),
    ("LensKit", 32, 10, 0.1),
)


def _mf_groups(low):
    asked = low if low == "float16" else "float32"  # the published scripts, on an NPU
    published = [
        _mf("ours, published settings", "published", 512, asked, precision=asked),
        _mf("naive", "naive", 512, asked, precision=asked, threads=0),
        _mf("naive, one thread", "naive", 512, asked, precision=asked),
    ]
    tuned = {"epochs": 20, "learning_rate": 0.005, "regularization": 0.055}
    tuned = {"latent_dim": 32, "batch_size": 8192, **tuned}
    sgd = {"latent_dim": 32, "epochs": 40, "learning_rate": 0.01}
    quick = {"epochs": 2, "batch_size": 4096, "learning_rate": 0.02}
    quick = {**tuned, **quick, "regularization": 0.04}
    solved = {"latent_dim": 20, "regularization": 0.06, "epochs": 2}
    solved_32 = {"latent_dim": 32, "regularization": 0.07, "epochs": 6}
    to_rmse = [
        _mf("ours, ALS, 20 factors", "als", 1, warm=False, **solved),
        _mf("ours, ALS, 32 factors", "als", 1, warm=False, **solved_32),
        _mf("ours, quick", "best", 4096, warm=False, **quick),
        _mf("ours, tuned", "best", 8192, warm=False, **tuned),
        _peer("Surprise SVD, defaults", "mf_surprise.py", algorithm="SVD", warm=False),
        _peer(
            "Surprise SVD, tuned",
            "mf_surprise.py",
            algorithm="SVD",
            warm=False,
            **SURPRISE_TUNED,
        ),
        _peer("compiled SGD", "mf_sgd.py", regularization=0.05, **sgd),
        *(
            _peer(
                f"{program}, {dim} factors, {iterations} iterations",
                "mf_peers.py",
                program=program.lower(),
                latent_dim=dim,
                iterations=iterations,
                regularization=penalty,
                warm=False,
            )
            for program, dim, iterations, penalty in FAST_PEERS
        ),
    ]
    groups = {"published": published, "time to RMSE": to_rmse}
    for batch_size in (512, 2048, 8192, 32768):
        rows = [_mf("floor", "floor", batch_size)]
        rows[0]["options"]["batch_size"] = batch_size
        for precision in ("float32", low):
            row = _mf(f"ours, {precision}", "steps", batch_size, precision)
            row["options"].update(batch_size=batch_size, precision=precision)
            rows.append(row)
        rows.append(_mf("ours, one batch repeated", "repeated", batch_size))
        rows[-1]["options"]["batch_size"] = batch_size
        groups[f"batch {batch_size}"] = rows
    for solver in ("als", "gibbs"):
        label = f"ours, a sweep of {solver}"
        groups[f"sweep of {solver}"] = [
            _mf(f"{label}, MovieLens-1M", f"sweep {solver}", 1, warm=False),
            _mf(
                f"{label}, 100 million ratings", f"huge {solver}", 1, "float32", 1,
                warm=False,
            ),  # the first sweep, before the round, warms it up
        ]  # fmt: skip
    groups["100 million"] = [
        _mf(
            "ours, 100 million ratings", "huge", 2**20, "float32", 1, warm=False
        )  # an epoch warms it up
    ]
    return groups


def _peers_groups():
    """Surprise on the splits of ci/params/mf_*.yaml: RMSE and MAE, one round each."""
    algorithms = {
        "Surprise SVD, defaults": {"algorithm": "SVD"},
        "Surprise SVD, tuned": {"algorithm": "SVD", **SURPRISE_TUNED},
        "Surprise SVD++, defaults": {"algorithm": "SVD++", "cache_ratings": True},
    }
    groups = {}
    for split, share in (
        ("random", 0.1),
        ("random", 0.2),
        ("per_user_last", 0.2),
        ("global_time", 0.2),
    ):
        for label, options in algorithms.items():
            row = _peer(
                label, "mf_surprise.py", split=split, test_share=share, warm=False,
                **options,
            )  # fmt: skip
            row["shown"].update(split=split, test_share=share)
            groups[f"{split} {share} {label}"] = [{**row, "rounds": 1}]
    return groups


def _sessions_groups():
    """The session peers on the whole of Diginetica, one round each."""
    whole = {"data_path": "data/diginetica", "warm": False}
    rows = [
        _session_peer("GRU4Rec, RecBole", "gru4rec_recbole.py", **whole),
        _session_peer("GRU4Rec, keras-rs", "gru4rec_keras_rs.py", **whole),
    ]
    return {row["label"]: [{**row, "rounds": 1}] for row in rows}


COMPARE = {  # labels that every rate of the group is divided by
    "stamp": ("RecBole", "keras-rs", "cosine", "naive", "floor, float32")
    + ("floor, product",),
    "mf": ("naive", "floor"),
    "peers": (),
    "sessions": (),
}


def list_groups(bench: str, kind: str = "cpu") -> dict[str, list[dict]]:
    """Returns the groups of a bench: name -> rows.

    Args:
        bench: ``"stamp"``, ``"mf"``, ``"peers"`` or ``"sessions"``.
        kind: of the device that the workers open, see ``lib.hardware.device.Device``.
    """
    low = "float16" if kind == "npu" else "bfloat16"
    if bench == "stamp":
        return _stamp_groups(low, kind != "cpu")
    if bench == "sessions":
        return _sessions_groups()
    return _mf_groups(low) if bench == "mf" else _peers_groups()
