import jax
import numpy as np
import pytest
from tiny import config as tiny

from beit_jax import tasks
from beit_jax.errors import UserError
from beit_jax.training import checkpoint, checkpoint_manager, initialize, optimizer, sharding, train_step
from beit_jax.training.params import flatten


def saved(run, mesh):
    """A checkpoint of step 0, written from a mesh, and what was written."""
    task = tasks.create(tiny("pretrain"))
    tx, _ = optimizer.build_optimizer(tiny("pretrain").optimizer, 10, 2)
    placement = jax.tree.map(lambda leaf: leaf.sharding, initialize.abstract_state(task, tx, True, mesh))
    current = jax.jit(lambda key: train_step.create(task, tx, key, True), out_shardings=placement)(jax.random.key(0))
    checkpoints = checkpoint_manager.Checkpoints(run)
    checkpoints.save(current, 0, {"config": "{}"})
    checkpoints.close()
    return task, tx, jax.device_get(current)


def test_restores_onto_another_mesh(tmp_path):
    task, tx, written = saved(tmp_path, sharding.make_mesh(dict(data=1, fsdp=1, tensor=1), jax.devices()[:1]))
    mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
    abstract = initialize.abstract_state(task, tx, True, mesh)
    restored = checkpoint_manager.Checkpoints(tmp_path).restore(abstract)
    kernel = flatten(restored.params)["encoder/blocks/mlp/fc1/kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 16, 64)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), written)


def test_parameters_alone_are_the_averaged_ones(tmp_path):
    mesh = sharding.make_mesh(dict(data=-1, fsdp=1, tensor=1))
    _, _, written = saved(tmp_path, mesh)
    found = checkpoint.find_checkpoint(str(tmp_path))
    assert found.name == "0" and checkpoint.load_config(found) == "{}"
    loaded = checkpoint.load_params(found, sharding.replicated(mesh))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(loaded), dict(written.ema))


def test_an_empty_step_folder_is_no_checkpoint(tmp_path):
    (tmp_path / "checkpoints" / "7").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no checkpoint"):
        checkpoint.find_checkpoint(str(tmp_path))


def test_a_recipe_s_folder_names_its_stages(tmp_path):
    (tmp_path / "pretrain" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds several runs; name one of them: .*/pretrain"):
        checkpoint.find_checkpoint(str(tmp_path))
