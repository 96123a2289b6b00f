"""Detectors as files: loaded from public ones, saved and loaded again, and what is refused."""

import dataclasses
import json
import pathlib
import re
import runpy

import numpy as np
import pytest
import tiny_detector
from flax import traverse_util
from safetensors import safe_open
from safetensors.numpy import save_file
from tiny_detector import CONFIG

from vilbert_jax.checkpoints.detectors import is_detector, load_detector, make_detector, save_detector
from vilbert_jax.checkpoints.frcnn import abstract_detector_params
from vilbert_jax.checkpoints.tensor_files import write_safetensors, write_torch
from vilbert_jax.detector.config import CAFFE, DETECTRON2, DetectorConfig
from vilbert_jax.detector.faster_rcnn import FasterRCNN
from vilbert_jax.errors import InputError
from vilbert_jax.paths import named_leaves

ANY_CONV = "backbone.res3.0.conv2.weight"
COMMAND = pathlib.Path(__file__).parents[2] / "experiments" / "convert_checkpoint.py"
NAMES = ("background", *(f"thing {k}" for k in range(20)))


@pytest.fixture
def tensors():
    return dict(tiny_detector.arrays("tiny_weights"))


@pytest.fixture
def detector():
    return make_detector(tiny_detector.MODEL, tiny_detector.params(), family="tiny", class_names=NAMES)


def write(path, tensors, *note):
    write_safetensors(path, tensors, *note)
    return path


def assert_same_params(found, wanted):
    found, wanted = named_leaves(found), named_leaves(wanted)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_a_public_file_is_loaded(tmp_path, tensors):
    found = load_detector(write(tmp_path / "model.safetensors", tensors), CONFIG)
    assert found.model == tiny_detector.MODEL
    assert_same_params(found.params, tiny_detector.params())
    assert found.family == "faster_rcnn_r101_c4 visual genome, detectron2 port"
    assert found.class_names == found.attribute_names == ()
    assert set(found.left_out) == {name for name in tensors if name.endswith("num_batches_tracked")} != set()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_file_of_torch_is_the_same_detector(tmp_path, tensors, wrapped):
    torch = pytest.importorskip("torch")
    if wrapped:  # as MILVLG's
        states = {name: torch.from_numpy(array.copy()) for name, array in tensors.items()}
        torch.save({"model": states, "iteration": 7}, tmp_path / "model.bin")
    else:
        write_torch(tmp_path / "model.bin", tensors)
    write(tmp_path / "model.safetensors", tensors)
    one, other = (load_detector(tmp_path / f"model.{ending}", CONFIG) for ending in ("bin", "safetensors"))
    assert one.weights_hash == other.weights_hash
    assert_same_params(one.params, other.params)
    assert set(one.left_out) - set(other.left_out) == ({"iteration"} if wrapped else set())


def test_what_was_saved_is_loaded_without_being_told_anything(tmp_path, detector):
    save_detector(tmp_path / "new" / "detector.safetensors", detector)
    found = load_detector(tmp_path / "new" / "detector.safetensors")
    assert found._replace(params=None) == detector._replace(params=None)
    assert_same_params(found.params, detector.params)


