"""Matrix products of mixed precision: inputs of one dtype, sums in float32, gradients in the dtype they belong to."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike


def wide(dtype: DTypeLike) -> Any:
    """The dtype of everything but matrix products: float32, or better where the computation is."""
    return jnp.promote_types(dtype, jnp.float32)


def product(spec: str, x: Array, y: Array, output_dtype: DTypeLike) -> Array:
    """``einsum(spec, x, y)`` in the dtype of ``x``, its sums in float32.

    JAX's own gradient of a product of bfloat16 would be rounded to bfloat16 on every device before the devices add it
    up, and where the result is float32 it would be a float32 product, several times as slow. Here both gradients are
    products in the dtype of ``x`` as well, and each is written in the dtype of its argument: a float32 parameter's is
    summed in float32 over rows and devices.

    Args:
        spec: ``"I,IO->O"``; no index may be summed that only one argument has. Leading axes of ``x`` that the
            specification leaves out are kept.
        x: its dtype is that of the computation.
        y: a parameter of any dtype, or another array.
        output_dtype: of the result.
    """
    inputs, output = spec.split("->")
    of_x, of_y = inputs.split(",")
    rows = "abcdefgh"[: x.ndim - len(of_x)]
    of_x, output = rows + of_x, rows + output
    if x.dtype == y.dtype == output_dtype and x.dtype != jnp.bfloat16:
        return jnp.einsum(f"{of_x},{of_y}->{output}", x, y)  # JAX's own gradients are as good
    return _product((of_x, of_y, output), x, y, output_dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def _product(axes: tuple[str, str, str], x: Array, y: Array, output_dtype: DTypeLike) -> Array:
    of_x, of_y, output = axes
    return _einsum(f"{of_x},{of_y}->{output}", x, y.astype(x.dtype), output_dtype)


def _forward(axes: tuple[str, str, str], x: Array, y: Array, output_dtype: DTypeLike) -> tuple[Array, Any]:
    return _product(axes, x, y, output_dtype), (x, y)


def _backward(
    axes: tuple[str, str, str], output_dtype: DTypeLike, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    del output_dtype
    (of_x, of_y, output), (x, y) = axes, saved
    gradient = gradient.astype(x.dtype)
    return (
        _einsum(f"{output},{of_y}->{of_x}", gradient, y.astype(x.dtype), x.dtype),
        _einsum(f"{output},{of_x}->{of_y}", gradient, x, y.dtype),
    )


_product.defvjp(_forward, _backward)


def _einsum(spec: str, x: Array, y: Array, dtype: DTypeLike) -> Array:
    return jnp.einsum(spec, x, y, preferred_element_type=dtype)
