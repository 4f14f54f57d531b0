import jax
import numpy as np
import pytest
from tiny import config as tiny
from tiny import experiment, one_device

from beit_jax.errors import UserError
from beit_jax.training import checkpoint, checkpoint_manager, sharding
from beit_jax.training.params import flatten


def saved(run, mesh):
    """A checkpoint of step 0, written from a mesh, and what was written."""
    current = averaged(mesh).fresh_state()
    checkpoints = checkpoint_manager.Checkpoints(run)
    checkpoints.save(current, 0, {"config": "{}"})
    checkpoints.close()
    return jax.device_get(current)


def averaged(mesh):
    """An experiment that keeps averaged parameters."""
    config = tiny("pretrain")
    config.optimizer.ema = 0.5
    return experiment(config, mesh)


def test_restores_onto_another_mesh(tmp_path):
    written = saved(tmp_path, one_device())
    abstract = averaged(sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))).abstract_state
    restored = checkpoint_manager.Checkpoints(tmp_path).restore(abstract)
    kernel = flatten(restored.params)["encoder/blocks/mlp/fc1/kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 16, 64)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), written)


def test_parameters_alone_are_the_averaged_ones(tmp_path):
    mesh = sharding.make_mesh(dict(data=-1, fsdp=1, tensor=1))
    written = saved(tmp_path, mesh)
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
