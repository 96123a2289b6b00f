"""The sharding table: every parameter of the model fits one row, every row is used, and where they land."""

import math
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.errors import InputError
from vilbert_jax.model import HEADS, ViLBERTForPretraining, ViLBERTForTasks
from vilbert_jax.paths import path_name
from vilbert_jax.sharding import (
    MESH_AXES,
    PARAM_AXES,
    MeshConfig,
    host_share,
    make_mesh,
    num_batch_shards,
    param_spec,
    put_batch,
    state_shardings,
)
from vilbert_jax.training.optimizer import OptimizerConfig, make_optimizer
from vilbert_jax.training.state import TrainState
from vilbert_jax.trunk import Inputs

# One path of each kind of parameter, its shape in the paper's model, and its partition over data=2, fsdp=2, tensor=2.
GOLDEN = """
trunk/text_embeddings/word_embeddings/embedding                  30522,768  tensor,fsdp
trunk/text_embeddings/position_embeddings/embedding              512,768    -,fsdp
trunk/text_embeddings/token_type_embeddings/embedding            2,768      -,fsdp
trunk/text_embeddings/task_embeddings/embedding                  20,768     -,fsdp
trunk/text_embeddings/norm/scale                                 768        fsdp
trunk/text_embeddings/norm/bias                                  768        fsdp
trunk/region_embeddings/features/kernel                          2048,1024  -,fsdp
trunk/region_embeddings/features/bias                            1024       fsdp
trunk/region_embeddings/boxes/kernel                             5,1024     -,fsdp
trunk/region_embeddings/norm/scale                               1024       fsdp
trunk/encoder/text_layer_0/attention/query/kernel                768,768    fsdp,tensor
trunk/encoder/text_layer_0/attention/key/bias                    768        tensor
trunk/encoder/text_layer_11/attention_output/kernel              768,768    tensor,fsdp
trunk/encoder/text_layer_11/attention_output/bias                768        fsdp
trunk/encoder/text_layer_0/attention_output_norm/scale           768        fsdp
trunk/encoder/text_layer_0/mlp/intermediate/kernel               768,3072   fsdp,tensor
trunk/encoder/text_layer_0/mlp/intermediate/bias                 3072       tensor
trunk/encoder/text_layer_0/mlp/output/kernel                     3072,768   tensor,fsdp
trunk/encoder/text_layer_0/mlp/output/bias                       768        fsdp
trunk/encoder/text_layer_0/mlp/output_norm/bias                  768        fsdp
trunk/encoder/region_layer_5/attention/value/kernel              1024,1024  fsdp,tensor
trunk/encoder/region_layer_5/mlp/output/kernel                   1024,1024  tensor,fsdp
trunk/encoder/co_layer_0/text_attention/query/kernel             768,1024   fsdp,tensor
trunk/encoder/co_layer_5/region_attention/key/kernel             1024,1024  fsdp,tensor
trunk/encoder/co_layer_5/region_attention/key/bias               1024       tensor
trunk/encoder/co_layer_0/text_attention_output/kernel            1024,768   tensor,fsdp
trunk/encoder/co_layer_0/region_attention_output_norm/scale      1024       fsdp
trunk/encoder/co_layer_0/region_mlp/intermediate/kernel          1024,1024  fsdp,tensor
trunk/encoder/co_layer_0/text_mlp/output/kernel                  3072,768   tensor,fsdp
trunk/encoder/co_layer_0/text_mlp/output_norm/scale              768        fsdp
trunk/text_pooler/kernel                                         768,1024   fsdp,-
trunk/region_pooler/bias                                         1024       -
trunk/region_embeddings/token_type_embeddings/embedding          2,768      -,fsdp
trunk/encoder/layer_11/attention/query/kernel                    768,768    fsdp,tensor
trunk/encoder/layer_11/mlp/output/kernel                         3072,768   tensor,fsdp
trunk/pooler/kernel                                              768,768    fsdp,-
trunk/pooler/bias                                                768        -
token_head/transform/kernel                                      768,768    fsdp,-
token_head/transform/bias                                        768        fsdp
token_head/transform_norm/scale                                  768        fsdp
token_head/bias                                                  30522      tensor
region_head/transform/kernel                                     1024,1024  fsdp,-
region_head/transform_norm/bias                                  1024       fsdp
region_head/logits/kernel                                        1024,1601  fsdp,-
region_head/logits/bias                                          1601       -
alignment_head/kernel                                            1024,2     fsdp,-
alignment_head/bias                                              2          -
vqa_head/hidden/kernel                                           1024,2048  fsdp,tensor
vqa_head/hidden/bias                                             2048       tensor
vqa_head/hidden_norm/scale                                       2048       tensor
vqa_head/logits/kernel                                           2048,3129  tensor,-
vqa_head/logits/bias                                             3129       -
vqa_head/hidden/gain                                             scalar
gqa_head/logits/kernel                                           2048,1533  tensor,-
binary_head/hidden/kernel                                        2048,2048  fsdp,tensor
choice_head/kernel                                               1024,1     fsdp,-
entailment_head/kernel                                           1024,3     fsdp,-
grounding_head/bias                                              1          -
token_score_head/kernel                                          768,1      fsdp,-
"""


