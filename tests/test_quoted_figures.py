"""Figures of real data that a sentence quotes follow from the records in results/."""

import functools
import json
import re
from statistics import mean

import pytest

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


def by_seed(folder, metric):
    return {r["seed"]: r["metrics"][metric] for r in runs(folder)}


def most_moved(metric):
    """The most that products in bfloat16 move a metric of STAMP, in points."""
    exact, rounded = (
        by_seed(f"stamp_precision/precision_mode={mode}", metric)
        for mode in ("must_keep_origin_dtype", "mixed_bfloat16")
    )
    return 100 * max(abs(exact[seed] - rounded[seed]) for seed in exact)


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


SPLITS = ("random", "per_user_last", "global_time", "modelzoo")
BIASES = "User + item bias"
RANDOM = "mf_movielens/test_share=0.1"
FIFTH = {
    "random": "mf_movielens/test_share=0.2",
    "per_user_last": "mf_movielens_splits/split=per_user_last",
    "global_time": "mf_movielens_splits/split=global_time",
}
# Page; the sentence, a group for each figure; the figures that follow from records.
QUOTED = [
    (
        "notebooks/02_preprocess.ipynb",
        r"column reads\s(.+), (.+), (.+), 0.906 and (\S+)\. RMSEs",
        lambda: [baseline(f"mf_published_settings/split={s}", BIASES) for s in SPLITS],
    ),
    (
        "notebooks/03_stamp.ipynb",
        r"V-SKNN has an HR@20 of (\S+) and beats plain STAMP, which has (\S+)\.",
        lambda: [
            baseline("stamp_paper/default", "V-SKNN", "hr_at_20"),
            reached("stamp_paper/default", "hr_at_20"),
        ],
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
        "notebooks/04_mf.ipynb",
        r"they gain (\S+) \((\S+) against (\S+), three seeds\)",
        lambda: [
            reached(RANDOM) - reached("mf_movielens_wide/default"),
            reached("mf_movielens_wide/default"),
            reached(RANDOM),
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
        r"bfloat16 moved the HR@20 of three seeds by (\S+) points at most",
        lambda: [most_moved("hr_at_20")],
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
            mean(
                min(row["rmse"] for row in record["history"])
                for record in runs(f"mf_published_settings/split={split}")
            )
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
    (found,) = re.finditer(sentence, read(page))
    told = [text for text in found.groups() if text is not None]
    expected = follow()
    assert len(told) == len(expected)
    for text, number in zip(told, expected):
        assert text == f"{number:.{len(text.partition('.')[2])}f}"
