"""New parameters: XLA compiles the program that makes them quickly, and they are the same."""

import jax
import numpy as np
import pytest
from tiny import config as tiny
from tiny import experiment, one_device

from beit_jax.training import train_step


@pytest.mark.parametrize("task", ["tokenizer", "pretrain"])
def test_the_level_of_optimisation_changes_no_new_parameter(task):
    made = experiment(tiny(task), one_device())
    found = made.fresh_state()
    create = jax.jit(lambda key: train_step.new_state(made.task, made.optimizer, key, False))
    with jax.set_mesh(made.mesh):
        optimised = create.lower(made.random_keys[0]).compile({"xla_backend_optimization_level": 3})
        expected = optimised(made.random_keys[0])
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
