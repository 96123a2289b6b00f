"""What extracted features say of themselves, and what a user can choose."""

import dataclasses
import json
import pathlib

import pytest
import small_detector

import tfds_builders.region_features
from vilbert_jax.checkpoints import detectors
from vilbert_jax.checkpoints.detectors import Detector
from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.detector.config import CAFFE, DETECTRON2, DetectorConfig
from vilbert_jax.detector.faster_rcnn import FasterRCNN
from vilbert_jax.detector.selection import Best, ClassAgnostic, Confident
from vilbert_jax.errors import InputError
from vilbert_jax.extraction.class_names import with_class_names
from vilbert_jax.extraction.contract import contract_of, parse_rule

PRESETS = pathlib.Path(tfds_builders.region_features.__file__).parent / "contracts"


def preset(name):
    return json.loads((PRESETS / f"{name}.json").read_text())


def public(flavour, family):
    return Detector(FasterRCNN(DetectorConfig.resnet101_c4(flavour)), {}, family, "hash of the weights")


OF_THIS_NETWORK = {"layer", "colour_order", "resize_rule", "selection_rule"}


@pytest.mark.parametrize(
    ("name", "flavour", "rule", "fields"),
    [
        ("detectron2_36", DETECTRON2, "hf36", OF_THIS_NETWORK),
        ("butd_10_100", CAFFE, "10-100", OF_THIS_NETWORK),
        ("butd_36", CAFFE, "36", OF_THIS_NETWORK),
        ("vilbert_beta_36", CAFFE, "36", OF_THIS_NETWORK),
        ("milvlg_r101_10_100", CAFFE, "10-100", OF_THIS_NETWORK),
        ("milvlg_r101_36", CAFFE, "36", OF_THIS_NETWORK),
        ("x152_100", CAFFE, "best100", {"colour_order", "selection_rule"}),  # another network
    ],
)
def test_what_means_the_same_is_said_in_the_same_words(name, flavour, rule, fields):
    contract = contract_of(public(flavour, "some detector"), parse_rule(rule)).to_json()
    assert {field: contract[field] for field in fields} == {field: preset(name)[field] for field in fields}


@pytest.mark.parametrize(
    ("name", "flavour", "rule"), [("detectron2_36", DETECTRON2, "hf36"), ("milvlg_r101_10_100", CAFFE, "10-100")]
)
def test_the_public_weights_differ_from_files_of_theirs_in_the_hash_alone(name, flavour, rule):
    """Which such files do not tell."""
    said = {key: value for key, value in preset(name).items() if key != "about"}
    of_file = FeatureContract(**said, feature_dim=2048, num_classes=1601)
    detector = public(flavour, detectors._PUBLIC[flavour.name])
    (difference,) = contract_of(detector, parse_rule(rule)).differences(of_file)
    assert difference.startswith("weights_hash: ")


def test_the_whole_contract():
    names = ("background", *(f"thing {k}" for k in range(1600)))
    detector = public(DETECTRON2, "a family")._replace(class_names=names)
    assert contract_of(detector, Confident()) == FeatureContract(
        detector="a family",
        weights_hash="hash of the weights",
        layer="roi pooled: mean of res5 over 14 x 14",
        colour_order="bgr",
        resize_rule="800/1333, bilinear",
        selection_rule="per-class NMS 0.3 on proposals, score 0.2, 10 to 36; box = proposal",
        box_convention="xyxy pixels",
        background="first",
        feature_dim=2048,
        num_classes=1601,
        class_names=names,
    )


def test_every_choice_of_a_rule_is_in_its_words():
    """Rules that differ in anything are told apart."""
    others = dict(min_boxes=7, max_boxes=77, confidence=0.35, overlap=0.45, overlaps=(0.4,))
    rules = [Confident(), Best(), ClassAgnostic(), Confident(inclusive=False), Best(inclusive=True)]
    for usual in rules[:3]:
        fields = {field.name for field in dataclasses.fields(usual)} & others.keys()
        rules += [dataclasses.replace(usual, **{name: others[name]}) for name in sorted(fields)]
    detector = public(CAFFE, "x")
    said = {contract_of(detector, rule).selection_rule for rule in rules}
    assert len(said) == len(rules) == 5 + 4 + 3 + 3
    assert "per-class NMS 0.3 (an equal overlap stays) on proposals, score 0.2, 10 to 36; box = proposal" in said


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("10-36", Confident()),
        ("36", Confident(min_boxes=36, max_boxes=36)),
        ("10-100", Confident(min_boxes=10, max_boxes=100)),
        ("best100", Best()),
        ("hf36", ClassAgnostic()),
        ("hf10-36", ClassAgnostic(min_boxes=10, max_boxes=36)),
    ],
)
def test_rules_by_name(text, rule):
    assert parse_rule(text) == rule


@pytest.mark.parametrize("text", ["", "many", "best", "best10-20", "10-", "-10", "10-36-50", "hf", "1.5", "top100"])
def test_names_of_no_rule(text):
    with pytest.raises(InputError, match="name no selection rule: write 10-36"):
        parse_rule(text)


@pytest.mark.parametrize("text", ["36-10", "0", "0-5", "best0"])
def test_counts_that_cannot_be_met(text):
    with pytest.raises(InputError, match="expected 1 <= min_boxes <= max_boxes"):
        parse_rule(text)


def test_class_names_from_a_file(tmp_path):
    lines = [f"Thing {k} , other word" for k in range(20)]
    (tmp_path / "vocab.txt").write_text("\n".join(lines))  # without an end of line at the end, as the public one
    named = with_class_names(small_detector.detector(), tmp_path / "vocab.txt")
    assert named.class_names[:2] == ("background", "thing 0")
    assert contract_of(named, Confident()).class_names[20] == "thing 19"
    assert named.weights_hash == small_detector.detector().weights_hash


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n".join(["background"] + ["x"] * 20), "has 21, the detector knows 20 objects: one a line, without the back"),
        ("\n".join(["x"] * 5 + [""] + ["x"] * 14), "line 6 of .* is empty"),
        (None, "cannot be read"),
    ],
)
def test_class_names_that_do_not_fit(text, message, tmp_path):
    if text is not None:
        (tmp_path / "vocab.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        with_class_names(small_detector.detector(), tmp_path / "vocab.txt")
