"""Scenes: what is in a picture, how it is drawn, boxes, features, class probabilities."""

import concurrent.futures
import inspect

import numpy as np
import pytest

from tfds_builders import scenes
from tfds_builders.scenes import classifier, descriptors, detections, measure, regions, rendering, shapes, world
from vilbert_jax.errors import InputError

IDS = [world.make_image_id("tiny", "train", number) for number in range(150)]


@pytest.fixture(scope="module")
def drawn():
    """(scene, pixels) of many pictures."""
    return [(world.make_scene(image_id), rendering.render(image_id)) for image_id in IDS]


def test_scenes_hold_what_they_promise():
    found = [world.make_scene(image_id) for image_id in IDS]
    counts = {len(scene.things) for scene in found}
    assert counts == {2, 3, 4, 5}
    twins = 0
    for scene in found:
        attributes = [tuple(getattr(t, name) for name in world.ATTRIBUTES) for t in scene.things]
        assert len(set(attributes)) == len(attributes), "two things that nothing tells apart"
        unlike = [sum(p != q for p, q in zip(a, b, strict=True)) for a in attributes for b in attributes]
        twins += 1 in unlike
        for thing in scene.things:
            x1, y1, x2, y2 = thing.box
            assert 0 <= x1 < x2 <= world.WIDTH
            assert 0 <= y1 < y2 <= world.HEIGHT
    assert twins > len(IDS) / 4
    assert sum(bool(scene.in_front) for scene in found) > len(IDS) / 5


def test_ids_are_pure_and_tell_pictures_apart():
    image_id = "small-validation-000123"
    assert world.parse_image_id(image_id) == ("small", "validation", 123)
    first = rendering.render(image_id)
    world.make_scene.cache_clear()
    np.testing.assert_array_equal(rendering.render(image_id), first)
    for other in ("small-test-000123", "full-validation-000123", "small-validation-000124"):
        assert world.make_scene(other).things != world.make_scene(image_id).things


@pytest.mark.parametrize("image_id", ["small-train-12", "huge-train-000001", "small-dev-000001", "", "000001"])
def test_other_ids_are_refused(image_id):
    with pytest.raises(InputError, match="scenes data set"):
        scenes.render(image_id)


def test_pictures_are_the_same_at_every_scale(drawn):
    for scene, pixels in drawn[:8]:
        assert pixels.shape == (world.HEIGHT, world.WIDTH, 3)
        assert pixels.dtype == np.uint8
        large = rendering.render_scene(scene, scale=3)
        assert large.shape == (3 * world.HEIGHT, 3 * world.WIDTH, 3)
        small = large.reshape(world.HEIGHT, 3, world.WIDTH, 3, 3).mean(axis=(1, 3))
        assert np.abs(small - pixels).mean() < 2


def test_later_things_are_painted_over_earlier_ones(drawn):
    """Where two things overlap, the pixels are those of the picture without the one behind."""
    checked = 0
    for scene, pixels in drawn:
        for front, behind in scene.in_front:
            assert front > behind
            alone = world.Scene(**{**vars(scene), "things": (scene.things[front],), "in_front": frozenset()})
            y, x = np.mgrid[: world.HEIGHT, : world.WIDTH].astype(np.float32) + 0.5
            both = (scene.things[front].distance(x, y) < -1) & (scene.things[behind].distance(x, y) < -1)
            assert both.any()
            np.testing.assert_allclose(pixels[both], rendering.render_scene(alone)[both], atol=1)
            checked += 1
    assert checked > 20


def test_edges_are_smooth(drawn):
    """A shape's outline takes intermediate colours: the picture is anti-aliased."""
    thing = world.Thing("circle", "red", "plain", "large", 128.0, 96.0, 35.0, 0.0)
    scene = world.Scene(IDS[0], (thing,), frozenset(), "gradient", 0.6, 0.9, 1.5)
    y, x = np.mgrid[: world.HEIGHT, : world.WIDTH].astype(np.float32) + 0.5
    edge = np.abs(thing.distance(x, y)) < 0.5
    green = rendering.render_scene(scene)[..., 1][edge]
    assert len(np.unique(green)) > 30


