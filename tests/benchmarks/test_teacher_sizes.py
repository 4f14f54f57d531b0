"""A benchmark needs no teacher that was trained, and takes the sizes of the one that a config names."""

import pytest

from beit_jax import config as configs
from beit_jax.benchmarks import program


@pytest.mark.parametrize(
    ("stage", "section"),
    [
        ("pretrain_features_seed0", "teacher"),
        ("tokenizer_vqkd_beit_seed0", "teacher"),
        ("tokenizer_kmeans_features_seed0", "model.features"),
        ("pretrain_kmeans_features_seed0", "tokenizer.features"),
    ],
)
def test_a_stage_has_the_sizes_of_its_teacher(repository, stage, section):
    recipe = configs.load(f"{repository}/configs/tokenizers.py:seeds=1,arms=kmeans_features+vqkd_beit+features")
    found = program.complete_without_data(recipe, stage, dtype="float32")
    sizes = found
    for name in section.split("."):
        sizes = sizes[name]
    assert (sizes.kind, sizes.variant, sizes.image_size, sizes.layer) == ("encoder", "Nano/4", 16, 3)
    assert found.get("teacher", {}).get("path", "random") == "random"
    program.experiment_without_data(found).trace_step()
