"""The text of `data.labels`: how many examples of each class a run may train on. Read without TensorFlow."""

import re
from typing import NamedTuple

from beit_jax.errors import UserError


class LabelChoice(NamedTuple):
    """So many examples of each class or, if that is 0, such a fraction of each class (1: all examples)."""

    per_class: int
    fraction: float


def parse_labels(text: str) -> LabelChoice:
    """Reads "all", "10%" (of the examples of each class) or "5 per class".

    Raises:
      UserError: the text is something else.
    """
    if text == "all":
        return LabelChoice(0, 1.0)
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)%", text):
        fraction = float(match[1]) / 100
        if 0 < fraction <= 1:
            return LabelChoice(0, fraction)
    if match := re.fullmatch(r"([1-9]\d*) per class", text):
        return LabelChoice(int(match[1]), 0.0)
    raise UserError(
        f"found data.labels={text!r}; expected 'all', a percentage above 0 such as '10%', or a number such as "
        "'5 per class'"
    )
