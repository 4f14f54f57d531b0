"""Why a checkpoint does not fit a config, in words of the config in place of a list of parameters."""

from pathlib import Path

from ml_collections import ConfigDict

from beit_jax.config import from_json
from beit_jax.errors import UserError
from beit_jax.training import checkpoint

NO_SECTION = ConfigDict()
OF_VQKD = {"relative_position": "none", "absolute_positions": True, "layer_scale": 0.0}  # the encoder of a VQ-KD


def explain_mismatch(config: ConfigDict, source: Path) -> None:
    """Raises the reason, if the two configs show it.

    Args:
      config: of a run that starts from a checkpoint.
      source: the checkpoint, which does not fit.

    Raises:
      UserError: the models of the two configs are of different kinds or sizes; there may be another reason.
    """
    run = from_json(checkpoint.load_config(source))
    if "model" not in run:
        raise UserError("it is a converted teacher, which teacher.path takes; expected a run with an encoder")
    own, theirs = config.get("model", NO_SECTION), run.model
    own_kind, kind = own.get("kind", ""), theirs.get("kind", "")  # of tokenizers
    if kind != own_kind and (own_kind or "variant" not in theirs or "relative_position" not in own):
        found, expected = (f"a tokenizer of the kind {name!r}" if name else "no tokenizer" for name in (kind, own_kind))
        advice = f"expected {expected}" if own_kind else "expected a run with an encoder, such as a pre-training"
        raise UserError(f"it is {found}; {advice}")
    wrong = [name for name, value in OF_VQKD.items() if own.get(name, value) != value]
    if kind and kind != own_kind and wrong:
        expected = " ".join(f"--config.model.{name}={OF_VQKD[name]}" for name in wrong)
        raise UserError(
            f"it is a tokenizer of the kind {kind!r}, whose encoder has other parameters; expected {expected}"
        )
    blocks, own_blocks = theirs.get("early_layer", None), own.get("early_layer", None)
    if None not in (blocks, own_blocks) and bool(blocks) != bool(own_blocks):
        versions = ("BEiT", "BEiT v2") if own_blocks else ("BEiT v2", "BEiT")
        what = "initialize them" if own_blocks else "leave those of the checkpoint out"
        raise UserError(
            f"it is a pre-training of {versions[0]}, and the config is one of {versions[1]}, which differ in the "
            f"additional blocks (model.early_layer is {blocks} there and {own_blocks} here); give the config the same, "
            f"or {what}: --config.init_optional=\"('^aggregation_',)\""
        )
    variant, own_variant = theirs.get("variant", ""), own.get("variant", "")
    if variant and own_variant and variant != own_variant:
        raise UserError(
            f"its encoder is {variant}, and that of the config is {own_variant}; give the config the same: "
            f"variant={variant} behind the name of its file, such as configs/finetune.py:variant={variant}"
        )
