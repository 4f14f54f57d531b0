"""`python -m beit_jax.visualize tokens` and `predictions`."""

import argparse
from typing import Any

from beit_jax import cli
from beit_jax.errors import UserError
from beit_jax.visualize import images

TOKENS = """Image -> tokens -> image, and the codebook of a tokenizer: ours, or OpenAI's dVAE.

  python -m beit_jax.visualize tokens --checkpoint runs/tokenizer --image cat.jpg --out pictures
  python -m beit_jax.visualize tokens --checkpoint dalle_folder --image cat.jpg --out pictures --size 224x320

Writes tokens.png (the image, its tokens as squares of the codebook with their numbers, and what they decode to),
reconstruction.png (that alone, to the pixel), and codebook.png: what each token decodes to among its like, row by row,
the number of the first token before each row. A pre-training run shows the tokenizer that it reads.
"""
PREDICTIONS = """Masked image -> predicted tokens -> image, and the likeliest tokens at one position.

  python -m beit_jax.visualize predictions --checkpoint runs/pretrain --image cat.jpg --out pictures
  python -m beit_jax.visualize predictions --checkpoint microsoft/beit-base-patch16-224-pt22k \\
      --tokenizer dalle_folder --image cat.jpg --out pictures --masked 75 --seed 3 --position 6,7 --top 8

Writes predictions.png (the image, what the model sees, what the true tokens decode to, and the same with the predicted
tokens in the masked places), the four pictures alone, and top_tokens.png: around the position, the image decoded with
each of its likeliest tokens, and with the true one. Prints these tokens and their probabilities.
"""
LARGEST_NUMBERED = 16  # positions a side, up to which numbers are legible


def add(names: Any) -> None:
    """Registers the commands."""
    tokens = _parser(names, "tokens", "image -> tokens -> image, and the codebook", TOKENS)
    tokens.add_argument("--size", type=images.size, help="H or HxW of the image (default: the tokenizer's)")
    tokens.set_defaults(run=show_tokens)
    predictions = _parser(names, "predictions", "masked image -> predicted tokens -> image", PREDICTIONS)
    predictions.add_argument("--tokenizer", default="", help="where the checkpoint does not name its own")
    predictions.add_argument("--masked", type=int, help="patches to mask, in blocks (default: as in the training)")
    predictions.add_argument("--seed", type=_whole, default=0, help="of the mask (default 0)")
    predictions.add_argument("--position", type=_position, help="R,C from 0 on (default: masked, near the middle)")
    predictions.add_argument("--top", type=int, default=5, help="tokens to show at the position (default 5)")
    predictions.set_defaults(run=show_predictions)


def _parser(names: Any, name: str, short: str, description: str) -> argparse.ArgumentParser:
    kind = argparse.RawDescriptionHelpFormatter
    parser = names.add_parser(name, help=short, description=description, formatter_class=kind)
    parser.add_argument("--checkpoint", required=True, help="run, file, folder or hub id")
    parser.add_argument("--image", required=True, help="file of a picture")
    parser.add_argument("--out", required=True, help="folder to write to")
    return parser


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number from 0 on")
    return int(text)


def _position(text: str) -> tuple[int, int]:
    row, _, column = text.partition(",")
    if not (row.isdecimal() and column.isdecimal()):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a row and a column from 0 on, such as 6,7")
    return int(row), int(column)


