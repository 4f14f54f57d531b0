"""`map_with_fallback`: the results in order, and the fallback for the blocks that need it."""

import pytest
import tensorflow as tf

from beit_jax.data.decoding.assertions import BLOCK, map_with_fallback, require


def run(total, bad, worse=()):
    """Doubles the numbers below `total`. `bad` ones fail at first, and `worse` ones in the fallback as well."""

    def prepare(numbers):
        def prepare_one(number, text):
            with tf.control_dependencies([require(tf.reduce_all(number != numbers), "bad")]):
                return {"number": tf.identity(number), "text": text, "way": tf.constant(len(numbers))}

        return prepare_one

    def double(features):
        return {**features, "number": 2 * features["number"]}

    numbers = tf.data.Dataset.range(total)
    pairs = tf.data.Dataset.zip((numbers, numbers.map(tf.strings.as_string)))
    first, second = (tf.constant([-1, *choice], tf.int64) for choice in (bad, worse))
    return map_with_fallback(pairs, double, prepare(first), prepare(second)).as_numpy_iterator()


def test_each_block_with_an_error_takes_the_fallback():
    total, bad = 4 * BLOCK + 3, [BLOCK, 2 * BLOCK - 1, 4 * BLOCK + 2]  # two in the second block, one in the short last
    found = list(run(total, bad))
    assert [element["number"] for element in found] == [2 * number for number in range(total)]
    assert [element["text"] for element in found] == [b"%d" % number for number in range(total)]
    fell_back = [number for number, element in enumerate(found) if element["way"] == 1]
    assert fell_back == [*range(BLOCK, 2 * BLOCK), *range(4 * BLOCK, total)]


def test_an_error_of_the_fallback_is_an_error():
    elements = run(3 * BLOCK, bad=[BLOCK + 1], worse=[BLOCK + 1])
    assert [next(elements)["number"] for _ in range(BLOCK)] == list(range(0, 2 * BLOCK, 2))
    with pytest.raises(tf.errors.InvalidArgumentError, match="bad"):
        next(elements)
