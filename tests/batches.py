"""Training batches without TensorFlow, of the shapes that a task asks for."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from beit_jax.tasks import Task


def random_batch(task: Task, size: int, seed: int = 0, classes: int = 10) -> dict[str, np.ndarray]:
    """Uniform pixels in [0.1, 0.9], masks of about 40%, labels below `classes`."""
    rng = np.random.default_rng(seed)

    def rows(name: str, spec: jax.ShapeDtypeStruct) -> np.ndarray:
        if spec.dtype == jnp.bool_:
            return rng.random(spec.shape) < 0.4
        if spec.dtype == jnp.int32:
            return rng.integers(0, 4 if name == "label_map" else classes, spec.shape, np.int32)
        return rng.uniform(0.1, 0.9, spec.shape).astype(np.float32)

    specs: Mapping[str, jax.ShapeDtypeStruct] = task.batch_spec(size)
    return {name: rows(name, spec) for name, spec in specs.items()}
