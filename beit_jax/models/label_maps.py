"""Label maps: the class of every pixel of an image."""

IGNORE = 255  # the label of pixels that count nothing
ADE20K_CLASSES = 150  # without label 0, which is no class
