"""Every measured figure that a sentence quotes follows from something recorded.

``QUOTED`` has the figures that follow from the records in results/, ``SHOWN`` of
``test_shown_figures.py`` those that a notebook prints. To add a sentence, add a line.
"""

import csv
import functools
import json
import math
import re
from statistics import mean

import pytest
from test_shown_figures import SHOWN, written

from lib.files import ROOT

RESULTS = ROOT / "results"


@functools.cache
def runs(folder):
    """The records of the seeds below a folder of results/."""
    paths = sorted((RESULTS / folder).glob("seed-*/result.json"))
    assert paths, folder
    return [json.loads(path.read_text("utf-8")) for path in paths]


def reached(folder, metric="rmse"):
    """The mean of a metric over the seeds."""
    return mean(record["metrics"][metric] for record in runs(folder))


def baseline(folder, name, metric="rmse"):
    """The mean of a baseline's metric over the seeds."""
    return mean(record["baselines"][name][metric] for record in runs(folder))


def count(folder, name):
    """A number of rows of the data that the runs of a folder read."""
    (number,) = {record["data"]["counts"][name] for record in runs(folder)}
    return number


def setting(folder, name):
    """A parameter of the runs of a folder."""
    (found,) = {record["parameters"][name] for record in runs(folder)}
    return found


def at_epoch(folder, number, metric="hr_at_20"):
    """The mean of a metric over the seeds after an epoch, counted from 1."""
    return mean(record["history"][number - 1][metric] for record in runs(folder))


def best_epochs(folder):
    """The lowest RMSE of each seed."""
    return [min(e["rmse"] for e in record["history"]) for record in runs(folder)]


def up(number, digits):
    """The bound of a figure that a sentence calls "less than" or "at most"."""
    return math.ceil(number * 10**digits) / 10**digits


@functools.cache
def bench(name, label, group=None):
    """A row of a record in results/bench; ``group`` where several have the label."""
    rows = json.loads((RESULTS / f"bench/{name}.json").read_text("utf-8"))["rows"]
    same = [r for r in rows if r["label"] == label and group in (None, r["group"])]
    (row,) = same
    return row


def faster(name, label, other, group=None):
    """How many times as fast a row of the bench is as another."""
    rates = [bench(name, each, group)["per_second"] for each in (label, other)]
    return rates[0] / rates[1]


def seconds_to(label, level):
    """Seconds of a row of the bench of MF to an RMSE."""
    return min(s for s, rmse in bench("mf", label)["curve"] if rmse <= level)


def seconds_of(label, ratings):
    """Seconds of a row of the bench of MF for so many ratings."""
    return ratings / bench("mf", *label)["per_second"]


