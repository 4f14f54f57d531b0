"""What tokens stand for, of a tokenizer that makes no images of them: patches of images that have each token."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image, ImageDraw

from beit_jax.models.tokenizer import Tokenizer
from beit_jax.tasks.tokenizer import codebook_usage
from beit_jax.typing import Params
from beit_jax.visualize.images import to_bytes

CONTEXT = 1  # patches on each side of the one that has the token
CELL, MARGIN, GAP, TITLE = 64, 84, 6, 24  # pixels of the sheet: least side of a cell, beside rows, between, above
FADED = 0.6  # how much of the context's colour is left


class Example(NamedTuple):
    """Where a token was found: the number of the image, counted from 0, and row and column of the patch."""

    image: int
    row: int
    column: int


class Census:
    """Counts tokens, and draws at random some of the patches that have each, at most one of an image.

    Its memory does not grow with the number of images: it keeps places, and no pixels.

    Args:
      vocab: number of tokens.
      per_code: patches to keep for each token.
      seed: of the draw.
    """

    def __init__(self, vocab: int, per_code: int, seed: int = 0):
        self.counts, self.images = np.zeros(vocab, np.int64), 0
        self._random = np.random.default_rng(seed)
        self._order = np.full((vocab, per_code), np.inf)  # the smallest random numbers that were drawn for a token
        self._places = np.full((vocab, per_code, 3), -1, np.int64)

    def add(self, tokens: np.ndarray) -> None:
        """Adds the tokens int32 `[b, g, g']` of the next images."""
        image, row, column = (axis.ravel() for axis in np.indices(tokens.shape))
        codes, drawn = tokens.ravel(), self._random.random(tokens.size)
        self.counts += np.bincount(codes, minlength=len(self.counts))
        order = np.lexsort((drawn, codes, image))
        changes = np.diff(image[order], prepend=-1) | np.diff(codes[order], prepend=-1)
        first = order[changes != 0]  # of each token in each image
        places = np.stack([self.images + image, row, column], axis=1)[first]
        self._keep(codes[first], drawn[first], places)
        self.images += len(tokens)

    def _keep(self, codes: np.ndarray, drawn: np.ndarray, places: np.ndarray) -> None:
        used, per_code = np.unique(codes), self._order.shape[1]
        codes = np.concatenate([np.repeat(used, per_code), codes])
        drawn = np.concatenate([self._order[used].ravel(), drawn])
        places = np.concatenate([self._places[used].reshape(-1, 3), places])
        order = np.lexsort((drawn, codes))
        rank = np.arange(len(codes)) - np.searchsorted(codes[order], codes[order])
        kept, rank = order[rank < per_code], rank[rank < per_code]
        self._order[codes[kept], rank], self._places[codes[kept], rank] = drawn[kept], places[kept]

    def most_used(self, count: int) -> list[int]:
        """The tokens that occur most often, at most `count`, those that never occur left out."""
        order = np.argsort(-self.counts, kind="stable")[:count]
        return [int(code) for code in order if self.counts[code]]

    def examples(self, code: int, count: int) -> list[Example]:
        """Some patches that have a token, at most `count` of those that were kept."""
        known = self._places[code][self._order[code] < np.inf]
        return [Example(*map(int, place)) for place in known[:count]]


def take_census(tokenizer: Tokenizer, params: Params, batches: Iterable[np.ndarray], per_code: int) -> Census:
    """The tokens of images.

    Args:
      tokenizer: of any kind.
      params: its parameters.
      batches: images `[b, h, w, 3]` in the tokenizer's range.
      per_code: patches to keep for each token.
    """
    census, targets = Census(tokenizer.vocab, per_code), jax.jit(tokenizer.targets)
    for images in batches:
        census.add(np.asarray(targets(params, images)))
    return census


def cut_out(
    tokenizer: Tokenizer, batches: Iterable[np.ndarray], wanted: Mapping[int, Sequence[Example]]
) -> dict[int, list[np.ndarray]]:
    """The pixels of patches, each among its neighbours, uint8 `[s, s, 3]`, by token; grey beyond the border.

    Args:
      tokenizer: of any kind.
      batches: the images of the census, in the same order.
      wanted: patches by token.
    """
    stride, found, start = tokenizer.stride(tokenizer.section), {}, 0
    margin, side = CONTEXT * stride, (2 * CONTEXT + 1) * stride
    by_image: dict[int, list[Example]] = {}
    for example in {example for examples in wanted.values() for example in examples}:
        by_image.setdefault(example.image, []).append(example)
    for images in batches:
        for number in range(start, start + len(images)):
            if number not in by_image:
                continue
            pixels = to_bytes(tokenizer.to_pixels(images[number - start]))
            pixels = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), constant_values=128)
            for example in by_image.pop(number):
                top, left = example.row * stride, example.column * stride
                found[example] = pixels[top : top + side, left : left + side].copy()
        start += len(images)
        if not by_image:
            break
    return {code: [found[example] for example in examples] for code, examples in wanted.items()}


def without_context(picture: np.ndarray) -> np.ndarray:
    """The patch in the middle of a picture of `cut_out`, uint8 `[stride, stride, 3]`."""
    stride = len(picture) // (2 * CONTEXT + 1)
    return picture[CONTEXT * stride : (CONTEXT + 1) * stride, CONTEXT * stride : (CONTEXT + 1) * stride]


def describe_usage(census: Census, shown: int) -> str:
    """How many tokens there are, how many occur, and how many are shown, in one line."""
    usage = codebook_usage(census.counts)
    used, images = int(usage["codes_used"]), "image" if census.images == 1 else "images"
    return (
        f"{used} of {len(census.counts)} tokens occur in {census.images} {images} (perplexity "
        f"{usage['perplexity']:.1f}); "
        + ("all of these" if shown == used else f"the {shown} that occur most often")
        + " are shown"
    )


def draw_sheet(census: Census, pictures: Mapping[int, Sequence[np.ndarray]], per_code: int) -> np.ndarray:
    """A row of patches for each token, in two columns of rows, uint8 `[h, w, 3]`.

    The patch that has the token is outlined among its faded neighbours. Beside a row stand the token, and how many of
    all patches have it.

    Args:
      census: of the tokens.
      pictures: of `cut_out`, by token, in the order in which they are drawn.
      per_code: patches in a row.
    """
    codes, total = list(pictures), census.counts.sum()
    rows = -(-len(codes) // 2)
    scale = -(-CELL // len(pictures[codes[0]][0]))
    cell = scale * len(pictures[codes[0]][0])
    width = MARGIN + per_code * (cell + GAP)
    sheet = Image.new("RGB", (width * min(len(codes), 2) + GAP, TITLE + rows * (cell + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, TITLE / 2), describe_usage(census, len(codes)), fill="black", anchor="lm")
    for number, code in enumerate(codes):
        left, top = width * (number // rows), TITLE + (number % rows) * (cell + GAP)
        words = f"{code}\n{census.counts[code] / total:.2%}"
        draw.multiline_text((left + MARGIN - GAP, top + cell / 2), words, fill="black", anchor="rm", align="right")
        for index, picture in enumerate(pictures[code]):
            corner = left + MARGIN + index * (cell + GAP), top
            sheet.paste(Image.fromarray(_outlined(picture, scale)), corner)
    return np.asarray(sheet)


def _outlined(picture: np.ndarray, scale: int) -> np.ndarray:
    """A picture of `cut_out`, enlarged, its context faded to white, and the patch in the middle outlined."""
    stride = scale * len(picture) // (2 * CONTEXT + 1)
    inside = slice(CONTEXT * stride, (CONTEXT + 1) * stride)
    sharp = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    made = (255 - FADED * (255.0 - sharp)).round().astype(np.uint8)
    made[inside, inside] = sharp[inside, inside]
    image = Image.fromarray(made)
    first, last = CONTEXT * stride, (CONTEXT + 1) * stride - 1
    draw = ImageDraw.Draw(image)
    draw.rectangle((first - 2, first - 2, last + 2, last + 2), outline="white")
    draw.rectangle((first - 1, first - 1, last + 1, last + 1), outline="black")
    return np.asarray(image)


def counted(batches: Iterable[np.ndarray], report_done: Callable[[int], object]) -> Iterable[np.ndarray]:
    """The batches, each told to a progress bar once it is used."""
    for images in batches:
        yield images
        report_done(len(images))
