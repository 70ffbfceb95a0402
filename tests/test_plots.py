"""Figures name what they draw, whatever they are given."""

import io

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from matplotlib.collections import PathCollection
from PIL import Image

from lib.records import plots

matplotlib.use("agg")
plt = matplotlib.pyplot


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@settings(max_examples=15, deadline=None)
@given(ends=some.lists(some.floats(0.5, 1.0), min_size=1, max_size=12))
def test_the_names_of_lines_do_not_overlap_and_stand_in_the_order_of_the_ends(ends):
    fig, ax = plt.subplots()
    curves = {f"line {k}": ([1, 2], [0.4, end]) for k, end in enumerate(ends)}
    plots.lines(ax, curves)
    fig.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    middles = {t.get_text(): (b.y0 + b.y1) / 2 for t, b in zip(ax.texts, boxes)}
    assert middles.keys() == curves.keys()
    by_height = sorted(middles, key=middles.get)
    assert sorted(ends) == [ends[int(name[5:])] for name in by_height]
    heights = sorted(middles.values())
    assert np.all(np.diff(heights) > 7)  # points of the font, in pixels or more
    plt.close(fig)


def test_a_name_without_a_value_is_an_empty_row():
    values = {"a": [0.5, 0.7], "none": float("nan"), "b": 0.3}
    fig, ax = plots.ranking(values, "{:.2f}", ["a"], bars=False)
    fig.canvas.draw()
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["b", "none", "a"]
    assert [text.get_text() for text in ax.texts] == ["0.30", "0.60"]


@pytest.mark.parametrize(("xlabel", "at_edge"), [("HR@20", 0), ("RMSE (stars)", 1)])
def test_only_an_error_far_from_the_best_is_drawn_at_the_edge(xlabel, at_edge):
    values = {"a": 0.82, "b": 0.83, "c": 0.84, "far": 2.2}
    fig, ax = plots.ranking(values, "{:.2f}", (), xlabel, bars=False)
    drawn = [each for each in ax.collections if isinstance(each, PathCollection)]
    points, edge = (each.get_offsets()[:, 0] for each in drawn)
    assert (len(points), len(edge)) == (4 - at_edge, at_edge)
    assert [*points] == [*values.values()][::-1][at_edge:]
    plt.close(fig)


def test_a_figure_of_a_notebook_is_a_png_of_few_colours():
    fig, ax = plots.ranking({f"model {k}": k / 9 for k in range(9)}, "{:.2f}")
    plain = io.BytesIO()
    fig.savefig(plain, bbox_inches="tight")
    kept = plots._write_png(fig)
    image = Image.open(io.BytesIO(kept))
    assert image.size == Image.open(plain).size
    assert len(image.convert("RGB").getcolors()) <= 128
    assert len(kept) < plain.getbuffer().nbytes / 2