def test_the_same_detector_is_the_same_bytes(tmp_path, detector):
    """A head of several entries has a new order in nearly every file: the library keeps them in a hash map."""
    turned = detector._replace(params=dict(reversed([*detector.params.items()])))
    for k, one in enumerate([detector] * 6 + [turned]):
        save_detector(tmp_path / f"{k}.safetensors", one)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_a_head_of_several_entries_is_read(tmp_path, detector):
    """As this project wrote it before."""
    save_detector(tmp_path / "new.safetensors", detector)
    with safe_open(tmp_path / "new.safetensors", framework="np") as file:
        note = json.loads(file.metadata()["vilbert_jax_detector"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    metadata = {"format": "pt", "vilbert_jax_detector": json.dumps(dict(reversed(note.items())))}
    save_file(tensors, tmp_path / "old.safetensors", metadata=metadata)
    new, old = (load_detector(tmp_path / f"{name}.safetensors") for name in ("new", "old"))
    assert old._replace(params=None) == new._replace(params=None)


@pytest.mark.parametrize("flavour", [CAFFE, dataclasses.replace(DETECTRON2, short_side=192, long_side=256)])
def test_a_config_of_ones_own_is_saved_too(tmp_path, flavour):
    config = DetectorConfig.tiny(flavour, blocks=(1, 1, 1, 1), num_classes=4)
    leaves = {path: np.full(leaf.shape, 0.5, np.float32) for path, leaf in abstract_detector_params(config).items()}
    saved = make_detector(FasterRCNN(config), traverse_util.unflatten_dict(leaves, sep="/"), family="mine")
    save_detector(tmp_path / "detector.safetensors", saved)
    found = load_detector(tmp_path / "detector.safetensors")
    assert found.model.config == config
    assert found.weights_hash == saved.weights_hash


OTHER_NUMBERS = {
    "max_proposals": 59, "max_candidates": 799, "proposal_overlap": 0.6, "pooling_resolution": 7,
    "flavour": dataclasses.replace(DETECTRON2, plus_one=True),
}  # fmt: skip


def with_config(detector, **fields):
    config = dataclasses.replace(CONFIG, **fields)
    return make_detector(FasterRCNN(config), detector.params, family="tiny")


@pytest.mark.parametrize(
    "fields",
    [
        *({name: value} for name, value in OTHER_NUMBERS.items()),
        {"flavour": dataclasses.replace(DETECTRON2, min_side=16.0)},
    ],
    ids=str,
)
def test_the_same_weights_that_give_other_regions_are_another_detector(detector, fields):
    assert with_config(detector, **fields).weights_hash != detector.weights_hash


@pytest.mark.parametrize(
    "fields",
    [
        {"regions_per_chunk": 3},  # it changes memory and time alone
        {"flavour": dataclasses.replace(DETECTRON2, min_side=0)},  # 0 for 0.0
    ],
    ids=str,
)
def test_what_changes_no_region_is_the_same_detector(detector, fields):
    assert with_config(detector, **fields).weights_hash == detector.weights_hash


def test_the_hash_is_of_every_weight_and_of_no_name(detector):
    assert make_detector(detector.model, detector.params, family="other").weights_hash == detector.weights_hash
    changed = {**detector.params, "backbone": {**detector.params["backbone"]}}
    changed["proposal_head"] = {**changed["proposal_head"], "anchors": changed["proposal_head"]["anchors"] + 1}
    assert make_detector(detector.model, changed, family="tiny").weights_hash != detector.weights_hash


def test_a_file_of_the_public_size_is_expected_by_default(tmp_path, tensors):
    with pytest.raises(InputError, match=r"\[8, 3, 7, 7\] in the file, \[64, 3, 7, 7\] by the config"):
        load_detector(write(tmp_path / "model.safetensors", tensors))


def test_weights_of_the_other_flavour_are_refused(tmp_path, tensors):
    path = write(tmp_path / "model.safetensors", tensors)
    with pytest.raises(InputError, match="is a detector of the flavour 'detectron2', the config says 'caffe'"):
        load_detector(path, DetectorConfig.tiny(CAFFE))


def test_values_that_are_not_finite_are_refused(tmp_path, tensors):
    tensors[ANY_CONV] = np.full_like(tensors[ANY_CONV], np.nan)
    with pytest.raises(InputError, match="1 of 281 tensors .* the first is backbone/res3_0/conv2/kernel"):
        load_detector(write(tmp_path / "model.safetensors", tensors), CONFIG)


def test_a_file_of_something_else_is_refused(tmp_path):
    path = write(tmp_path / "model.safetensors", {"bert.pooler.dense.bias": np.zeros(3, np.float32)})
    with pytest.raises(InputError, match=r"is not a Faster R-CNN .* found 1 others \(bert.pooler.dense.bias"):
        load_detector(path)


@pytest.mark.parametrize("note", ["{", "[1]", '{"family": "x"}', '{"config": {}, "class_names": [1]}'])
def test_a_damaged_head_is_refused(tmp_path, tensors, note):
    path = write(tmp_path / "model.safetensors", tensors, ("vilbert_jax_detector", note))
    with pytest.raises(InputError, match="its head, vilbert_jax_detector, is damaged"):
        load_detector(path)


def test_a_config_of_another_version_is_refused(tmp_path, detector):
    save_detector(tmp_path / "detector.safetensors", detector)
    with safe_open(tmp_path / "detector.safetensors", framework="np") as file:
        note = json.loads(file.metadata()["vilbert_jax_detector"])
    for config in (
        {**note["config"], "depth": 3},
        {**note["config"], "flavour": {**note["config"]["flavour"], "speed": 1}},
        {**note["config"], "flavour": "caffe"},
        {name: value for name, value in note["config"].items() if name != "blocks"},
    ):
        with pytest.raises(InputError, match="detector config: .*; it was written by another version, or is none"):
            DetectorConfig.from_dict(config)
    with pytest.raises(InputError, match="stem_width is 0"):
        DetectorConfig.from_dict({**note["config"], "stem_width": 0})


def test_names_must_be_as_many_as_outputs(detector):
    with pytest.raises(InputError, match="20 class names for a detector of 21, the background among them"):
        make_detector(detector.model, detector.params, family="tiny", class_names=NAMES[1:])
    with pytest.raises(InputError, match="3 attribute names for a detector of 10: give one each"):
        make_detector(detector.model, detector.params, family="tiny", attribute_names=NAMES[:3])


@pytest.mark.parametrize("is_a_detector", [True, False])
def test_converting_a_detector_says_what_reads_it(tmp_path, tensors, monkeypatch, is_a_detector):
    others = {"bert.pooler.dense.bias": np.zeros(3, np.float32)}
    path = write(tmp_path / "model.safetensors", tensors if is_a_detector else others)
    main = runpy.run_path(str(COMMAND))["main"]
    monkeypatch.setattr("sys.argv", [COMMAND.name, f"--input={path}", f"--output={tmp_path / 'out'}"])
    with pytest.raises(InputError) as error:
        main()
    said = "model.safetensors is a detector of regions, no ViLBERT: .*load_detector.*extract_features.py --weights="
    assert bool(re.search(said, str(error.value))) is is_a_detector
    assert ("is neither a ViLBERT" in str(error.value)) is not is_a_detector


@pytest.mark.parametrize("content", [None, b"", b"no tensors at all", b"PK\x03\x04 damaged"])
def test_what_cannot_be_read_is_no_detector(tmp_path, content):
    path = tmp_path / "model.bin"
    if content is not None:
        path.write_bytes(content)
    assert not is_detector(path)
    assert not is_detector(tmp_path)


def test_only_safetensors_are_written(tmp_path, detector):
    with pytest.raises(InputError, match=r"a detector is written as NAME\.safetensors"):
        save_detector(tmp_path / "detector.bin", detector)
    assert not list(tmp_path.iterdir())
