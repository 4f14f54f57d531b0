"""Writes `beit.npz`: what transformers and dall_e compute with the weights and inputs of `tests/models/beit_golden.py`.

    python -m venv V && V/bin/pip install torch transformers numpy -e . && V/bin/pip install --no-deps dall-e
    V/bin/pip install attrs requests pillow && JAX_PLATFORMS=cpu V/bin/python tests/golden/make_beit_golden.py

The file in the repository: torch 2.13.0+cpu, transformers 5.23.0, dall-e 0.1.
"""

import sys
from pathlib import Path

import dall_e
import numpy as np
import torch
from transformers import BeitConfig, BeitForImageClassification, BeitForMaskedImageModeling

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "models")]

import beit_golden as golden  # noqa: E402
from beit_references import dall_e_model, hugging_face_model  # noqa: E402


def channels_first(images: np.ndarray) -> torch.Tensor:
    """`[b, H, W, c]` -> `[b, c, H, W]`."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1)))


def config(**fields: object) -> BeitConfig:
    """The size of `golden.ENCODER`."""
    encoder = golden.ENCODER
    return BeitConfig(
        hidden_size=encoder["width"],
        num_hidden_layers=encoder["depth"],
        num_attention_heads=encoder["heads"],
        intermediate_size=4 * encoder["width"],
        patch_size=encoder["patch_size"],
        image_size=golden.SIDE,
        layer_norm_eps=1e-6,
        vocab_size=golden.CLASSES,
        num_labels=golden.CLASSES,
        **fields,
    )


@torch.no_grad()
def main() -> None:
    images, mask = golden.images(), golden.mask()
    fields = dict(use_shared_relative_position_bias=True, use_mask_token=True)
    model = hugging_face_model(
        BeitForMaskedImageModeling, config(**fields), golden.parameters(golden.masked_image_model(), images, mask)
    )
    out = {"masked_image_model": model(channels_first(images), torch.from_numpy(mask.reshape(len(mask), -1))).logits}
    model = hugging_face_model(
        BeitForImageClassification,
        config(use_relative_position_bias=True),
        golden.parameters(golden.classifier(), images),
    )
    out["classifier"] = model(channels_first(images)).logits

    sizes = golden.TOKENIZER
    pixels, params = golden.pixels(), golden.tokenizer_parameters()
    encoder = dall_e.Encoder(n_hid=sizes["hidden"], vocab_size=sizes["vocab"])
    logits = dall_e_model(encoder, params["encoder"])(channels_first(pixels))
    decoder = dall_e.Decoder(n_hid=sizes["hidden"], n_init=sizes["decoder_init"], vocab_size=sizes["vocab"])
    one_hot = torch.nn.functional.one_hot(logits.argmax(1), sizes["vocab"]).permute(0, 3, 1, 2).float()
    outputs = dall_e_model(decoder, params["decoder"])(one_hot)
    out["tokenizer_logits"], out["tokenizer_outputs"] = logits.permute(0, 2, 3, 1), outputs.permute(0, 2, 3, 1)
    np.savez_compressed(HERE / "beit.npz", **{name: value.numpy() for name, value in out.items()})


if __name__ == "__main__":
    main()
