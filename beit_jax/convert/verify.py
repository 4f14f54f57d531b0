"""Compares a converted model with the library that its checkpoint came from, layer by layer, on the same input."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from beit_jax import extras
from beit_jax.convert import data2vec, names, settings, torch_writer
from beit_jax.convert.layouts import task_layout
from beit_jax.convert.pretrained import Pretrained
from beit_jax.convert.settings_limits import read_settings
from beit_jax.errors import UserError
from beit_jax.tasks import create_task
from beit_jax.training.params import flatten
from beit_jax.typing import Params

IMAGES = 2


def largest_differences(ours: Pretrained, folder: Path | None, layout: str) -> dict[str, float]:
    """The largest difference of each layer's output between this library and another one, in float32 on random images.

    A dVAE is compared with `dall_e`, a classifier of the official layout with timm, and all other models with
    transformers.

    Args:
      ours: the converted model.
      folder: of Hugging Face's files that it was converted from, for transformers to read them itself; None: there is
        none, and the converted parameters are given to transformers.
      layout: of the checkpoint; "beit_jax" for one of this library.

    Raises:
      UserError: torch or the library is not installed, or no library has such a model.
    """
    extras.check_installed("torch")
    import torch

    config = ours.config.copy_and_resolve_references()
    formats, missing = task_layout(config.task).formats_of(config), task_layout(config.task).unsupported(config)
    if not formats or missing:
        what = missing or f"models of the task {config.task!r}"
        raise UserError(f"--verify compares with another library, and none has {what}; leave it out")
    if "dtype" in config.model:
        config.model.dtype = "float32"  # on accelerators the default is bfloat16
    ours = ours._replace(model=create_task(config).model)
    with torch.no_grad(), jax.default_matmul_precision("highest"):
        if ours.config.get("model", {}).get("kind", "") == "vqkd":
            raise UserError("--verify: no installed library has a VQ-KD tokenizer; leave it out")
        if "dalle" in formats:
            return _compare_with_dalle(ours)
        if layout == "unilm" and "timm" in formats:
            return _compare_encoders(ours, *_timm_model(ours))
        return _compare_encoders(ours, *_transformers_model(ours, folder))


def _compare_encoders(ours: Pretrained, reference: Any, outputs: Any) -> dict[str, float]:
    """Differences of all blocks and the logits; `outputs` runs the reference: `(blocks, logits)`."""
    layout, size = task_layout(ours.config.task), ours.config.model.image_size
    images = np.random.default_rng(0).standard_normal((IMAGES, size, size, 3)).astype(np.float32)
    model, no_mask = layout.transformers_twin(ours.model), (None,) if layout.takes_mask else ()
    blocks, logits = outputs(reference, _channels_first(images))
    if layout.hf_channels_first:
        logits = logits.permute(0, 2, 3, 1)

    @jax.jit
    def run(params: Params, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        our_blocks = model.encoder.apply({"params": params["encoder"]}, images, all_layers=True)
        return our_blocks, layout.logits(model.apply({"params": params}, images, *no_mask))

    our_blocks, our_logits = run(ours.params, images)
    pairs = {f"block {i}": pair for i, pair in enumerate(zip(our_blocks, blocks, strict=True))}
    return _largest(pairs | {"logits": (our_logits, logits)})


def _largest(pairs: Mapping[str, tuple[Any, Any]]) -> dict[str, float]:
    return {name: float(np.abs(np.asarray(mine) - theirs.numpy()).max()) for name, (mine, theirs) in pairs.items()}


def _transformers_model(ours: Pretrained, folder: Path | None) -> tuple[Any, Any]:
    extras.check_installed("transformers")
    try:
        import transformers

        name = task_layout(ours.config.task).hf_class
        is_data2vec = folder and read_settings(folder / "config.json").get("model_type") == data2vec.MODEL_TYPE
        kind = getattr(transformers, data2vec.class_of(name) if is_data2vec else name)
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--verify runs transformers, which cannot be imported here ({reason})") from error
    if folder is not None:
        model = kind.from_pretrained(folder)
    else:
        state = names.to_layout(flatten(ours.params), "hf", ours.config.task)
        config = transformers.BeitConfig(**settings.to_hf(ours.config))
        tensors = {name: torch_writer.to_tensor(value) for name, value in state.items()}
        model = kind.from_pretrained(None, config=config, state_dict=tensors)

    def outputs(model: Any, images: Any) -> tuple[Any, Any]:
        result = model(images, output_hidden_states=True)
        return result.hidden_states[1:], result.logits

    return model.eval(), outputs


def _timm_model(ours: Pretrained) -> tuple[Any, Any]:
    extras.check_installed("timm")
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        raise UserError(f"--verify of this layout runs timm, which cannot be imported here ({error})") from error
    stated = settings.to_timm(ours.config)
    model = timm.create_model(
        stated["architecture"],
        num_classes=stated["num_classes"],
        **stated["model_args"],
    )
    state = names.to_layout(flatten(ours.params), "unilm", ours.config.task)
    model.load_state_dict({name: torch_writer.to_tensor(value) for name, value in state.items()}, strict=True)

    def outputs(model: Any, images: Any) -> tuple[Any, Any]:
        blocks: list[Any] = []
        hooks = [block.register_forward_hook(lambda _m, _i, out: blocks.append(out)) for block in model.blocks]
        logits = model(images)
        for hook in hooks:
            hook.remove()
        return blocks, logits

    return model.eval(), outputs


def _compare_with_dalle(ours: Pretrained) -> dict[str, float]:
    """Differences of the encoder's groups, its logits, and the decoder's output."""
    state = names.to_layout(flatten(ours.params), "dalle", "tokenizer")
    encoder, decoder = torch_writer.dalle_modules(state, ours.config.model)
    pixels = 0.1 + 0.8 * np.random.default_rng(0).random((IMAGES, 112, 112, 3), dtype=np.float32)
    variables = {"params": ours.params}

    @jax.jit
    def run(pixels: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
        is_group = lambda module, _: module.name is not None and module.name.startswith("group_")  # noqa: E731
        logits, captured = ours.model.apply(variables, pixels, method="encode", capture_intermediates=is_group)
        outputs = ours.model.apply(variables, jnp.argmax(logits, -1), method="decode_tokens")
        return captured["intermediates"]["encoder"], logits, outputs

    groups, logits, outputs = run(pixels)
    their_groups: dict[str, Any] = {}
    for name in groups:
        block = getattr(encoder.blocks, name)
        block.register_forward_hook(lambda _m, _i, out, name=name: their_groups.update({name: out}))
    their_logits = encoder(_channels_first(pixels))
    one_hot = nn.one_hot(np.asarray(logits).argmax(-1), ours.config.model.vocab)
    their_outputs = decoder(_channels_first(np.asarray(one_hot)))
    pairs = {}
    for name in sorted(groups):
        mine = groups[name]["__call__"][0]
        theirs = their_groups[name].permute(0, 2, 3, 1)
        if theirs.shape[1] != mine.shape[1]:  # their group ends in its pooling
            mine = nn.max_pool(mine, (2, 2), (2, 2))
        pairs[f"encoder {name}"] = (mine, theirs)
    pairs["encoder logits"] = (logits, their_logits.permute(0, 2, 3, 1))
    pairs["decoder output"] = (outputs, their_outputs.permute(0, 2, 3, 1))
    return _largest(pairs)


def _channels_first(images: np.ndarray) -> Any:
    return torch_writer.to_tensor(np.moveaxis(images, -1, 1))
