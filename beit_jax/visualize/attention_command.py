"""`python -m beit_jax.visualize attention`."""

import argparse
from typing import Any

from beit_jax import cli
from beit_jax.errors import UserError
from beit_jax.visualize import images

DESCRIPTION = """Where patches look: self-attention for reference points of one image, and how far each head looks.

  python -m beit_jax.visualize attention --checkpoint runs/pretrain --image cat.jpg --out maps
  python -m beit_jax.visualize attention --checkpoint microsoft/beit-base-patch16-224-pt22k --image cat.jpg \\
      --out maps --points "120,80;300,210" --layer all --heads --size 320x480

Writes, for each layer: attention_layer12.png, one figure with a map for each point, the mean over heads;
attention_layer12_point1.png, the same map on the image alone; with --heads, attention_layer12_point1_heads.png, a map
for each head. And attention_distance.png: mean attention distance of every head, by layer.

The model sees the largest central part of the image with the shape of --size; positions are resized as for
fine-tuning. Maps leave out the class token. A map's lightest colour is its own maximum.
"""


def add(names: Any) -> None:
    """Registers the command."""
    parser = names.add_parser(
        "attention",
        help="what patches of an image attend to",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", required=True, help="run, file, folder or hub id of a model with an encoder")
    parser.add_argument("--image", required=True, help="file of a picture")
    parser.add_argument("--out", required=True, help="folder to write to")
    parser.add_argument(
        "--layer", default="-1", help="number, from 1 on or from -1 down (default -1, the last), or all"
    )
    parser.add_argument("--points", type=_points, help='in pixels of the picture, "x,y;x,y" (default: four, chosen)')
    parser.add_argument("--size", type=images.size, help="H or HxW that the model sees (default: the checkpoint's)")
    parser.add_argument("--heads", action="store_true", help="also a map for each head")
    parser.set_defaults(run=run)


def _points(text: str) -> list[tuple[float, float]]:
    try:
        points = [tuple(float(number) for number in point.split(",")) for point in text.split(";") if point.strip()]
    except ValueError:
        points = []
    if not points or any(len(point) != 2 for point in points):
        raise argparse.ArgumentTypeError(f'found {text!r}, expected "x,y;x,y" in pixels')
    return points


def layers_of(text: str, depth: int) -> list[int]:
    """The numbers, from 1 on, of the layers that `--layer` asks for.

    Raises:
      UserError: there is no such layer.
    """
    if text == "all":
        return list(range(1, depth + 1))
    number = int(text) if text.removeprefix("-").isdecimal() else 0
    if not 1 <= abs(number) <= depth:
        raise UserError(f"--layer={text}: the encoder has the layers 1 to {depth}, or -1 for the last one; or give all")
    return [number if number > 0 else depth + 1 + number]


def run(settings: argparse.Namespace) -> None:
    """Writes the pictures and prints their paths.

    Raises:
      UserError: the checkpoint, the image, the size, a layer or a point is wrong; nothing is written then.
    """
    picture = images.read(settings.image)
    cli.local_folder("out", settings.out)

    import numpy as np

    from beit_jax.visualize import attention, figures, loading

    encoder, params, config = loading.encoder(settings.checkpoint, settings.size)
    side, patch = config.model.image_size, encoder.patch_size
    size = settings.size or (side, side)
    grid, layers = (size[0] // patch, size[1] // patch), layers_of(settings.layer, encoder.depth)
    box = images.central_box((picture.height, picture.width), size)
    pixels = images.fitted(picture, size, config.preprocess.interpolation)
    points = [attention.patch_at(point, box, grid) for point in settings.points or ()]
    points = points or attention.salient_patches(pixels, grid)
    statistics = (np.asarray(config.preprocess[key], np.float32) for key in ("mean", "std"))
    mean, std = statistics
    weights = attention.attention_weights(encoder, params, ((pixels / np.float32(255) - mean) / std)[None])

    scale = max(1, images.LEAST_SIDE // max(size))
    shown = images.fitted(picture, (scale * size[0], scale * size[1]), "lanczos")
    made = []
    for layer in layers:
        maps = attention.between_patches(weights[layer - 1, 0], grid)
        made += pictures(f"attention_layer{layer:02d}", f"layer {layer}", shown, maps, points, settings.heads)
    uniform = attention.distance(np.ones((1, 1, 1, *weights.shape[-2:]), np.float32), grid, patch)
    found = attention.distance(weights, grid, patch)
    images.write(settings.out, [*made, ("attention_distance", figures.distances(found, float(uniform[0, 0])))])


def pictures(name: str, title: str, shown: Any, maps: Any, points: Any, heads: bool) -> list[tuple[str, Any]]:
    """The pictures of one layer.

    Args:
      name: of the files.
      title: of the figures.
      shown: the image, uint8 `[H, W, 3]`.
      maps: `[h, gh, gw, gh, gw]`, of `between_patches`.
      points: rows and columns of the reference patches.
      heads: whether to make one picture for each head.

    Returns:
      Names, and uint8 `[H, W, 3]` or PNG files.
    """
    from beit_jax.visualize import attention, figures

    rows, columns = maps.shape[1:3]
    squares = [
        (column / columns, row / rows, 1 / columns, 1 / rows, str(number))
        for number, (row, column) in enumerate(points, start=1)
    ]
    means = [attention.overlay(shown, maps[:, row, column].mean(axis=0)) for row, column in points]
    titled = [("reference points", shown), *((f"from {number}", mean) for number, mean in enumerate(means, start=1))]
    plain = [[(*square[:4], "")] for square in squares]  # the number stands in the title
    wide = len(titled) if len(titled) <= 5 else (len(titled) + 1) // 2
    made = [(name, figures.panels(titled, wide, [squares, *plain], title=f"{title}, mean over {len(maps)} heads"))]
    for number, ((row, column), mean, mark) in enumerate(zip(points, means, plain), start=1):
        made.append((f"{name}_point{number}", mean))
        if heads:
            each = [(f"head {i}", attention.overlay(shown, head)) for i, head in enumerate(maps[:, row, column], 1)]
            title_of = f"{title}, from point {number}"
            sheet = figures.panels(each, columns_of(len(each)), [mark] * len(each), inches=2.2, title=title_of)
            made.append((f"{name}_point{number}_heads", sheet))
    return made


def columns_of(count: int) -> int:
    """Pictures in a row, so that a number of heads that is usual fills its rows."""
    return min(count, 4 if count % 4 == 0 else 3)
