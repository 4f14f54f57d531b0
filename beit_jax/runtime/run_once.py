"""Programs that run once: compiling them takes longer than running them."""

from collections.abc import Callable
from typing import Any

import jax

# XLA for CPU compiles them in a fraction of the time, to the same numbers up to a last bit.
QUICKLY = {"xla_backend_optimization_level": 1}


def run_once(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What `jax.jit(function, **options)(*arguments)` returns, compiled quickly."""
    quickly = QUICKLY if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=quickly, **options)(*arguments)