@functools.cache
def turn(kind, label, millions):
    """The median turn of the bench of preparing data."""
    turns = json.loads((RESULTS / "bench/data.json").read_text("utf-8"))["turns"]
    key = kind, label, millions * 10**6
    same = [t for t in turns if (t["kind"], t["label"], t["size"]) == key]
    return sorted(same, key=lambda t: t["seconds"])[len(same) // 2]


def further(kind, low, high):
    """CPU seconds of DuckDB for a further million rows, from one size to another."""
    a, b = (turn(kind, "DuckDB", size)["cpu_seconds"] for size in (low, high))
    return (b - a) / (high - low)


def trained(kind):
    """What the training on 100 million rows said."""
    return json.loads(turn(kind, "training from memory maps", 100)["output"])


@functools.cache
def published(model, metric="rmse"):
    """A figure of results/published.csv."""
    with (RESULTS / "published.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    named = f"{model} (published)", metric
    (value,) = (r["value"] for r in rows if (r["model"], r["metric"]) == named)
    return float(value)


def part(name):
    """The RMSE of MF with one part changed."""
    (record,) = runs("mf_parts/default")
    return record["variations"][name]["rmse"]


def facts(*names, scale=1):
    """What notebook 01 found in the real data."""
    return [scale * reached("explore_full/default", name) for name in names]


def unknown_users():
    """The share of the last ratings of all users that new users gave, in percent."""
    return [100 * reached("preprocess_full/default", "unknown_users_global_time")]


def blends(name, take=mean):
    """A number of notebook 16, over the three networks."""
    folders = (f"stamp_blend/network={seed}" for seed in range(3))
    return take(run["metrics"][name] for folder in folders for run in runs(folder))


def attention(*names, scale=1):
    """What notebook 10 found in the attention of three networks of 03, on average."""
    folders = (f"stamp_attention/network={seed}" for seed in range(3))
    records = [run["metrics"] for folder in folders for run in runs(folder)]
    return [
        scale * mean(r[f"attention, both, {name}"] for r in records) for name in names
    ]


def by_length(*penalties):
    """The RMSE of 8, 32 and 128 factors, each with its penalty."""
    names = zip((8, 32, 128), penalties)
    return [part(f"MF, {dim} factors, penalty {penalty:g}") for dim, penalty in names]


def by_seed(folder, metric):
    """A metric by the seeds, which are in order."""
    return {r["seed"]: r["metrics"][metric] for r in runs(folder)}


def moves(metric):
    """By how much bfloat16 moves a metric of STAMP, seed by seed, in points."""
    exact, rounded = (by_seed(folder, metric) for folder in PRECISIONS)
    return [100 * (rounded[seed] - exact[seed]) for seed in exact]


def hit_rates():
    """HR@20 of STAMP with cosine scores, epoch after epoch, for each seed."""
    return [
        [row["hr_at_20"] for row in record["history"] if "hr_at_20" in row]
        for record in runs("stamp_normalized/default")
    ]


def speed_of_workers():
    """The rate of all workers, relative to that of one."""
    (timing,) = (record["timing"] for record in runs("scale_out/default"))
    return timing["examples_per_second"] / timing["examples_per_second_alone"]


PRECISIONS = [
    f"stamp_precision/precision_mode={mode}"
    for mode in ("must_keep_origin_dtype", "mixed_bfloat16")
]
SPLITS = ("random", "per_user_last", "global_time", "modelzoo")
BIASES = "User + item bias"
PORT = "stamp_full_1p/default"  # of STAMP, as published
RANDOM = "mf_movielens/test_share=0.1"
FIFTH = {
    "random": "mf_movielens/test_share=0.2",
    "per_user_last": "mf_movielens_splits/split=per_user_last",
    "global_time": "mf_movielens_splits/split=global_time",
}
# Page; the sentence, a group for each figure; the figures that follow from records.
QUOTED = [
    *(
        (
            "notebooks/01_explore_data.ipynb",
            rf"\| {row} \| [^|]+ \| {figures}",
            functools.partial(facts, *names, scale=100 if "%" in figures else 1),
        )
        for row, figures, *names in (
            (
                "clicks in a session: median, mean",
                r"(\S+), (\S+) \(the copy",
                "clicks a session, median",
                "clicks a session, mean",
            ),
            (
                "ratings: mean, standard deviation",
                r"(\S+), (\S+) \|",
                "stars, mean",
                "stars, standard deviation",
            ),
            ("ratings of a user: median", r"(\S+) \|", "ratings of a user, median"),
            *(
                (row, r"(\S+) % \|", name)
                for row, name in (
                    ("sessions of more than 19 clicks",) * 2,
                    (
                        "share of items that .*?",
                        "items that receive half of the clicks",
                    ),
                    ("next items that are already in the session", "repeats"),
                    (
                        "next items that equal the last click",
                        "repeats of the last click",
                    ),
                    ("users who rated everything within one day", "users of one day"),
                )
            ),
        )
    ),
    (
        "notebooks/16_combine_stamp_with_a_knn.ipynb",
        r"network alone has an HR@20 of (\S+), VSTAN (\S+) and the blend (\S+), with "
        r"the weight (\S+) that .* goes from (\S+) and (\S+) to (\S+)\. There .*, "
        r"(\S+) points",
        lambda: [
            *(blends(f"hr_at_20, {name}") for name in ("STAMP", "VSTAN", "blend")),
            blends("weight"),
            *(blends(f"mrr_at_20, {name}") for name in ("STAMP", "VSTAN", "blend")),
            100 * (blends("hr_at_20, blend", max) - blends("hr_at_20, blend", min)),
        ],
    ),
    (
        "docs/results.md",
        r"its training took (\S+) s on two cores, .* negatives, in (\S+) s\.",
        lambda: [
            bench("sessions", f"GRU4Rec, {name}")["seconds"]
            for name in ("RecBole", "keras-rs")
        ],
    ),
    (
        "docs/results.md",
        r"weight of VSTAN beside the network, (\S+), with a network",
        lambda: [blends("weight")],
    ),
    *(
        (page, sentence, unknown_users)
        for page, sentence in (
            ("notebooks/02_preprocess.ipynb", r"ratings here, (\S+) % on MovieLens-1M"),
            ("notebooks/05_accuracy_and_throughput.ipynb", r"(\S+) % of these ratings"),
            ("docs/results.md", r"(\S+) % of these ratings are by users without any"),
        )
    ),
    (
        "notebooks/02_preprocess.ipynb",
        r"column reads (\S+), (\S+), (\S+), (\S+) and (\S+)\. RMSEs",
        lambda: [
            reached("preprocess_full/default", f"bias_rmse_{split}")
            for split in (*SPLITS[:3], "by_pair", SPLITS[3])
        ],
    ),
    (
        "notebooks/03_stamp.ipynb",
        r"V-SKNN has an HR@20 of (\S+) and VSTAN (\S+)\. Both beat plain STAMP, which "
        r"has (\S+)\.",
        lambda: [
            baseline("stamp_paper/default", "V-SKNN", "hr_at_20"),
            baseline("stamp_neighbours/default", "VSTAN", "hr_at_20"),
            reached("stamp_paper/default", "hr_at_20"),
        ],
    ),
    (
        "notebooks/03_stamp.ipynb",
        r"with both it is (\S+) \(",
        lambda: [reached("stamp_neighbours/default", "hr_at_20")],
    ),
    (
        "notebooks/03_stamp.ipynb",
        r"raise HR@20 from (\S+) to (\S+) \(",
        lambda: [
            reached(f"stamp_{variant}/default", "hr_at_20")
            for variant in ("paper", "normalized")
        ],
    ),
    (
        "notebooks/04_mf.ipynb",
        r"Adam ends at RMSE (\S+) and Gibbs sampling of the same model at (\S+) \(",
        lambda: [reached(RANDOM), reached("mf_gibbs/default")],
    ),
    (
        "notebooks/18_take_mf_apart.ipynb",
        r"three seeds differ by (\S+), and the penalty matters more: it is worth (\S+) "
        r"stars\. There 32 factors are (\S+) better than 8; the biases are worth "
        r"(\S+), .* 128 factors gain (\S+) on 32\.",
        lambda: [
            reached("mf_parts/default", "spread"),
            part("MF, no penalty") - part("MF"),
            part("MF, 8 factors") - part("MF"),
            part("MF, no biases") - part("MF"),
            part("MF") - part("MF, 128 factors"),
        ],
    ),
    (
        "notebooks/18_take_mf_apart.ipynb",
        r"where the penalty was (\S+), short .* best with half of that, (\S+) instead "
        r"of (\S+): .* are best with (\S+)\. There .* 128 factors have (\S+), (\S+) "
        r"and (\S+)\.",
        lambda: [
            setting("mf_parts/default", "regularization"),
            *(part(f"MF, 8 factors, penalty {x}") for x in (0.0275, 0.055)),
            setting("mf_parts/default", "regularization"),
            *by_length(0.0275, 0.055, 0.055),
        ],
    ),
    (
        "notebooks/18_take_mf_apart.ipynb",
        r"of their own they gain (\S+), as a mean over three random splits \((\S+) "
        r"against (\S+)\); .* on which 32 factors have (\S+)\.",
        lambda: [
            reached(RANDOM) - reached("mf_movielens_wide/default"),
            reached("mf_movielens_wide/default"),
            reached(RANDOM),
            part("MF"),
        ],
    ),
    *(
        (
            "notebooks/04_mf.ipynb",
            rf"\| `{split}` \| (\S+) \| (\S+) \|",
            lambda folder=folder: [baseline(folder, BIASES), reached(folder)],
        )
        for split, folder in FIFTH.items()
    ),
    (
        "notebooks/04_mf.ipynb",
        r"what MF adds to the biases shrinks from (\S+) to (\S+)\.",
        lambda: [
            baseline(FIFTH[split], BIASES) - reached(FIFTH[split])
            for split in ("random", "global_time")
        ],
    ),
    (
        "notebooks/06_audit_the_published_stamp.ipynb",
        r"raises the mean HR@20 of three seeds from (\S+) to (\S+);",
        lambda: [
            reached(folder, "hr_at_20")
            for folder in ("stamp_full_1p/default", "stamp_audit/mask")
        ],
    ),
    *(
        (
            f"notebooks/{page}.ipynb",
            r"on one machine reach(?:ed)? (\S+) times the speed of one",
            lambda: [speed_of_workers()],
        )
        for page in ("05_accuracy_and_throughput", "09_scale_out")
    ),
    (
        "notebooks/10_neighbours_and_positions.ipynb",
        r"\(`results/stamp_attention`\) differ by (\S+) % of their size, and flat ones "
        r"lower HR@20 from (\S+) to (\S+), in prefixes of four clicks and more from "
        r"(\S+) to (\S+):",
        lambda: [
            *attention("inequality", scale=100),
            *attention(
                "HR@20",
                "flat weights",
                "HR@20, 4 clicks and more",
                "flat weights, 4 clicks and more",
            ),
        ],
    ),
    (
        "notebooks/11_audit_the_leaderboard.ipynb",
        r"the best epoch adds at most (\S+) points to HR@20",
        lambda: [100 * max(max(rates) - rates[-1] for rates in hit_rates())],
    ),
    (
        "notebooks/11_audit_the_leaderboard.ipynb",
        r"less than two seeds do \((\S+) points",
        lambda: [
            100 * (max(last) - min(last)) for last in [list(zip(*hit_rates()))[-1]]
        ],
    ),
    (
        "notebooks/12_solve_mf_exactly.ipynb",
        r"ALS ends at (\S+), Adam at (\S+) and Gibbs sampling at (\S+) \(",
        lambda: [reached(f) for f in ("mf_als/default", RANDOM, "mf_gibbs/default")],
    ),
    (
        "notebooks/12_solve_mf_exactly.ipynb",
        r"the two together bring (\S+) down to (\S+) \(",
        lambda: [reached(f"{f}/default") for f in ("mf_gibbs", "mf_gibbs_extended")],
    ),
    (
        "notebooks/13_audit_the_published_mf.ipynb",
        r"prints 0.84 for both (\S+) and (\S+), the results",
        lambda: [reached(RANDOM), reached("mf_movielens_wide/default")],
    ),
    (
        "notebooks/15_make_the_softmax_cheap.ipynb",
        r"bfloat16 moved the HR@20 of three seeds by (\S+) points at most, .* "
        r"lie (\S+) points apart",
        lambda: [
            max(map(abs, moves("hr_at_20"))),
            *(
                100 * (max(seeds) - min(seeds))
                for seeds in [by_seed(PRECISIONS[0], "hr_at_20").values()]
            ),
        ],
    ),
    (
        "docs/results.md",
        r"of MF: (\S+) \(128 factors\), (\S+) and (\S+)\.|"
        r"the hardest for MF: (\S+) \(128 factors\), (\S+) and (\S+)\.",
        lambda: [
            by_seed(folder, "rmse")[0]
            for folder in ("mf_movielens_wide/default", RANDOM, FIFTH["random"])
        ],
    ),
    (
        "docs/results.md",
        r"at its best epoch, RMSE is (\S+) on random 80/20, (\S+) on the last ratings "
        r"of each user and (\S+) on the last of all",
        lambda: [
            mean(best_epochs(f"mf_published_settings/split={split}"))
            for split in SPLITS[:3]
        ],
    ),
    (
        "docs/results.md",
        r"50, 80 and 95 % of the test ratings hold (\S+), (\S+) and (\S+) %",
        lambda: [
            100 * reached("mf_gibbs_global_time/default", f"coverage_{percent}")
            for percent in (50, 80, 95)
        ],
    ),
    (
        "docs/results.md",
        r"with 32 factors, they hold (\S+), (\S+) and (\S+) %",
        lambda: [
            100 * reached("mf_gibbs/default", f"coverage_{percent}")
            for percent in (50, 80, 95)
        ],
    ),
    (
        "docs/results.md",
        r"It trains (\S+) to (\S+) examples a second in bfloat16 and (\S+) to (\S+) in",
        lambda: [
            round(end(r["timing"]["examples_per_second"] for r in runs(folder)), -2)
            for folder in reversed(PRECISIONS)
            for end in (min, max)
        ],
    ),
    (
        "docs/results.md",
        r"bfloat16 changes HR@20 by (\S+) to (\S+) and MRR@20 by (\S+) to (\S+), on "
        r"average by (\S+) and (\S+): seeds",
        lambda: [
            *(end(moves(m)) for m in ("hr_at_20", "mrr_at_20") for end in (min, max)),
            *(mean(moves(m)) for m in ("hr_at_20", "mrr_at_20")),
        ],
    ),
    (
        "docs/results.md",
        r"seeds 0, 1 and 2 reach (\S+), (\S+) and (\S+) in float32 \(MRR@20 (\S+), "
        r"(\S+), (\S+)\), and (\S+), (\S+) and (\S+) in bfloat16 \((\S+), (\S+), "
        r"(\S+)\)",
        lambda: [
            100 * number
            for folder in PRECISIONS
            for metric in ("hr_at_20", "mrr_at_20")
            for number in by_seed(folder, metric).values()
        ],
    ),
    (
        "docs/results.md",
        r"random splits are (\S+) at 90/10 \(AutoRec paper\) and (\S+) to (\S+) at",
        lambda: [published(f"BiasedMF{k}") for k in ("", " k=40", " k=10")],
    ),
    (
        "docs/results.md",
        r"changes by less than (\S+)\. ##",
        lambda: [
            up(max(abs(a - b) for a, b in zip(*both)), 4)
            for both in [
                [
                    by_seed(f, "rmse").values()
                    for f in ("mf_static/static=False", RANDOM)
                ]
            ]
        ],
    ),
    (
        "docs/results.md",
        r"The STAMP port stops after (\S+) steps",
        lambda: [setting(PORT, "epochs") * setting(PORT, "steps_per_epoch")],
    ),
    (
        "docs/results.md",
        r"batch (\S+), learning rate (\S+), (\S+) epochs, (\S+) factors, here",
        lambda: [
            setting("mf_published_settings/split=random", name)
            for name in ("batch_size", "learning_rate", "epochs", "latent_dim")
        ],
    ),
    (
        "docs/benchmarks.md",
        r"log of Diginetica's size with (\S+) items",
        lambda: [count("stamp_paper/default", "items")],
    ),
    (
        "docs/benchmarks.md",
        r"the factors at batch 512 are (\S+) and (\S+)\. RecBole",
        lambda: [
            bench("stamp", f"ours, {kind}", "batch 512")["per_second"]
            / bench("stamp", "RecBole", "batch 512")["fastest"]
            for kind in ("bfloat16", "float32")
        ],
    ),
    (
        "docs/benchmarks.md",
        r"RecBole's rounds differ by a factor of up to (\S+)\. ",
        lambda: [
            max(
                row["fastest"] / row["slowest"]
                for batch in (128, 256, 512, 1024)
                for row in [bench("stamp", "RecBole", f"batch {batch}")]
            )
        ],
    ),
    (
        "docs/benchmarks.md",
        r"examples, (\S+) times as long in float32 and (\S+) times in bfloat16",
        lambda: [
            bench("stamp", "cosine", group)["per_second"]
            / bench("stamp", "cosine, neighbours and positions", group)["per_second"]
            for group in ("options, float32", "options, bfloat16")
        ],
    ),
    (
        "docs/benchmarks.md",
        r"STAMP itself reaches (\S+) examples a second on TensorFlow 2.21, (\S+) times",
        lambda: [
            bench("stamp-naive", "ours, bfloat16")["per_second"],
            faster("stamp-naive", "ours, bfloat16", "naive"),
        ],
    ),
    (
        "docs/benchmarks.md",
        r"way takes (\S+) MB, the same network on the cheaper graph (\S+) MB",
        lambda: [
            bench("stamp-naive", label)["peak_mb"]
            for label in ("naive", "ours, same losses")
        ],
    ),
    (
        "docs/benchmarks.md",
        r"answered at (\S+) sessions a second",
        lambda: [bench("stamp", "ours, a file of sessions")["per_second"]],
    ),
    (
        "docs/benchmarks.md",
        r"That is (\S+) times the port's way of training, or (\S+) times if",
        lambda: [
            faster("mf", "ours, published settings", other)
            for other in ("naive", "naive, one thread")
        ],
    ),
    (
        "docs/benchmarks.md",
        r"\((\S+) s of the first row\)",
        lambda: [bench("mf", "ours, ALS, 20 factors")["tracing_s"]],
    ),
    (
        "docs/benchmarks.md",
        r"It takes (\S+) times as long as LIBMF to (?:\S+) and",
        lambda: [
            seconds_to("ours, ALS, 20 factors", 0.865)
            / seconds_to("LIBMF, 16 factors, 7 iterations", 0.865)
        ],
    ),
    (
        "docs/benchmarks.md",
        r"cornac is ahead at both, by (\S+) and (\S+) s\.",
        lambda: [
            seconds_to("ours, ALS, 20 factors", level)
            - seconds_to(f"cornac, 32 factors, {iterations} iterations", level)
            for level, iterations in ((0.865, 22), (0.85, 40))
        ],
    ),
    (
        "docs/benchmarks.md",
        r"floor of an epoch is (\S+) ms, the steps take (\S+) ms and with reading "
        r"(\S+) ms",
        lambda: [
            1000
            * count(RANDOM, "train_ratings")
            / bench("mf", label, "batch 32768")["per_second"]
            for label in ("floor", "ours, one batch repeated", "ours, float32")
        ],
    ),
    (
        "docs/benchmarks.md",
        r"sweep of 100 million takes (\S+) \(ALS\) and (\S+) \(Gibbs\) times as long",
        lambda: [
            faster("mf", f"{sweep}, MovieLens-1M", f"{sweep}, 100 million ratings")
            for sweep in ("ours, a sweep of als", "ours, a sweep of gibbs")
        ],
    ),
    (
        "docs/benchmarks.md",
        r"on the 100 million, at batch (\S+), takes (\S+) s",
        lambda: [
            bench("mf", "ours, 100 million ratings")["batch_size"],
            1e8 / bench("mf", "ours, 100 million ratings")["per_second"],
        ],
    ),
    *(
        (
            page,
            sentence,
            lambda: [
                faster("stamp-naive-ascend", label, "naive")
                for label in ("ours, same losses", "ours, float32")
            ],
        )
        for page, sentence in (
            ("docs/ascend.md", r"(\S+) times for the port's network, (\S+) times for"),
            ("docs/ascend.zh-CN.md", r"迁移脚本网络 (\S+) 倍，STAMP 本身 (\S+) 倍"),
        )
    ),
    *(
        (
            page,
            sentence,
            lambda: [
                setting(PORT, "steps_per_epoch") * setting(PORT, "batch_size"),
                round(count(PORT, "train_examples"), -2),
            ],
        )
        for page, sentence in (
            ("docs/ascend.md", r"is 50 steps: (?P<a>\S+) of about (?P<b>\S+) training"),
            (
                "docs/ascend.zh-CN.md",
                r"50 步：约 (?P<b>\S+) 个训练样本中的 (?P<a>\S+) 个",
            ),
        )
    ),
    (
        "docs/data.md",
        r"takes DuckDB (\S+) CPU seconds up to 10 million and (\S+) up to 100 million",
        lambda: [further("sessions", 1, 10), further("sessions", 10, 100)],
    ),
    (
        "docs/data.md",
        r"memory stays at the limit and (\S+) GB\. pandas .* memory, (\S+) GB at",
        lambda: [
            turn("sessions", "DuckDB", 100)["peak_mb"] / 1000 - 1,
            turn("sessions", "pandas", 100)["peak_mb"] / 1000,
        ],
    ),
    (
        "docs/data.md",
        r"the process takes up to (\S+) GB more",
        lambda: [
            up(
                max(
                    turn(kind, label, size)["peak_mb"] / 1000 - 1
                    for kind in ("sessions", "ratings")
                    for label in ("DuckDB", "DuckDB, CSV")
                    for size in (1, 10, 100)
                ),
                1,
            )
        ],
    ),
    (
        "docs/data.md",
        r"a further million took DuckDB (\S+) and then (\S+) CPU seconds",
        lambda: [further("ratings", 1, 10), further("ratings", 10, 100)],
    ),
    (
        "docs/data.md",
        r"rows takes (\S+) times as long .* \((\S+) steps of (\S+)\), and (\S+) times "
        r"for MF \((\S+) steps of (\S+)\)\. The process has (\S+) MB of private memory "
        r"for STAMP, and (\S+) MB for MF",
        lambda: [
            *(
                trained(kind)[name]
                for kind in ("sessions", "ratings")
                for name in ("slower", "steps", "batch_size")
            ),
            *(trained(kind)["private_mb"] for kind in ("sessions", "ratings")),
        ],
    ),
    (
        "docs/data.md",
        r"grows linearly \| (\S+) s \| (\S+) hours, (\S+) minutes on two cores",
        lambda: [
            seconds * 10 / scale
            for seconds in [turn("sessions", "DuckDB", 100)["cpu_seconds"]]
            for scale in (1000, 3600, 120)
        ],
    ),
    (
        "docs/data.md",
        r"n log n\) \| \| (\S+) hours",
        lambda: [
            turn("sessions", "DuckDB", 100)["cpu_seconds"]
            * (10 * math.log(1e9) / math.log(1e8))
            / 3600
        ],
    ),
    (
        "docs/data.md",
        r"training examples \| (\S+) million \| (\S+) billion",
        lambda: 2 * [trained("sessions")["examples"] / 1e8],
    ),
    (
        "docs/data.md",
        r"epoch at (\S+) examples/s .*, (\S+) items\) \| (\S+) s \| (\S+) hours",
        lambda: [
            each
            for rate in [bench("stamp", "ours, float32", "batch 512")["per_second"]]
            for seconds in [trained("sessions")["examples"] / 100 / rate]
            for each in (
                rate,
                count("stamp_paper/default", "items"),
                seconds,
                seconds / 3.6,
            )
        ],
    ),
    (
        "notebooks/02_preprocess.ipynb",
        r"it gives (\S+) training sessions with (\S+) examples, (\S+) test "
        r"sessions with "
        r"(\S+) examples, and (\S+) items",
        lambda: runs("stamp_paper/default")[0]["data"]["counts"].values(),
    ),
    (
        "notebooks/03_stamp.ipynb",
        r"later papers report (\S+) % for .* and (\S+) % belongs to it",
        lambda: 2 * [100 * published("STAMP", "hr_at_20")],
    ),
    (
        "notebooks/06_audit_the_published_stamp.ipynb",
        r"reaches an HR@20 of (\S+), the items of the session (\S+), and the "
        r"items that "
        r"most often followed the last click (\S+)\.",
        lambda: [
            baseline("stamp_paper/default", name, "hr_at_20")
            for name in ("POP", "S-POP", "Markov")
        ],
    ),
    (
        "notebooks/06_audit_the_published_stamp.ipynb",
        r"A quarter of Diginetica's test windows \((\S+) %\) hold a single click",
        lambda: [100 * count(PORT, "test_sessions") / count(PORT, "test_examples")],
    ),
    (
        "notebooks/06_audit_the_published_stamp.ipynb",
        r"the port's remove (\S+) of (\S+) items",
        lambda: [
            count("stamp_audit/rules", "items") - count(PORT, "items"),
            count("stamp_audit/rules", "items"),
        ],
    ),
    (
        "notebooks/06_audit_the_published_stamp.ipynb",
        r"contains about 500 of (\S+) items.* tensor of 128 × (\S+) × 100 "
        r"numbers: (\S+) "
        r"GB for a batch",
        lambda: [
            *2 * [count(PORT, "items")],
            128 * count(PORT, "items") * 100 * 4 / 1e9,
        ],
    ),
    (
        "notebooks/06_audit_the_published_stamp.ipynb",
        r"among 809 items here, and among (\S+) there",
        lambda: [count(PORT, "items")],
    ),
    (
        "notebooks/05_accuracy_and_throughput.ipynb",
        r"and has (\S+) there against (\S+) in the mean",
        lambda: [bench("mf", "ours, tuned")["rmse"], reached(RANDOM)],
    ),
    (
        "notebooks/05_accuracy_and_throughput.ipynb",
        r"lower by (\S+) than Adam, and .* lower Adam's by (\S+)\.",
        lambda: [
            reached(RANDOM) - reached(folder)
            for folder in ("mf_gibbs/default", "mf_movielens_wide/default")
        ],
    ),
    (
        "notebooks/06_audit_the_published_stamp.ipynb",
        r"network, too, has (\S+) \(\*order of time alone",
        lambda: [reached("stamp_audit/order-alone", "hr_at_20")],
    ),
    (
        "notebooks/05_accuracy_and_throughput.ipynb",
        r"\(batch, items, dim\), (\S+) GB for a batch of 128",
        lambda: [128 * count("stamp_paper/default", "items") * 100 * 4 / 1e9],
    ),
    (
        "notebooks/06_audit_the_published_stamp.ipynb",
        r"published run, after (\S+) steps",
        lambda: [setting(PORT, "epochs") * setting(PORT, "steps_per_epoch")],
    ),
    (
        "notebooks/06_audit_the_published_stamp.ipynb",
        r"trains (\S+) times as fast in a seventh",
        lambda: [faster("stamp-naive", "ours, same losses", "naive")],
    ),
    (
        "notebooks/06_audit_the_published_stamp.ipynb",
        r"A whole epoch has (\S+) times as many examples as the port draws",
        lambda: [
            count(PORT, "train_examples")
            / math.prod(
                setting(PORT, n) for n in ("epochs", "steps_per_epoch", "batch_size")
            )
        ],
    ),
    (
        "notebooks/06_audit_the_published_stamp.ipynb",
        r"the port reaches (\S+) after one epoch.* which end at (\S+);.* taken "
        r"(\S+) for",
        lambda: [
            reached("stamp_audit/penalty", "hr_at_20"),
            reached("stamp_paper/default", "hr_at_20"),
            reached("stamp_audit/rules", "hr_at_20"),
        ],
    ),
    (
        "notebooks/09_scale_out.ipynb",
        r"a step of (\S+) examples, .* has here, took (\S+) to (\S+) ms, by processor",
        lambda: [
            each
            for size in [setting("stamp_paper/default", "batch_size")]
            for rates in [
                [
                    record["timing"]["examples_per_second"]
                    for folder in ("stamp_paper/default", *PRECISIONS)
                    for record in runs(folder)
                ]
            ]
            for each in (size, 1000 * size / max(rates), 1000 * size / min(rates))
        ],
    ),
    (
        "notebooks/11_audit_the_leaderboard.ipynb",
        r"items instead of (\S+) \(LESSR's .* Diginetica has (\S+) test examples",
        lambda: [
            count("stamp_paper/default", name) for name in ("items", "test_examples")
        ],
    ),
    (
        "notebooks/13_audit_the_published_mf.ipynb",
        r"training ratings has an RMSE of (\S+) on this test part, and user and item "
        r"biases have (\S+)\.",
        lambda: [
            baseline("mf_full_static_1p/default", name)
            for name in ("Global mean", BIASES)
        ],
    ),
    (
        "notebooks/13_audit_the_published_mf.ipynb",
        r"below the global mean \((\S+), by time (\S+)\)",
        lambda: [
            baseline(folder, "Global mean")
            for folder in ("mf_full_static_1p/default", "mf_audit/time")
        ],
    ),
    (
        "notebooks/13_audit_the_published_mf.ipynb",
        r"a global mean, loses (\S+) stars without them",
        lambda: [part("MF, no biases") - part("MF")],
    ),
    (
        "notebooks/13_audit_the_published_mf.ipynb",
        r"the (\S+) ratings after the last whole batch .* with (\S+) batches an "
        r"epoch .* "
        r"MovieLens-1M's (\S+) training ratings.* instead of (\S+)\. .* line for "
        r"each of (\S+) ",
        lambda: [
            each
            for n in [count("mf_full_static_1p/default", "train_ratings")]
            for each in (n % 512, n // 512, n, n // 512, n // 512)
        ],
    ),
    (
        "notebooks/13_audit_the_published_mf.ipynb",
        r"the same weight for each rating \((\S+) in these runs\)",
        lambda: [setting("mf_audit/penalty", "regularization")],
    ),
    (
        "notebooks/13_audit_the_published_mf.ipynb",
        r"after the other fixes it still removes (\S+) stars",
        lambda: [reached("mf_audit/time") - reached("mf_audit/penalty")],
    ),
    (
        "notebooks/13_audit_the_published_mf.ipynb",
        r"The chain ends at (\S+); the settings .* reach (\S+) on .* thirteenth, at "
        r"(\S+)\.",
        lambda: [
            reached("mf_audit/penalty"),
            reached(FIFTH["per_user_last"]),
            mean(best_epochs("mf_audit/penalty")),
        ],
    ),
]


def read(page):
    """The prose of a page, its line ends and repeated blanks as one blank."""
    text = (ROOT / page).read_text(encoding="utf-8")
    if page.endswith(".ipynb"):
        cells = json.loads(text)["cells"]
        told = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
        text = "\n\n".join(told)
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize(("page", "sentence", "follow"), QUOTED)
def test_a_quoted_figure_follows_from_the_records(page, sentence, follow):
    found = list(re.finditer(sentence, read(page)))
    assert len(found) == 1, f"{page} has {len(found)} times: {sentence}"
    named = sorted(found[0].groupdict().items())
    quoted = [text for _, text in named] or [t for t in found[0].groups() if t]
    numbers = list(follow())
    about = f"{page} quotes {quoted} in: {found[0][0]}"
    assert len(quoted) == len(numbers), f"{about}\nthe records say {numbers}"
    expected = [written(number, text) for text, number in zip(quoted, numbers)]
    assert quoted == expected, f"{about}\nthe records say {expected}"


# Figures of the prose that nothing here has measured: settings, definitions, versions,
# and what papers and other programs say. Pages are those of docs/ and notebooks/.
GIVEN = {
    "results": "0.8140 0.8161 20% 95% 0.001 0.01 0.05 0.3",
    "benchmarks": "2.21 0.865 0.850 32,768",
    "02": "60% 45.64%",
    "03": "0.44 62.03% 62%",
    "04": "5.3",
    "05": "0.86",
    "06": "0.00006 0.00002 0.00000003 2.16",
    "08": "1,000",
    "09": "90%",
    "11": "42,596",
    "12": "80% 0.06 0.08 0.1 0.16",
    "13": "0.8 0.2 0.84 0.08",
    "15": "1,000",
    "17": "1,000",
}
# Figures that were measured, but that no record and no printed line holds: only a plot
# does, or nothing. A new one belongs into a record instead.
UNRECORDED = {
    "benchmarks": "10%",
    "data": "38%",
    "03": "0.67 0.70 0.025 0.641",
    "04": "0.8295",
    "06": "0.3% 52% 0.32 3.7 58% 3.1 78% 0.56",
    "07": "2,000 0.63 0.02 70%",
    "08": "10.9 13.4",
    "10": "10.9 13.4 2.5",
    "12": "0.85",
    "13": "3.6 8.9% 0.03% 1.4%",
    "16": "0.6",
}
PROSE = sorted(
    ["docs/results.md", "docs/benchmarks.md", "docs/data.md"]
    + [path.relative_to(ROOT).as_posix() for path in ROOT.glob("notebooks/*.ipynb")]
)
FIGURE = re.compile(r"(?<![\w.,/=-])-?\d+(,\d{3})*(\.\d+)?( %)?(?!\w|\.\d)")
ASIDE = re.compile(r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|\]\([^)]*\)")


def short(page):
    """The number of a notebook, or the name of a page of docs/."""
    return re.split("[_.]", page.partition("/")[2])[0]


def figures(page):
    """``{figure: its sentence}`` of the prose of a page that no list follows.

    A figure has decimals, thousands or a percent sign. Code, formulas and links are
    left out, and so are the tables of docs/, which other tests compare.
    """
    text = read(page)
    if page.endswith(".md"):
        lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
        text = re.sub(r"\s+", " ", "\n".join(x for x in lines if x[:1] != "|"))
    sentences = [sentence for name, sentence, _ in QUOTED if name == page]
    sentences += [line[1] for line in SHOWN if line[0] == short(page)]
    followed = {
        found.start(group)
        for sentence in sentences
        for found in re.finditer(sentence, text)
        for group in range(1, len(found.groups()) + 1)
    }
    prose = ASIDE.sub(lambda found: " " * len(found[0]), text)
    return {
        found[0].replace(" ", ""): text[max(found.start() - 60, 0) : found.end() + 20]
        for found in FIGURE.finditer(prose)
        if any(found.groups()) and found.start() not in followed
    }


@pytest.mark.parametrize("page", PROSE)
def test_every_figure_of_the_prose_is_followed_or_listed(page):
    alone = figures(page)
    listed = [
        *GIVEN.get(short(page), "").split(),
        *UNRECORDED.get(short(page), "").split(),
    ]
    new = {figure: place for figure, place in alone.items() if figure not in listed}
    assert not new, f"{page}: no line of QUOTED, SHOWN or GIVEN has {new}"
    gone = [figure for figure in listed if figure not in alone]
    assert not gone, f"{page} needs no longer list {gone}: the figures are followed"


def test_the_figures_of_a_page_are_found():
    """So that a list can be empty only where nothing is quoted."""
    assert {"0.8140", "20%"} <= set(figures("docs/results.md"))
    assert "0.641" in figures("notebooks/03_stamp.ipynb")