def golden_rows():
    for line in GOLDEN.strip().splitlines():
        path, shape, *spec = line.split()
        shape = () if shape == "scalar" else tuple(int(size) for size in shape.split(","))
        yield path, shape, jax.P(*(None if axis == "-" else axis for part in spec for axis in part.split(",")))


ROWS = list(golden_rows())
SIZES = {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize(("path", "shape", "spec"), ROWS, ids=[path for path, _, _ in ROWS])
def test_partition_of_parameters(path, shape, spec):
    assert param_spec(path, shape, SIZES) == spec
    assert param_spec(f"opt_state/mu/{path}", shape, SIZES) == spec


def test_each_row_of_the_table_matches_a_parameter():
    def first_match(path):
        return next(pattern for pattern, _ in PARAM_AXES if re.fullmatch(f"(?:.*/)?(?:{pattern})", path))

    used = {first_match(path) for path, shape, _ in ROWS if shape}
    assert used == {pattern for pattern, _ in PARAM_AXES}


def test_no_row_puts_two_dimensions_on_one_mesh_axis():
    for pattern, axes in PARAM_AXES:
        on_mesh = [MESH_AXES[axis] for axis in axes if axis]
        assert len(on_mesh) == len(set(on_mesh)), pattern


def test_an_unknown_parameter_is_an_error_that_names_it():
    with pytest.raises(InputError, match=r"trunk/text_pooler/weight of shape .*no row"):
        param_spec("trunk/text_pooler/weight", (2, 2), SIZES)
    with pytest.raises(InputError, match=r"alignment_head/kernel of shape \(2, 2, 2\): its row has the axes"):
        param_spec("alignment_head/kernel", (2, 2, 2), SIZES)


def test_a_path_must_match_from_a_name_boundary():
    with pytest.raises(InputError, match="no row"):
        param_spec("pretext_embeddings/norm/scale", (4,), SIZES)


def test_a_dimension_that_the_mesh_does_not_divide_stays_whole():
    assert param_spec("token_head/bias", (30522,), SIZES | {"tensor": 4}) == jax.P(None)
    assert param_spec("trunk/text_embeddings/word_embeddings/embedding", (30522, 768), SIZES | {"tensor": 4}) == jax.P(
        None, "fsdp"
    )


def test_the_whole_state_is_covered_and_moments_follow_their_parameter():
    params = {"trunk": {"text_pooler": {"kernel": jnp.zeros((4, 6)), "bias": jnp.zeros(6)}}, "gain": jnp.zeros(())}
    tx = make_optimizer(OptimizerConfig(), 10)
    state = TrainState(jnp.zeros([], jnp.int32), params, tx.init(params))
    shardings = state_shardings(jax.eval_shape(lambda: state), make_mesh(MeshConfig(fsdp=2)))
    specs = {path_name(path): sharding.spec for path, sharding in jax.tree_util.tree_leaves_with_path(shardings)}
    kernel, bias = jax.P("fsdp", None), jax.P(None)
    for root in ("params", "opt_state/mu", "opt_state/nu"):
        assert specs.pop(f"{root}/trunk/text_pooler/kernel") == kernel
        assert specs.pop(f"{root}/trunk/text_pooler/bias") == bias
        assert specs.pop(f"{root}/gain") == jax.P()
    assert specs == {"step": jax.P(), "opt_state/num_updates": jax.P()}


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MeshConfig(), (8, 1, 1)),
        (MeshConfig(fsdp=4), (2, 4, 1)),
        (MeshConfig(data=1, fsdp=-1, tensor=2), (1, 4, 2)),
        (MeshConfig(data=2, fsdp=2, tensor=2), (2, 2, 2)),
    ],
)
def test_mesh_shapes(config, shape):
    mesh = make_mesh(config)
    assert tuple(mesh.shape.values()) == shape
    assert num_batch_shards(mesh) == shape[0] * shape[1]


