"""Several pairs in one row, so that nothing is computed for padding: what stands where, and who sees whom.

B pairs of T text positions and R regions (row 0 of each is the global one); G rows of P = B / G pairs, in which Lt
text positions and Lr regions have a place. Row g holds the pairs g * P to (g + 1) * P - 1, so that rows and pairs are
spread over devices alike.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Int, Shaped


class Places(NamedTuple):
    """What stands at each place of a row; 0 is nothing.

    Attributes:
        text: ``1 + pair * T + position``, pairs counted within the row; those of a pair are neighbours, in order.
        regions: ``1 + pair * R + region`` likewise.
    """

    text: Int[Array, "G Lt"]
    regions: Int[Array, "G Lr"]


class Masks(NamedTuple):
    """What the positions of each stream attend to, in their own stream and in the other one.

    True is seen. Without packing all positions of a pair see the same, and the axis of the queries has size 1.
    """

    text: Bool[Array, "B #Q T"]
    regions: Bool[Array, "B #Q R"]
    text_over_regions: Bool[Array, "B #Q R"]
    regions_over_text: Bool[Array, "B #Q T"]


class Firsts(NamedTuple):
    """Where in each row the pooled states of its P pairs stand."""

    text: Int[Array, "G P"]
    regions: Int[Array, "G P"]


def key_masks(text_mask: Bool[Array, "B T"], region_mask: Bool[Array, "B R"]) -> Masks:
    """Every position of a pair sees all that there is of both streams."""
    text, regions = text_mask[:, None], region_mask[:, None]
    return Masks(text, regions, text_over_regions=regions, regions_over_text=text)


def pair_masks(text_pairs: Int[Array, "G Lt"], region_pairs: Int[Array, "G Lr"]) -> Masks:
    """Every position sees its own pair alone; places of nothing (pair -1) see one another."""

    def same(queries: Array, keys: Array) -> Array:
        return queries[:, :, None] == keys[:, None]

    return Masks(
        same(text_pairs, text_pairs),
        same(region_pairs, region_pairs),
        text_over_regions=same(text_pairs, region_pairs),
        regions_over_text=same(region_pairs, text_pairs),
    )


def pairs_of(places: Int[Array, "G L"], length: int) -> Int[Array, "G L"]:
    """The pair of each place, counted within its row; -1 where there is nothing.

    Args:
        places: of one stream.
        length: of the stream before packing: T or R.
    """
    return (places - 1) // length


def to_rows(x: Shaped[Array, "B N *n"], places: Int[Array, "G L"]) -> Shaped[Array, "G L *n"]:
    """What stands at each place; where nothing does, anything of the row."""
    grouped = x.reshape(places.shape[0], -1, *x.shape[2:])
    where = jnp.maximum(places - 1, 0).reshape(*places.shape, *[1] * (grouped.ndim - 2))
    return jnp.take_along_axis(grouped, where, axis=1)


def first_places(places: Int[Array, "G L"], num_pairs: int, length: int) -> Int[Array, "G P"]:
    """Where in its row the first position of every pair stands: [CLS], or the global region.

    Args:
        places: of one stream.
        num_pairs: B.
        length: of the stream before packing: T or R.
    """
    starts = 1 + jnp.arange(num_pairs // len(places)) * length
    return (places[:, None] == starts[None, :, None]).argmax(axis=-1)


def at_places(rows: Shaped[Array, "G L *n"], where: Int[Array, "G P"]) -> Shaped[Array, "G P *n"]:
    """Some positions of each row."""
    return jnp.take_along_axis(rows, where.reshape(*where.shape, *[1] * (rows.ndim - 2)), axis=1)
