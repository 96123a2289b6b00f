"""Bytes between devices are those that a program asked for; groups are read in every way that XLA writes them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vilbert_jax.planning.collectives import Traffic, ring_share, traffic_of

MESH = jax.make_mesh((2, 4), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
SHAPE = dict(MESH.shape)


def compiled(function, *, spec, out, shape=(16, 32), dtype=jnp.float32):
    """HLO of a function of one array whose parts are ``spec`` of it, each device running the function."""
    mapped = jax.shard_map(function, mesh=MESH, in_specs=spec, out_specs=out, check_vma=False)
    return jax.jit(mapped).lower(jax.ShapeDtypeStruct(shape, dtype)).compile().as_text()


PART = jax.P("data", "tensor")  # [8, 8] of [16, 32]


@pytest.mark.parametrize(
    ("function", "out", "expected"),
    [
        (lambda x: jax.lax.psum(x, "data"), jax.P(None, "tensor"), ("all-reduce", ("data",), 2, 256, 256)),
        (lambda x: jax.lax.psum(x, "tensor"), jax.P("data"), ("all-reduce", ("tensor",), 4, 256, 384)),
        (lambda x: jax.lax.psum(x, ("data", "tensor")), jax.P(), ("all-reduce", ("data", "tensor"), 8, 256, 448)),
        (
            lambda x: jax.lax.all_gather(x, "tensor", axis=1, tiled=True),
            jax.P("data"),
            ("all-gather", ("tensor",), 4, 1024, 768),
        ),
        (
            lambda x: jax.lax.psum_scatter(x, "tensor", scatter_dimension=0, tiled=True),
            jax.P("data"),
            ("reduce-scatter", ("tensor",), 4, 256, 192),
        ),
        (
            lambda x: jax.lax.all_to_all(x, "tensor", split_axis=0, concat_axis=1, tiled=True),
            jax.P("data"),
            ("all-to-all", ("tensor",), 4, 256, 192),
        ),
        (
            lambda x: jax.lax.ppermute(x, "data", [(0, 1), (1, 0)]),
            PART,
            ("collective-permute", ("data",), 2, 256, 256),
        ),
    ],
    ids=lambda value: "-".join(map(str, value[:2])) if isinstance(value, tuple) else "",
)
def test_a_compiled_collective_is_found_with_its_bytes(function, out, expected):
    kind, axes, size, payload, sent = expected
    hlo = compiled(function, spec=PART, out=out)
    assert traffic_of(hlo, SHAPE) == [Traffic(kind, axes, size, 1, payload, pytest.approx(sent))]


def test_a_loop_sends_in_every_round():
    def rounds(x):
        return jax.lax.fori_loop(0, 5, lambda _, y: jnp.tanh(jax.lax.psum(y, "data")), x)

    (found,) = traffic_of(compiled(rounds, spec=PART, out=PART), SHAPE)
    assert (found.number, found.payload) == (5, 5 * 256)


def test_a_narrow_type_counts_its_own_bytes():
    gather = functools.partial(jax.lax.all_gather, axis_name="data", axis=0, tiled=True)
    (found,) = traffic_of(compiled(gather, spec=PART, out=jax.P(None, "tensor"), dtype=jnp.int8), SHAPE)
    assert found.payload == 16 * 8


def test_a_program_without_collectives_sends_nothing():
    assert traffic_of(compiled(jnp.tanh, spec=PART, out=PART), SHAPE) == []


@pytest.mark.parametrize(
    ("groups", "axes", "size"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", ("tensor",), 4),
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", ("data",), 2),
        ("replica_groups=[2,4]<=[8]", ("tensor",), 4),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", ("data",), 2),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", ("data",), 2),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", ("data", "tensor"), 8),
        ("replica_groups=mesh['a'=8] {'a':(1)2}", ("data",), 2),
        ("replica_groups=mesh['a'=8] {'a':(2)4}", ("tensor",), 4),
        ("replica_groups={}", ("data", "tensor"), 8),
    ],
)
def test_groups_are_read_in_every_notation(groups, axes, size):
    hlo = "\n".join(
        ["ENTRY %main (x: f32[6]) -> f32[6] {", f"  ROOT %r = f32[6]{{0}} all-reduce(%x), {groups}, to_apply=%add", "}"]
    )
    (found,) = traffic_of(hlo, SHAPE)
    assert (found.axes, found.group_size, found.payload) == (axes, size, 24)


def test_an_operation_in_two_parts_counts_once():
    """Accelerators start a transfer and wait for it later; a start gives what goes in and what comes out."""
    hlo = "\n".join(
        [
            "ENTRY %main (x: bf16[4]) -> bf16[32] {",
            "  %s = (bf16[4]{0}, bf16[32]{0}) all-gather-start(%x), replica_groups=[1,8]<=[8], dimensions={0}",
            "  ROOT %d = bf16[32]{0} all-gather-done(%s)",
            "}",
        ]
    )
    (found,) = traffic_of(hlo, SHAPE)
    assert (found.number, found.payload, found.sent) == (1, 64, 56)


def test_a_group_of_one_sends_nothing():
    hlo = "ENTRY %main (x: f32[6]) -> f32[6] {\n  ROOT %r = f32[6]{0} all-reduce(%x), replica_groups=[8,1]<=[8]\n}"
    assert traffic_of(hlo, SHAPE) == []


def test_a_ring_sends_what_the_formulas_say():
    shares = [ring_share(kind, 4) for kind in ("all-reduce", "all-gather", "reduce-scatter", "collective-permute")]
    np.testing.assert_allclose(shares, [1.5, 0.75, 0.75, 1.0])
