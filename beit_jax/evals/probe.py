"""Linear probe of frozen features: logistic regression, trained to its optimum by L-BFGS.

The task `probe` is that of the BEiT paper, with augmentation, for numbers to publish. This one has no settings, and
takes seconds: it is for comparing checkpoints. Features are standardized. The penalty is chosen on a fifth of the
training images, then all of them are learned; images of the evaluation split are scored alone.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from beit_jax.evals.features import Features, put_everywhere, put_rows
from beit_jax.tasks.layers import best_layer_metrics
from beit_jax.training.sharding import replicated
from beit_jax.typing import Params

PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4)  # each starts from the classifier of the one before
HELD_OUT = 5  # one of so many training images; their cross-entropy chooses the penalty
STEPS = 100
TOLERANCE = 1e-4  # of the largest entry of the gradient, as in scikit-learn

METRICS = {
    "probe_top1": "top-1 accuracy of logistic regression on the features of the best layer",
    "probe_best_layer": "that layer, counted from 1",
}


class Rows(NamedTuple):
    """Features `[n, f]`, int32 classes `[n]`, and float32 weights `[n]`, which are 0 for rows that do not count."""

    features: jax.Array
    classes: jax.Array
    weights: jax.Array


class Probe:
    """Of every layer.

    Args:
      layers: numbers of the layers, counted from 1.
      num_classes: number of classes.
    """

    def __init__(self, layers: tuple[int, ...], num_classes: int):
        self._layers, self._num_classes = layers, num_classes
        self._compiled = functools.cache(_compile)

    def __call__(self, mesh: Mesh, train: Features, test: Features) -> dict[str, float]:
        """`probe_top1` of the best layer, `probe_best_layer`, and `probe_top1_layerNN` of each."""
        train, test = train.labelled(), test.labelled()
        top1 = [self._score(mesh, train.layer(layer), test.layer(layer)) for layer in range(len(self._layers))]
        return best_layer_metrics({"top1": np.array(top1)}, self._layers, prefix="probe_")

    def _score(self, mesh: Mesh, train: Features, test: Features) -> float:
        fit, loss, accuracy = self._compiled(mesh)
        mean, scale = moments(train.features)
        learned, scored = ((part.features - mean) / scale for part in (train, test))
        count = len(learned)
        order = np.random.Generator(np.random.PCG64(0)).permutation(count)
        held_out = np.zeros(count, np.float32)
        held_out[order[: count // HELD_OUT]] = 1
        rows = Rows(*put_rows(mesh, learned, train.labels, 1 - held_out))
        (weights,) = put_rows(mesh, held_out)
        start = zeros(learned.shape[1], self._num_classes)
        params = dict(zip(start, put_everywhere(mesh, *start.values()), strict=True))
        chosen, best, penalty = params, np.inf, PENALTIES[0]
        for candidate in PENALTIES if count >= HELD_OUT else ():
            params = fit(params, rows, np.float32(candidate))
            found = float(loss(params, rows._replace(weights=weights), np.float32(0)))
            if found < best:
                chosen, best, penalty = params, found, candidate
        (weights,) = put_rows(mesh, np.ones(count, np.float32))
        params = fit(chosen, rows._replace(weights=weights), np.float32(penalty))
        return float(accuracy(params, Rows(*put_rows(mesh, scored, test.labels, np.ones(len(scored), np.float32)))))


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation float32 `[f]` of features `[n, f]`; 1 in place of a deviation of 0."""
    mean = np.mean(features, axis=0, dtype=np.float64)
    deviation = np.std(features, axis=0, dtype=np.float64)
    # The mean of equal numbers is not always that number.
    constant = deviation <= 1e-6 * np.abs(mean)
    return mean.astype(np.float32), np.where(constant, 1.0, deviation).astype(np.float32)


def zeros(width: int, num_classes: int) -> Params:
    """The classifier that every fit starts from: a kernel `[f, c]` and a bias `[c]`."""
    return {"kernel": np.zeros((width, num_classes), np.float32), "bias": np.zeros(num_classes, np.float32)}


def objective(params: Params, rows: Rows, penalty: jax.Array) -> jax.Array:
    """Mean cross-entropy plus half the penalty times the squared norm of the kernel.

    scikit-learn's LogisticRegression minimizes n times this for `C = 1 / (n * penalty)`.
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(_logits(params, rows.features), rows.classes)
    mean = jnp.sum(losses * rows.weights) / jnp.sum(rows.weights)
    return mean + penalty / 2 * jnp.sum(jnp.square(params["kernel"]))


def minimize(
    params: Params, rows: Rows, penalty: jax.Array, steps: int = STEPS, tolerance: float = TOLERANCE
) -> Params:
    """The classifier with the smallest objective, by at most so many steps of L-BFGS from `params` on."""
    solver, loss = optax.lbfgs(), lambda params: objective(params, rows, penalty)
    value_and_gradient = optax.value_and_grad_from_state(loss)

    def step(carry: tuple[Params, Any, jax.Array, jax.Array]) -> tuple[Params, Any, jax.Array, jax.Array]:
        params, state, count, _ = carry
        value, gradient = value_and_gradient(params, state=state)
        updates, state = solver.update(gradient, state, params, value=value, grad=gradient, value_fn=loss)
        params = optax.apply_updates(params, updates)
        return params, state, count + 1, optax.tree.norm(optax.tree.get(state, "grad"), ord=jnp.inf)

    def goes_on(carry: tuple[Params, Any, jax.Array, jax.Array]) -> jax.Array:
        _, _, count, gradient = carry
        return (count < steps) & (gradient > tolerance)

    start = (params, solver.init(params), jnp.int32(0), jnp.float32(jnp.inf))
    return jax.lax.while_loop(goes_on, step, start)[0]


def _compile(mesh: Mesh) -> tuple[Callable[..., Any], ...]:
    """`minimize`, `objective`, and the accuracy of a classifier."""

    def accuracy(params: Params, rows: Rows) -> jax.Array:
        right = jnp.argmax(_logits(params, rows.features), axis=1) == rows.classes
        return jnp.sum(jnp.where(right, rows.weights, 0.0)) / jnp.sum(rows.weights)

    return tuple(jax.jit(made, out_shardings=replicated(mesh)) for made in (minimize, objective, accuracy))


def _logits(params: Params, features: jax.Array) -> jax.Array:
    """float32 `[n, c]`; accelerators would round the factors of the product."""
    product = jnp.matmul(features, params["kernel"], precision=jax.lax.Precision.HIGHEST)
    return product + params["bias"][None]
