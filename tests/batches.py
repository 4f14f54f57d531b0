"""Training batches without TensorFlow, of the shapes that a task asks for."""

import jax
import jax.numpy as jnp
import numpy as np

from beit_jax.tasks import Task
from beit_jax.typing import Spec


def random_batch(task: Task, size: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Uniform pixels in [0.1, 0.9], masks of about 40%, labels and tokens that exist, for a training step."""
    return random_values(task.train_spec(size), task, seed)


def random_values(spec: Spec, task: Task, seed: int = 0) -> dict[str, np.ndarray]:
    """The same for any shapes."""
    rng = np.random.default_rng(seed)

    def values(name: str, spec: jax.ShapeDtypeStruct) -> np.ndarray:
        if spec.dtype == jnp.bool_:
            return rng.random(spec.shape) < 0.4
        if spec.dtype == jnp.int32:
            return rng.integers(0, task.integer_bounds[name], spec.shape, np.int32)
        return rng.uniform(0.1, 0.9, spec.shape).astype(np.float32)

    return {name: values(name, part) for name, part in spec.items()}
