import numpy as np
import pytest

from beit_jax.data.sources.label_choice import parse_labels
from beit_jax.data.sources.label_subset import choose_examples, count_per_class
from beit_jax.errors import UserError

LABELS = np.repeat([0, 1, 2], [10, 20, 5])


@pytest.mark.parametrize(
    ("text", "expected"), [("all", (0, 1.0)), ("100%", (0, 1.0)), ("0.5%", (0, 0.005)), ("5 per class", (5, 0.0))]
)
def test_texts(text, expected):
    assert parse_labels(text) == expected


@pytest.mark.parametrize("text", ["", "5", "0%", "101%", "-1%", "10 %", "0 per class", "1.5 per class", "none"])
def test_other_texts_are_refused(text):
    with pytest.raises(UserError, match=f"found data.labels='{text}'; expected 'all', a percentage"):
        parse_labels(text)


def test_a_fraction_of_each_class():
    chosen = choose_examples(LABELS, 3, "20%", seed=0)
    assert np.bincount(LABELS[chosen]).tolist() == [2, 4, 1] == count_per_class(LABELS, 3, "20%")
    assert len(set(chosen)) == 7


def test_a_number_of_each_class_evenly():
    drawn = [choose_examples(LABELS, 3, "4 per class", seed) for seed in range(500)]
    assert all(np.bincount(LABELS[chosen]).tolist() == [4, 4, 4] for chosen in drawn)
    counts = np.bincount(np.concatenate(drawn), minlength=35)
    assert np.abs(counts[:10] - 200).max() < 55  # five standard deviations
    assert np.abs(counts[10:30] - 100).max() < 45


def test_a_smaller_choice_is_part_of_a_larger():
    small, large = (set(choose_examples(LABELS, 3, choice, seed=3)) for choice in ("20%", "4 per class"))
    assert small < large < set(range(35))


def test_the_choice_of_a_seed_is_fixed():
    # Published figures depend on these numbers.
    assert choose_examples(LABELS, 3, "2 per class", seed=0).tolist() == [6, 7, 26, 22, 33, 34]


def test_classes_without_examples():
    with pytest.raises(UserError, match=r"data.labels='5%' leaves none of the 10 examples of class 0"):
        choose_examples(LABELS, 3, "5%", seed=0)
    with pytest.raises(UserError, match=r"found 5 examples of class 2, expected at least 6 for data.labels='6 per"):
        count_per_class(LABELS, 3, "6 per class")
