"""Checkpoints of a synthetic state: saved, found, and restored onto another mesh."""

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import config as tiny

from beit_jax.errors import UserError
from beit_jax.runtime import checksums
from beit_jax.runtime.checkpoint_folder import find_checkpoint
from beit_jax.training import checkpoint, checkpoint_manager, optimizer, sharding
from beit_jax.training.initialize import with_shardings
from beit_jax.training.params import flatten, unflatten
from beit_jax.training.train_step import TrainState

SHAPES = {"encoder/blocks/mlp/fc1/kernel": (2, 32, 128), "encoder/norm/scale": (32,), "lm_head/bias": (16,)}


def abstract_state(mesh, shapes=SHAPES):
    """The train state, as shapes with shardings, of parameters of these shapes, with the optimizer of a config."""
    transformation, _ = optimizer.build_optimizer(tiny("pretrain").optimizer, 10, 2)

    def create():
        params = unflatten({name: jnp.zeros(shape) for name, shape in shapes.items()})
        return TrainState(jnp.int32(0), params, transformation.init(params), params)

    return with_shardings(jax.eval_shape(create), mesh)


def save(run, mesh):
    """A checkpoint of step 0 with random values; returns what was saved."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        values = rng.normal(size=leaf.shape) if leaf.dtype == jnp.float32 else rng.integers(0, 9, leaf.shape)
        return jax.device_put(np.asarray(values, leaf.dtype), leaf.sharding)

    state = jax.tree.map(draw, abstract_state(mesh))
    state = state.replace(step=jnp.zeros_like(state.step))
    checkpoints = checkpoint_manager.Checkpoints(run)
    checkpoints.save(state, 0, {"config": "{}"})
    checkpoints.close()
    return jax.device_get(state)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run with a checkpoint from one device, and the state in it."""
    folder = tmp_path_factory.mktemp("run")
    return folder, save(folder, sharding.make_mesh(dict(data=1, fsdp=1, tensor=1), jax.devices()[:1]))


def test_restores_onto_another_mesh(run):
    folder, saved = run
    mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
    restored = checkpoint_manager.Checkpoints(folder).restore(abstract_state(mesh))
    kernel = flatten(restored.params)["encoder/blocks/mlp/fc1/kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 16, 64)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), saved)


def test_a_state_of_another_model_is_refused(run):
    mesh = sharding.make_mesh(dict(data=-1, fsdp=1, tensor=1))
    message = r"is of another model or optimizer: lm_head/bias is \(16,\) there and \(8,\) here; use the config"
    with pytest.raises(UserError, match=message):
        checkpoint_manager.Checkpoints(run[0]).restore(abstract_state(mesh, SHAPES | {"lm_head/bias": (8,)}))


def test_parameters_alone_are_the_averaged_ones(run):
    folder, saved = run
    found = find_checkpoint(str(folder))
    assert found.name == "0" and checkpoint.load_config(found) == "{}"
    mesh = sharding.make_mesh(dict(data=-1, fsdp=1, tensor=1))
    loaded = checkpoint.load_params(found, sharding.replicated(mesh))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(loaded), dict(saved.ema))
    assert flatten(checkpoint.load_shapes(found))["lm_head/bias"].shape == (16,)


def test_an_empty_step_folder_is_no_checkpoint(tmp_path):
    (tmp_path / "checkpoints" / "7").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no checkpoint"):
        find_checkpoint(str(tmp_path))


def test_the_folder_of_a_recipe_names_its_stages(tmp_path):
    (tmp_path / "pretrain" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds several runs; name one of them: .*/pretrain"):
        find_checkpoint(str(tmp_path))


def test_a_number_that_is_not_that_of_the_state_is_refused(tmp_path):
    mesh = sharding.make_mesh(dict(data=-1, fsdp=1, tensor=1))
    save(tmp_path, mesh)
    folder = tmp_path / "checkpoints"
    (folder / "0").rename(folder / "100000")
    message = r"checkpoints/100000 holds the state of step 0; rename the folder to 0, or remove it"
    with pytest.raises(UserError, match=message):
        checkpoint_manager.Checkpoints(tmp_path).restore(abstract_state(mesh))
    (folder / "100000").rename(folder / "0")
    assert checkpoint_manager.Checkpoints(tmp_path).restore(abstract_state(mesh)).step == 0


def test_a_save_that_orbax_skips_is_an_error(tmp_path):
    mesh = sharding.make_mesh(dict(data=-1, fsdp=1, tensor=1))
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding), abstract_state(mesh))
    checkpoints = checkpoint_manager.Checkpoints(tmp_path)
    checkpoints.save(state, 7, {"config": "{}"})
    checkpoints.check_pending()
    with pytest.raises(UserError, match=r"step 3 was not written, because .*checkpoints has one of step 7"):
        checkpoints.save(state, 3, {"config": "{}"})
    checkpoints.close()


