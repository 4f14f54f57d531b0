"""Which channels pictures show, of images that are not RGB. Nothing else decides this."""

from collections.abc import Sequence
from typing import Any

import numpy as np

GREY = 0.5  # of what is hidden
HIDDEN = -1.0  # in all channels of a pixel whose grey would be stretched to a colour: no picture has it otherwise


def is_stretched(channels: int) -> bool:
    """Whether pictures of so many channels are shown with stretched contrast."""
    return channels not in (1, 3)


def chosen(channels: int, bands: Sequence[int] = ()) -> list[int]:
    """Three channels, or the same one three times, counted from 0.

    Args:
      channels: of the images.
      bands: one channel or three, counted from 1 (`data.bands`); those that are not there count as the last one. Empty:
        the first three, or the first.
    """
    named = tuple(bands) or (range(1, 4) if channels >= 3 else (1,))
    return [min(band, channels) - 1 for band in named] * (3 // len(named))


def to_rgb(images: np.ndarray, bands: Sequence[int] = (), beside: Sequence[np.ndarray] = ()) -> np.ndarray:
    """Pictures `[b, h, w, 3]` in [0, 1] of `[b, h, w, c]`.

    RGB stays as it is, unless `bands` choose. One channel is shown as grey, as it is. Of others, the contrast of each
    shown channel is stretched, since numbers of satellites and microscopes are mostly small: of all pictures alike.
    Pixels that are `HIDDEN` do not count in it, and become grey.

    Args:
      images: c channels, in [0, 1].
      bands: see `chosen`.
      beside: other pictures of c channels with which these are compared, such as reconstructions.
    """
    channels = images.shape[-1]
    if channels == 3 and not bands:
        return images
    shown, *others = (pictures[..., chosen(channels, bands)].astype(np.float32) for pictures in (images, *beside))
    if not is_stretched(channels):
        return shown
    pixels = np.concatenate([pictures.reshape(-1, 3) for pictures in (shown, *others)])
    pixels = pixels[(pixels != HIDDEN).any(axis=-1)]
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    hidden = (shown == HIDDEN).all(axis=-1, keepdims=True)
    return np.where(hidden, np.float32(GREY), (shown - low) / np.maximum(high - low, 1e-6))


def of_examples(
    lists: Sequence[Sequence[Any]], mean: Sequence[float], std: Sequence[float], bands: Sequence[int] = ()
) -> tuple[Sequence[Sequence[Any]], tuple[Sequence[float], Sequence[float]]]:
    """Lists of `evaluation.Example` with images of three channels, and the statistics by which these are normalized.

    Those of RGB stay as they are; others are no longer normalized.
    """
    if len(mean) == 3 and not bands:
        return lists, (mean, std)
    pixels = [example.image * np.float32(std) + np.float32(mean) for examples in lists for example in examples]
    shown = iter(to_rgb(np.stack(pixels), bands)) if pixels else iter(())
    changed = [[example._replace(image=next(shown)) for example in examples] for examples in lists]
    return changed, ((0.0,) * 3, (1.0,) * 3)
