import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from beit_jax.models import vit
from beit_jax.models.constrain import batch_sharded


def mesh_of(names, sizes):
    return jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(names))


def test_nothing_without_a_mesh():
    x = jnp.ones((8, 2))
    assert batch_sharded(x) is x


@pytest.mark.parametrize(
    ("names", "sizes", "expected"),
    [
        (("data", "fsdp", "tensor"), (2, 2, 2), PartitionSpec(("data", "fsdp"))),
        (("data",), (8,), PartitionSpec("data")),
        (("tensor",), (8,), PartitionSpec()),
    ],
)
def test_batches_are_split_over_the_batch_axes_of_the_mesh(names, sizes, expected):
    with jax.set_mesh(mesh_of(names, sizes)):
        out = jax.jit(batch_sharded)(jnp.ones((8, 2)))
        assert out.sharding.spec == expected
        assert batch_sharded(jnp.ones((3, 2))).shape == (3, 2)


def test_sharding_changes_no_number():
    encoder = vit.Encoder(32, 2, 2, 4, relative_position="shared")
    images = jax.random.normal(jax.random.key(0), (8, 8, 8, 3))
    params = encoder.init(jax.random.key(1), images)
    alone = jax.jit(encoder.apply)(params, images)
    with jax.set_mesh(mesh_of(("data", "fsdp", "tensor"), (2, 2, 2))):
        together = jax.jit(encoder.apply)(jax.tree.map(np.asarray, params), np.asarray(images))
    np.testing.assert_allclose(together, alone, atol=1e-5)
