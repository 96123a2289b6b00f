"""Names of the public detectors: strict in both directions, both layouts."""

import json

import numpy as np
import pytest
import tiny_detector
from tiny_detector import CONFIG
from tiny_weights import lazy

from vilbert_jax.checkpoints.conversion import match, to_source
from vilbert_jax.checkpoints.frcnn import abstract_detector_params, detector_table
from vilbert_jax.checkpoints.tensor_files import LazyTensor
from vilbert_jax.detector.config import CAFFE, DETECTRON2, DetectorConfig
from vilbert_jax.errors import InputError

PREDICTOR = "roi_heads.box_predictor"
RENAMED = {"cls_embedding": "cls_embed", "fc_attr": "attr_linear1", "attr_score": "attr_linear2"}
LOGITS = "proposal_generator.rpn_head.objectness_logits"
ANY_CONV = "backbone.res3.0.conv2.weight"


def is_counter(name):
    return name.endswith("num_batches_tracked")


def milvlg(shapes):
    """Shapes of the other layout, from those of the released one."""
    shapes = {name: list(shape) for name, shape in shapes.items()}
    for kind in ("weight", "bias"):
        shapes[f"{LOGITS}.{kind}"][0] *= 2
        shapes[f"{PREDICTOR}.bbox_pred.{kind}"][0] += 4
    for old, new in RENAMED.items():
        for kind in ("weight", "bias"):
            if f"{PREDICTOR}.{old}.{kind}" in shapes:
                shapes[f"{PREDICTOR}.{new}.{kind}"] = shapes.pop(f"{PREDICTOR}.{old}.{kind}")
    return {name: shape for name, shape in shapes.items() if not is_counter(name)}  # its first stages have none


@pytest.fixture(scope="module")
def manifest():
    path = tiny_detector.FOLDER.parents[1] / "manifests" / "manifest_frcnn.json"
    return json.loads(path.read_text())


@pytest.mark.parametrize("flavour", [DETECTRON2, CAFFE], ids=lambda flavour: flavour.name)
def test_every_released_tensor_has_its_place_in_the_public_network(manifest, flavour):
    shapes = manifest if flavour is DETECTRON2 else milvlg(manifest)
    config = DetectorConfig.resnet101_c4(flavour)
    expected, table = abstract_detector_params(config), detector_table(config)
    tensors = {
        name: LazyTensor(tuple(shape), "int64" if is_counter(name) else "float32", None)
        for name, shape in shapes.items()
    }
    found = match("FILE", tensors, table, expected)
    assert {path: tensor.shape for path, tensor in found.items()} == {p: x.shape for p, x in expected.items()}
    assert len(manifest) == 640
    assert {entry.source for entry in table.entries} == {name for name in shapes if not is_counter(name)}
    assert table.unused.keys() == {name for name in manifest if is_counter(name)}


def loaded(tensors):
    return match("FILE", lazy(tensors), detector_table(CONFIG), abstract_detector_params(CONFIG))


def refusal(tensors):
    with pytest.raises(InputError) as error:
        loaded(tensors)
    return str(error.value)


@pytest.fixture
def tensors():
    return dict(tiny_detector.arrays("tiny_weights"))


def test_tensors_come_back_bit_for_bit(tensors):
    params = {path: tensor.read(()) for path, tensor in loaded(tensors).items()}
    again = to_source(params, detector_table(CONFIG))
    assert again.keys() == {name for name in tensors if not is_counter(name)}
    for name, array in again.items():
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, tensors[name], strict=True)


def test_a_convolution_is_turned_and_a_part_of_it_is_that_part(tensors):
    kernel = loaded(tensors)["backbone/res3_0/conv2/kernel"]
    ours = tensors[ANY_CONV].transpose(2, 3, 1, 0)  # [out, in, height, width] there
    np.testing.assert_array_equal(kernel.read(()), ours)
    part = (slice(0, 1), slice(1, 3), slice(2, 7), slice(3, 5))
    np.testing.assert_array_equal(kernel.read(part), ours[part])


def test_counters_of_training_may_be_there_or_not(tensors):
    without = {name: array for name, array in tensors.items() if not is_counter(name)}
    assert len(without) < len(tensors)
    assert loaded(without).keys() == loaded(tensors).keys()


def test_every_misfit_is_named_at_once(tensors):
    del tensors["backbone.stem.conv1.norm.running_var"]
    tensors["fc1000.weight"] = np.zeros((2, 3), np.float32)
    tensors[ANY_CONV] = tensors[ANY_CONV][:, :3]
    tensors[f"{PREDICTOR}.cls_score.bias"] = tensors[f"{PREDICTOR}.cls_score.bias"].astype(np.int64)
    message = refusal(tensors)
    assert "in 4 places" in message
    assert "missing: backbone.stem.conv1.norm.running_var" in message
    assert "not understood: fc1000.weight [2, 3]" in message
    assert f"misshaped: {ANY_CONV}: [8, 3, 3, 3] in the file, [8, 8, 3, 3] by the config" in message
    assert f"not floats: {PREDICTOR}.cls_score.bias: int64" in message
