"""The sheet of right and wrong predictions: what its titles say, and that they fit."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from beit_jax.training.evaluation import Example
from beit_jax.visualize import classification, figures

LONG = "a name of so many characters that it cannot fit"


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, beside their files."""
    made, to_png = [], figures.to_png
    monkeypatch.setattr(figures, "to_png", lambda figure: made.append(figure) or to_png(figure))
    return made


@pytest.mark.parametrize("size", [(16, 16), (32, 16), (16, 32)])
@pytest.mark.parametrize("names", [("0", "1", "2"), ("cat", LONG, "golden retriever puppies")])
def test_titles_name_both_classes_and_do_not_touch(drawn, names, size):
    image = np.random.default_rng(0).random((*size, 3)).astype(np.float32)
    right = [Example(image, label % 3, label % 3, 1.0) for label in range(4)]
    wrong = [Example(image, label % 3, (label + 1) % 3, 0.534) for label in range(3)]
    png = classification.draw_sheet(right, wrong, names, (0.0,) * 3, (1.0,) * 3)
    Image.open(io.BytesIO(png)).load()
    titles = [axes.title for axes in drawn[0].axes if axes.get_title()]
    first, last = titles[0].get_text().splitlines(), titles[-1].get_text().splitlines()
    assert first == [f"predicted: {names[0]} (100%)", f"true: {names[0]}"]
    assert last == [f"predicted: {names[0]} (53%)", f"true: {names[2]}"]
    assert [title.get_color() for title in titles] == ["black"] * 4 + ["firebrick"] * 3
    boxes = [title.get_window_extent() for title in titles]
    for box, after in itertools.pairwise(boxes):
        assert box.x1 < after.x0 or after.y1 < box.y0
    assert min(box.x0 for box in boxes) >= 0 and max(box.x1 for box in boxes) <= Image.open(io.BytesIO(png)).width
