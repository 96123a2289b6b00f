"""Regions of many pictures: the same one by one, in any batch, on any number of devices; colours, odd pictures."""

import functools

import jax
import numpy as np
import odd_pictures
import pytest
from small_detector import ONE_CANVAS, RULE, THREE_CANVASES, detector, picture

from vilbert_jax.checkpoints.detectors import make_detector
from vilbert_jax.data.picture_files import read_picture
from vilbert_jax.data.region_codec import check_record
from vilbert_jax.detector.detections import detect
from vilbert_jax.detector.preparation import prepare, stack
from vilbert_jax.detector.selection import Best, ClassAgnostic, Confident
from vilbert_jax.errors import InputError
from vilbert_jax.extraction.contract import contract_of
from vilbert_jax.extraction.extractor import RegionExtractor
from vilbert_jax.sharding import MeshConfig, make_mesh

# Canvases (48, 64) and (64, 48) by turns, so that batches are not made of neighbours.
PICTURES = [
    (f"picture {k}", picture(*(sides if k % 3 else sides[::-1]), seed=k))
    for k, sides in enumerate([(40, 60), (33, 50), (60, 90), (48, 64), (20, 30), (90, 130), (31, 47)])
]


def extracted(**options):
    return list(RegionExtractor(detector(THREE_CANVASES), RULE, **options).extract(PICTURES))


@pytest.fixture(scope="module")
def one_by_one():
    return extracted()


def assert_same(found, expected):
    assert [e.record.image_id for e in found] == [image_id for image_id, _ in PICTURES]
    for a, b in zip(found, expected, strict=True):
        assert (a.record.width, a.record.height, a.fell_short) == (b.record.width, b.record.height, b.fell_short)
        np.testing.assert_array_equal(a.classes, b.classes)
        np.testing.assert_array_equal(a.attributes, b.attributes)
        np.testing.assert_allclose(a.record.boxes, b.record.boxes, atol=1e-3)
        np.testing.assert_allclose(a.record.features, b.record.features, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(a.record.class_probs, b.record.class_probs, atol=1e-5)
        np.testing.assert_allclose(a.class_confidences, b.class_confidences, atol=1e-5)
        np.testing.assert_allclose(a.attribute_confidences, b.attribute_confidences, atol=1e-5)


def test_batches_do_not_change_a_picture(one_by_one):
    assert_same(extracted(batch_size=3), one_by_one)


def test_devices_do_not_change_a_picture(one_by_one):
    assert jax.device_count() == 8
    assert_same(extracted(mesh=make_mesh(MeshConfig())), one_by_one)


def test_regions_are_those_of_the_detector(one_by_one):
    """Without canvases, threads and batches in between."""
    run = jax.jit(functools.partial(detect, detector(THREE_CANVASES).model, rule=RULE))
    for (_, pixels), found in list(zip(PICTURES, one_by_one, strict=True))[1:3]:
        expected = run(detector(THREE_CANVASES).params, stack([prepare(pixels, THREE_CANVASES)]))
        rows = np.flatnonzero(expected.mask[0])
        np.testing.assert_array_equal(found.classes, expected.classes[0][rows])
        np.testing.assert_allclose(found.record.boxes, expected.boxes[0][rows], atol=1e-3)
        np.testing.assert_allclose(found.record.features, expected.features[0][rows], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.class_confidences, found.record.class_probs[:, 1:].max(axis=1))
        assert found.record.class_probs.shape[1] == detector().model.config.num_classes + 1


@pytest.mark.parametrize("rule", [Confident(min_boxes=21, max_boxes=36), Best(), ClassAgnostic()], ids=str)
def test_a_rule_that_asks_for_more_than_is_proposed_is_refused(rule):
    with pytest.raises(InputError, match=r"at least (21|100|36) regions, the detector proposes at most 20"):
        RegionExtractor(detector(), rule)
    RegionExtractor(detector())  # 10 to 36


def test_records_can_be_stored(one_by_one):
    contract = contract_of(detector(THREE_CANVASES), RULE)
    for (_, pixels), found in zip(PICTURES, one_by_one, strict=True):
        check_record(found.record, contract)
        assert (found.record.height, found.record.width) == pixels.shape[:2]
        assert found.record.features.dtype == found.record.boxes.dtype == np.float32
        assert RULE.min_boxes <= len(found.record.boxes) <= RULE.max_boxes


def test_the_number_of_rows_fills_the_devices():
    mesh = make_mesh(MeshConfig())
    assert RegionExtractor(detector(), RULE, batch_size=3).num_rows == 3
    assert RegionExtractor(detector(), RULE, batch_size=3, mesh=mesh).num_rows == 8
    assert RegionExtractor(detector(), RULE, batch_size=9, mesh=mesh).num_rows == 16
    with pytest.raises(InputError, match="batch_size is 0; a step takes at least one picture"):
        RegionExtractor(detector(), RULE, batch_size=0)


@pytest.fixture(scope="module")
def extractor():
    return RegionExtractor(detector(), RULE)


def test_extraction_is_lazy(extractor):
    taken = []

    def endless():
        for number in range(10_000):
            taken.append(number)
            yield str(number), picture(48, 40, seed=0)

    found = extractor.extract(endless())
    assert [next(found).record.image_id for _ in range(3)] == ["0", "1", "2"]
    assert len(taken) < 10


def test_colours_are_not_swapped(extractor):
    """The same picture gives the same from everything; with red and blue swapped it gives something else."""
    pixels = picture(50, 44, seed=3)
    (found,) = extractor.extract([("", pixels)])
    (from_file,) = extractor.extract([("", read_picture(odd_pictures.encoded(pixels)))])
    np.testing.assert_array_equal(from_file.record.features, found.record.features)
    (swapped,) = extractor.extract([("", np.ascontiguousarray(pixels[..., ::-1]))])
    boxes = found.record.boxes
    difference = extractor.describe(np.ascontiguousarray(pixels[..., ::-1]), boxes).record.features
    assert np.abs(difference - found.record.features).max() > 0.01
    assert swapped.record.features.shape[1] == found.record.features.shape[1]


def test_given_boxes_are_described_in_their_order(extractor):
    pixels = picture(50, 44, seed=1)
    (found,) = extractor.extract([("", pixels)])
    order = np.arange(len(found.record.boxes))[::-1]
    given = extractor.describe(pixels, found.record.boxes[order])
    np.testing.assert_allclose(given.record.boxes, found.record.boxes[order])
    np.testing.assert_allclose(given.record.features, found.record.features[order], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(given.classes, found.classes[order])
    assert (given.record.width, given.record.height, given.fell_short) == (44, 50, False)


def test_the_number_of_given_boxes_does_not_matter(extractor):
    pixels = picture(50, 44, seed=1)
    boxes = np.sort(np.random.default_rng(0).uniform(0, 40, (20, 2, 2)), axis=1).reshape(20, 4)
    many = extractor.describe(pixels, boxes)
    few = extractor.describe(pixels, boxes[:3])
    np.testing.assert_allclose(few.record.features, many.record.features[:3], rtol=1e-4, atol=1e-4)
    assert len(many.record.boxes) == 20


def test_given_boxes_are_cut_off_at_the_border(extractor):
    pixels = picture(50, 44, seed=1)
    beyond = extractor.describe(pixels, np.array([[-9, 5, 99, 99]]))
    inside = extractor.describe(pixels, np.array([[0, 5, 44, 50]]))
    np.testing.assert_array_equal(beyond.record.boxes, inside.record.boxes)
    np.testing.assert_array_equal(beyond.record.features, inside.record.features)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (np.zeros((0, 4)), r"shape \(0, 4\); expected \[n, 4\]"),
        (np.zeros(4), "expected"),
        (np.array([[0, 0, 5, 5], [0, 0, np.nan, 5]]), "given boxes: box 1 is"),
        (np.array([[5, 0, 4, 9]]), r"given boxes: box 0 is \[5.0, 0.0, 4.0, 9.0\]; expected x1 < x2"),
        (np.array([[0, 0, 5, 5], [900, 0, 940, 9]]), "given boxes: box 1, .*lies outside of the picture"),
        ("abc", "given boxes: 'abc' are no boxes"),
    ],
)
def test_given_boxes_that_are_none(extractor, boxes, message):
    with pytest.raises(InputError, match=message):
        extractor.describe(picture(50, 44), boxes)


