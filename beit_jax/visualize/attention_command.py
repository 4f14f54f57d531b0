"""`python -m beit_jax.visualize attention`."""

import argparse
from collections.abc import Sequence
from typing import Any

from beit_jax import image_flags
from beit_jax.errors import UserError
from beit_jax.visualize import images
from beit_jax.visualize.arguments import check_arguments

DESCRIPTION = """Self-attention from reference points of one image, and the mean attention distance of each head.

  python -m beit_jax.visualize attention --checkpoint runs/pretrain --image cat.jpg --out maps
  python -m beit_jax.visualize attention --checkpoint microsoft/beit-base-patch16-224-pt22k --image cat.jpg \\
      --out maps --points "120,80;300,210" --layer all --heads --size 320x480

Writes, for each layer: attention_layer12.png, one figure with a map for each point, the mean over heads;
attention_layer12_point1.png, the same map alone, with its point; with --heads, attention_layer12_point1_heads.png, a
map for each head. And attention_distance.png: the mean attention distance of every head, by layer.

The model sees the largest central part of the image with the shape of --size; positions are interpolated as for
fine-tuning. Maps leave out the class token. Below a map the image is dark and grey: colour is attention. The
lightest colour is the map's own maximum, which its title gives, or 4 times uniform attention if that is more.
"""


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "attention",
        help="what patches of an image attend to",
        description=DESCRIPTION,
        plugins=True,
        check=check_arguments,
    )
    parser.add_argument(
        "--checkpoint", metavar="NAME", required=True, help="run, file, folder or hub id of a model with an encoder"
    )
    parser.add_argument(
        "--image",
        metavar="FILE",
        required=True,
        help="file of a picture; a .npy array [h, w, c] for a model of other channels",
    )
    parser.add_argument("--out", metavar="FOLDER", required=True, help="folder to write to")
    parser.add_argument(
        "--layer",
        metavar="LAYER",
        default="-1",
        help="number, from 1 on or from -1 down (default -1, the last), or all",
    )
    parser.add_argument(
        "--points",
        type=_parse_points,
        metavar="POINTS",
        help='in pixels of the picture, "x,y;x,y" (default: four, chosen by the image)',
    )
    parser.add_argument(
        "--size",
        type=image_flags.parse_size,
        metavar="SIZE",
        help="H or HxW, in pixels, of the image that the model sees (default: the checkpoint's)",
    )
    parser.add_argument(
        "--bands",
        type=_parse_bands,
        metavar="BANDS",
        default=(),
        help="of an array: the channels that pictures show, such as 4,3,2, counted from 1 (default: the first three)",
    )
    parser.add_argument("--heads", action="store_true", help="also a map for each head")
    parser.set_defaults(run=run)


def _parse_bands(text: str) -> tuple[int, ...]:
    bands = tuple(int(band) for band in text.split(",") if band.strip().isdecimal())
    if len(bands) not in (1, 3) or not all(bands):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected one channel or three, such as 4,3,2")
    return bands


def _parse_points(text: str) -> list[tuple[float, float]]:
    try:
        points = [tuple(float(number) for number in point.split(",")) for point in text.split(";") if point.strip()]
    except ValueError:
        points = []
    if not points or any(len(point) != 2 for point in points):
        raise argparse.ArgumentTypeError(f'found {text!r}, expected "x,y;x,y" in pixels')
    return points


def chosen_layers(text: str, depth: int) -> list[int]:
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
    import numpy as np

    from beit_jax.tasks.shown_bands import to_rgb
    from beit_jax.visualize import attention, figures, loading

    encoder, params, image_size, preprocess = loading.load_encoder(settings.checkpoint, settings.size)
    is_rgb = preprocess.channels == 3 and not preprocess.max_value and not settings.image.endswith(".npy")
    picture = (
        images.read_picture(settings.image, preprocess) if is_rgb else images.read_pixels(settings.image, preprocess)
    )
    patch = encoder.patch_size
    grid = (image_size[0] // patch, image_size[1] // patch)
    layers = chosen_layers(settings.layer, encoder.depth)
    box = images.central_box((picture.height, picture.width) if is_rgb else picture.shape[:2], image_size)
    if is_rgb:
        pixels = images.crop_and_resize(picture, image_size, preprocess.interpolation)
        normalized = images.normalize(pixels, preprocess)
    else:
        values = images.resize_array(picture, image_size, preprocess.interpolation)
        normalized = (values - np.float32(preprocess.mean)) / np.float32(preprocess.std)
        pixels = images.to_bytes(to_rgb(values[None], settings.bands)[0])
    points = [attention.patch_at(point, box, grid) for point in settings.points or ()]
    points = points or attention.salient_patches(pixels, grid)
    weights = attention.attention_weights(encoder, params, normalized.astype(np.float32)[None])

    scale = max(1, images.MIN_SIDE // max(image_size))
    if is_rgb:
        shown = images.crop_and_resize(picture, (scale * image_size[0], scale * image_size[1]), "lanczos")
    else:
        shown = np.repeat(np.repeat(pixels, scale, axis=0), scale, axis=1)
    pictures: list[tuple[str, Any]] = []
    for layer in layers:
        maps = attention.between_patches(weights[layer - 1, 0], grid)
        name = f"attention_layer{layer:02d}"
        pictures += layer_pictures(name, f"layer {layer}", shown, maps, points, settings.heads)
    uniform = attention.mean_distance(np.ones((1, 1, 1, *weights.shape[-2:]), np.float32), grid, patch)
    distances = attention.mean_distance(weights, grid, patch)
    pictures.append(("attention_distance", figures.draw_distances(distances, float(uniform[0, 0]))))
    images.write_pictures(settings.out, pictures)


def layer_pictures(
    name: str, title: str, shown: Any, maps: Any, points: Sequence[tuple[int, int]], heads: bool
) -> list[tuple[str, Any]]:
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
    means = [maps[:, row, column].mean(axis=0) for row, column in points]
    titled = [
        ("reference points", shown),
        *(_titled(f"from {i}", shown, mean) for i, mean in enumerate(means, start=1)),
    ]
    unlabelled = [[(*square[:4], "")] for square in squares]  # the title has the number
    wide = len(titled) if len(titled) <= 5 else (len(titled) + 1) // 2
    mean_title = f"{title}, mean over {len(maps)} heads\n{attention.SCALE}"
    pictures = [(name, figures.draw_panels(titled, wide, [squares, *unlabelled], title=mean_title))]
    for number, ((row, column), mean, mark) in enumerate(zip(points, means, unlabelled), start=1):
        alone = attention.outline(attention.overlay(shown, mean), (row, column), (rows, columns))
        pictures.append((f"{name}_point{number}", alone))
        if heads:
            each = [_titled(f"head {i}", shown, head) for i, head in enumerate(maps[:, row, column], 1)]
            columns_of_heads = min(len(each), 4 if len(each) % 4 == 0 else 3)  # usual numbers of heads fill their rows
            heads_title = f"{title}, from point {number}\n{attention.SCALE}"
            sheet = figures.draw_panels(each, columns_of_heads, [mark] * len(each), inches=2.2, title=heads_title)
            pictures.append((f"{name}_point{number}_heads", sheet))
    return pictures


def _titled(name: str, shown: Any, values: Any) -> tuple[str, Any]:
    """A map `[gh, gw]` on an image, below its name and its maximum."""
    from beit_jax.visualize import attention

    return f"{name}\n{attention.strength(values)}", attention.overlay(shown, values)