@pytest.mark.parametrize("shape", world.SHAPES)
def test_outlines_lie_on_the_shape_and_bound_it(shape):
    points = shapes.outline(shape)
    np.testing.assert_allclose(shapes.SDFS[shape](points[:, 0], points[:, 1]), 0, atol=1e-6)
    y, x = np.mgrid[-1.5:1.5:200j, -1.5:1.5:200j]
    inside = shapes.SDFS[shape](x, y) < 0
    assert np.abs(x[inside]).max() <= np.abs(points[:, 0]).max() + 0.02
    assert y[inside].max() <= points[:, 1].max() + 0.02
    # A distance never changes faster than the place does.
    a = np.random.default_rng(0).uniform(-1.5, 1.5, (2, 20_000))
    b = a + np.random.default_rng(1).normal(0, 0.1, a.shape)
    change = np.abs(shapes.SDFS[shape](*a) - shapes.SDFS[shape](*b))
    assert (change <= np.hypot(*(a - b)) * 1.001).all()


def test_boxes_are_those_of_a_detector():
    doubled = background = unmatched = 0
    for image_id in IDS:
        scene = world.make_scene(image_id)
        boxes = detections.detect(scene)
        np.testing.assert_array_equal(boxes, detections.detect(scene))
        assert boxes.dtype == np.float32
        assert detections.MIN_BOXES <= len(boxes) <= detections.MAX_BOXES
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= [world.WIDTH, world.HEIGHT]).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        overlap = detections.iou(boxes, np.array([thing.box for thing in scene.things]))
        assert (overlap.max(axis=0) > 0.5).all(), "an object without a box"
        doubled += ((detections.iou(boxes, boxes) > 0.4).sum(axis=1) > 1).any()
        background += (overlap.max(axis=1) < 0.1).any()
        unmatched += (overlap.max(axis=1) < 0.5).sum()
    assert doubled > 0.6 * len(IDS)
    assert 0.15 * len(IDS) < background < 0.6 * len(IDS)
    assert unmatched > 0.4 * len(IDS)


def test_order_of_boxes_tells_nothing():
    """The first box is an object's as often as any other."""
    ranks = []
    for image_id in IDS:
        scene = world.make_scene(image_id)
        boxes = detections.detect(scene)
        matched = detections.iou(boxes, np.array([thing.box for thing in scene.things])).max(axis=1) > 0.5
        ranks += list(np.flatnonzero(matched) / (len(boxes) - 1))
    assert abs(np.mean(ranks) - 0.5) < 0.05


def test_features_see_pixels_and_boxes_only(drawn):
    assert list(inspect.signature(descriptors.describe).parameters) == ["pixels", "boxes"]
    scene, pixels = drawn[0]
    boxes = detections.detect(scene)
    features = descriptors.describe(pixels, boxes)
    assert features.shape == (len(boxes), descriptors.FEATURE_DIM)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert features.min() >= 0
    assert 0.05 < features.mean() < 2
    order = np.random.default_rng(0).permutation(len(boxes))
    np.testing.assert_allclose(descriptors.describe(pixels, boxes[order]), features[order], atol=1e-5)
    # What lies outside of a box and its context changes nothing.
    x1, y1, x2, y2 = boxes[0]
    margin = 0.14 * max(x2 - x1, y2 - y1) + 2
    changed = 255 - pixels
    window = np.s_[
        max(int(y1 - margin), 0) : int(y2 + margin) + 1,
        max(int(x1 - margin), 0) : int(x2 + margin) + 1,
    ]
    changed[window] = pixels[window]
    np.testing.assert_allclose(descriptors.describe(changed, boxes[:1]), features[:1], atol=1e-5)


