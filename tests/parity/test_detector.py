"""The detector against the public PyTorch implementation: stage by stage, then from pixels to detections.

The tolerances are those of the reference values; what is chosen is the same to the last box.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_detector
from tiny_detector import CONFIG, MODEL, golden, pictures, run, selected, size_of

from vilbert_jax.detector.backbone import map_sizes
from vilbert_jax.detector.config import DETECTRON2
from vilbert_jax.detector.heads import RegionHead, Regions
from vilbert_jax.detector.pictures import PIXEL_MEAN
from vilbert_jax.detector.pooling import pool_regions, range_maxima
from vilbert_jax.detector.proposals import AnchorOutputs, ProposalHead, Proposals, propose
from vilbert_jax.detector.selection import Best, Candidates, ClassAgnostic, Confident, surviving_confidence
from vilbert_jax.detector.suppression import Suppression

LIMITS = {
    "res4": 1e-3,
    "rpn_logits": 2e-3,
    "rpn_deltas": 2e-3,
    "proposals": 2e-2,
    "proposal_logits": 2e-3,
    "pooled": 1e-3,
    "roi_features": 5e-4,
    "cls_logits": 5e-4,
    "attr_logits": 5e-4,
    "box_deltas": 5e-4,
    "boxes": 2e-2,
    "probabilities": 5e-4,
}
SETTINGS = {
    "min10_max36": ClassAgnostic(min_boxes=10, max_boxes=36, overlaps=(0.5, 0.6, 0.7)),
    "min10_max36_lowthr": ClassAgnostic(min_boxes=10, max_boxes=36, overlaps=(0.05,)),
    "min36_max36_search": ClassAgnostic(overlaps=(0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)),
}
each = pytest.mark.parametrize("i", [0, 1])
every_setting = pytest.mark.parametrize("setting", SETTINGS)


def assert_close(name, ours, theirs, limit=None):
    assert ours.shape == theirs.shape, name
    assert ours.dtype == np.float32, name
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=LIMITS[limit or name], err_msg=name)


def part(name):
    return {"params": tiny_detector.params()[name]}


def test_the_tiny_network_is_the_one_of_the_reference():
    released = json.loads((tiny_detector.FOLDER / "tiny_config.json").read_text())
    resnet, heads, rpn = released["resnets"], released["roi_heads"], released["rpn"]
    assert resnet["depth"] == 50
    assert CONFIG.blocks == (3, 4, 6, 3)
    assert CONFIG.stem_width == resnet["stem_out_channels"]
    assert CONFIG.bottleneck_width == resnet["width_per_group"]
    assert CONFIG.res2_width == resnet["res2_out_channels"]
    assert CONFIG.rpn_width == released["proposal_generator"]["hidden_channels"]
    assert CONFIG.num_classes == heads["num_classes"]
    assert CONFIG.num_attributes == released["roi_box_head"]["num_attrs"]
    assert CONFIG.max_candidates == rpn["pre_nms_topk_test"]
    assert CONFIG.max_proposals == rpn["post_nms_topk_test"]
    assert CONFIG.proposal_overlap == rpn["nms_thresh"]
    assert CONFIG.pooling_resolution == released["roi_box_head"]["pooler_resolution"]
    assert list(CONFIG.flavour.box_weights) == released["roi_box_head"]["bbox_reg_weights"]
    assert list(PIXEL_MEAN) == released["model"]["pixel_mean"]


# --- stage by stage, each from the reference's own input


@each
def test_feature_map(i):
    found = jax.jit(functools.partial(MODEL.apply, method="feature_map"))(
        {"params": tiny_detector.params()}, pictures([i], size_of(i))
    )
    assert_close("res4", found, golden(i, "res4"))
    assert map_sizes(golden(i, "sizes"))[0].tolist() == list(found.shape[1:3])


@each
def test_what_the_proposal_head_says_of_anchors(i):
    found = jax.jit(ProposalHead(CONFIG).apply)(part("proposal_head"), golden(i, "res4"))
    logits, deltas = golden(i, "rpn_logits"), golden(i, "rpn_deltas")
    assert_close("rpn_logits", found.logits, logits.reshape(1, -1))
    assert_close("rpn_deltas", found.deltas, deltas.reshape(1, -1, 4))


@each
def test_proposals(i):
    feature_map = golden(i, "res4")
    boxes = jax.jit(ProposalHead(CONFIG).apply)(part("proposal_head"), feature_map).boxes
    logits, deltas = golden(i, "rpn_logits").reshape(1, -1), golden(i, "rpn_deltas").reshape(1, -1, 4)
    run_propose = jax.jit(functools.partial(propose, grid=feature_map.shape[1:3], config=CONFIG))
    found = run_propose(AnchorOutputs(boxes, logits, deltas), golden(i, "sizes"), golden(i, "scales_yx"))
    assert found.mask.all()
    assert_close("proposals", found.boxes[0], golden(i, "proposals"))
    np.testing.assert_array_equal(found.logits[0], golden(i, "proposal_logits"))


@each
def test_pooled_regions(i):
    boxes = golden(i, "proposals")[golden(i, "pooled_index")]
    pool = jax.jit(lambda x, *args: pool_regions(range_maxima(x, 14), *args, 14))
    found = pool(golden(i, "res4"), boxes[None], map_sizes(golden(i, "sizes").astype(np.int32)))
    np.testing.assert_array_equal(found[0], golden(i, "pooled"))


@pytest.fixture(scope="module")
def region_head():
    return functools.partial(jax.jit(RegionHead(CONFIG).apply), part("region_head"))


@each
def test_descriptions_of_the_references_proposals(i, region_head):
    maxima = range_maxima(jnp.asarray(golden(i, "res4")), CONFIG.pooling_resolution)
    sizes = map_sizes(golden(i, "sizes").astype(np.int32))
    assert_described(region_head(maxima, golden(i, "proposals")[None], sizes), 0, i)


@each
def test_predictors(i):
    predict = jax.jit(functools.partial(RegionHead(CONFIG).apply, method="predict"))
    assert_described(predict(part("region_head"), golden(i, "roi_features")[None]), 0, i)


def assert_described(regions, row, i):
    assert_close("roi_features", regions.features[row], golden(i, "roi_features"))
    assert_close("cls_logits", regions.class_logits[row], golden(i, "cls_logits"))
    assert_close("attr_logits", regions.attribute_logits[row], golden(i, "attr_logits"))
    assert_close("box_deltas", regions.box_deltas[row], golden(i, "box_deltas"))
    assert (regions.features[row] >= 0).all()


@every_setting
@each
def test_selection(i, setting):
    names = ("roi_features", "cls_logits", "attr_logits", "box_deltas")
    regions = Regions(*(golden(i, name)[None] for name in names))
    boxes, logits = golden(i, "proposals")[None], golden(i, "proposal_logits")[None]
    proposals = Proposals(boxes, logits, np.ones(logits.shape, bool))
    sizes, scales = golden(i, "sizes").astype(np.int32), golden(i, "scales_yx")
    assert_detected(selected(sizes, scales, proposals, regions, SETTINGS[setting]), 0, i, setting)


def assert_detected(found, row, i, setting):
    """What is chosen is equal, also to the end-to-end output of the reference."""
    found = jax.tree.map(lambda x: np.asarray(x[row]), found)
    expected = {name: golden(i, f"{setting}/0/{name}") for name in ("boxes", "roi_index", "classes", "attrs")}
    num_boxes = int(found.num_boxes)
    assert found.mask.tolist() == [True] * num_boxes + [False] * (36 - num_boxes)
    assert not found.fell_short
    kept = jax.tree.map(lambda x: x[:num_boxes] if x.ndim else x, found)
    np.testing.assert_array_equal(kept.rows, expected["roi_index"])
    np.testing.assert_array_equal(kept.classes, expected["classes"])
    np.testing.assert_array_equal(kept.attributes, expected["attrs"])
    assert_close("boxes", kept.boxes, expected["boxes"])
    for name, ours in (
        ("class_probs", kept.class_confidences),
        ("attr_probs", kept.attribute_confidences),
        ("vilbert_cls_prob", kept.class_probs),
    ):
        assert_close(name, ours, golden(i, f"{setting}/0/{name}"), limit="probabilities")
    assert_close("roi_features", kept.features, golden(i, "roi_features")[expected["roi_index"]])
    assert golden(i, f"{setting}/e2e_preds_per_image") == num_boxes
    height, width = tiny_detector.arrays("tiny_io")[f"image{i}_bgr"].shape[:2]
    normalised = golden(i, f"{setting}/e2e_normalized_boxes")[0, :num_boxes]
    assert_close("boxes", kept.boxes, normalised * np.float32([width, height, width, height]))


# --- from pixels to detections


@pytest.fixture(scope="module")
def whole():
    """Proposals and descriptions of each picture, alone and both together in a larger canvas full of noise."""
    together = run(pictures([0, 1], (224, 256), beyond=100.0))
    return {
        "own size": [run(pictures([i], size_of(i))) for i in (0, 1)],
        "larger canvas": [jax.tree.map(lambda x, i=i: x[i : i + 1], together) for i in (0, 1)],
    }


each_canvas = pytest.mark.parametrize("canvas", ["own size", "larger canvas"])


@each_canvas
@each
def test_the_whole_network(whole, i, canvas):
    proposals, regions = whole[canvas][i]
    assert proposals.mask.all()
    assert_close("proposals", proposals.boxes[0], golden(i, "proposals"))
    assert_close("proposal_logits", proposals.logits[0], golden(i, "proposal_logits"))
    assert_described(regions, 0, i)


@every_setting
@each_canvas
@each
def test_detections_from_pixels(whole, i, canvas, setting):
    proposals, regions = whole[canvas][i]
    sizes, scales = golden(i, "sizes").astype(np.int32), golden(i, "scales_yx")
    assert_detected(selected(sizes, scales, proposals, regions, SETTINGS[setting]), 0, i, setting)


# --- the rules that ViLBERT's own files were made with


RULES = {
    "butd_10_36": Confident(),
    "butd_36_36": Confident(min_boxes=36, max_boxes=36),
    "butd_10_100": Confident(max_boxes=100),
    "mmf_100": Best(),
}
each_case = pytest.mark.parametrize("case", ["few", "mid", "many"])


def candidates(case):
    stored = tiny_detector.arrays("selection")
    boxes, probs = jnp.asarray(stored[f"{case}/boxes"]), jnp.asarray(stored[f"{case}/prob_bgfirst"])
    return Candidates(boxes, boxes, probs, jnp.ones(len(boxes), bool))


@each_case
@pytest.mark.parametrize("name", RULES)
def test_rules_of_selection(case, name):
    stored = tiny_detector.arrays("selection")
    found = jax.jit(RULES[name].select)(candidates(case))
    kept = stored[f"{case}/{name}/keep"]
    np.testing.assert_array_equal(found.rows[: len(kept)], kept)
    assert found.mask.sum() == len(kept)
    assert found.mask[: len(kept)].all()
    assert found.num_boxes == stored.get(f"{case}/{name}/num_boxes", len(kept))
    assert not found.fell_short


@each_case
def test_surviving_confidences_are_equal_to_the_last_bit(case):
    stored = tiny_detector.arrays("selection")
    butd = surviving_confidence(candidates(case), Suppression(0.3, inclusive=True, plus_one=True))
    mmf = surviving_confidence(candidates(case), Suppression(0.5, inclusive=False, plus_one=True), above=0.0)
    np.testing.assert_array_equal(butd, stored[f"{case}/butd_max_conf"])
    np.testing.assert_array_equal(mmf, stored[f"{case}/mmf_max_conf"])


def test_the_goldens_are_of_the_later_flavour():
    """So the other one's differences need cases of their own: ``test_detector_flavours``."""
    assert CONFIG.flavour is DETECTRON2
