"""Figures that more than one notebook draws; colours differ in lightness too."""

from __future__ import annotations

import io
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from lib.progress import find_shell

ERRORS = ("rmse", "mae")  # metrics in stars, the lower the better
DARK, MID, LIGHT, GREY = "#17365d", "#d9741e", "#b9c4d0", "#7a8a99"


def use_style() -> None:
    """Sets size, resolution and colours of every figure of a notebook."""
    plt.style.use(Path(__file__).with_name("figures.mplstyle"))
    shell = find_shell()
    if shell:
        plt.switch_backend(plt.get_backend())  # which registers a function of its own
        shell.display_formatter.formatters["image/png"].for_type(Figure, _write_png)


def _write_png(figure: Figure) -> bytes:
    """A PNG of 128 colours, a third of the size: notebooks are kept with figures."""
    drawn, kept = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, bbox_inches="tight")
    Image.open(drawn).convert("RGB").quantize(128).save(kept, "png", optimize=True)
    return kept.getvalue()


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
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """Draws horizontal bars, best at the top; ours are dark, all others light.

    ``bars=False`` draws points, for numbers that differ by little: the axis need not
    start at 0, and an error in stars far worse than most is a triangle on its edge.

    Args:
        values: name -> a number, or several: drawn as their mean, with a line from the
            lowest to the highest. A NaN is an empty row.
        form: the format of the number at each bar's end, for example ``"{:.3f}"``.
        ours: the names to draw dark.
        xlabel: label of the axis, with unit.
        ax: axes to draw on; of a new figure if None.

    Returns:
        ``(fig, ax)``.
    """
    if ax is None:
        width = 6.4 + 0.075 * max(0, max(map(len, values)) - 34)  # for long names
        _, ax = plt.subplots(figsize=(width, 0.6 + 0.34 * len(values)))
    seeds = {name: np.atleast_1d(values[name]) for name in list(values)[::-1]}
    rows = [[each.mean(), each.min(), each.max()] for each in seeds.values()]
    table = pd.DataFrame(rows, list(seeds), ["mean", "lowest", "highest"])
    colors = np.array([DARK if name in ours else LIGHT for name in seeds])
    if bars:
        color: dict[str, Any] = {"color": colors, "ecolor": MID}
        drawn = ax.barh(table.index, table["mean"], xerr=_spread(table), **color)
        ax.bar_label(drawn, [form.format(mean) for mean in table["mean"]], padding=3)
    else:
        _draw_points(ax, table, colors, form, xlabel.endswith("(stars)"))
    ax.margins(x=0.12 if bars else 0.2)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(xlabel)
    figure: Any = ax.get_figure()
    return figure, ax


def _spread(table: pd.DataFrame) -> np.ndarray:
    """Returns the extent of each line below and above its mean: ``(2, n)``."""
    down, up = table["mean"] - table["lowest"], table["highest"] - table["mean"]
    return np.maximum([down, up], 0)  # a rounded mean can lie outside


def _draw_points(
    ax: Axes, table: pd.DataFrame, colors: np.ndarray, form: str, is_error: bool
) -> np.ndarray:
    """Draws points with their numbers; outliers among errors at the axis' edge.

    Args:
        table: the columns ``mean``, ``lowest`` and ``highest``; one row for each point.

    Returns:
        A mask ``(n,)`` of the outliers.
    """
    means = table["mean"].to_numpy()
    best = np.nanmin(means)
    edge = best + 3 * (np.nanmedian(means) - best)
    is_outlier = (means > edge) & (len(means) >= 4) & is_error
    x = np.where(is_outlier, edge, means)
    spread = np.where(is_outlier, 0, _spread(table))
    for marker, mask in (("o", ~is_outlier), (">", is_outlier)):
        y, c = np.flatnonzero(mask), colors[mask]
        ax.scatter(x[mask], y, c=c, edgecolors=DARK, marker=marker, s=24, zorder=3)
    wide = np.flatnonzero(spread.sum(axis=0) > 2e-3 * np.nanmax(means))  # to be seen
    line: dict[str, Any] = {"ls": "", "ecolor": MID, "capsize": 3, "zorder": 4}
    ax.errorbar(x[wide], wide, xerr=spread[:, wide], **line)
    ax.set_yticks(range(len(table)), table.index)
    place: dict[str, Any] = {"xytext": (7, 0), "textcoords": "offset points"}
    for row, (mean, right) in enumerate(zip(means, x + spread[1])):
        if not np.isnan(mean):
            ax.annotate(form.format(mean), (right, row), va="center", **place)
    return is_outlier


