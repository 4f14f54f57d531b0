"""TCAS by hand."""

import jax
import numpy as np
import pytest
import tiny

from beit_jax import tasks
from beit_jax.errors import UserError
from beit_jax.runtime.run_once import run_once
from beit_jax.tasks.token_classes import count_by_class, tcas


def test_tokens_of_one_class_each_are_best():
    assert tcas(np.array([[5, 1, 0, 0], [0, 0, 3, 0], [0, 0, 0, 2]])) == 0


@pytest.mark.parametrize("classes", [2, 10])
def test_tokens_that_say_nothing(classes):
    assert tcas(np.ones((classes, 7))) == pytest.approx((classes - 1) / classes**2)


def test_a_case_by_hand():
    """Shares (1, 1/4) and (0, 3/4); overlaps [17/16 3/16; 3/16 9/16], rows scaled [17/20 3/20; 1/4 3/4]."""
    expected = (0.15**2 + 0.15**2 + 0.25**2 + 0.25**2) / 4
    assert tcas(np.array([[4, 1], [0, 3]])) == pytest.approx(expected)


def test_what_does_not_occur_does_not_count():
    counts = np.array([[4, 0, 1], [0, 0, 0], [0, 0, 3]])
    assert tcas(counts) == tcas(np.array([[4, 1], [0, 3]]))


def test_counts_are_of_valid_images():
    tokens = np.array([[[0, 1], [1, 1]], [[2, 2], [0, 0]], [[2, 2], [2, 2]]], np.int32)
    found = count_by_class(tokens, np.array([1, 0, 1], np.int32), np.array([1, 1, 0], np.float32), 2, 3)
    np.testing.assert_array_equal(found, [[2, 0, 2], [1, 3, 0]])


def test_every_kind_of_tokenizer_measures_it():
    config = tiny.config("tokenizer")
    config.eval_classes = 3
    made = tasks.create_task(config)
    batch = {"image": np.random.default_rng(0).uniform(0.1, 0.9, (4, 8, 8, 3)).astype(np.float32)}
    batch |= {"label": np.array([0, 1, 2, 2], np.int32), "valid": np.ones(4, bool)}
    assert set(made.eval_spec(4)) == {"image", "label"} and set(made.train_spec(4)) == {"image"}
    params = run_once(made.init, jax.random.key(0))
    sums = jax.device_get(jax.jit(made.measure)(params, {}, batch))
    by_class = sums["by_class"]
    np.testing.assert_array_equal(by_class.sum(axis=0), sums["codes"])
    np.testing.assert_array_equal(by_class.sum(axis=1), np.array([1, 1, 2]) * made.tokenizer.grid[0] ** 2)
    assert made.summarize(dict(sums))["tcas"] == tcas(by_class)
    wrong = jax.device_get(jax.jit(made.measure)(params, {}, batch | {"label": np.array([3, -1, 2, 2], np.int32)}))
    with pytest.raises(UserError, match="2 evaluation images are of no class from 0 to 2"):
        made.summarize(dict(wrong))
    with pytest.raises(UserError, match="an image of the class 3, counted from 0, and eval_classes=3"):
        made.check_batch(batch | {"label": np.array([3, 0, 0, 0], np.int32)})
    with pytest.raises(UserError, match="an image of the class -1"):
        made.check_batch(batch | {"label": np.array([0, -1, 0, 0], np.int32)})
