"""data2vec for images in transformers: the networks of BEiT under another prefix (`state_dicts` reads both)."""

import re
from collections.abc import Mapping
from typing import Any

MODEL_TYPE = "data2vec-vision"
PREFIX = "data2vec_vision."  # in place of `beit.`

# From the names of BEiT, as regular expressions. The parts of UPerNet are called as in the memory of transformers 5,
# which writes data2vec's to files, too.
_NAMES = (
    (r"^beit\.", PREFIX),
    (r"^decode_head\.bottleneck\.", "decode_head.psp_bottleneck."),
    (r"\.psp_modules\.(\d+)\.1\.", r".psp_modules.blocks.\1.conv."),
    (r"\.conv\.weight$", ".convolution.weight"),
    (r"\.bn\.", ".normalization."),
)


def state_of(beit: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a BEiT in the layout "hf" by the names of data2vec."""
    out = {}
    for name, value in beit.items():
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        out[name] = value
    return out


def settings_of(beit: Mapping[str, Any]) -> dict[str, Any]:
    """The `config.json` of data2vec that says what one of a BEiT does."""
    return {**beit, "model_type": MODEL_TYPE, "architectures": [class_of(kind) for kind in beit["architectures"]]}


def class_of(beit: str) -> str:
    """The class of transformers that does for data2vec what one does for BEiT."""
    return beit.replace("Beit", "Data2VecVision", 1)
