"""Every figure of the sample that a notebook quotes is one that it has printed."""

import functools
import json
import math
import re

import pytest

from lib.files import ROOT

NEAREST = 3  # cells with printed lines that a sentence may quote from


@functools.cache
def cells(number):
    """``(kind, text)`` of a notebook's cells: Markdown, or what code has printed."""
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    found = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        texts = [cell["source"]] if cell["cell_type"] == "markdown" else []
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            texts += [output.get("text", [])]
            texts += [] if "image/png" in data else [data.get("text/plain", [])]
        found.append((cell["cell_type"], "\n".join("".join(lines) for lines in texts)))
    return found


def printed(number, pattern):
    """The groups of a pattern in all that a notebook prints, as numbers."""
    texts = "\n".join(text for kind, text in cells(number) if kind == "code")
    found = re.search(pattern, texts)
    assert found, f"notebook {number} prints nothing like {pattern}"
    return [float(text.replace(",", "")) for text in found.groups()]


def fall(number, pattern, scale=1):
    """The first number that a pattern finds less the second."""
    first, second = printed(number, pattern)
    return scale * (first - second)


def written(number, text):
    """A number as a figure of a text is written: its digits, its thousands."""
    digits = len(text.partition(".")[2])
    return f"{number:{',' if ',' in text else ''}.{digits}f}"


