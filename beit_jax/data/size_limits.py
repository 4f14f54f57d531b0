"""Limits for images of odd shapes, which the ops of the input and `preprocess` share."""

LONGEST = 8  # by how much the longer side of a resized image may exceed the shorter one
MOST_BETWEEN = 2**25  # pixels of an image of which only columns, or only rows, are resized
