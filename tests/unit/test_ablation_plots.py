import dataclasses

import numpy as np
import pytest
import toy_grid as toy
from matplotlib.colors import to_hex
from PIL import Image

from vilbert_jax.ablation.estimates import Results
from vilbert_jax.ablation.grid import Column, Variant
from vilbert_jax.ablation.panels import BLUE, GREY, ORANGE
from vilbert_jax.ablation.plots import _differences, _lines, _models, draw_plots

TWO = toy.BY_NAME["two_stream"]
REAL = Column(name="questions", title="VQA", recipe="configs/vqa.py", split="validation", metric="accuracy")
DATA = [variant for variant in toy.VARIANTS if variant.group == "data"]


def bars(axes):
    """(row, width) of every bar, from top to bottom."""
    return sorted((round(bar.get_y() + bar.get_height() / 2, 1), bar.get_width()) for bar in axes.patches)


def diamonds(axes):
    return [tuple(float(x[0]) for x in line.get_data()) for line in axes.lines if line.get_marker() == "D"]


def test_plots_are_slides(tmp_path):
    results = Results(toy.VARIANTS, toy.COLUMNS, toy.everything())
    drawn = draw_plots(tmp_path, toy.VARIANTS, toy.COLUMNS, results, TWO)
    assert drawn.keys() == {"models", "data", "differences"}
    assert sorted(drawn.values()) == sorted(path.name for path in tmp_path.iterdir())
    draw_plots(tmp_path, toy.VARIANTS, toy.COLUMNS, results, TWO)  # over those that are there
    assert sorted(drawn.values()) == sorted(path.name for path in tmp_path.iterdir())
    for name in drawn.values():
        with Image.open(tmp_path / name) as picture:
            assert picture.size == (2000, 1125)
            pixels = np.asarray(picture.convert("L"))
        assert 0.005 < (pixels < 128).mean() < 0.4  # neither blank nor black


def test_what_cannot_be_drawn_any_more_goes(tmp_path):
    everything = Results(toy.VARIANTS, toy.COLUMNS, toy.everything())
    draw_plots(tmp_path, toy.VARIANTS, toy.COLUMNS, everything, TWO)
    (tmp_path / "other.png").touch()
    assert draw_plots(tmp_path, toy.VARIANTS, toy.COLUMNS, Results(toy.VARIANTS, toy.COLUMNS, []), TWO) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["other.png"]


def test_a_bar_with_and_one_without_pretraining():
    results = toy.results({"two_stream": [60.0, 62.0], "two_stream_scratch": [50.0], "single_stream": [40.0]})
    (axes,) = _models(toy.VARIANTS, [toy.QUESTIONS], results).axes
    assert bars(axes) == [(-0.2, 61.0), (0.2, 50.0), (0.8, 40.0)]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["two streams", "one stream"]
    assert [text.get_text() for text in axes.texts] == ["61.0", "50.0", "40.0"]
    assert diamonds(axes) == []  # the paper's figures are of other data


@pytest.mark.parametrize(
    ("given", "rows", "title"),
    [
        ({"two_stream": [60.0], "single_stream": [40.0]}, [(0, 60.0), (1, 40.0)], "Models, with pre-training, percent"),
        ({"two_stream_scratch": [50.0]}, [(0, 50.0)], "Models, without pre-training, percent"),
    ],
)
def test_one_kind_of_bars_alone_stands_in_the_middle(given, rows, title):
    figure = _models(toy.VARIANTS, [toy.QUESTIONS], toy.results(given))
    assert bars(figure.axes[0]) == rows
    assert figure.get_suptitle() == title
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert labels[0] == title.removeprefix("Models, ").removesuffix(", percent")
    assert not any("pre-training" in label for label in labels[1:])


def test_models_are_shown_in_their_own_columns():
    """The reference has a cell in every column; its bar alone compares nothing."""
    other = dataclasses.replace(toy.ZERO_SHOT, groups=("objectives",))
    values = toy.values({"two_stream": [60.0]}) + toy.values({"two_stream": [10.0]}, other)
    results = Results(toy.VARIANTS, [toy.QUESTIONS, other], values, reference="two_stream")
    assert [axes.get_title() for axes in _models(toy.VARIANTS, [toy.QUESTIONS, other], results).axes] == ["VQA"]


