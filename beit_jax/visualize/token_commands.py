"""`python -m beit_jax.visualize tokens` and `predictions`."""

import argparse
from typing import Any

from beit_jax import image_flags
from beit_jax.errors import UserError
from beit_jax.models.image_size import sides
from beit_jax.visualize import images
from beit_jax.visualize.arguments import check_arguments

TOKENS = """Image -> tokens -> image, and the codebook of a tokenizer: of this library, or OpenAI's dVAE.

  python -m beit_jax.visualize tokens --checkpoint runs/tokenizer --image cat.jpg --out pictures
  python -m beit_jax.visualize tokens --checkpoint dalle_folder --image cat.jpg --out pictures --size 224x320

Writes tokens.png (the image, its tokens as squares of the codebook with their numbers, and what they decode to),
reconstruction.png (the decoded image alone, at its own size), and codebook.png: what each token decodes to among its
like, row by row, the number of the first token before each row. A pre-training run shows the tokenizer that it reads.
Without --image there is codebook.png alone.

  python -m beit_jax.visualize tokens --checkpoint runs/vqkd --out pictures
  python -m beit_jax.visualize tokens --checkpoint vqkd.pth --images photos --image cat.jpg --out pictures --codes 64

A tokenizer that makes no images, such as VQ-KD, is shown by patches of the run's evaluation images, or of --images.
codebook.png has a row for each of the tokens that occur most often: patches that have it, drawn at random from
different images, each outlined among its neighbours. Before the row stand the token and how many of all patches have
it. tokens.png has the image of --image, and in place of each patch one of another image with the same token.
"""
PREDICTIONS = """Masked image -> predicted tokens -> image, and the most likely tokens at one position.

  python -m beit_jax.visualize predictions --checkpoint runs/pretrain --image cat.jpg --out pictures
  python -m beit_jax.visualize predictions --checkpoint microsoft/beit-base-patch16-224-pt22k \\
      --tokenizer dalle_folder --image cat.jpg --out pictures --masked 75 --seed 3 --position 6,7 --top 8

Writes predictions.png (the image, what the model sees, what the true tokens decode to, and the same with the predicted
tokens at the masked positions), the four pictures alone, and top_tokens.png: the surroundings of one position, decoded
with each of its most likely tokens, and with the true one. Prints these tokens and their probabilities.
"""
PER_CODE = 8  # patches that show a token
MAX_NUMBERED = 16  # positions a side, up to which numbers are legible


def add_parsers(commands: Any) -> None:
    """Adds the commands."""
    tokens = _add_parser(commands, "tokens", "image -> tokens -> image, and the codebook", TOKENS)
    tokens.add_argument(
        "--size",
        type=image_flags.parse_size,
        metavar="SIZE",
        help="H or HxW of the image, in pixels (default: the tokenizer's)",
    )
    tokens.add_argument(
        "--images",
        metavar="PATH",
        nargs="+",
        default=(),
        help="images, or folders of images, in place of the run's",
    )
    tokens.add_argument("--codes", type=_parse_count, default=32, metavar="N", help="tokens to show (default 32)")
    tokens.set_defaults(run=show_tokens)
    predictions = _add_parser(commands, "predictions", "masked image -> predicted tokens -> image", PREDICTIONS)
    predictions.add_argument(
        "--tokenizer", metavar="NAME", default="", help="for a checkpoint that does not name its own"
    )
    predictions.add_argument(
        "--masked", type=int, metavar="N", help="patches to mask, in blocks (default: as in training)"
    )
    predictions.add_argument("--seed", type=_parse_seed, default=0, metavar="N", help="of the mask (default 0)")
    predictions.add_argument(
        "--position",
        type=_parse_position,
        metavar="R,C",
        help="row and column from 0 on (default: of the masked patch that is nearest to the middle)",
    )
    predictions.add_argument(
        "--top", type=int, metavar="N", help="how many tokens to show at the position (default 5, or all)"
    )
    predictions.set_defaults(run=show_predictions)


def _add_parser(commands: Any, name: str, short: str, description: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=short, description=description, plugins=True, check=check_arguments)
    parser.add_argument("--checkpoint", metavar="NAME", required=True, help="run, file, folder or hub id")
    parser.add_argument("--image", metavar="FILE", required=name != "tokens", help="file of a picture")
    parser.add_argument("--out", metavar="FOLDER", required=True, help="folder to write to")
    return parser


def _parse_seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"found {text!r}, expected an integer from 0 on")
    return int(text)


