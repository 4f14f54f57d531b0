import collections

import flax.struct
import jax
import numpy as np
import optax
import pytest

from beit_jax.errors import UserError
from beit_jax.training import params

Pair = collections.namedtuple("Pair", ["first", "second"])


@flax.struct.dataclass
class State:
    weights: dict
    averages: dict | None
    settings: int = flax.struct.field(pytree_node=False, default=3)


def tree(**shapes):
    return params.unflatten({name.replace("__", "/"): np.zeros(shape) for name, shape in shapes.items()})


def test_first_rule_wins_and_every_name_needs_one():
    rules = ((r"bias$", "bias"), (r"^a/", "a"))
    assert params.choose(rules, "a/bias") == "bias"
    assert params.choose(rules, "a/kernel") == "a"
    with pytest.raises(LookupError, match="b/kernel"):
        params.choose(rules, "b/kernel")


def test_names_in_any_tree():
    weights = {"encoder": {"kernel": np.zeros(2)}}
    optimizer = optax.chain(optax.clip(1.0), optax.scale_by_adam())
    nested = {
        "state": State(weights, None),
        "list": [{7: np.zeros(1)}, Pair(np.zeros(1), (np.zeros(1),))],
        "optimizer": optimizer.init({"encoder": weights["encoder"]}),
    }
    names = []
    mapped = params.map_names(lambda name, leaf: names.append(name) or leaf.ndim, nested)
    assert jax.tree.structure(mapped) == jax.tree.structure(nested)
    assert names == [
        "list/0/7",
        "list/1/first",
        "list/1/second/0",
        "optimizer/1/count",
        "optimizer/1/mu/encoder/kernel",
        "optimizer/1/nu/encoder/kernel",
        "state/weights/encoder/kernel",
    ]


def test_merge_takes_all_but_the_optional_ones():
    initial = tree(a__x=(2,), head__kernel=(3,))
    loaded = params.unflatten({"a/x": np.ones(2), "lm_head/kernel": np.ones(9)})
    merged = params.flatten(params.merge(initial, loaded, optional=(r"^(lm_)?head/",)))
    assert merged["a/x"].tolist() == [1, 1] and merged["head/kernel"].tolist() == [0, 0, 0]
    assert set(merged) == {"a/x", "head/kernel"}
    with pytest.raises(UserError, match="unexpected: lm_head/kernel"):
        params.merge(initial, loaded, optional=(r"^head/",))
    with pytest.raises(UserError, match="missing: head/kernel"):
        params.merge(initial, loaded, optional=(r"^lm_head/",))


def test_merge_leaves_out_ignored_ones_and_needs_all_others():
    loaded = params.unflatten({"a/x": np.ones(2), "lm_head/kernel": np.ones(9)})
    assert set(params.flatten(params.merge(tree(a__x=(2,)), loaded, ignored=(r"^lm_head/",)))) == {"a/x"}
    with pytest.raises(UserError, match="missing: lm_head/bias"):
        params.merge(tree(a__x=(2,), lm_head__bias=(3,)), loaded, ignored=(r"^lm_head/",))


def test_merge_takes_optional_ones_that_fit():
    ones = params.unflatten({"norm/scale": np.ones(2), "head/kernel": np.ones((2, 7))})
    initial = tree(norm__scale=(2,), head__kernel=(2, 5), head__bias=(5,))
    merged = params.flatten(params.merge(initial, ones, optional=(r"^(norm|head)/",)))
    assert merged["norm/scale"].tolist() == [1, 1] and not merged["head/kernel"].any()
    assert params.unmatched_names(initial, ones) == ["head/bias", "head/kernel"]
    with pytest.raises(UserError, match=r"head/kernel \(2, 7\) \(expected \(2, 5\)\)"):
        params.merge(initial, ones, optional=(r"^head/bias",))


def test_merge_lists_everything_that_is_wrong():
    with pytest.raises(UserError) as error:
        params.merge(tree(a=(2,), b=(3,), c=(4,)), tree(a=(2,), b=(5,), d=(1,)))
    assert "missing: c" in str(error.value)
    assert "unexpected: d" in str(error.value)
    assert "b (5,) (expected (3,))" in str(error.value)
    # Only callers with such a key advise to set it.
    assert "init_optional" not in str(error.value)
    with pytest.raises(UserError, match="see init_optional"):
        params.merge(tree(a=(2,)), tree(a=(3,)), advice="see init_optional")
