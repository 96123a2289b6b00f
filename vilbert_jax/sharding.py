"""Where every array lives: one table from parameter path to logical axes, one from logical axes to mesh axes.

The mesh has three axes. ``data`` holds copies of the parameters, ``fsdp`` splits both the batch and the parameters,
``tensor`` splits the widths inside a layer (attention heads, MLP, vocabulary). Let ``tensor`` divide the numbers of
attention heads, or the reshape to heads costs a reshard.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding

from vilbert_jax.errors import InputError
from vilbert_jax.paths import path_name

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

MESH_AXES = {"embed": "fsdp", "joined_kv": "tensor", "mlp": "tensor", "vocab": "tensor"}

AxisTable = tuple[tuple[str, tuple[str | None, ...]], ...]

# Patterns match whole paths, with anything allowed in front (the optimizer's moments); the first match wins.
# Kernels are [in, out]: "column parallel" ones split the output, "row parallel" ones the input.
PARAM_AXES: AxisTable = (
    (r"text_embeddings/word_embeddings/embedding", ("vocab", "embed")),
    (r"\w+_embeddings/(position|token_type|task)_embeddings/embedding", (None, "embed")),
    (r"region_embeddings/(features|boxes)/kernel", (None, "embed")),
    (r"region_embeddings/(features|boxes)/bias", ("embed",)),
    (r"(text|region)_embeddings/norm/(scale|bias)", ("embed",)),
    # attention: query, key, value column parallel, output row parallel
    (r"\w*attention/(query|key|value)/kernel", ("embed", "joined_kv")),
    (r"\w*attention/(query|key|value)/bias", ("joined_kv",)),
    (r"\w*attention_output/kernel", ("joined_kv", "embed")),
    (r"\w*attention_output/bias", ("embed",)),
    (r"\w*attention_output_norm/(scale|bias)", ("embed",)),
    # feed-forward: intermediate column parallel, output row parallel
    (r"\w*mlp/intermediate/kernel", ("embed", "mlp")),
    (r"\w*mlp/intermediate/bias", ("mlp",)),
    (r"\w*mlp/output/kernel", ("mlp", "embed")),
    (r"\w*mlp/output/bias", ("embed",)),
    (r"\w*mlp/output_norm/(scale|bias)", ("embed",)),
    (r"((text|region)_)?pooler/kernel", ("embed", None)),
    (r"((text|region)_)?pooler/bias", (None,)),
    # pre-training heads
    (r"(token|region)_head/transform/kernel", ("embed", None)),
    (r"(token|region)_head/transform/bias", ("embed",)),
    (r"(token|region)_head/transform_norm/(scale|bias)", ("embed",)),
    (r"token_head/bias", ("vocab",)),
    (r"region_head/logits/kernel", ("embed", "vocab")),
    (r"region_head/logits/bias", ("vocab",)),
    # answer heads: hidden column parallel, logits row parallel
    (r"(vqa|gqa|binary)_head/hidden/kernel", ("embed", "mlp")),
    (r"(vqa|gqa|binary)_head/hidden/bias", ("mlp",)),
    (r"(vqa|gqa|binary)_head/hidden_norm/(scale|bias)", ("mlp",)),
    (r"(vqa|gqa|binary)_head/logits/kernel", ("mlp", None)),
    (r"(vqa|gqa|binary)_head/logits/bias", (None,)),
    # linear heads: a few outputs
    (r"(alignment|choice|entailment|grounding|token_score)_head/kernel", ("embed", None)),
    (r"(alignment|choice|entailment|grounding|token_score)_head/bias", (None,)),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Number of devices along each mesh axis; -1 (one axis at most) takes all that are left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Arranges ``devices`` (default: all) as data x fsdp x tensor.

    Raises:
        InputError: the product of the axes is not the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp, config.tensor]
    asked = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise InputError(f"mesh {asked}: each axis must be at least 1, and one at most -1 (all devices that are left).")
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if -1 in sizes or math.prod(sizes) != len(devices):
        raise InputError(
            f"mesh {asked} does not fit the {len(devices)} {devices[0].platform} device(s) found: data x fsdp x tensor "
            f"must equal {len(devices)}. Change config.mesh (data=-1, fsdp=1, tensor=1 always fits), or, to try a mesh "
            "on a CPU, set XLA_FLAGS=--xla_force_host_platform_device_count=N."
        )
    if jax.process_count() > 1 and jax.local_device_count() % sizes[2]:
        raise InputError(
            f"mesh {asked}: tensor={sizes[2]} does not divide the {jax.local_device_count()} devices of a host, so two "
            "hosts would have to feed the same rows. Choose a divisor of it."
        )
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def state_shardings(abstract_state: Any, mesh: Mesh, table: AxisTable = PARAM_AXES) -> Any:
    """Shardings of a whole train state (or parameters alone), in its structure.

    The path of an optimizer moment ends in its parameter's path, so both get the same sharding. Scalars are
    replicated, and so is a dimension that its mesh axis does not divide.

    Args:
        abstract_state: tree of arrays or ``ShapeDtypeStruct``.
        mesh: from ``make_mesh``.
        table: ``(pattern, logical axes)`` rows.

    Raises:
        InputError: no row matches a path, or the row that does has another number of dimensions.
    """

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, param_spec(path_name(path), leaf.shape, mesh.shape, table))

    return jax.tree_util.tree_map_with_path(sharding, abstract_state)


def param_spec(
    path: str, shape: tuple[int, ...], axis_sizes: Mapping[str, int], table: AxisTable = PARAM_AXES
) -> jax.P:
    """Partition of the array at ``path`` over mesh axes of the given sizes."""
    if not shape:
        return jax.P()
    axes = next((axes for pattern, axes in table if re.fullmatch(f"(?:.*/)?(?:{pattern})", path)), None)
    if axes is None or len(axes) != len(shape):
        found = "no row of the sharding table matches it" if axes is None else f"its row has the axes {axes}"
        raise InputError(f"parameter {path} of shape {shape}: {found}. Add or correct a row of PARAM_AXES.")
    on_mesh = [MESH_AXES[axis] if axis else None for axis in axes]
    return jax.P(*(on if on and size % axis_sizes[on] == 0 else None for size, on in zip(shape, on_mesh, strict=True)))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows spread over ``data`` and ``fsdp``, other dimensions whole."""
    return NamedSharding(mesh, jax.P(BATCH_AXES))


