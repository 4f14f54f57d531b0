"""The lines and the legend of a panel."""

import pytest

from beit_jax.visualize.curves import draw_curves, make_panel

SEEDS = [[(0.0, 1.0), (1.0, 2.0)], [(0.0, 1.5), (1.0, 2.5)]]


def legend_of(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_training_is_paler_than_evaluations_and_the_legend_tells_them_apart():
    figure = make_panel("title", {"beit": SEEDS, "scratch": SEEDS}, "unit", {"beit": SEEDS[:1], "scratch": SEEDS[:1]})
    lines, keys = figure.axes[0].lines, figure.legends[0].get_lines()
    pale, strong = lines[:2], lines[2:]
    assert len(strong) == 4 and all(line.get_alpha() is None and line.get_linewidth() >= 1.5 for line in strong)
    assert all(line.get_alpha() < 0.5 and line.get_linewidth() < 1.5 for line in pale)
    assert legend_of(figure) == ["beit", "scratch", "evaluation", "training batches"]
    assert [line.get_alpha() for line in keys] == [None, None, None, pale[0].get_alpha()]
    assert pale[0].get_color() == strong[0].get_color() == strong[1].get_color() == keys[0].get_color()
    assert strong[0].get_linewidth() > strong[2].get_linewidth()  # of the same points: both are seen


@pytest.mark.parametrize("count", [1, 7, 12])
def test_panels_of_one_kind_of_lines_and_of_many_names(count):
    names = [f"optimizer.lr=0.{number}: classify" for number in range(count)]
    figure = make_panel("title", {name: [[(1.0, 2.0)]] for name in names}, "unit", {})
    assert legend_of(figure) == names
    assert {line.get_marker() for line in figure.axes[0].lines} == {"o"}
    assert draw_curves("title", {names[0]: SEEDS}, "unit", {}).startswith(b"\x89PNG")