def audit(table: pd.DataFrame, metric: str) -> tuple[Figure, np.ndarray]:
    """Draws the result of each step of an audit.

    Args:
        table: from ``comparison.costs``.
        metric: the metric of the table.

    Returns:
        ``(fig, axs)``: means with the range of the seeds; fixes that add up on top,
        those taken alone below. The first step is also a dotted line through the others
        of its panel.
    """
    alone = table.index.str.endswith(" alone")
    parts = {"fixes added one after the other": table[~alone]}
    parts["each fix alone"] = table[alone | (np.arange(len(table)) == 0)]
    rows = [len(part) for part in parts.values()]
    size, shape = (7.2, 2.0 + 0.32 * sum(rows)), {"height_ratios": rows}
    fig, axs = plt.subplots(len(rows), figsize=size, gridspec_kw=shape)
    for ax, (title, part) in zip(axs, parts.items()):
        dark = np.array([DARK] * len(part))
        if not _draw_points(ax, part, dark, "{:.4f}", metric in ERRORS)[0]:
            ax.axvline(part["mean"].iloc[0], color="#7a8a99", ls=":")
        ax.margins(x=0.15, y=0.06)
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.set_title(title, loc="left", fontsize="medium")
    axs[-1].set_xlabel(f"{label(metric)}, mean and range of seeds")
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


def lines(
    ax: Axes, curves: Mapping[str, Any], looks: Iterable[Mapping[str, Any]] = ()
) -> None:
    """Draws lines or points, each named at the right, where a legend hides nothing.

    Args:
        ax: axes with their scales, and with their limits where they are not automatic.
        curves: name -> ``(x, y)``, two sequences.
        looks: a style for each, see ``styles``.
    """
    ends = []
    for (name, (x, y)), look in zip(curves.items(), looks or styles()):
        (line,) = ax.plot(x, y, markevery=max(1, len(x) // 8), **look)
        ends.append((line, name, (list(x)[-1], list(y)[-1])))
    figure: Any = ax.get_figure()
    figure.canvas.draw()  # the layout decides where the axes are
    to_axes = ax.transData + ax.transAxes.inverted()
    places = [np.clip(to_axes.transform(xy), 0, 1) for _, _, xy in ends]
    gap = 0.13 / (ax.get_position().height * figure.get_figheight())
    height, top = -gap, 1 - gap * (len(ends) - 1)
    leader = {"arrowstyle": "-", "color": "#b0b0b0", "lw": 0.5, "shrinkA": 0}
    style: dict[str, Any] = {"arrowprops": leader, "fontsize": 7, "va": "center"}
    style["xycoords"] = "axes fraction"
    order = sorted(range(len(ends)), key=lambda k: places[k][1])
    for rank, k in enumerate(order):  # names move up, or down at the top
        height = min(max(places[k][1], height + gap), top + gap * rank)
        line, name, _ = ends[k]
        style["color"] = line.get_color()
        ax.annotate(name, places[k], (1.03, height), **style)


def styles() -> Iterator[dict[str, Any]]:
    """Yields line styles without end; they can be told apart in greyscale."""
    colours = itertools.cycle([DARK, MID, "#7a8a99", "#2a8c6e"])
    dashes = itertools.cycle(["-", "--", ":"])
    for colour, dash, marker in zip(colours, dashes, itertools.cycle("osD^vP*Xd<>h")):
        yield {"color": colour, "ls": dash, "marker": marker, "ms": 4}
