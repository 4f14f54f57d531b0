"""What describes one image, or a batch of images, on its way through the input: a dict of tensors, and its keys.

Keys with a leading underscore are for the input itself; batches do not hold them.
"""

import tensorflow as tf

Features = dict[str, tf.Tensor]

TOKENIZER_IMAGE = "tokenizer_image"  # the second view of the image, for the tokenizer
LABEL_MAP = "label_map"  # uint8 [h, w, 1]: the class of every pixel of the image
VALID = "valid"  # bool: whether an example of an evaluation counts
INDEX = "index"  # in the file order of an evaluation's examples

ARRAY = "_array"  # the pixels of an image that is no file, [h, w, c], before `decode`, in place of `image`
ID = "_id"  # the name of the example in messages
FAULT = "_fault"  # why the image cannot be read; empty if it can be read
SEED = "_seed"  # int64 [2]: what all random numbers of the example depend on
COUNTS = "_counts"  # false for examples that only fill the last batch of an evaluation
ROW = "_row"  # the row of the batch that the image was read for; unreadable images are replaced by those of other rows
KEEP_LEVELS = "_keep_levels"  # is present where images stay uint8
