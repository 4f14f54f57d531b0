import numpy as np
import pytest

from beit_jax.errors import UserError
from beit_jax.training import params


def tree(**shapes):
    return params.unflatten({name.replace("__", "/"): np.zeros(shape) for name, shape in shapes.items()})


def test_first_rule_wins_and_every_name_needs_one():
    rules = ((r"bias$", "bias"), (r"^a/", "a"))
    assert params.choose(rules, "a/bias") == "bias"
    assert params.choose(rules, "a/kernel") == "a"
    with pytest.raises(LookupError, match="b/kernel"):
        params.choose(rules, "b/kernel")


def test_merge_takes_all_but_the_fresh_ones():
    initial, loaded = (
        tree(a__x=(2,), head__kernel=(3,)),
        params.unflatten({"a/x": np.ones(2), "lm_head/kernel": np.ones(9)}),
    )
    merged = params.flatten(params.merge(initial, loaded, fresh=(r"^head/",), drop=(r"^lm_head/",)))
    assert merged["a/x"].tolist() == [1, 1] and merged["head/kernel"].tolist() == [0, 0, 0]
    assert set(merged) == {"a/x", "head/kernel"}


def test_merge_takes_what_may_be_fresh_where_it_fits():
    ones = params.unflatten({"norm/scale": np.ones(2), "head/kernel": np.ones((2, 7))})
    initial = tree(norm__scale=(2,), head__kernel=(2, 5), head__bias=(5,))
    merged = params.flatten(params.merge(initial, ones, fresh=(r"^(norm|head)/",)))
    assert merged["norm/scale"].tolist() == [1, 1] and not merged["head/kernel"].any()
    assert params.not_in(initial, ones) == ["head/bias", "head/kernel"]
    with pytest.raises(UserError, match=r"head/kernel \(2, 7\) \(expected \(2, 5\)\)"):
        params.merge(initial, ones, fresh=(r"^head/bias",))


def test_merge_lists_everything_that_is_wrong():
    with pytest.raises(UserError) as error:
        params.merge(tree(a=(2,), b=(3,), c=(4,)), tree(a=(2,), b=(5,), d=(1,)))
    assert "missing: c" in str(error.value)
    assert "unexpected: d" in str(error.value)
    assert "b (5,) (expected (3,))" in str(error.value)
    # What init_fresh and init_drop can mend is said by those who heed them.
    assert "init_fresh" not in str(error.value)
    with pytest.raises(UserError, match="init_fresh"):
        params.merge(tree(a=(2,)), tree(a=(3,)), way_out="see init_fresh")
