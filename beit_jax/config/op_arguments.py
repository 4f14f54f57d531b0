"""What a chain of ops says, read from its text without TensorFlow."""

import ast

from ml_collections import ConfigDict

from beit_jax.data import op_chain

# Names of the arguments of ops, in their order.
SIGNATURES = {
    "decode": ("background", "exif_transpose"),  # and, by name, channels and max_value
    "normalize": ("mean", "std"),
    "resize": ("size", "method"),
    "resize_small": ("size", "method"),
    "two_views": ("size", "tokenizer_size", "scale_min", "scale_max", "tokenizer_method"),
    "two_views_center": ("size", "tokenizer_size", "fraction", "tokenizer_method"),
}
OFFICIAL_METHOD = "lanczos"  # of the first BEiT, and the default of these ops


def arguments_of(ops: str, *names: str) -> dict[str, ast.expr] | None:
    """The arguments that a chain gives to an op of one of some names in `SIGNATURES`, by their own names.

    None if there is no such op. Those that are given by position and those given by name are the same here.

    Raises:
      ValueError: the chain cannot be read.
    """
    try:
        node = next((node for node in op_chain.split_chain(ops or "nothing") if op_chain.name_of(node) in names), None)
    except SyntaxError as error:
        raise ValueError(str(error)) from None
    return None if node is None else op_chain.arguments_of(node, SIGNATURES[op_chain.name_of(node)])


def tokenizer_method(config: ConfigDict) -> str:
    """The filter by which the ops of a pre-training resize the tokenizer's view: lanczos, bicubic or bilinear.

    Evaluation ops say it, since the training step makes the view with `device_augment`. Ops of one's own, which make
    the view in a way of theirs, count as the official ones.
    """
    try:
        given = arguments_of(config.data.eval_ops, "two_views", "two_views_center") or {}
        return ast.literal_eval(given["tokenizer_method"]) if "tokenizer_method" in given else OFFICIAL_METHOD
    except ValueError:
        return OFFICIAL_METHOD  # what cannot be read is refused where the ops are built
