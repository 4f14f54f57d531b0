"""The types that tasks, training and evaluation pass to each other."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

Params = Mapping[str, Any]  # a tree of arrays by name
Batch = Mapping[str, jax.Array]  # on the devices, over all processes
HostBatch = Mapping[str, np.ndarray]  # one process's examples of a batch, in host memory
# (sum, count) pairs: they add up over micro-batches, devices and evaluation batches, and are divided once at the end.
Metrics = dict[str, tuple[jax.Array, jax.Array]]
Spec = dict[str, jax.ShapeDtypeStruct]  # shapes and dtypes of a batch
