"""Features of images, by the encoder in any model: `beit_jax.features` and what it is made of."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from beit_jax.errors import UserError
from beit_jax.models import variants, vit
from beit_jax.models.patch_embed import patch_grid
from beit_jax.tasks.encoder import layer_features
from beit_jax.training.interpolate_positions import interpolate_positions
from beit_jax.typing import Params

Layers = int | Sequence[int] | None


def features(
    model: nn.Module, params: Params, images: jax.Array, *, layers: Layers = None, kind: str = "mean"
) -> jax.Array:
    """Features of images: what blocks of a model's encoder give, without the final norm.

    It is compiled once for each encoder, shape, layers and kind. Each call moves parameters that are NumPy arrays to
    the device. Where the images have another size than those of the model, each call also interpolates positions on the
    host, as the official fine-tuning does. `feature_extractor` does both once, for many batches.

    Args:
      model: as `from_pretrained` returns it: of any task with a vision transformer.
      params: its parameters.
      images: `[b, h, w, 3]`, normalized, as `preprocess` gives them; h and w are multiples of the patch size.
      layers: a block, counted from 1, or several, in any order; None: all. Blocks after the last one are not computed.
        The best features for a linear classifier on a pre-trained BEiT come from blocks in the middle.
      kind: "mean" of the patches, "cls" (the class token), "cls_mean" (both, side by side), or "patches" (maps).

    Returns:
      float32 `[b, d]` for one block, `[b, l, d]` for a sequence of them, or for all; 2 d numbers for "cls_mean". For
      "patches" `[b, gh, gw, d]`, or `[b, l, gh, gw, d]`.

    Raises:
      UserError: the model has no such encoder, there is no such block or kind, or the patches do not cover the images.

    Examples:
      >>> model, params, config = beit_jax.from_pretrained("runs/pretrain")
      >>> pixels = beit_jax.preprocess([Image.open("cat.png")], config.preprocess)
      >>> beit_jax.features(model, params, pixels, layers=1).shape
      (1, 32)
      >>> beit_jax.features(model, params, pixels, kind="patches").shape
      (1, 2, 4, 4, 32)
    """
    shape = np.shape(images)
    channels = _channels_of(model, params)
    if len(shape) != 4 or shape[-1] != channels:
        raise UserError(
            f"found images of shape {shape}; expected [b, h, w, {channels}], as beit_jax.preprocess gives them"
        )
    if not jnp.issubdtype(jnp.result_type(images), jnp.floating):
        raise UserError(f"found {images.dtype} images; expected normalized ones, as beit_jax.preprocess gives them")
    run, sized = _program(model, params, shape[1:3], layers, kind)
    return run(sized, images)


def feature_extractor(
    model: nn.Module,
    params: Params,
    image_size: tuple[int, int],
    *,
    layers: Layers = None,
    kind: str = "mean",
) -> Callable[[jax.Array], jax.Array]:
    """A function from images `[b, h, w, 3]` of one size to what `features` gives, for many batches.

    Positions are interpolated and parameters moved to the device here, once.

    Args:
      model: see `features`.
      params: see `features`.
      image_size: height and width of the images in pixels.
      layers: see `features`.
      kind: see `features`.

    Raises:
      UserError: see `features`; the function raises it for images of another size.

    Examples:
      >>> model, params, _ = beit_jax.from_pretrained("runs/pretrain")
      >>> extract = beit_jax.feature_extractor(model, params, (16, 32), layers=2)
      >>> [extract(jnp.zeros((3, 16, 32, 3))).shape for _ in range(2)]
      [(3, 32), (3, 32)]
    """
    height, width = map(operator.index, image_size)
    run, sized = _program(model, params, (height, width), layers, kind)
    placed, channels = jax.device_put(sized), _channels_of(model, params)

    def extract(images: jax.Array) -> jax.Array:
        shape = np.shape(images)
        if shape[1:] != (height, width, channels):
            raise UserError(f"found images of shape {shape}; expected [b, {height}, {width}, {channels}]")
        return run(placed, images)

    return extract


def _channels_of(model: nn.Module, params: Params) -> int:
    """Of the images that a model sees."""
    return encoder_of(model, params)[1]["patch_embed"]["kernel"].shape[2]


def encoder_of(model: nn.Module, params: Params, name: str = "the model") -> tuple[vit.Encoder, Params]:
    """The vision transformer in a model, be it one of its fields or made in its `setup`, as VQ-KD's is.

    `encoder.apply({"params": params}, images)` gives the class token and the patches after the last block.

    Args:
      model: as `from_pretrained` returns it, or an encoder with parameters of its own.
      params: of the model.
      name: of the model, for messages.

    Returns:
      The encoder and its parameters, of which those of all blocks are stacked along a leading axis.

    Raises:
      UserError: there is none, or its parameters are in another checkpoint.

    Examples:
      >>> model, params, _ = beit_jax.from_pretrained("runs/pretrain")
      >>> encoder, encoder_params = beit_jax.encoder_of(model, params)
      >>> jax.jit(encoder.apply)({"params": encoder_params}, jnp.zeros((2, 16, 16, 3))).shape
      (2, 17, 32)
    """
    if isinstance(model, vit.Encoder) and "patch_embed" in params:
        return model, params
    encoder = model if isinstance(model, vit.Encoder) else getattr(model, "encoder", None)
    if encoder is None and isinstance(model, nn.Module):
        made = getattr(model.bind({"params": params}), "encoder", None)
        encoder = made.unbind()[0] if isinstance(made, nn.Module) else None
    if not isinstance(encoder, vit.Encoder):
        what = "no network" if model is None else f"of the class {type(model).__name__}, without a vision transformer"
        raise UserError(f"{name} is {what}; expected a model with a vision transformer")
    if "encoder" not in params:
        raise UserError(
            f"{name} has a frozen encoder, whose parameters are not its own; load the checkpoint of the encoder, which "
            "encoder.init_from of its config names"
        )
    return encoder, params["encoder"]


def at_size(encoder: vit.Encoder, params: Params, image_size: tuple[int, int]) -> tuple[vit.Encoder, Params]:
    """An encoder and its parameters for images of another size, with interpolated positions; the same for its own size.

    Args:
      encoder: the network, whose `grid` is that of the parameters.
      params: its parameters.
      image_size: height and width in pixels.

    Raises:
      UserError: patches do not cover such images.
    """
    grid = patch_grid(image_size, encoder.patch_size)
    channels = params["patch_embed"]["kernel"].shape[2]
    loaded, expected = {"encoder": params}, {"encoder": _shapes(encoder, image_size, channels)}
    sized = interpolate_positions(loaded, expected, grid=grid, own_grid=encoder.grid)["encoder"]
    if any(new is not old for new, old in zip(jax.tree.leaves(sized), jax.tree.leaves(params), strict=True)):
        # Another kind of attention was tried for the model's own number of patches.
        encoder = encoder.clone(grid=grid, attention="plain")
    return encoder, sized


@functools.lru_cache(maxsize=64)
def _shapes(encoder: vit.Encoder, image_size: tuple[int, int], channels: int) -> Params:
    image = jax.ShapeDtypeStruct((1, *image_size, channels), np.float32)
    return jax.eval_shape(encoder.init, jax.random.key(0), image)["params"]


def _program(
    model: nn.Module, params: Params, image_size: tuple[int, int], layers: Layers, kind: str
) -> tuple[Callable[[Params, Any], jax.Array], Params]:
    """From parameters and images to features, and the parameters for images of this size."""
    encoder, own = encoder_of(model, params)
    chosen = chosen_layers(layers, encoder.depth)
    if kind not in variants.FEATURE_KINDS:
        raise UserError(f"kind={kind!r}; expected one of {', '.join(variants.FEATURE_KINDS)}")
    encoder, sized = at_size(encoder, own, image_size)
    return functools.partial(compute, encoder=encoder, kind=kind, layers=chosen), sized


def chosen_layers(layers: Layers, depth: int) -> int | tuple[int, ...]:
    """The layers that a user chose of `depth`.

    Raises:
      UserError: there is no such layer.
    """
    if layers is None:
        return tuple(range(1, depth + 1))
    try:
        chosen = operator.index(layers) if isinstance(layers, int | np.integer) else tuple(map(operator.index, layers))
    except TypeError:
        raise UserError(f"layers={layers!r}; expected whole numbers from 1 to {depth}") from None
    for layer in chosen if isinstance(chosen, tuple) else (chosen,):
        if not 1 <= layer <= depth:
            raise UserError(f"there is no layer {layer}: the encoder has the layers 1 to {depth}")
    if chosen == ():
        raise UserError(f"layers={layers!r} names no layer; expected 1 to {depth}, or None for all")
    return chosen


@functools.partial(jax.jit, static_argnames=("encoder", "kind", "layers"))
def compute(
    params: Params, images: jax.Array, *, encoder: vit.Encoder, kind: str, layers: int | tuple[int, ...]
) -> jax.Array:
    """`layer_features`, without the axis of the layers where `layers` is one number."""
    several = layers if isinstance(layers, tuple) else (layers,)
    result = layer_features(encoder, params, jnp.asarray(images, jnp.float32), kind, several)
    return result if isinstance(layers, tuple) else result[:, 0]
