"""How many tokens stay the same if DALL-E's encoder computes with fewer bits, at its published size.

  python -m beit_jax.benchmarks.token_precision

Matrix units multiply rounded numbers exactly and add in float32. A CPU does the same here: it rounds to the type, then
convolves in float32. Weights are random, images are clouds of several sizes.
"""

import functools

import jax
import jax.numpy as jnp

from beit_jax.models.dvae import DvaeEncoder
from beit_jax.typing import Params

IMAGES, SIDE, SIZES = 4, 112, (3, 7, 14, 28, 56, 112)
VOCAB, HIDDEN, GROUPS, BLOCKS = 8192, 256, 4, 2
FLOAT32, THREE = "float32", "bfloat16, three products"
# Of the convolutions, and of the last layer.
OPTIONS = [
    (FLOAT32, FLOAT32),
    ("bfloat16", "bfloat16"),
    ("bfloat16", FLOAT32),
    ("float16", FLOAT32),
    (THREE, THREE),
]


def _convolve(x: jax.Array, layer: Params, kind: str) -> jax.Array:
    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    kernel, bias = layer["kernel"], layer["bias"].reshape(1, 1, 1, -1)
    if kind == THREE:
        (high_x, low_x), (high_k, low_k) = ((_round(v, "bfloat16"), v - _round(v, "bfloat16")) for v in (x, kernel))
        low_x, low_k = _round(low_x, "bfloat16"), _round(low_k, "bfloat16")
        return product(high_x, high_k) + product(high_x, low_k) + product(low_x, high_k) + bias
    return _round(product(_round(x, kind), _round(kernel, kind)), kind) + _round(bias, kind)


def _round(x: jax.Array, kind: str) -> jax.Array:
    return x if kind in (FLOAT32, THREE) else x.astype(kind).astype(jnp.float32)


@functools.partial(jax.jit, static_argnames=("kind", "last"))
def _tokens(params: Params, images: jax.Array, kind: str, last: str) -> jax.Array:
    x = _convolve(images, params["input"], kind)
    for group in range(1, GROUPS + 1):
        for block in (params[f"group_{group}"][f"block_{index}"] for index in range(1, BLOCKS + 1)):
            y = x
            for layer in sorted(block["res_path"]):
                y = _convolve(jax.nn.relu(y), block["res_path"][layer], kind)
            x = _convolve(x, block["id_path"], kind) if "id_path" in block else x
            x = _round(x + y / (GROUPS * BLOCKS) ** 2, kind)
        if group < GROUPS:
            x = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).max((2, 4))
    return jnp.argmax(_convolve(jax.nn.relu(x), params["output"], last), -1)


def main() -> None:
    """Prints a line for each option."""
    keys = jax.random.split(jax.random.key(1), len(SIZES))
    clouds = [
        jax.image.resize(jax.random.uniform(key, (IMAGES, size, size, 3)), (IMAGES, SIDE, SIDE, 3), "cubic")
        for key, size in zip(keys, SIZES, strict=True)
    ]
    images = 0.1 + 0.8 * jax.nn.sigmoid(sum(clouds) * 2 - len(SIZES))
    params = jax.jit(DvaeEncoder(VOCAB, HIDDEN, GROUPS, BLOCKS).init)(jax.random.key(0), images)["params"]
    expected = _tokens(params, images, *OPTIONS[0])
    for option in OPTIONS:
        same = float(jnp.mean(_tokens(params, images, *option) == expected))
        print(f"convolutions {option[0]}, last layer {option[1]}: {100 * same:.2f}% of {expected.size} tokens")


if __name__ == "__main__":
    main()
