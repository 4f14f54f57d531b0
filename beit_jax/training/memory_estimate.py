"""What a traced function will take besides its arguments, from the shapes in it: in a second, without compiling it."""

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import Jaxpr, JaxprEqn, Literal, jaxprs_in_params
from jax.interpreters.partial_eval import dce_jaxpr

# XLA on CPU calls a library for these, which reads and writes memory; compilers for accelerators may fuse them.
WRITTEN_ON_CPU = ("conv_general_dilated", "dot_general")


def largest_written(traced: jax.stages.Traced) -> int:
    """Bytes, over all devices, of the largest array that a program for CPU cannot avoid to write.

    It is a lower bound of what the program takes: results of other operations may never exist, because XLA fuses an
    operation with those that read its result.
    """
    return max(map(_result_bytes, _written(_used(traced))), default=0)


def estimated_bytes(traced: jax.stages.Traced) -> int:
    """Bytes, over all devices, of the results that exist at once if operations run in the order of the trace.

    XLA fuses operations, which takes less, and copies operands of convolutions, which takes more: the plan of a
    training step on CPU is between 0.6 and 1.8 times this number.
    """
    return _peak(_used(traced))


def _used(traced: jax.stages.Traced) -> Jaxpr:
    """The program without operations whose results nothing needs."""
    jaxpr = traced.jaxpr.jaxpr
    return dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]


def _written(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    for equation in jaxpr.eqns:
        # A product that sums over nothing becomes a multiplication, which is fused.
        if equation.primitive.name in WRITTEN_ON_CPU and not _is_outer_product(equation):
            yield equation
        for inner in _inner(equation):
            yield from _written(inner)


def _is_outer_product(equation: JaxprEqn) -> bool:
    if equation.primitive.name != "dot_general":
        return False
    (contracted, _), _ = equation.params["dimension_numbers"]
    return math.prod(equation.invars[0].aval.shape[axis] for axis in contracted) == 1


def _inner(equation: JaxprEqn) -> list[Jaxpr]:
    """The programs in an operation, such as the body of a loop; those of kernels describe blocks, not arrays."""
    if equation.primitive.name == "pallas_call":
        return []
    return [getattr(inner, "jaxpr", inner) for inner in jaxprs_in_params(equation.params)]


def _peak(jaxpr: Jaxpr) -> int:
    last_use: dict[Any, int] = {}
    for index, equation in enumerate(jaxpr.eqns):
        last_use |= dict.fromkeys((*equation.outvars, *_variables(equation.invars)), index)
    last_use |= dict.fromkeys(_variables(jaxpr.outvars), len(jaxpr.eqns))
    ending: dict[int, list[Any]] = {}
    for equation in jaxpr.eqns:
        for var in equation.outvars:
            ending.setdefault(last_use[var], []).append(var)
    live = peak = 0
    for index, equation in enumerate(jaxpr.eqns):
        inside = max(map(_peak, _inner(equation)), default=0)
        results = _result_bytes(equation)
        peak = max(peak, live + max(inside, results))
        live += results - sum(map(_bytes, ending.get(index, ())))
    return peak


def _variables(values: list[Any]) -> list[Any]:
    return [value for value in values if not isinstance(value, Literal)]


def _result_bytes(equation: JaxprEqn) -> int:
    return sum(map(_bytes, equation.outvars))


def _bytes(var: Any) -> int:
    aval = var.aval
    return math.prod(getattr(aval, "shape", ())) * getattr(getattr(aval, "dtype", None), "itemsize", 0)
