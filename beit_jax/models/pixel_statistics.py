"""Mean and standard deviation of the channels of pixels in [0, 1], by the name under which models know them."""

Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation

STATISTICS: dict[str, Statistics] = {
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}

# Of the networks of CLIP (OpenAI's `clip/clip.py`).
CLIP: Statistics = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))

# Weights of red, green and blue in the grey level: 65536 * (0.299, 0.587, 0.114); sums of levels stay exact in float32.
LUMA = (19595.0, 38470.0, 7471.0)
