"""Label maps: the class of every pixel of an image."""

IGNORE = 255  # the label of pixels that count nothing
