"""Floating-point operations of matrix products: those that a traced function computes."""

import math
from typing import Any

from jax.extend.core import jaxprs_in_params
from jax.interpreters import partial_eval


def computed_flops(jaxpr: Any) -> int:
    """Operations of all matrix products of a jaxpr, padding and recomputation included; a multiply-add counts as two.

    This is the work of all devices together, as traced, before a compiler changes it. What no output depends on is left
    out, as every compiler does. A ``while`` loop counts once, since its rounds are not known; ``scan`` counts them all.
    """
    needed, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _flops(needed)


def _flops(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            ((contracted, _), _) = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            inner = math.prod(shape[axis] for axis in contracted)
            total += 2 * inner * math.prod(equation.outvars[0].aval.shape)
            continue
        inside = [_flops(one) for one in jaxprs_in_params(equation.params)]
        rounds = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += rounds * (max(inside, default=0) if equation.primitive.name == "cond" else sum(inside))
    return total