def _parse_count(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected an integer from 1 on")
    return int(text)


def _parse_position(text: str) -> tuple[int, int]:
    row, _, column = text.partition(",")
    if not (row.isdecimal() and column.isdecimal()):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a row and a column from 0 on, such as 6,7")
    return int(row), int(column)


def show_tokens(settings: argparse.Namespace) -> None:
    """Writes the pictures of a tokenizer and prints their paths.

    Raises:
      UserError: the checkpoint, the images or the size are wrong; nothing is written then.
    """
    from beit_jax.visualize import loading, token_pictures

    loaded = loading.load_tokenizer(settings.checkpoint)
    tokenizer, original, tokens = loaded.tokenizer, None, None
    if settings.size and not settings.image:
        raise UserError("--size is that of the image of --image, which is missing; give it, or leave --size out")
    if settings.image:
        size, stride = settings.size or sides(tokenizer.image_size), tokenizer.stride(tokenizer.section)
        if size[0] % stride or size[1] % stride:
            raise UserError(f"--size={size[0]}x{size[1]}: expected multiples of {stride}, the pixels of a token")
        original = images.crop_and_resize(images.read_picture(settings.image, loaded.preprocess), size, "lanczos")
        tokens = token_pictures.tokens_of(tokenizer, loaded.params, original[None])[0]
    if tokenizer.can_decode:
        if settings.images:
            raise UserError(
                f"--images are for tokenizers that make no images of tokens; {settings.checkpoint}, of the kind "
                f"{tokenizer.section.kind!r}, does: leave them out"
            )
        pictures = _decoded(loaded, original, tokens)
    else:
        pictures = _by_example(loaded, settings, original, tokens)
    images.write_pictures(settings.out, pictures)


def _decoded(loaded: Any, original: Any, tokens: Any) -> list[tuple[str, Any]]:
    """The pictures of a tokenizer that decodes.

    Args:
      loaded: from `loading.load_tokenizer`.
      original: an image, uint8 `[h, w, 3]`; None: of the codebook alone.
      tokens: of the image, int32 `[g, g']`.
    """
    from beit_jax.runtime.progress import progress_bar
    from beit_jax.visualize import token_pictures

    tokenizer, params, _ = loaded
    with progress_bar(tokenizer.vocab, 0, "tokens") as progress:
        squares = token_pictures.decode_codebook(tokenizer, params, progress.update)
    codebook = [("codebook", token_pictures.contact_sheet(squares))]
    if original is None:
        return codebook
    reconstruction = images.to_bytes(token_pictures.make_decoder(tokenizer, params)(tokens[None])[0])
    mosaic = squares[tokens].swapaxes(1, 2).reshape(original.shape)  # a row of pixels runs through all squares
    figure = _draw_tokens(original, tokens, mosaic, tokenizer.vocab, ("decoded", reconstruction))
    return [("tokens", figure), ("reconstruction", reconstruction), *codebook]


def _by_example(loaded: Any, settings: argparse.Namespace, original: Any, tokens: Any) -> list[tuple[str, Any]]:
    """The pictures of a tokenizer that does not decode, as those of `_decoded`; says how many tokens occur."""
    import numpy as np

    from beit_jax.runtime.progress import progress_bar
    from beit_jax.visualize import code_examples
    from beit_jax.visualize.tokenizer_images import TokenizerImages

    tokenizer, params, _ = loaded
    seen = TokenizerImages(settings.checkpoint, settings.images)
    with progress_bar(len(seen), 0, "images") as progress:
        batches = code_examples.counted(seen, progress.update)
        census = code_examples.take_census(tokenizer, params, batches, PER_CODE)
    shown = census.most_used(settings.codes)
    wanted = {code: census.examples(code, PER_CODE) for code in shown}
    of_image = [] if tokens is None else [int(code) for code in np.unique(tokens) if code not in wanted]
    pictures = code_examples.cut_out(tokenizer, seen, wanted | {code: census.examples(code, 1) for code in of_image})
    print(code_examples.describe_usage(census, len(shown)))
    sheet = code_examples.draw_sheet(census, {code: pictures[code] for code in shown}, PER_CODE)
    if tokens is None:
        return [("codebook", sheet)]
    blank = np.full((tokenizer.stride(tokenizer.section),) * 2 + (3,), 128, np.uint8)  # of a token that occurs nowhere
    squares = {code: code_examples.without_context(made[0]) if made else blank for code, made in pictures.items()}
    mosaic = np.stack([squares[code] for code in tokens.ravel().tolist()]).reshape(*tokens.shape, *blank.shape)
    mosaic = mosaic.swapaxes(1, 2).reshape(original.shape)
    return [("tokens", _draw_tokens(original, tokens, mosaic, tokenizer.vocab)), ("codebook", sheet)]


def _draw_tokens(original: Any, tokens: Any, mosaic: Any, vocab: int, *more: tuple[str, Any]) -> bytes:
    """An image, its tokens as squares with their numbers, where these are legible, and more titled pictures."""
    from beit_jax.visualize import figures

    rows, columns = tokens.shape
    numbers = [
        (column / columns, row / rows, 1 / columns, 1 / rows, str(tokens[row, column]))
        for row in range(rows if max(rows, columns) <= MAX_NUMBERED else 0)
        for column in range(columns)
    ]
    titled = [("image", original), (f"tokens, {rows}x{columns} of {vocab}", mosaic), *more]
    return figures.draw_panels(titled, len(titled), labels=[[], numbers, *([] for _ in more)], inches=4.2)


def show_predictions(settings: argparse.Namespace) -> None:
    """Writes the pictures of a pre-trained model and prints their paths and the most likely tokens.

    Raises:
      UserError: the checkpoint, its tokenizer, the image, the mask or the position is wrong; nothing is written then.
    """
    from beit_jax.visualize import figures, loading, predictions, token_pictures

    loaded = loading.load_pretraining(settings.checkpoint, settings.tokenizer)
    picture = images.read_picture(settings.image, loaded.preprocess)
    vocab = loaded.task.tokenizer.vocab
    top = min(5, vocab) if settings.top is None else settings.top
    if not 1 <= top <= vocab:
        raise UserError(f"--top={top}; expected 1 to {vocab}, the number of tokens")
    mask = predictions.draw_mask(loaded.task, settings.masked, settings.seed)
    position = settings.position or predictions.central_masked_patch(mask)
    if position[0] >= mask.shape[0] or position[1] >= mask.shape[1]:
        raise UserError(
            f"--position={position[0]},{position[1]} is outside of the {mask.shape[0]}x{mask.shape[1]} patches; "
            f"expected a row up to {mask.shape[0] - 1} and a column up to {mask.shape[1] - 1}, from 0 on"
        )
    made = predictions.predict(loaded, picture, mask)
    codes, probabilities = token_pictures.top_tokens(made.logits[position], top)
    pictures = [(name, images.to_bytes(image)) for name, image in made.pictures.items()]
    titles = {
        "original": "image",
        "masked": f"what BEiT sees: {mask.sum()} of {mask.size} masked",
        "tokenizer": "true tokens decoded",
        "prediction": "predicted tokens decoded",
    }
    figure = figures.draw_panels([(title, dict(pictures)[name]) for name, title in titles.items()], 4, inches=3.0)
    drawn = _draw_top_tokens(loaded, made, mask, position, codes, probabilities)
    images.write_pictures(settings.out, [("predictions", figure), *pictures, ("top_tokens", drawn)])
    kind = "masked" if mask[position] else "visible"
    print(f"position {position[0]},{position[1]} ({kind}), whose token is {made.tokens[position]}:")
    for code, probability in zip(codes, probabilities):
        print(f"  token {code:>{len(str(vocab))}}  {probability:.4f}")


def _draw_top_tokens(
    loaded: Any, made: Any, mask: Any, position: tuple[int, int], codes: Any, probabilities: Any
) -> bytes:
    """The surroundings of a position, decoded with each of its most likely tokens, and with the true one.

    Args:
      loaded: from `loading.load_pretraining`.
      made: from `predictions.predict`.
      mask: bool `[g, g]`.
      position: row and column.
      codes: the most likely tokens, int `[k]`.
      probabilities: theirs, `[k]`.
    """
    import numpy as np

    from beit_jax.visualize import figures, predictions, token_pictures

    true = made.tokens[position]
    decode = token_pictures.make_decoder(loaded.task.tokenizer, loaded.frozen["tokenizer"])
    shown = np.where(mask, made.predicted, made.tokens)
    variants = token_pictures.decode_replaced(decode, shown, position, np.append(codes, true))
    names = [f"token {code}: {p:.1%}" for code, p in zip(codes, probabilities)] + [f"the true one, {true}"]
    titled = [(name, images.to_bytes(image)) for name, image in zip(names, variants)]
    return figures.draw_panels(*predictions.crop_around(titled, mask.shape, position), inches=2.0)
