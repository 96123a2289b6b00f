"""One training pass of the detector: what it learns from, what it leaves alone, what it must not read."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import traverse_util

from vilbert_jax.detector.anchors import make_anchors
from vilbert_jax.detector.backbone import ConvNorm, map_sizes
from vilbert_jax.detector.config import CAFFE, DETECTRON2, DetectorConfig
from vilbert_jax.detector.faster_rcnn import FasterRCNN
from vilbert_jax.detector.initialisation import starting_params
from vilbert_jax.detector.objective import FROZEN, Objective, detection_losses
from vilbert_jax.detector.pictures import Pictures
from vilbert_jax.detector.pooling import pool_regions, range_maxima
from vilbert_jax.detector.targets import Things
from vilbert_jax.errors import InputError
from vilbert_jax.losses import mean

HEIGHT, WIDTH = 64, 96
CONFIG = DetectorConfig(
    flavour=DETECTRON2, blocks=(1, 1, 1, 1), stem_width=8,
    bottleneck_width=4, res2_width=8, rpn_width=16, num_anchors=2, num_classes=3, num_attributes=2,
    class_embedding_width=4, attribute_width=8, max_candidates=24, max_proposals=6, pooling_resolution=4,
)  # fmt: skip
ANCHORS = make_anchors((20.0, 36.0))
OBJECTIVE = Objective(num_anchor_samples=32)
LOSSES = ("objectness_loss", "anchor_box_loss", "class_loss", "region_box_loss", "attribute_loss")
ALL = dict.fromkeys(LOSSES, 1.0)
OPTIMIZER = optax.adam(3e-3)


def make_data():
    """Two noisy pictures with one and two bright things."""
    rng = np.random.default_rng(0)
    pixels = rng.normal(scale=20, size=(2, HEIGHT, WIDTH, 3)).astype(np.float32)
    boxes = np.array([[[10, 12, 32, 30], [50, 20, 88, 58]], [[40, 30, 60, 52], [0, 0, 0, 0]]], np.float32)
    mask, classes = np.array([[True, True], [True, False]]), np.array([[0, 2], [1, 0]], np.int32)
    for picture, box, present, label in zip(
        [0, 0, 1, 1], boxes.reshape(4, 4), mask.ravel(), classes.ravel(), strict=True
    ):
        if present:
            x1, y1, x2, y2 = box.astype(int)
            pixels[picture, y1:y2, x1:x2] += 60
            pixels[picture, y1:y2, x1:x2, label] += 60
    sizes = np.tile(np.array([[HEIGHT, WIDTH]], np.int32), (2, 1))
    things = Things(boxes, mask, classes, np.array([[0, 1], [1, 0]], np.int32))
    return Pictures(pixels, sizes, np.ones((2, 2), np.float32)), things


PICTURES, THINGS = make_data()


@pytest.fixture(scope="module", params=[DETECTRON2, CAFFE], ids=lambda flavour: flavour.name)
def model(request):
    flavour = dataclasses.replace(request.param, short_side=HEIGHT, long_side=WIDTH)
    return FasterRCNN(dataclasses.replace(CONFIG, flavour=flavour))


@pytest.fixture(scope="module")
def start(model):
    params = jax.jit(model.init)(jax.random.key(0), PICTURES)["params"]
    return starting_params(model, params, PICTURES, THINGS, ANCHORS)


@functools.partial(jax.jit, static_argnums=0)
def step(model, params, moments, pictures, things, weights):
    """Losses, gradients and the next parameters, in one program a flavour for the whole module."""

    def objective(params):
        means = {name: mean(x) for name, x in detection_losses(model, params, pictures, things, OBJECTIVE).items()}
        return sum(weights[name] * means[name] for name in LOSSES), means

    grads, means = jax.grad(objective, has_aux=True)(params)
    updates, moments = OPTIMIZER.update(grads, moments)
    return means, grads, optax.apply_updates(params, updates), moments


def losses(model, params, pictures=PICTURES, things=THINGS):
    return step(model, params, OPTIMIZER.init(params), pictures, things, ALL)[0]


def gradients_of(name, model, params, things=THINGS):
    """Those of one loss alone, and all losses."""
    weights = {loss: float(loss == name) for loss in LOSSES}
    means, grads, _, _ = step(model, params, OPTIMIZER.init(params), PICTURES, things, weights)
    return grads, means


def test_gradients_are_finite_and_reach_all_but_what_is_frozen(model, start):
    _, grads, _, _ = step(model, start, OPTIMIZER.init(start), PICTURES, THINGS, ALL)
    for path, grad in traverse_util.flatten_dict(grads).items():
        assert np.isfinite(grad).all(), path
        assert np.any(grad) != (path[-1] in FROZEN), path


def test_boxes_are_learned_in_the_rows_of_the_things_classes(model, start):
    """The background has a row in one of the flavours, and learns nothing in it."""
    flavour, alone = model.config.flavour, THINGS._replace(mask=np.array([[False, True], [False, False]]))  # of class 2
    grads, _ = gradients_of("region_box_loss", model, start, alone)
    rows = np.asarray(grads["region_head"]["box_deltas"]["bias"]).reshape(-1, 4).any(axis=1)
    assert np.flatnonzero(rows).tolist() == [2 + flavour.background_first]


def test_where_proposals_are_is_no_part_of_what_regions_learn(model, start):
    """Else the targets of boxes would be moved towards what the network says."""
    proposed = jax.jit(functools.partial(model.apply, method="proposals"))({"params": start}, PICTURES)
    beside = np.asarray(proposed.boxes)[:, :2] + np.array([2, 1, 4, 3], np.float32)
    things = THINGS._replace(boxes=beside, mask=np.ones((2, 2), bool))
    grads, means = gradients_of("region_box_loss", model, start, things)
    assert means["proposal_recall"] == 1
    assert means["region_box_loss"] > 0
    assert not any(np.any(grad) for grad in jax.tree.leaves(grads["proposal_head"]))
    assert np.any(grads["region_head"]["box_deltas"]["kernel"])


def test_a_hundred_steps_on_two_pictures_reduce_every_loss(model, start):
    params, moments = start, OPTIMIZER.init(start)
    means = []
    for _ in range(100):
        found, _, params, moments = step(model, params, moments, PICTURES, THINGS, ALL)
        means.append(found)
    for name in LOSSES:
        # At first the things' own boxes are the only regions on them, and those need not move.
        assert means[-1][name] < 0.6 * max(earlier[name] for earlier in means), name
    assert means[-1]["region_accuracy"] == 1
    before, after = (traverse_util.flatten_dict(tree) for tree in (start, params))
    for path in before:
        assert np.array_equal(before[path], after[path]) == (path[-1] in FROZEN), path


def test_the_first_losses_are_those_of_a_network_that_knows_nothing(model, start):
    found = losses(model, start)
    np.testing.assert_allclose(found["objectness_loss"], np.log(2), rtol=0.1)
    np.testing.assert_allclose(found["class_loss"], np.log(CONFIG.num_classes + 1), rtol=0.15)
    num_attributes = CONFIG.num_attributes + model.config.flavour.none_competes
    np.testing.assert_allclose(found["attribute_loss"], np.log(num_attributes), rtol=0.15)


def test_padded_things_are_never_read(model, start):
    garbage = THINGS._replace(
        boxes=np.where(THINGS.mask[..., None], THINGS.boxes, np.float32(np.nan)),
        classes=np.where(THINGS.mask, THINGS.classes, 2),
        attributes=np.where(THINGS.mask, THINGS.attributes, 1),
    )
    jax.tree.map(np.testing.assert_array_equal, losses(model, start, things=garbage), losses(model, start))


def test_what_lies_beyond_a_picture_is_never_read(model, start):
    smaller = PICTURES._replace(sizes=np.array([[HEIGHT, WIDTH], [56, 80]], np.int32))
    pixels = PICTURES.pixels.copy()
    pixels[1, 56:], pixels[1, :, 80:] = 1e4, 1e4
    found = losses(model, start, smaller._replace(pixels=pixels))
    jax.tree.map(np.testing.assert_array_equal, found, losses(model, start, smaller))


def test_norms_give_mean_0_and_variance_1_through_the_whole_depth(model, start):
    @jax.jit
    def outputs(params):
        found = {}

        def keep(call, args, kwargs, context):
            y = call(*args, **kwargs)
            if isinstance(context.module, ConvNorm):
                found["/".join(context.module.path)] = y.mean(axis=(0, 1, 2)), y.var(axis=(0, 1, 2))
            return y

        bound = model.bind({"params": params})
        with nn.intercept_methods(keep):
            maxima = range_maxima(bound.feature_map(PICTURES), CONFIG.pooling_resolution)
            pooled = pool_regions(
                maxima, jnp.asarray(THINGS.boxes), map_sizes(PICTURES.sizes), CONFIG.pooling_resolution
            )
            bound.region_head.pooled_features(pooled)
        return found

    found = outputs(start)
    assert len(found) == 1 + 4 * 4
    for path, (average, variance) in found.items():
        np.testing.assert_allclose(average, 0, atol=1e-3, err_msg=path)
        np.testing.assert_allclose(variance, 1, atol=1e-2, err_msg=path)


def test_gradients_flow_through_pooling():
    """Values are different whole numbers, so a step of a quarter changes no maximum and differences are exact."""
    rng = np.random.default_rng(1)
    feature_map = (1 + rng.permutation(4 * 5 * 2)).reshape(1, 4, 5, 2).astype(np.float32)
    boxes = jnp.array([[[0.0, 0, 70, 50], [20, 10, 60, 52], [33, 33, 34, 34]]])
    weights = jnp.asarray(rng.integers(1, 9, (1, 3, 4, 4, 2)).astype(np.float32))

    def total(feature_map):
        return (pool_regions(range_maxima(feature_map, 4), boxes, jnp.array([[4, 5]]), 4) * weights).sum()

    steps = 0.25 * np.eye(feature_map.size, dtype=np.float32).reshape(-1, *feature_map.shape)
    up, down = (jax.jit(jax.vmap(total))(feature_map[None] + sign * steps) for sign in (1, -1))
    grad = jax.jit(jax.grad(total))(feature_map)
    np.testing.assert_allclose(np.ravel(grad), 2 * (up - down), rtol=1e-5)
    assert np.sum(grad) == np.sum(weights)  # no cell of a region is lost


def test_anchors_and_pictures_that_do_not_fit_are_refused(model, start):
    with pytest.raises(InputError, match=r"anchors have shape \(3, 4\); the detector has \(2, 4\)"):
        starting_params(model, start, PICTURES, THINGS, make_anchors((8, 16, 32)))
    smaller = PICTURES._replace(sizes=PICTURES.sizes - 16)
    with pytest.raises(InputError, match="pictures of one size"):
        starting_params(model, start, smaller, THINGS, ANCHORS)


@pytest.mark.parametrize("fields", [{"num_anchor_samples": 0}, {"positive_share": 0.0}, {"positive_share": 1.5}])
def test_an_objective_that_leaves_nothing_to_learn_is_refused(fields):
    with pytest.raises(InputError, match="num_anchor_samples is"):
        Objective(**fields)