def show_tokens(settings: argparse.Namespace) -> None:
    """Writes the pictures of a tokenizer and prints their paths.

    Raises:
      UserError: the checkpoint, the image or the size is wrong; nothing is written then.
    """
    picture = images.read(settings.image)
    cli.local_folder("out", settings.out)

    from beit_jax.runtime.progress import progress_bar
    from beit_jax.visualize import figures, loading, token_pictures

    net, params, config = loading.tokenizer(settings.checkpoint)
    size, stride = settings.size or (config.model.image_size,) * 2, 2 ** (net.groups - 1)
    if size[0] % stride or size[1] % stride:
        raise UserError(f"--size={size[0]}x{size[1]}: expected multiples of {stride}, the pixels of a token")
    original = images.fitted(picture, size, "lanczos")
    tokens = token_pictures.tokens_of(net, params, original[None])
    reconstruction = token_pictures.as_bytes(token_pictures.decoder(net, params)(tokens)[0])
    with progress_bar(net.vocab, 0, "tokens") as progress:
        squares = token_pictures.codebook(net, params, progress.update)
    alone = squares[tokens[0]].swapaxes(1, 2).reshape(original.shape)  # rows of a square beside those of its neighbour
    rows, columns = tokens.shape[1:]
    numbers = [
        (column / columns, row / rows, 1 / columns, 1 / rows, str(tokens[0, row, column]))
        for row in range(rows if max(rows, columns) <= LARGEST_NUMBERED else 0)
        for column in range(columns)
    ]
    titled = [("image", original), (f"tokens, {rows}x{columns} of {net.vocab}", alone), ("decoded", reconstruction)]
    figure = figures.panels(titled, 3, labels=[[], numbers, []], inches=4.2)
    sheet = token_pictures.contact_sheet(squares)
    images.write(settings.out, [("tokens", figure), ("reconstruction", reconstruction), ("codebook", sheet)])


def show_predictions(settings: argparse.Namespace) -> None:
    """Writes the pictures of a pre-trained model and prints their paths and the likeliest tokens.

    Raises:
      UserError: the checkpoint, its tokenizer, the image, the mask or the position is wrong; nothing is written then.
    """
    picture = images.read(settings.image)
    cli.local_folder("out", settings.out)

    import numpy as np

    from beit_jax.visualize import figures, loading, predictions, token_pictures

    loaded, tokenizer = loading.masked_model(settings.checkpoint, settings.tokenizer)
    vocab = tokenizer.model.vocab
    if not 1 <= settings.top <= vocab:
        raise UserError(f"--top={settings.top}; expected 1 to {vocab}, the tokens there are")
    mask = predictions.mask_of(loaded.config, settings.masked, settings.seed)
    position = settings.position or predictions.near_the_middle(mask)
    if position[0] >= mask.shape[0] or position[1] >= mask.shape[1]:
        raise UserError(
            f"--position={position[0]},{position[1]} is outside of the {mask.shape[0]}x{mask.shape[1]} patches; "
            f"expected a row up to {mask.shape[0] - 1} and a column up to {mask.shape[1] - 1}, from 0 on"
        )
    found = predictions.predict(loaded, tokenizer, picture, mask)
    likeliest, shares = token_pictures.top_tokens(found.logits[position], settings.top)
    true = found.tokens[position]
    base = np.where(mask, found.guesses, found.tokens)
    decode = token_pictures.decoder(tokenizer.model, tokenizer.params)
    variants = token_pictures.in_place(decode, base, position, np.append(likeliest, true))
    names = [f"token {code}: {share:.1%}" for code, share in zip(likeliest, shares)] + [f"the true one, {true}"]
    titled = [(name, token_pictures.as_bytes(image)) for name, image in zip(names, variants)]
    top = figures.panels(*predictions.around(titled, mask.shape, position), inches=2.0)
    made = [(name, token_pictures.as_bytes(image)) for name, image in found.pictures.items()]
    titles = {
        "original": "image",
        "masked": f"what BEiT sees: {mask.sum()} of {mask.size} masked",
        "tokenizer": "true tokens decoded",
        "prediction": "predicted tokens decoded",
    }
    figure = figures.panels([(title, dict(made)[name]) for name, title in titles.items()], 4, inches=3.0)
    images.write(settings.out, [("predictions", figure), *made, ("top_tokens", top)])
    kind = "masked" if mask[position] else "visible"
    print(f"position {position[0]},{position[1]} ({kind}), whose token is {true}:")
    for code, share in zip(likeliest, shares):
        print(f"  token {code:>{len(str(vocab))}}  {share:.4f}")
