"""A stack of blocks as a scan over one block, so that 24 blocks compile in the time of one."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from beit_jax.errors import UserError
from beit_jax.models.variants import REMAT_POLICIES


class Layer(NamedTuple):
    """What differs between blocks, apart from parameters. The scan takes arrays `[L]`; each block gets one scalar."""

    index: jax.Array  # int32, counted from 0
    drop_path: jax.Array  # float32, the probability of leaving out a branch


def layers(depth: int, drop_path: float) -> Layer:
    """The `[L]` layers of a stack of `depth` blocks; rates rise linearly from 0 to `drop_path`."""
    rates = np.linspace(0.0, drop_path, depth, dtype=np.float32)
    return Layer(index=jnp.arange(depth, dtype=jnp.int32), drop_path=jnp.asarray(rates))


def stacked(block: type[nn.Module], depth: int, remat: str, unroll: int, keep: int = 0) -> type[nn.Module]:
    """A class of modules of `depth` blocks, with the fields of `block`: `(x, layers, bias) -> (x, stacked outputs)`.

    Parameters of all blocks are stacked along a leading axis. `remat` and `unroll` do not change this layout.

    Args:
      block: called as `(x, layer, bias) -> (x, output)`.
      depth: number of blocks L.
      remat: what the backward pass recomputes: "none", "full" (each block, from its input), or the name of one of
        REMAT_POLICIES, which says what is saved; the rest is recomputed.
      unroll: blocks in one iteration of the scan; with more, a step may be faster, and compiling slower.
      keep: the block, counted from 1, whose output is kept on the way to the last: then the modules return
        `((x, kept), stacked outputs)`; 0: none.
    """
    block = _rematerialized(block, remat, unroll)
    return nn.scan(
        _keeping(block, keep) if keep else block,
        variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True, "drop_path": True},
        in_axes=(0, nn.broadcast),
        length=depth,
        unroll=min(unroll, depth),
    )


def _keeping(block: type[nn.Module], keep: int) -> type[nn.Module]:
    """A block called as `((x, kept), layer, bias)`. The kept state travels with the scan: no other is stored."""

    class Keeping(block):
        def __call__(self, carry: tuple[jax.Array, jax.Array], layer: Layer, bias: jax.Array | None) -> tuple:
            x, kept = carry
            x, output = super().__call__(x, layer, bias)
            return (x, jnp.where(layer.index == keep - 1, x, kept)), output

    return Keeping


def _rematerialized(block: type[nn.Module], remat: str, unroll: int) -> type[nn.Module]:
    if remat == "none":
        return block
    if remat != "full" and remat not in REMAT_POLICIES:
        raise UserError(f"found remat={remat!r}, expected one of none, full, {', '.join(REMAT_POLICIES)}")
    policy = None if remat == "full" else getattr(jax.checkpoint_policies, remat)
    # XLA must not merge the recomputation with the first computation. With one block in the scan's body it cannot. With
    # several blocks in the body it could, and JAX must prevent it (`prevent_cse`).
    return nn.remat(block, prevent_cse=unroll > 1, policy=policy)
