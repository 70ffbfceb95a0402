"""Figures that more than one notebook draws; colours differ in lightness too."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

ERRORS = ("rmse", "mae")  # metrics in stars, the lower the better
DARK, MID, LIGHT = "#17365d", "#d9741e", "#b9c4d0"


def use_style() -> None:
    """Sets size, resolution and colours of every figure of a notebook."""
    plt.rcParams.update(
        {
            "figure.figsize": (6.4, 3.0),
            "figure.dpi": 110,
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


def label(metric: str) -> str:
    """The name of a metric in figures: HR@20 for ``hr_at_20``."""
    unit = " (stars)" if metric in ERRORS else ""
    return metric.upper().replace("_AT_", "@") + unit


def ranking(
    values: Mapping[str, Any],
    form: str,
    ours: Collection[str] = (),
    xlabel: str = "",
    bars: bool = True,
) -> tuple[Figure, Axes]:
    """Draws horizontal bars, best at the top; ours are dark, all others light.

    ``bars=False`` draws points, for numbers that differ by little: the axis need not
    start at 0, and a value far worse than most is a triangle on its edge.

    Args:
        values: name -> a number, or several: drawn as their mean, with a line from the
            lowest to the highest.
        form: the format of the number at each bar's end, for example ``"{:.3f}"``.
        ours: the names to draw dark.
        xlabel: label of the axis, with unit.

    Returns:
        ``(fig, ax)``.
    """
    width = 6.4 + 0.075 * max(0, max(map(len, values)) - 34)  # room for long names
    fig, ax = plt.subplots(figsize=(width, 0.6 + 0.34 * len(values)))
    seeds = {name: np.atleast_1d(values[name]) for name in list(values)[::-1]}
    rows = [[each.mean(), each.min(), each.max()] for each in seeds.values()]
    table = pd.DataFrame(rows, list(seeds), ["mean", "lowest", "highest"])
    colors = np.array([DARK if name in ours else LIGHT for name in seeds])
    if bars:
        color: dict[str, Any] = {"color": colors, "ecolor": MID}
        drawn = ax.barh(table.index, table["mean"], xerr=_spread(table), **color)
        ax.bar_label(drawn, [form.format(mean) for mean in table["mean"]], padding=3)
    else:
        _draw_points(ax, table, colors, form)
    ax.margins(x=0.12 if bars else 0.2)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(xlabel)
    return fig, ax


def _spread(table: pd.DataFrame) -> np.ndarray:
    """Returns the extent of each line below and above its mean: ``(2, n)``."""
    down, up = table["mean"] - table["lowest"], table["highest"] - table["mean"]
    return np.maximum([down, up], 0)  # a rounded mean can lie outside


def attention_bars(labels: Sequence[str], weights: np.ndarray) -> tuple[Figure, Axes]:
    """Bars of the attention weights of a session's clicks, oldest at the top.

    Args:
        labels: a text for each click, oldest first.
        weights: float ``(len(labels),)``, of any sign.

    Returns:
        ``(fig, ax)``, for ``display(fig)``. JupyterLab calls widgets in a thread beside
        the cells' one, which would draw a figure that pyplot has open.
    """
    places = range(len(labels))
    fig, ax = plt.subplots(figsize=(6.4, 0.8 + 0.3 * len(labels)))
    plt.close(fig)
    ax.barh(places, weights, color=DARK)
    ax.set_yticks(places)
    ax.set_yticklabels(labels)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("attention weight")
    return fig, ax


def _draw_points(
    ax: Axes, table: pd.DataFrame, colors: np.ndarray, form: str, metric: str = "rmse"
) -> np.ndarray:
    """Draws points with their numbers; outliers of RMSE and MAE at the axis' edge.

    Args:
        table: the columns ``mean``, ``lowest`` and ``highest``; one row for each point.

    Returns:
        A mask ``(n,)`` of the outliers.
    """
    means = table["mean"].to_numpy()
    edge = means.min() + 3 * (np.median(means) - means.min())
    is_outlier = (means > edge) & (len(means) >= 4) & (metric in ERRORS)
    x = np.where(is_outlier, edge, means)
    spread = np.where(is_outlier, 0, _spread(table))
    for marker, mask in (("o", ~is_outlier), (">", is_outlier)):
        y, c = np.flatnonzero(mask), colors[mask]
        ax.scatter(x[mask], y, c=c, edgecolors=DARK, marker=marker, s=24, zorder=3)
    wide = np.flatnonzero(spread.sum(axis=0))  # a single value has no line
    line: dict[str, Any] = {"ls": "", "ecolor": MID, "capsize": 3, "zorder": 4}
    ax.errorbar(x[wide], wide, xerr=spread[:, wide], **line)
    ax.set_yticks(range(len(table)), table.index)
    place: dict[str, Any] = {"xytext": (7, 0), "textcoords": "offset points"}
    for row, (mean, right) in enumerate(zip(means, x + spread[1])):
        ax.annotate(form.format(mean), (right, row), va="center", **place)
    return is_outlier


def audit(table: pd.DataFrame, metric: str) -> tuple[Figure, np.ndarray]:
    """Draws the result of each step of ``comparison.costs``, and its training time.

    Args:
        table: from ``comparison.costs``, not empty; labels that end in " alone" start
            from the first row, all others from the row before.
        metric: the metric of the table.

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
        dark = np.array([DARK] * len(part))
        if not _draw_points(left, part, dark, "{:.4f}", metric)[0]:
            left.axvline(part["mean"].iloc[0], color="#7a8a99", ls=":")
        right.barh(range(len(part)), part["seconds"], color=LIGHT, edgecolor=DARK)
        left.margins(x=0.15, y=0.06)
        left.invert_yaxis()
        for ax in (left, right):
            ax.grid(axis="y", visible=False)
    axs[-1, 0].set_xlabel(f"{label(metric)}, mean and range of seeds")
    axs[-1, 1].set_xlabel("training (seconds)")
    return fig, axs


def learning_curve(
    history: Sequence[Mapping[str, float]],
    metric: str,
    levels: Mapping[str, float] | None = None,
) -> tuple[Figure, np.ndarray]:
    """Draws a metric and the training loss against epochs.

    Args:
        history: one dict an epoch, as ``fit`` returns it.
        metric: a key of these dicts; not every epoch needs it, the last one does.
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
    for ax in axs:  # whole epochs only, even if there is only one
        ax.set_xlim(0.5, len(history) + 0.5)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return fig, axs


def styles() -> Iterator[dict[str, Any]]:
    """Yields line styles without end; they can be told apart in greyscale."""
    colours = itertools.cycle([DARK, MID, "#7a8a99", "#2a8c6e"])
    dashes = itertools.cycle(["-", "--", ":"])
    for colour, dash, marker in zip(colours, dashes, itertools.cycle("osD^vP*Xd<>h")):
        yield {"color": colour, "ls": dash, "marker": marker, "ms": 4}