@pytest.mark.parametrize("name", odd_pictures.usable())
def test_odd_pictures_have_regions(extractor, name):
    pixels = read_picture(odd_pictures.usable()[name])
    (found,) = extractor.extract([(name, pixels)])
    check_record(found.record, extractor.contract)
    assert np.isfinite(found.record.features).all()


def test_a_picture_with_nothing_over_the_threshold_keeps_the_best_and_says_so(extractor):
    strict = RegionExtractor(detector(), Confident(min_boxes=3, max_boxes=6, confidence=1.0))
    (sure,), (unsure,) = (each.extract([("", picture(48, 48))]) for each in (extractor, strict))
    assert unsure.fell_short
    assert not sure.fell_short
    assert len(unsure.record.boxes) == 3


def test_a_picture_in_which_nothing_is_proposed_is_one_region(extractor):
    """Proposals of a detector whose least side is larger than the picture."""
    import dataclasses

    from vilbert_jax.detector.faster_rcnn import FasterRCNN

    blind = dataclasses.replace(ONE_CANVAS, min_side=1000.0)
    config = dataclasses.replace(detector().model.config, flavour=blind)
    blind_detector = make_detector(FasterRCNN(config), detector().params, family="blind")
    pixels = picture(48, 40)
    (found,) = RegionExtractor(blind_detector, RULE).extract([("a", pixels)])
    assert found.record.boxes.tolist() == [[0, 0, 40, 48]]
    assert found.fell_short
    assert found.record.image_id == "a"
    whole = extractor.describe(pixels, np.array([[0, 0, 40, 48]]))
    np.testing.assert_allclose(found.record.features, whole.record.features, rtol=1e-5, atol=1e-5)
