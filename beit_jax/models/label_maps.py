"""Label maps of semantic segmentation."""

IGNORE = 255  # the label of pixels that count nothing
