"""Both sides on the same input: a converted model beside the library that its checkpoint came from, layer by layer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from beit_jax import tasks
from beit_jax.convert import names, settings, torch_writer
from beit_jax.convert.pretrained import Pretrained
from beit_jax.errors import UserError
from beit_jax.training.params import flatten

IMAGES = 2


def differences(ours: Pretrained, source: Path, layout: str) -> dict[str, float]:
    """The largest difference of each layer's output, in float32 on random images: what we compute, and what they do.

    Masked image models and classifiers run in transformers, on the files of `source` where it is a Hugging Face folder;
    classifiers of the official layout in timm; a dVAE in `dall_e`.

    Args:
      ours: the converted model.
      source: the checkpoint it was converted from.
      layout: of that, "beit_jax" where it is one of this library.

    Raises:
      UserError: torch or the library is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError("--verify runs the other library too: pip install 'beit_jax[parity]'") from error
    config = ours.config.copy_and_resolve_references()
    if "dtype" in config.model:
        config.model.dtype = "float32"  # on accelerators the default is bfloat16
    ours = ours._replace(model=tasks.model(config))
    with torch.no_grad(), jax.default_matmul_precision("highest"):
        if ours.config.task == "tokenizer":
            return _dalle(ours)
        unilm = layout == "unilm" and ours.config.task == "classify"
        return _encoder(ours, *(_timm(ours) if unilm else _transformers(ours, source if layout == "hf" else None)))


def _encoder(ours: Pretrained, reference: Any, outputs: Any) -> dict[str, float]:
    """Differences of all blocks and the logits; `outputs` runs the reference: `(blocks, logits)`."""
    size = ours.config.model.image_size
    images = np.random.default_rng(0).standard_normal((IMAGES, size, size, 3)).astype(np.float32)
    extra = (None,) if ours.config.task == "pretrain" else ()
    blocks, logits = outputs(reference, _channels_first(images))
    if ours.config.task == "segment":
        # transformers numbers hidden states from the embeddings on, and so takes the outputs of the blocks two below.
        ours = ours._replace(model=ours.model.clone(layers=tuple(i - 2 for i in ours.model.layers)))
        logits = logits.permute(0, 2, 3, 1)
    encoder, params = ours.model.encoder, ours.params
    run = jax.jit(
        lambda p, x: (encoder.apply({"params": p["encoder"]}, x, all_layers=True), _logits(ours, p, x, extra))
    )
    our_blocks, our_logits = run(params, images)
    pairs = {f"block {i}": (mine, theirs) for i, (mine, theirs) in enumerate(zip(our_blocks, blocks, strict=True))}
    return _largest(pairs | {"logits": (our_logits, logits)})


def _logits(ours: Pretrained, params: Mapping[str, Any], images: jax.Array, extra: tuple[None, ...]) -> jax.Array:
    logits = ours.model.apply({"params": params}, images, *extra)
    return logits[0] if ours.config.task == "segment" else logits


def _largest(pairs: Mapping[str, tuple[Any, Any]]) -> dict[str, float]:
    return {name: float(np.abs(np.asarray(mine) - theirs.numpy()).max()) for name, (mine, theirs) in pairs.items()}


def _transformers(ours: Pretrained, source: Path | None) -> tuple[Any, Any]:
    try:
        import transformers

        kind = getattr(transformers, settings.HF_CLASSES[ours.config.task])
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--verify needs transformers ({reason}): pip install 'beit_jax[parity]'") from error
    if source is not None:
        model = kind.from_pretrained(source if source.is_dir() else source.parent)
    else:
        state = names.to_layout(flatten(ours.params), "hf", ours.config.task)
        config = transformers.BeitConfig(**settings.to_hf(ours.config))
        tensors = {name: torch_writer.tensor(value) for name, value in state.items()}
        model = kind.from_pretrained(None, config=config, state_dict=tensors)

    def outputs(model: Any, images: Any) -> tuple[Any, Any]:
        found = model(images, output_hidden_states=True)
        return found.hidden_states[1:], found.logits

    return model.eval(), outputs


def _timm(ours: Pretrained) -> tuple[Any, Any]:
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        raise UserError(f"--verify of this layout runs timm, which cannot be imported here ({error})") from error
    written = settings.to_timm(ours.config)
    model = timm.create_model(
        written["architecture"],
        num_classes=written["num_classes"],
        **written["model_args"],
    )
    state = names.to_layout(flatten(ours.params), "unilm", ours.config.task)
    model.load_state_dict({name: torch_writer.tensor(value) for name, value in state.items()}, strict=True)

    def outputs(model: Any, images: Any) -> tuple[Any, Any]:
        blocks: list[Any] = []
        hooks = [block.register_forward_hook(lambda _m, _i, out: blocks.append(out)) for block in model.blocks]
        logits = model(images)
        for hook in hooks:
            hook.remove()
        return blocks, logits

    return model.eval(), outputs


def _dalle(ours: Pretrained) -> dict[str, float]:
    """Of the encoder's groups, its logits, and the decoder's output."""
    state = names.to_layout(flatten(ours.params), "dalle", "tokenizer")
    encoder, decoder = torch_writer.dalle_modules(state, ours.config.model)
    pixels = 0.1 + 0.8 * np.random.default_rng(0).random((IMAGES, 112, 112, 3), dtype=np.float32)
    variables = {"params": ours.params}

    @jax.jit
    def run(pixels: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
        wanted = lambda module, _: module.name is not None and module.name.startswith("group_")  # noqa: E731
        logits, kept = ours.model.apply(variables, pixels, method="encode", capture_intermediates=wanted)
        outputs = ours.model.apply(variables, jnp.argmax(logits, -1), method="decode_tokens")
        return kept["intermediates"]["encoder"], logits, outputs

    groups, logits, outputs = run(pixels)
    found: dict[str, Any] = {}
    for name in groups:
        getattr(encoder.blocks, name).register_forward_hook(lambda _m, _i, out, name=name: found.update({name: out}))
    their_logits = encoder(_channels_first(pixels))
    one_hot = nn.one_hot(np.asarray(logits).argmax(-1), ours.config.model.vocab)
    their_outputs = decoder(_channels_first(np.asarray(one_hot)))
    pairs = {}
    for name in sorted(groups):
        mine = groups[name]["__call__"][0]
        theirs = found[name].permute(0, 2, 3, 1)
        if theirs.shape[1] != mine.shape[1]:  # their group ends in its pooling
            mine = nn.max_pool(mine, (2, 2), (2, 2))
        pairs[f"encoder {name}"] = (mine, theirs)
    pairs["encoder logits"] = (logits, their_logits.permute(0, 2, 3, 1))
    pairs["decoder output"] = (outputs, their_outputs.permute(0, 2, 3, 1))
    return _largest(pairs)


def _channels_first(images: np.ndarray) -> Any:
    return torch_writer.tensor(np.moveaxis(images, -1, 1))
