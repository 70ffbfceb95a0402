"""Figures that more than one notebook draws; colours differ in lightness too."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

ERRORS = ("rmse", "mae")  # metrics in stars, lowest best
DARK, MID, LIGHT = "#17365d", "#d9741e", "#b9c4d0"


def use_style():
    """Sets size, resolution and colours of every figure of a notebook."""
    plt.rcParams.update(
        {
            "figure.figsize": (6.4, 3.0),
            "figure.dpi": 90,
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#e6e6e6",
            "axes.axisbelow": True,
            "axes.prop_cycle": plt.cycler(color=[DARK, MID, "#7a8a99"])
            + plt.cycler(linestyle=["-", "--", ":"]),
        }
    )


def label(metric):
    """How a figure names a metric of the records: ``hr_at_20`` is HR@20."""
    unit = " (stars)" if metric in ERRORS else ""
    return metric.upper().replace("_AT_", "@") + unit


def ranking(values, form, ours=(), xlabel="", bars=True):
    """Horizontal bars, best at the top; ours dark, what they are compared with light.

    With ``bars=False`` points instead, for numbers whose differences are small beside
    themselves: the axis need not start at 0, and what is far worse than most stands as
    a triangle on its edge.

    Args:
        values: name -> number, or numbers: their mean, with a line from the lowest to
            the highest.
        form: a format for the number at each bar's end, for example ``"{:.3f}"``.
        ours: the names to be drawn dark.
        xlabel: what the numbers are, with unit.

    Returns:
        ``(fig, ax)``.
    """
    names = list(values)[::-1]
    width = 6.4 + 0.075 * max(0, max(map(len, names)) - 34)  # bars beside long names
    fig, ax = plt.subplots(figsize=(width, 0.6 + 0.34 * len(values)))
    found = [np.atleast_1d(values[name]) for name in names]
    numbers = [each.mean() for each in found]
    spread = [
        [m - min(each.min(), m), max(each.max(), m) - m]
        for m, each in zip(numbers, found)
    ]
    colors = [DARK if name in ours else LIGHT for name in names]
    spread = np.transpose(spread)
    if bars:
        drawn = ax.barh(names, numbers, color=colors, xerr=spread, ecolor=MID)
        ax.bar_label(drawn, [form.format(number) for number in numbers], padding=3)
    else:
        _points(ax, names, numbers, spread, colors, form)
    ax.margins(x=0.12 if bars else 0.2)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(xlabel)
    return fig, ax


def attention_bars(labels, weights):
    """Bars of the attention weights of a session's clicks, oldest at the top.

    Args:
        labels: a text for each click, oldest first.
        weights: float ``(len(labels),)``, of any sign.

    Returns:
        ``(fig, ax)``.
    """
    places = range(len(labels))
    fig, ax = plt.subplots(figsize=(6.4, 0.8 + 0.3 * len(labels)))
    ax.barh(places, weights, color=DARK)
    ax.set_yticks(places)
    ax.set_yticklabels(labels)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("attention weight")
    return fig, ax


def _points(ax, names, numbers, spread, colors, form, metric="rmse"):
    """Points, each with its number; of errors, those far off stand on the edge.

    Returns:
        A mask of these.
    """
    edge = min(numbers) + 3 * (np.median(numbers) - min(numbers))
    far = np.array(numbers) > edge
    if len(numbers) < 4 or metric not in ERRORS:
        far = np.zeros(len(numbers), bool)
    at = np.where(far, edge, numbers)
    reach = np.where(far, 0, spread)
    for marker, drawn in (("o", ~far), (">", far)):
        y, c = np.flatnonzero(drawn), np.array(colors)[drawn]
        ax.scatter(at[drawn], y, c=c, edgecolors=DARK, marker=marker, s=24, zorder=3)
    wide = np.flatnonzero(reach.sum(axis=0))  # a single value has no line
    line = {"ls": "", "ecolor": MID, "capsize": 3, "zorder": 4}
    ax.errorbar(at[wide], wide, xerr=reach[:, wide], **line)
    ax.set_yticks(range(len(names)))
    ax.set_yticklabels(names)
    for row, (number, right) in enumerate(zip(numbers, at + reach[1])):
        place = {"xytext": (7, 0), "textcoords": "offset points", "va": "center"}
        ax.annotate(form.format(number), (right, row), **place)
    return far


def audit(table, metric):
    """What each step of ``comparison.costs`` reached, and how long it trained.

    Args:
        table: of ``comparison.costs``, not empty; labels that end in " alone" start
            from the first row, all others from the row before.
        metric: the metric that it holds.

    Returns:
        ``(fig, axs)``: means with the range of the seeds on the left, seconds on the
        right; steps that add up on top, those taken alone below. The first step is
        also a dotted line through the others of its panel.
    """
    alone = table.index.str.endswith(" alone")
    parts = [table[~alone], table[alone | (np.arange(len(table)) == 0)]]
    parts = [part for part in parts if len(part) > 1] or [table]
    shape = {"height_ratios": list(map(len, parts)), "width_ratios": [3, 1]}
    size = (7.6, 1.0 * len(parts) + 0.34 * sum(map(len, parts)))
    fig, axs = plt.subplots(
        len(parts), 2, figsize=size, sharey="row", squeeze=False, gridspec_kw=shape
    )
    for (left, right), part in zip(axs, parts):
        means = part["mean"].to_numpy()
        reach = np.array([means - part["lowest"], part["highest"] - means])
        dark = [DARK] * len(means)
        far = _points(left, part.index, means, reach, dark, "{:.4f}", metric)
        if not far[0]:
            left.axvline(means[0], color="#7a8a99", ls=":")
        right.barh(range(len(part)), part["seconds"], color=LIGHT, edgecolor=DARK)
        left.margins(x=0.15, y=0.06)
        left.invert_yaxis()
        for ax in (left, right):
            ax.grid(axis="y", visible=False)
    axs[-1, 0].set_xlabel(f"{label(metric)}, mean and range of seeds")
    axs[-1, 1].set_xlabel("training (seconds)")
    return fig, axs


def whole_epochs(ax):
    """Ticks at whole epochs only, also where there is but one."""
    curves = [line for line in ax.lines if line.get_marker() == "o"]
    last = max((max(line.get_xdata()) for line in curves), default=1)
    ax.set_xlim(0.5, last + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def learning_curve(history, metric, levels=None):
    """A metric and the training loss against epochs.

    Args:
        history: one dict an epoch, as ``fit`` returns it.
        metric: a key of these dicts, or of some, the last among them.
        levels: name -> value, drawn as horizontal lines for comparison.

    Returns:
        ``(fig, axs)``: the metric on the left, the loss on the right.
    """
    fig, axs = plt.subplots(1, 2)
    for ax, name in zip(axs, (metric, "loss")):
        points = [(row["epoch"], row[name]) for row in history if name in row]
        ax.plot(*zip(*points), marker="o", ls="-")
    for name, value in (levels or {}).items():
        axs[0].axhline(value, color="#7a8a99", ls=":")
        right_end = axs[0].get_yaxis_transform()
        axs[0].text(1, value, name, transform=right_end, ha="right", va="bottom")
    axs[0].set(xlabel="epoch", ylabel=label(metric))
    axs[1].set(xlabel="epoch", ylabel="training loss")
    for ax in axs:
        whole_epochs(ax)
    return fig, axs


def styles():
    """Endless styles of lines, told apart in grey too by their dashes and markers."""
    colours = itertools.cycle([DARK, MID, "#7a8a99", "#2a8c6e"])
    dashes = itertools.cycle(["-", "--", ":"])
    for colour, dash, marker in zip(colours, dashes, itertools.cycle("osD^vP*Xd<>h")):
        yield {"color": colour, "ls": dash, "marker": marker, "ms": 4}
