"""Weights in several files with an index."""

import json
import shutil

import pytest
from random_models import written

import beit_jax
from beit_jax.errors import UserError


@pytest.fixture
def sharded(tmp_path):
    written(tmp_path / "many", max_shard_size="20KB")
    return tmp_path / "many"


def index_of(folder):
    return json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]


def write_index(folder, weight_map):
    text = weight_map if isinstance(weight_map, str) else json.dumps({"weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(text)


def refused(folder):
    with pytest.raises(UserError) as error:
        beit_jax.from_pretrained(folder)
    return str(error.value)


def test_several_files_are_one(tmp_path, sharded):
    from beit_jax.training.params import digest

    written(tmp_path / "one")
    expected = digest(beit_jax.from_pretrained(tmp_path / "one").params)
    assert digest(beit_jax.from_pretrained(sharded).params) == expected
    assert digest(beit_jax.from_pretrained(sharded / "model.safetensors.index.json").params) == expected
    sizes = [path.stat().st_size for path in sharded.glob("*.safetensors")]
    assert len(sizes) > 2 and sorted(sizes)[-2] < 24_000


def test_damaged_sets_of_files_are_refused(sharded):
    weight_map = index_of(sharded)
    file = weight_map["classifier.weight"]
    other = next(name for name in set(weight_map.values()) if name != file)
    for wrong in ("../secret.safetensors", "/etc/x.safetensors", "model.bin", 3, "..\\x.safetensors"):
        write_index(sharded, weight_map | {"classifier.weight": wrong})
        assert "expected the name of a .safetensors file in the same folder" in refused(sharded)
    write_index(sharded, weight_map | {"ghost": file})
    assert "says that ghost would be in" in refused(sharded)
    write_index(sharded, weight_map | {"classifier.weight": other})
    assert "which the index says is in another file" in refused(sharded)
    write_index(sharded, {name: place for name, place in weight_map.items() if name != "classifier.weight"})
    assert "holds classifier.weight, which the index does not name" in refused(sharded)
    twice = json.dumps({"weight_map": weight_map})[:-2] + f', "classifier.weight": "{other}"' + "}}"
    write_index(sharded, twice)
    assert "classifier.weight stands there twice" in refused(sharded)
    write_index(sharded, {})
    assert "has no weight_map" in refused(sharded)
    write_index(sharded, weight_map)
    shutil.move(sharded / file, sharded / "elsewhere")
    assert f"names files that are not there: {file}" in refused(sharded)


def test_files_of_torch_with_an_index(tmp_path, repository):
    from beit_jax.convert.state_dicts import read_torch
    from beit_jax.training.params import digest

    official, shard = repository / "tests" / "golden" / "official.pth", "pytorch_model-00001-of-00001.bin"
    weight_map = dict.fromkeys(read_torch(official).tensors, shard)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert f"names files that are not there: {shard}" in refused(tmp_path)
    shutil.copy(official, tmp_path / shard)
    assert digest(beit_jax.from_pretrained(tmp_path).params) == digest(beit_jax.from_pretrained(official).params)


def test_sizes_of_files_are_checked(tmp_path):
    for size in ("5", "GB", 0, "-1GB", True):
        with pytest.raises(UserError, match="expected a number of bytes"):
            written(tmp_path / "x", max_shard_size=size)
