"""The curves of a training: which of them are drawn, and the means of its epochs."""

import numpy as np
import pytest

from bridge_ebm import plotting

FIG_4 = ["loss", "reg", "cdiv", "real", "fake"]


def row(step, epoch=1, **values):
    """A line of metrics.jsonl in which all that is not among `values` is null."""
    return {"step": step, "epoch": epoch, **dict.fromkeys([*FIG_4, "regression"]), **values}


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """The figure that `plot_curves` saves for rows."""
    figures = []

    def keep(*size):
        figures.append(new_figure(*size))
        return figures[-1]

    new_figure = plotting.new_figure
    monkeypatch.setattr(plotting, "new_figure", keep)

    def draw(rows):
        plotting.plot_curves(tmp_path / "curves.png", rows)
        assert (tmp_path / "curves.png").stat().st_size > 0
        return figures[-1]

    return draw


def titles(figure):
    return [axes.get_title() for axes in figure.axes]


def test_the_papers_training_shows_the_papers_five_curves(drawn):
    figure = drawn([row(step, **dict.fromkeys(FIG_4, 0.5)) for step in (1, 2)])
    assert titles(figure) == FIG_4
    assert tuple(figure.get_size_inches()) == (15, 3)


def test_only_curves_with_values_are_drawn_and_the_error_of_gradient_regression_is_one(drawn):
    before = [row(step, loss=1.0, regression=1.0) for step in (1, 2)]
    assert titles(drawn(before)) == ["loss", "regression"]
    finish = row(3, loss=1.0, regression=0.9, cdiv=0.1, real=-2.0, fake=-2.1)
    figure = drawn([*before, finish])
    assert titles(figure) == ["loss", "regression", "cdiv", "real", "fake"]
    np.testing.assert_array_equal(figure.axes[1].lines[0].get_ydata(), [1, 1, 0.9])
    np.testing.assert_array_equal(figure.axes[2].lines[0].get_ydata(), [np.nan, np.nan, 0.1])


def test_a_training_that_has_logged_nothing_has_an_empty_panel(drawn):
    assert titles(drawn([])) == ["loss"]


def test_the_mean_of_an_epoch_is_that_of_its_values_and_none_where_there_are_none(drawn):
    rows = [row(1, 1, loss=1.0), row(2, 1), row(3, 1, loss=3.0), row(4, 2), row(5, 2), row(6, 3, loss=5.0)]
    (axes,) = drawn(rows).axes
    means = axes.lines[1]
    np.testing.assert_array_equal(means.get_xdata(), [2, 4.5, 6])
    np.testing.assert_array_equal(means.get_ydata(), [2, np.nan, 5])


def test_the_first_three_epochs_are_left_out_where_there_are_more(drawn):
    rows = [row(epoch, epoch, loss=float(epoch)) for epoch in range(1, 6)]
    np.testing.assert_array_equal(drawn(rows).axes[0].lines[0].get_xdata(), [4, 5])
    np.testing.assert_array_equal(drawn(rows[:3]).axes[0].lines[0].get_xdata(), [1, 2, 3])