def test_a_checkpoint_that_is_gone_at_the_end_is_an_error(tmp_path):
    mesh = sharding.make_mesh(dict(data=-1, fsdp=1, tensor=1))
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding), abstract_state(mesh))
    checkpoints = checkpoint_manager.Checkpoints(tmp_path)
    checkpoints.save(state, 7, {"config": "{}"})
    checkpoints._manager.wait_until_finished()
    shutil.rmtree(tmp_path / "checkpoints" / "7" / "params")
    with pytest.raises(UserError, match=r"checkpoints/7 was written, and its params cannot be read back"):
        checkpoints.close()


def test_a_flipped_bit_is_noticed_wherever_parameters_are_read(tmp_path):
    mesh = sharding.make_mesh(dict(data=-1, fsdp=1, tensor=1))
    save(tmp_path, mesh)
    found = find_checkpoint(str(tmp_path))
    everywhere = sharding.replicated(mesh)
    checkpoint.load_params(found, everywhere)
    file = max((found / "ema").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 64
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"checkpoints/0 is damaged \(ema/.* has changed\); choose another, or copy it"):
        checkpoint.load_params(found, everywhere)
    with pytest.raises(UserError, match="is damaged"):
        checkpoint.check_bytes(found)
    checkpoint.check_bytes(found, "params", "meta")  # these are intact


@pytest.fixture
def user_without_rights():
    """Within it, a process of root has no rights on what root owns; that of another user has none anyway."""

    @contextlib.contextmanager
    def become():
        before = os.geteuid()
        os.seteuid(before or 65534)
        try:
            yield
        finally:
            os.seteuid(before)

    return become


@pytest.mark.parametrize("has_checksums", [True, False])
@pytest.mark.parametrize("what", ["a file", "a folder"])
def test_a_checkpoint_that_this_user_may_not_read_is_not_set_aside(user_without_rights, has_checksums, what):
    mesh = sharding.make_mesh(dict(data=1, fsdp=1, tensor=1), jax.devices()[:1])
    with tempfile.TemporaryDirectory() as folder:  # pytest's own may be entered by their owner only
        run = Path(folder)
        run.chmod(0o755)
        save(run, mesh)
        if not has_checksums:
            (run / "checkpoints" / "0" / checksums.FILE).unlink()
        (run / "checkpoints" / "0" / "params" / ("manifest.ocdbt" if what == "a file" else "")).chmod(0)
        checkpoints = checkpoint_manager.Checkpoints(run)
        with user_without_rights():
            with pytest.raises(PermissionError):
                checkpoints.restore(abstract_state(mesh))
            with pytest.raises(UserError, match=r"params cannot be opened .*; let this user read"):
                checkpoint.check_items(run / "checkpoints" / "0", ["params"])
        assert [path.name for path in (run / "checkpoints").iterdir()] == ["0"]


@pytest.mark.parametrize("item", ["ema", "meta"])
def test_checksums_go_with_a_checkpoint_that_is_copied_alone(run, tmp_path, item):
    shutil.copytree(run[0] / "checkpoints" / "0", tmp_path / "copy")
    everywhere = sharding.replicated(sharding.make_mesh(dict(data=-1, fsdp=1, tensor=1)))
    checkpoint.load_params(tmp_path / "copy", everywhere)
    file = max((tmp_path / "copy" / item).rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    message = rf"copy is damaged \({item}/.* has changed\); choose another"
    with pytest.raises(UserError, match=message):
        checkpoint.load_params(tmp_path / "copy", everywhere)
    if item == "meta":
        with pytest.raises(UserError, match=message):
            checkpoint.load_meta(tmp_path / "copy")


def test_numbers_that_no_network_has_are_refused(tmp_path):
    params = unflatten({name: np.full(shape, 0.5, np.float32) for name, shape in SHAPES.items()})
    params["encoder"]["norm"]["scale"][3] = np.inf
    checkpoint.save_params(tmp_path, params, "{}")
    everywhere = sharding.replicated(sharding.make_mesh(dict(data=-1, fsdp=1, tensor=1)))
    with pytest.raises(UserError, match=r"checkpoints/0/params holds inf in encoder/norm/scale at \[3\]; expected"):
        checkpoint.load_params(find_checkpoint(str(tmp_path)), everywhere)


def test_a_checkpoint_is_deleted_only_after_its_checksums_are_written(tmp_path, monkeypatch):
    """Orbax deletes it when the next one is complete, and a file that appears meanwhile would stay."""
    write, written = checksums.write_checksums, []

    def slowly(folder):
        ends = time.monotonic() + 1.5 * (folder.name == "0")
        while (folder / "params").is_dir() and time.monotonic() < ends:
            time.sleep(0.01)
        write(folder)
        written.extend([folder.name] if checksums.has_checksums(folder) else [])

    monkeypatch.setattr(checksums, "write_checksums", slowly)
    mesh = sharding.make_mesh(dict(data=1, fsdp=1, tensor=1), jax.devices()[:1])
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding), abstract_state(mesh))
    checkpoints = checkpoint_manager.Checkpoints(tmp_path)
    for step in range(3):
        checkpoints.save(state, step, {"config": "{}"})
    checkpoints.close()
    assert written == ["0", "1", "2"]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2"]
    assert checksums.find_damage(tmp_path / "checkpoints" / "2") == ""