@pytest.mark.parametrize("pixels", [np.zeros((192, 256, 3), np.uint8), np.full((60, 50, 3), 255, np.uint8)])
def test_features_of_blank_pictures_are_finite(pixels):
    boxes = np.array([[0, 0, 50, 60], [10, 10, 12, 13], [0, 0, 1, 1]], np.float32)
    features = descriptors.describe(pixels, boxes)
    assert np.isfinite(features).all()
    assert features.min() >= 0


@pytest.mark.parametrize(("attribute", "least"), [("colour", 0.93), ("shape", 0.90), ("texture", 0.80)])
def test_a_linear_probe_reads_the_attributes(clean, attribute, least):
    """The full-sized probe, on 1500 pictures, reads more; see the data set's README."""
    features, labels, held_out = clean
    assert measure.linear_probe(features, [label[attribute] for label in labels], held_out) > least


@pytest.fixture(scope="module")
def clean():
    """Features of tight boxes, the attributes under them, and which of them are held out."""
    found = [measure.clean_boxes(world.make_image_id("tiny", "test", number)) for number in range(360)]
    labels = [attributes for _, attributes in found]
    held_out = np.repeat(np.arange(len(found)) >= 260, [len(a) for a in labels])
    return np.concatenate([features for features, _ in found]), [a for some in labels for a in some], held_out


@pytest.fixture(scope="module")
def detector():
    return regions.fitted_classifier(120)


def test_class_probabilities_are_often_right_and_never_certain(detector):
    right, top = [], []
    for number in range(60):
        scene = world.make_scene(world.make_image_id("tiny", "validation", number))
        boxes = detections.detect(scene)
        probabilities = detector.probabilities(descriptors.describe(rendering.render_scene(scene), boxes))
        assert probabilities.shape == (len(boxes), len(classifier.CLASS_NAMES))
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
        labels = classifier.label_boxes(scene, boxes)
        right += list((probabilities.argmax(axis=1) == labels)[labels > 0])
        top += list(probabilities.max(axis=1)[labels > 0])
    assert 0.6 < np.mean(right) < 0.95
    assert 0.4 < np.mean(top) < 0.95


def test_classifier_names_its_classes():
    assert classifier.CLASS_NAMES[0] == "background"
    assert len(classifier.CLASS_NAMES) == 1 + len(world.COLOURS) * len(world.SHAPES) == 73
    contract = regions.feature_contract()
    assert contract.class_names == classifier.CLASS_NAMES
    assert contract.weights_hash != regions.feature_contract(7).weights_hash


def test_labels_of_boxes_come_from_overlap():
    scene = world.make_scene(IDS[3])
    clean = np.array([thing.box for thing in scene.things], np.float32)
    expected = [classifier.CLASS_NAMES.index(f"{t.colour} {t.shape}") for t in scene.things]
    assert classifier.label_boxes(scene, clean).tolist() == expected
    corner = np.array([[0, 0, 1, 1]], np.float32)
    assert classifier.label_boxes(scene, corner).tolist() == [0]
    x1, y1, x2, y2 = clean[0]
    part = np.array([[x1, y1, x2, y1 + 0.4 * (y2 - y1)]])
    assert classifier.label_boxes(scene, part).tolist() == [-1]


def test_records_do_not_depend_on_who_makes_them(detector):
    ids = IDS[:40]
    alone = [regions.region_record(image_id, detector) for image_id in ids]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        threaded = list(pool.map(lambda image_id: regions.region_record(image_id, detector), reversed(ids)))
    together = list(regions.region_records(ids, 120, processes=2))
    for first, second, third in zip(alone, reversed(threaded), together, strict=True):
        assert first.image_id == second.image_id == third.image_id
        for field in ("boxes", "features", "class_probs"):
            np.testing.assert_array_equal(getattr(first, field), getattr(second, field))
            np.testing.assert_array_equal(getattr(first, field), getattr(third, field))