def spread_rows(x: jax.Array) -> jax.Array:
    """``x`` with its rows over the batch axes of the mesh in use; as it is without one, or if they do not divide.

    For what is looked up in a table split over ``fsdp``: left to itself, XLA keeps the columns split like the table's,
    and from there on every device works on all rows.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not {*BATCH_AXES} <= {*mesh.axis_names} or x.shape[0] % math.prod(mesh.shape[axis] for axis in BATCH_AXES):
        return x
    return jax.lax.with_sharding_constraint(x, jax.P(BATCH_AXES))


def num_batch_shards(mesh: Mesh) -> int:
    """Parts that the rows of a batch are split into."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Moves this host's rows to its devices; the result is the global batch.

    Args:
        batch: arrays whose first dimension is the rows of this host.
        mesh: from ``make_mesh``.

    Raises:
        InputError: the rows do not divide over the mesh.
    """
    sharding, shards = batch_sharding(mesh), num_batch_shards(mesh)
    for name, value in batch.items():
        rows = value.shape[0] * jax.process_count()
        if rows % shards:
            raise InputError(
                f"a batch of {rows} rows ({name}) does not divide over data x fsdp = {shards}; choose a "
                f"batch_size that is a multiple of {shards}, or a smaller mesh."
            )
    if jax.process_count() > 1:
        return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}
    return jax.device_put(dict(batch), sharding)


def agreed(value: int) -> int:
    """The value of host 0, on every host."""
    return value if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def gathered(tree: Any) -> Any:
    """The arrays of ``tree`` whole, as every host can use them by itself; all hosts must ask together."""
    return tree if jax.process_count() == 1 else multihost_utils.process_allgather(tree, tiled=True)


def host_share(mesh: Mesh) -> dict[str, int]:
    """Which rows of each batch this host reads, as ``host_index`` and ``host_count`` of ``vilbert_jax.data.Dataset``.

    They follow from where its devices stand in the mesh, which on a pod may be arranged otherwise than processes are
    numbered: rows keep their places in the batch, whoever reads them.

    Raises:
        InputError: the devices of the hosts hold no blocks of rows of equal size.
    """
    owners = [{device.process_index for device in row} for row in mesh.devices.reshape(num_batch_shards(mesh), -1)]
    blocks = [next(iter(owner)) for owner in owners if len(owner) == 1]
    order = list(dict.fromkeys(blocks))
    count = jax.process_count()
    if blocks != [process for process in order for _ in range(len(owners) // count)] or len(order) != count:
        raise InputError(
            f"mesh {dict(mesh.shape)} over {count} hosts: the devices of a host do not hold one block of each batch's "
            "rows. Use data=-1, fsdp=1, tensor=1, or a tensor and fsdp that divide the devices of a host."
        )
    return {"host_index": order.index(jax.process_index()), "host_count": count}
