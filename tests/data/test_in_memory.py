import itertools

import numpy as np
import pytest

from beit_jax.data.in_memory import Examples
from beit_jax.errors import UserError

COLUMNS = {"x": np.arange(10.0), "label": np.arange(10) % 3}


def places(batches):
    return [batch["x"].astype(int).tolist() for batch in batches]


def test_an_epoch_is_a_new_order_of_whole_batches():
    batches = places(itertools.islice(Examples(COLUMNS, 3).train(seed=0, step=0), 60))
    epochs = [[*batches[i], *batches[i + 1], *batches[i + 2]] for i in range(0, 60, 3)]
    assert all(len(set(epoch)) == 9 for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 20
    assert set().union(*epochs) == set(range(10))


def test_a_batch_depends_on_seed_and_step_alone():
    whole = places(itertools.islice(Examples(COLUMNS, 3).train(seed=1, step=0), 12))
    for start in (1, 3, 7):
        assert places(itertools.islice(Examples(COLUMNS, 3).train(seed=1, step=start), 12 - start)) == whole[start:]
    assert places(itertools.islice(Examples(COLUMNS, 3).train(seed=2, step=0), 12)) != whole


def test_evaluation_counts_each_example_once():
    batches = list(Examples(COLUMNS, 4))
    assert [len(batch["x"]) for batch in batches] == [4, 4, 4]
    assert np.concatenate([batch["x"][batch["valid"]] for batch in batches]).tolist() == list(range(10))


def test_processes_share_batches():
    parts = [list(Examples(COLUMNS, 4, index, 2)) for index in range(2)]
    seen = [batch["x"][batch["valid"]] for part in parts for batch in part]
    assert sorted(np.concatenate(seen)) == list(range(10))
    first = [next(Examples(COLUMNS, 4, index, 2).train(0, 0))["x"] for index in range(2)]
    assert [*first[0], *first[1]] == next(Examples(COLUMNS, 4).train(0, 0))["x"].tolist()


def test_less_than_a_batch():
    with pytest.raises(UserError, match="10 examples do not fill one batch of 16"):
        next(Examples(COLUMNS, 16).train(0, 0))