def test_a_model_that_is_only_fine_tuned_has_a_row_of_its_own():
    variants = [TWO, Variant(name="other", title="other", group="models", pretrained=False, model=("co_width=48",))]
    results = Results(variants, [REAL], [])
    assert _models(variants, [REAL], results) is None
    results = Results(variants, [REAL], [v._replace(variant="other") for v in toy.values({"two_stream": [7.0]})])
    (axes,) = _models(variants, [REAL], results).axes
    assert bars(axes) == [(0, 7.0)]


def test_the_papers_figures_stand_on_real_data():
    values = toy.values({"two_stream": [60.0], "two_stream_scratch": [55.0]})
    (axes,) = _models(toy.VARIANTS, [REAL], Results(toy.VARIANTS, [REAL], values)).axes
    assert diamonds(axes) == [(70.55, -0.2), (68.93, 0.2), (68.85, 0.8), (65.9, 1.2)]
    filled = [line.get_markerfacecolor() != "white" for line in axes.lines if line.get_marker() == "D"]
    assert filled == [True, True, False, False]  # confirmed and recalled
    assert axes.get_xlim()[1] > 70.55


def test_lines_go_through_the_means_in_the_order_of_their_numbers():
    results = toy.results({"data_100": [60.0, 62.0], "data_0": [40.0, 40.0], "data_25": ["failed", 55.0]})
    figure = _lines(DATA[::-1], [toy.QUESTIONS, toy.REGION_LOSS], results, title="Share", label="%")
    (axes,) = figure.axes  # losses are in the table
    line = next(line for line in axes.lines if line.get_linewidth() > 2)
    np.testing.assert_array_equal(line.get_xydata(), [[0, 40], [25, 55], [100, 61]])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "25", "100"]


def test_one_point_is_no_line():
    results = toy.results({"data_100": [60.0, 62.0], "data_0": ["failed", "missing"]})
    assert _lines(DATA, [toy.QUESTIONS], results, title="Share", label="%") is None


FOREST = [TWO, *(Variant(name=name, title=name, pretraining=(name,), group="objectives") for name in "abcde")]


def forest(rows, column=toy.QUESTIONS):
    results = Results(FOREST, [column], toy.values(rows, column))
    (axes,) = _differences(FOREST, [column], results, TWO).axes
    return axes


def points(axes):
    """(difference, row, colour) of what is drawn, arrows included."""
    marks = [line for line in axes.lines if line.get_marker() in ("o", "<", ">")]
    return [(float(m.get_xdata()[0]), int(m.get_ydata()[0]), to_hex(m.get_color()).upper()) for m in marks]


@pytest.mark.parametrize(
    ("column", "better", "worse"), [(toy.QUESTIONS, BLUE, ORANGE), (toy.REGION_LOSS, ORANGE, BLUE)], ids=str
)
def test_colours_tell_better_from_worse(column, better, worse):
    axes = forest({"two_stream": [5, 6, 7], "a": [6, 7, 8], "b": [4, 5, 6], "c": [6, 5, 7], "d": ["failed"]}, column)
    assert points(axes) == [(1, 0, better), (-1, 1, worse), (0, 2, GREY)]
    assert [label.get_text() for label in axes.get_yticklabels()] == [*"abcde"]
    assert ("less is better" in axes.get_xlabel()) == (column is toy.REGION_LOSS)


def test_a_far_out_difference_becomes_an_arrow_with_its_number():
    axes = forest({"two_stream": [50, 50], "a": [51, 51], "b": [49, 49], "c": [51, 51], "d": [10, 10]})
    low, high = axes.get_xlim()
    assert low > -5
    assert high < 5
    assert [text.get_text() for text in axes.texts] == ["-40.0"]
    assert [line.get_marker() for line in axes.lines].count("<") == 1
    assert low < points(axes)[-1][0] < -0.5


def test_a_forest_leaves_out_the_effect_of_pretraining_itself():
    plain = Variant(name="f", title="f", group="co-attention", pretrained=False)
    results = Results([*FOREST, plain], [toy.QUESTIONS], toy.values({"two_stream": [50, 51], "f": [9, 9]}))
    assert _differences([*FOREST, plain], [toy.QUESTIONS], results, TWO) is None


def test_no_difference_at_all_is_drawn_at_zero():
    axes = forest({"two_stream": [50, 51], "a": [50, 51]})
    assert points(axes) == [(0, 0, GREY)]
    assert axes.get_xlim()[0] < 0 < axes.get_xlim()[1]