def test_mesh_over_some_devices():
    assert make_mesh(MeshConfig(tensor=2), jax.devices()[:4]).devices.shape == (2, 1, 2)


@pytest.mark.parametrize(
    "config",
    [MeshConfig(data=3), MeshConfig(fsdp=3), MeshConfig(data=16), MeshConfig(data=4), MeshConfig(tensor=16)],
)
def test_a_mesh_that_does_not_fit_says_what_was_found_and_asked(config):
    with pytest.raises(
        InputError, match=rf"mesh data={config.data}, .* does not fit the 8 cpu device.*Change config.mesh"
    ):
        make_mesh(config)


@pytest.mark.parametrize("config", [MeshConfig(data=-1, fsdp=-1), MeshConfig(data=0), MeshConfig(data=-2)])
def test_a_meaningless_mesh_is_refused(config):
    with pytest.raises(InputError, match="at least 1"):
        make_mesh(config)


def test_batches_are_spread_over_data_and_fsdp():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    rows = np.arange(24.0, dtype=np.float32).reshape(8, 3)
    placed = put_batch({"x": rows}, mesh)["x"]
    assert placed.sharding.shard_shape(placed.shape) == (2, 3)
    np.testing.assert_array_equal(placed, rows)


def test_rows_that_do_not_divide_are_an_error():
    with pytest.raises(InputError, match=r"6 rows \(x\) does not divide over data x fsdp = 8"):
        put_batch({"x": np.zeros((6, 2))}, make_mesh(MeshConfig()))


def model_shapes(model, config):
    inputs = Inputs(
        token_ids=jnp.zeros((2, 3), jnp.int32),
        token_types=jnp.zeros((2, 3), jnp.int32),
        text_mask=jnp.ones((2, 3), bool),
        region_features=jnp.zeros((2, 4, config.region_feature_dim)),
        region_boxes=jnp.zeros((2, 4, 5)),
        region_mask=jnp.ones((2, 4), bool),
        task_id=jnp.zeros(2, jnp.int32) if config.num_task_embeddings else None,
    )
    return jax.eval_shape(lambda key: model.init(key, inputs, deterministic=True)["params"], jax.random.key(0))


@pytest.mark.parametrize(
    "options", [{}, {"num_task_embeddings": 20, "answer_head": "weight_norm"}, {"num_streams": 1}], ids=str
)
def test_every_parameter_of_the_models_fits_a_row(options):
    config, mesh = ViLBERTConfig.base(**options), make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    for model in (ViLBERTForPretraining(config), ViLBERTForTasks(config, heads=HEADS)):
        shapes = model_shapes(model, config)
        shards = jax.tree.map(lambda x, s: s.shard_shape(x.shape), shapes, state_shardings(shapes, mesh))
        whole, on_one_device = (
            sum(math.prod(shape) for shape in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, tuple)))
            for tree in (jax.tree.map(lambda x: x.shape, shapes), shards)
        )
        assert on_one_device < 0.3 * whole  # 0.25 is all of them split by fsdp and by tensor


def pod(owners, **axes):
    """A mesh of devices of which only the host is known."""
    devices = np.array([types.SimpleNamespace(process_index=owner) for owner in owners])
    shape = {"data": 1, "fsdp": 1, "tensor": 1, **axes}
    return types.SimpleNamespace(devices=devices.reshape(tuple(shape.values())), shape=shape)


@pytest.mark.parametrize(
    ("owners", "axes", "host_index"),
    [
        ([0, 0, 1, 1], {"data": 4}, 1),
        ([1, 1, 0, 0], {"data": 2, "fsdp": 2}, 0),  # a pod whose second host stands first
        ([2, 2, 1, 1, 0, 0], {"data": 3, "tensor": 2}, 1),
    ],
)
def test_a_host_reads_the_rows_that_its_devices_hold(monkeypatch, owners, axes, host_index):
    monkeypatch.setattr(jax, "process_count", lambda: len(set(owners)))
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert host_share(pod(owners, **axes)) == {"host_index": host_index, "host_count": len(set(owners))}


@pytest.mark.parametrize(
    ("owners", "axes"),
    [([0, 1, 0, 1], {"data": 4}), ([0, 1, 1, 0], {"data": 4}), ([0, 1, 0, 1], {"data": 2, "tensor": 2})],
)
def test_hosts_without_a_block_of_rows_are_refused(monkeypatch, owners, axes):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with pytest.raises(InputError, match="do not hold one block of each batch's rows"):
        host_share(pod(owners, **axes))
