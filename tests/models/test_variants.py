import subprocess
import sys

import pytest

from beit_jax.errors import UserError
from beit_jax.models import variants


def test_parse():
    assert variants.parse("B/16") == (variants.Variant(width=768, depth=12, heads=12), 16)
    assert variants.parse("Micro/4")[1] == 4


def test_sizes_of_one_s_own():
    assert variants.parse("512x8x4/16") == (variants.Variant(width=512, depth=8, heads=4), 16)
    assert variants.name_of(*variants.parse("512x8x4/16")) == "512x8x4/16"
    assert variants.name_of(*variants.parse("768x12x12/8")) == "B/8"


@pytest.mark.parametrize(
    "name", ["512x8/16", "512x8x7/16", "0x1x1/16", "B", "B/", "B/x", "B/0", "H/14", "b/16", "", "B/-4"]
)
def test_unknown_names_list_the_known_ones(name):
    with pytest.raises(UserError, match="Micro, Nano, Ti, S, B, L"):
        variants.parse(name)


def test_heads_divide_widths():
    for variant in variants.VARIANTS.values():
        assert variant.width % variant.heads == 0


def test_configs_can_read_the_names_without_jax():
    program = "import sys, beit_jax.models.variants; print(sorted({'jax', 'flax'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "[]"
