import numpy as np
import pytest

from beit_jax.data.sources.label_subset import choose
from beit_jax.errors import UserError

LABELS = np.repeat([0, 1, 2], [10, 20, 5])


def test_a_share_of_each_class():
    chosen = choose(LABELS, 3, 0, 0.2, seed=0)
    assert np.bincount(LABELS[chosen]).tolist() == [2, 4, 1]
    assert len(set(chosen)) == 7


def test_so_many_of_each_class_evenly():
    drawn = [choose(LABELS, 3, 4, 1.0, seed) for seed in range(500)]
    assert all(np.bincount(LABELS[chosen]).tolist() == [4, 4, 4] for chosen in drawn)
    counts = np.bincount(np.concatenate(drawn), minlength=35)
    assert np.abs(counts[:10] - 200).max() < 55  # five standard deviations
    assert np.abs(counts[10:30] - 100).max() < 45


def test_a_smaller_choice_is_part_of_a_larger():
    assert set(choose(LABELS, 3, 0, 0.2, seed=3)) < set(choose(LABELS, 3, 4, 1.0, seed=3)) < set(range(35))


def test_classes_without_examples():
    with pytest.raises(UserError, match=r"label_fraction=0.05 leaves none of the 10 examples of class 0"):
        choose(LABELS, 3, 0, 0.05, seed=0)
    with pytest.raises(UserError, match=r"found 5 examples of class 2, expected labels_per_class=6"):
        choose(LABELS, 3, 6, 1.0, seed=0)