def nearest(number, sentence):
    """The numbers that the cells before a sentence print, nearest cell first."""
    told = [
        place
        for place, (kind, text) in enumerate(cells(number))
        if kind == "markdown" and re.search(sentence, re.sub(r"\s+", " ", text))
    ]
    assert len(told) == 1, f"notebook {number}: {len(told)} cells have {sentence!r}"
    before = [text for kind, text in cells(number)[: told[0]] if kind == "code"]
    shown = [text for text in reversed(before) if text.strip()][:NEAREST]
    numbers = re.findall(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?", "\n".join(shown))
    return [float(text.replace(",", "")) for text in numbers]


def hits():
    """Of notebook 16: hits of both, of STAMP alone, of VSTAN alone; hits of none."""
    return printed("16", r"\nhit +(\d+) +(\d+)\nmiss +(\d+) +(\d+)")


# Number of the notebook; the sentence, a group for each figure; and, unless the nearest
# cells before the sentence print the figures themselves, the figures that follow.
SHOWN = [
    (
        "01",
        r"with (\S+) items in categories",
        lambda: printed("01", r"products.csv: (\S+) rows"),
    ),
    (
        "01",
        r"median, mean \| (\S+), (\S+) \|",
        lambda: printed("01", r"median (\d+)\nmean (\S+),")[:2],
    ),
    (
        "01",
        r"more than 19 clicks \| (\S+) % \|",
        lambda: printed("01", r"more than 19: (\S+)%"),
    ),
    (
        "01",
        r"half of the clicks \| (\S+) % \|",
        lambda: printed("01", r"items \((\S+)%\) receive half"),
    ),
    (
        "01",
        r"already in the session \| (\S+) % .*equal the last click \| (\S+) % \|",
        lambda: printed("01", r"in the session: (\S+)%; .* last click: (\S+)%"),
    ),
    ("01", r"ratings: mean, standard deviation \| (\S+), (\S+) \|"),
    ("01", r"ratings of a user: median \| (\S+) \|"),
    ("01", r"rated everything within one day \| (\S+) % \|"),
    ("01", r"still spread over (\S+) items"),
    ("01", r"Sessions are short: (\S+) % of them"),
    ("01", r"scale: (\S+) % are four or five"),
    (
        "02",
        r"only (\S+) % of the clicks are tied",
        lambda: [
            100
            * printed("02", r"do not order: (\d+)")[0]
            / printed("02", r"clicks or more, again +(\d+)")[0]
        ],
    ),
    (
        "02",
        r"(\S+) of the (\S+) clicks of the last days are on (\S+) items",
        lambda: [
            fall("02", r"of the last days +(\d+)(?s:.*)of the training part +(\d+)"),
            *printed("02", r"sessions of the last days +(\d+)"),
            fall("02", r"last days +\d+ +\d+ +(\d+)\n.* part +\d+ +\d+ +(\d+)"),
        ],
    ),
    ("02", r"training rating \((\S+) % of the test ratings here"),
    (
        "02",
        r"The gain of (\S+) stars is small",
        lambda: [-fall("02", r"mean: (\S+) with the leak, (\S+) without")],
    ),
    ("03", r"highest after the fourth \((\S+)\) and ends at (\S+)\."),
    ("03", r"the lead over SKNN \((\S+)\) is not, and the MRR@20 of V-SKNN \((\S+)\)"),
    (
        "03",
        r"falling learning rate has (\S+) in",
        lambda: printed("10", r"base +(\S+)"),
    ),
    (
        "03",
        r"the loss \$\\ln (\d+) = (\S+)\$",
        lambda: [
            n for (n,) in [printed("03", r"items +(\d+)")] for n in (n, math.log(n))
        ],
    ),
    (
        "03",
        r"divided by the number of test examples, (\d+)\.",
        lambda: printed("03", r"test_examples +(\d+)"),
    ),
    (
        "04",
        r"lowers the RMSE of the mean by (\S+) stars",
        lambda: [fall("04", r"Global mean +RMSE (\S+) .*\n.* RMSE (\S+)")],
    ),
    (
        "04",
        r"similar movies lower it by another (\S+)\.",
        lambda: [fall("04", r"item bias +RMSE (\S+) .*\n.* RMSE (\S+)")],
    ),
    (
        "04",
        r"to the eighth it rises by (\S+), no more",
        lambda: [-fall("04", r"epoch 6/8 .* rmse (\S+)(?s:.*)MF +RMSE (\S+)")],
    ),
    (
        "04",
        r"Item-kNN is (\S+) behind MF, and the noise floor (\S+) ahead",
        lambda: [
            fall("04", r"Item-kNN +RMSE (\S+)(?s:.*)\nMF +RMSE (\S+)"),
            -fall("04", r"floor: RMSE (\S+)(?s:.*)\nMF +RMSE (\S+)"),
        ],
    ),
    (
        "05",
        r"trains (\S+) times as fast in bfloat16 as in float32, MF at (\S+) of the "
        r"rate, and at (\S+) in float16",
    ),
    (
        "07",
        r"all twelve together take (\S+) examples, fewer",
        lambda: printed("07", r"after (\S+) ex"),
    ),
    (
        "07",
        r"fewer than the (\S+) of one pass",
        lambda: printed("07", r"train_examples +(\S+)"),
    ),
    (
        "07",
        r"reaches in (\S+) examples, (\S+) against (\S+), and",
        lambda: [
            *printed("07", r"after (\S+) examples"),
            *printed("07", r"before any training: HR@20 (\S+)"),
            *printed("07", r"from scratch: (\S+),"),
        ],
    ),
    (
        "07",
        r"of (\d+) test examples and no more",
        lambda: printed("07", r"test_examples +(\d+)"),
    ),
    ("09", r"they reached (\S+) times its speed"),
    ("09", r"sends \$2 \\cdot 7/8\$ times (\S+) MB"),
    (
        "10",
        r"the neighbours bring (\S+) hits, (\S+) points of HR@20",
        lambda: [
            gain * each
            for gain in [
                -fall("10", r"base +HR@20 (\S+)(?s:.*)\nneighbours +HR@20 (\S+)")
            ]
            for each in (printed("03", r"test_examples +(\d+)")[0], 100)
        ],
    ),
    (
        "10",
        r"Positions cost (\S+) hits alone, and (\S+) beside neighbours",
        lambda: [
            printed("03", r"test_examples +(\d+)")[0] * fall("10", pattern)
            for pattern in (
                r"base +(\S+) .*\npositions +(\S+)",
                r"neighbours +(\S+) .*\nboth +(\S+)",
            )
        ],
    ),
    (
        "10",
        r"plain STAMP has (\S+) there, the best row here (\S+)\.",
        lambda: [
            *printed("03", r"STAMP: HR (\S+),"),
            *printed("10", r"neighbours, STMP +(0\S+)"),
        ],
    ),
    ("10", r"that adds one hit: (\S+) instead of (\S+)\."),
    (
        "10",
        r"the weights differ by (\S+) %, with positions and neighbours by almost "
        r"(\S+) %",
        lambda: [
            *(100 * n for n in printed("10", r"positions +(0.0\S+)")),
            *(
                round(100 * n, -1)
                for n in printed("10", r"both +(\S+) +\S+ +\S+ +\S+ +\n")
            ),
        ],
    ),
    (
        "11",
        r"maxima add (\S+) points to HR@20 and (\S+) points to MRR@20",
        lambda: [
            -fall("11", r"last epoch +(\S+) .*\nbest .* test +(\S+)", 100),
            -fall("11", r"last epoch +\S+ +(\S+)\nbest .* test +\S+ +(\S+)", 100),
        ],
    ),
    (
        "11",
        r"of the test part, by (\S+) \(examples\), (\S+) \(sessions\) and (\S+) points",
        lambda: [
            100 * n
            for n in printed(
                "11",
                r"\nexamples +\S+ +\S+ +(\S+)\nsessions +\S+ +\S+ +(\S+)"
                r"\nlast week +\S+ +\S+ +(\S+)",
            )
        ],
    ),
    (
        "11",
        r"it has (\S+) test examples.* hit rate of (\S+) would .* error of (\S+) "
        r"points",
        lambda: [
            each
            for (n,) in [printed("03", r"test_examples +(\d+)")]
            for p in [
                sum(printed("11", 3 * r"(?s:.*?)\n\w[\w ]* +0\.\d+ +(0\.\d+) +0\.\d+"))
                / 3
            ]
            for each in (n, p, 100 * math.sqrt(p * (1 - p) / n))
        ],
    ),
    (
        "11",
        r"There the two figures differ by (\S+) points",
        lambda: [-fall("11", r"\nvalidation +(\S+)\ntest +(\S+)", 100)],
    ),
    (
        "12",
        r"The sets lower the RMSE by (\S+), no more than .* the times raise it "
        r"by (\S+), because",
        lambda: [
            fall("12", r"none +RMSE (\S+)\nsets +RMSE (\S+)"),
            -fall("12", r"none +RMSE (\S+)\n.*\ntimes +RMSE (\S+)"),
        ],
    ),
    ("14", r"(\S+) stars against (\S+): the penalty"),
    ("14", r"the error is (\S+), without a step .* these users has (\S+)\."),
    (
        "15",
        r"the best 20 of (\S+) items need no sort",
        lambda: printed("15", r"(\S+) items"),
    ),
    (
        "15",
        r"left to search, (\S+) scores instead of (\S+)\. The",
        lambda: [20 * 64, *printed("15", r"(\S+) items")],
    ),
    (
        "15",
        r"it orders (\S+) items that",
        lambda: [printed("15", r"(\S+) items")[0] - 20],
    ),
    (
        "16",
        r"has (\S+) hits more .*: (\S+) of the (\S+) are hits of both, (\S+) of the "
        r"network alone, and (\S+) of the kNN alone",
        lambda: [
            each
            for both, one, other, none in [hits()]
            for each in (one - other, both, both + one + other + none, one, other)
        ],
    ),
    (
        "16",
        r"right one of the two would hit (\S+) of the (\S+), a hit rate of (\S+)\.",
        lambda: [
            each
            for *found, none in [hits()]
            for n in [sum(found) + none]
            for each in (sum(found), n, sum(found) / n)
        ],
    ),
    (
        "16",
        r"It gains (\S+) points of HR@20: (\S+) hits instead of (\S+)\.",
        lambda: [
            each
            for stamp, blend in [
                printed(
                    "16",
                    r"the kNN: .*\s+hr_at_5 .*\nSTAMP(?: +\S+){4} +(\S+) .*\n"
                    r"VSTAN.*\nblend(?: +\S+){4} +(\S+) ",
                )
            ]
            for n in [sum(hits())]
            for each in (100 * (blend - stamp), n * blend, n * stamp)
        ],
    ),
    ("16", r"training clicks it has (\S+) hits of (\S+) and VSTAN (\S+): few"),
    ("18", r"the seeds differ by (\S+) stars"),
    (
        "18",
        r"the factors are worth (\S+) stars beside the biases alone, the penalty (\S+) "
        r"and the biases (\S+) beside",
        lambda: [
            -fall("18", rf"\nMF +(\S+)(?s:.*){part} +(\S+)")
            for part in ("item bias", "no penalty", "no biases")
        ],
    ),
    (
        "18",
        r"two are best with (\S+), eight with (\S+), and for thirty-two (\S+) and "
        r"(\S+) are .* without it they have (\S+), with (\S+) (\S+)\. Without a "
        r"penalty thirty-two end at (\S+), .*: with (\S+), two and eight factors are "
        r"as close as two seeds \((\S+) and (\S+)\)",
    ),
    (
        "18",
        r"each with its best penalty, two are (\S+) ahead",
        lambda: [-fall("18", r"\n0\.04 +(\S+) .*\n0\.08 +\S+ +(\S+)")],
    ),
]


@pytest.mark.parametrize("line", SHOWN, ids=[line[0] for line in SHOWN])
def test_a_quoted_figure_of_the_sample_is_one_that_the_notebook_printed(line):
    number, sentence, *follow = line
    prose = "\n\n".join(text for kind, text in cells(number) if kind == "markdown")
    found = list(re.finditer(sentence, re.sub(r"\s+", " ", prose)))
    assert len(found) == 1, f"notebook {number} has {len(found)} times: {sentence}"
    quoted = list(found[0].groups())
    about = f"notebook {number} quotes {quoted} in: {found[0][0]}"
    if follow:
        numbers = follow[0]()
        assert len(numbers) == len(quoted), f"{about}\nits outputs say {numbers}"
        expected = [written(n, text) for n, text in zip(numbers, quoted)]
        assert quoted == expected, f"{about}\nits outputs say {expected}"
    else:
        shown = nearest(number, sentence)
        missing = [t for t in quoted if t not in {written(n, t) for n in shown}]
        assert not missing, f"{about}\nno cell just above prints {missing}: {shown}"
