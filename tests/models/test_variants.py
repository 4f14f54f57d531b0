import pytest

from beit_jax.errors import UserError
from beit_jax.models import variants


def test_parse():
    assert variants.parse("B/16") == (variants.Variant(width=768, depth=12, heads=12), 16)
    assert variants.parse("Micro/4")[1] == 4


@pytest.mark.parametrize("name", ["B", "B/", "B/x", "B/0", "H/14", "b/16", "", "B/-4"])
def test_unknown_names_list_the_known_ones(name):
    with pytest.raises(UserError, match="Micro, Nano, Ti, S, B, L"):
        variants.parse(name)


def test_heads_divide_widths():
    for variant in variants.VARIANTS.values():
        assert variant.width % variant.heads == 0
