"""Boxes that are given instead of found: read strictly, described in their order, kept apart from others."""

import json

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from small_detector import RULE, THREE_CANVASES, detector, picture

from tfds_builders.region_features import extracted
from vilbert_jax.data.region_store import RegionStore
from vilbert_jax.errors import InputError
from vilbert_jax.extraction.extractor import RegionExtractor
from vilbert_jax.extraction.given import GivenBoxExtractor, pictures_with_boxes, read_given_boxes
from vilbert_jax.extraction.run import extract_to_store
from vilbert_jax.extraction.sources import PictureSet
from vilbert_jax.sharding import MeshConfig, make_mesh

SIDES = [(40, 60), (60, 40), (33, 50), (20, 30), (50, 33)]
PICTURES = {f"p{k}": picture(*sides, seed=k) for k, sides in enumerate(SIDES)}


def boxes_of(image_id, count):
    """Within the picture, in no order that a detector would give; the number of places differs between pictures."""
    height, width, _ = PICTURES[image_id].shape
    rng = np.random.default_rng(count)
    corners = rng.uniform(0, (width / 2, height / 2), (count, 2))
    return np.concatenate([corners, corners + rng.uniform(5, (width / 2, height / 2), (count, 2))], axis=1).astype("f4")


BOXES = {image_id: boxes_of(image_id, count) for image_id, count in zip(PICTURES, (3, 20, 1, 5, 17), strict=True)}


def source():
    pictures = tuple(PICTURES)
    return PictureSet(pictures, pictures, states=pictures, load=lambda number: PICTURES[pictures[number]])


def extract(output, boxes, say=lambda line: None, **options):
    extractor = GivenBoxExtractor(RegionExtractor(detector(THREE_CANVASES), RULE, **options), boxes)
    extract_to_store(extractor, pictures_with_boxes(source(), boxes, say), output, extracted.BUILDING, say=say)
    return RegionStore(output)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return extract(tmp_path_factory.mktemp("given") / "store", BOXES)


def test_boxes_stay_in_their_order_and_features_are_those_of_one_picture_alone(store):
    alone = RegionExtractor(detector(THREE_CANVASES), RULE)
    for image_id, boxes in BOXES.items():
        record = alone.describe(PICTURES[image_id], boxes).record
        found = store[image_id]
        np.testing.assert_allclose(found.boxes, boxes, atol=1e-4)
        step = record.features.max(axis=1, keepdims=True) / 127
        assert (np.abs(found.features - record.features) <= 0.51 * step + 1e-4).all()
    assert store.contract.selection_rule == "given boxes"


@pytest.mark.parametrize("options", [{"batch_size": 3}, {"mesh": "all"}])
def test_batches_and_devices_change_nothing(store, options, tmp_path):
    if "mesh" in options:
        assert jax.device_count() == 8
        options = {"mesh": make_mesh(MeshConfig())}
    found = extract(tmp_path / "store", BOXES, **options)
    for image_id in BOXES:
        np.testing.assert_allclose(found[image_id].boxes, store[image_id].boxes, atol=1e-4)
        np.testing.assert_allclose(found[image_id].features, store[image_id].features, rtol=0.02, atol=1e-3)


def test_other_boxes_are_not_mixed_into_a_store(store):
    """Also not where every picture has as many as before."""
    extract(store.path, BOXES)
    moved = BOXES | {"p3": BOXES["p3"] + 1}
    with pytest.raises(InputError, match="given boxes: others"):
        extract(store.path, moved)


def test_a_box_outside_of_its_picture_costs_that_picture(tmp_path):
    said = []
    found = extract(tmp_path / "store", BOXES | {"p2": np.array([[1, 1, 9, 9], [50, 0, 60, 9]], "f4")}, said.append)
    assert set(found.image_ids) == set(BOXES) - {"p2"}
    listed = (tmp_path / "store" / "unreadable.tsv").read_text()
    assert "p2\tgiven boxes: box 1, [50.0, 0.0, 60.0, 9.0], lies outside of the picture of 50 x 33" in listed
    assert any("1 of 5 pictures cannot be used" in line for line in said)


def test_a_box_may_begin_beyond_the_height_of_a_wide_picture():
    extractor = GivenBoxExtractor(
        RegionExtractor(detector(THREE_CANVASES), RULE), {"p2": np.array([[40, 5, 48, 20.0]])}
    )
    assert extractor.ready("p2", PICTURES["p2"]).width == 50


def test_results_come_in_the_order_of_the_pictures():
    """Whichever batch they were in: those with as many places are batched together."""
    extractor = RegionExtractor(detector(THREE_CANVASES), RULE, batch_size=3)
    ready = [(extractor.ready(image_id, PICTURES[image_id]), BOXES[image_id]) for image_id in PICTURES]
    found = list(extractor.describe_ready(ready))
    assert [described.record.image_id for described in found] == list(PICTURES)
    assert [len(described.record.boxes) for described in found] == [3, 20, 1, 5, 17]


def test_pictures_without_boxes_are_left_out_and_counted(tmp_path):
    said = []
    some = {image_id: BOXES[image_id] for image_id in ("p4", "p1")} | {"x": BOXES["p1"]}
    kept = pictures_with_boxes(source(), some, said.append)
    assert kept.image_ids == kept.names == ("p1", "p4")  # in the order of the pictures
    np.testing.assert_array_equal(kept.read(1), PICTURES["p4"])
    assert said == [
        "3 of 5 pictures have no given boxes and are left out",
        "boxes are given for 1 pictures that are not there; the first is 'x'",
    ]
    with pytest.raises(InputError, match=r"\('x', \.\.\.\), and none of the 5 pictures \('p0', \.\.\.\)"):
        pictures_with_boxes(source(), {"x": BOXES["p1"]}, said.append)


def write(path, *entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries) + "\n")
    return str(path)


def test_lines(tmp_path):
    path = write(
        tmp_path / "boxes.jsonl",
        {"image_id": "a", "boxes": [[0, 1.5, 2, 3], [4, 5, 6, 7], [0, 1.5, 2, 3]]},
        {"image_id": 42, "boxes": [[0, 0, 1, 1]]},
        {"boxes": [], "image_id": "none"},
    )
    found = read_given_boxes(path)
    assert list(found) == ["a", "42"]
    assert found["a"].dtype == np.float32
    assert found["a"].tolist() == [[0, 1.5, 2, 3], [4, 5, 6, 7], [0, 1.5, 2, 3]]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["no json"], r"line 2 is no JSON"),
        (["[1]"], r'line 2: found \[1\]; expected {"image_id"'),
        (['{"image_id": "b"}'], r"line 2: found"),
        (['{"image_id": null, "boxes": []}'], r"line 2: found"),
        (['{"image_id": "b", "boxes": 3}'], r"line 2: boxes is 3"),
        (['{"image_id": "b", "boxes": [[0, 0, 1]]}'], r"line 2: box 0 is \[0, 0, 1\]; expected four numbers"),
        (['{"image_id": "b", "boxes": [[0, 0, 1, 1], [0, 0, NaN, 1]]}'], r"line 2: box 1 is"),
        (['{"image_id": "b", "boxes": [[0, 0, 1, true]]}'], r"line 2: box 0 is"),
        (['{"image_id": "b", "boxes": [[0, 0, 1, 1' + "0" * 400 + "]]}"], r"line 2: box 0 is .*expected four numbers"),
        (['{"image_id": "b", "boxes": [[5, 5, 5, 9]]}'], r"line 2: box 0 is .*expected x1 < x2"),
        (['{"image_id": "b", "boxes": [[50, 60, 20, 30]]}'], r"line 2: box 0 is .*expected x1 < x2"),
        (['{"image_id": "a", "boxes": []}'], r"line 2: picture 'a' has a line already"),
    ],
)
def test_lines_that_cannot_be_used(lines, message, tmp_path):
    path = tmp_path / "boxes.jsonl"
    path.write_text("\n".join(['{"image_id": "a", "boxes": [[0, 0, 1, 1]]}', *lines]))
    with pytest.raises(InputError, match=message):
        read_given_boxes(str(path))


def test_sources_that_cannot_be_used(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    for name, message in [
        ("none.jsonl", "cannot be read"), ("", "cannot be read"), ("empty.jsonl", "has no boxes")
    ]:  # fmt: skip
        with pytest.raises(InputError, match=message):
            read_given_boxes(str(tmp_path / name))
    with pytest.raises(InputError, match="no data set with boxes"):
        read_given_boxes("TFDS:none/boxes", data_dir=tmp_path)


def data_set(folder, features, rows):
    class Annotated(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name, VERSION = "annotated", tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(rows[:-1]), "validation": self._generate_examples(rows[-1:])}

        def _generate_examples(self, rows):
            yield from enumerate(rows)

    Annotated(data_dir=folder, file_format="array_record").download_and_prepare()
    return read_given_boxes("TFDS:annotated", data_dir=folder)


def boxes_feature(*shape):
    return tfds.features.Tensor(shape=shape, dtype=np.float32)


def test_a_data_set_with_the_boxes_of_each_picture(tmp_path):
    features = {"image_id": tfds.features.Text(), "boxes": boxes_feature(None, 4)}
    twice = np.array([[0, 0, 4, 4], [1, 1, 2, 3], [0, 0, 4, 4]], "f4")
    rows = [{"image_id": "a", "boxes": twice}, {"image_id": "none", "boxes": twice[:0]}]
    found = data_set(tmp_path / "good", features, [*rows, {"image_id": "b", "boxes": twice[:1]}])
    assert sorted(found) == ["a", "b"]
    np.testing.assert_array_equal(found["a"], twice)
    with pytest.raises(InputError, match="picture 'a' twice"):
        data_set(tmp_path / "bad", features, [*rows, rows[0]])


def test_a_data_set_of_expressions_gives_each_thing_once(tmp_path):
    features = {"image_id": tfds.features.Text(), "box": boxes_feature(4)}
    rows = [("a", (5, 6, 7, 8)), ("b", (0, 0, 1, 1)), ("a", (1, 2, 3, 4)), ("a", (5, 6, 7, 8))]
    found = data_set(tmp_path, features, [{"image_id": name, "box": np.array(box, "f4")} for name, box in rows])
    assert found["a"].tolist() == [[5, 6, 12, 14], [1, 2, 4, 6]]
    assert found["b"].tolist() == [[0, 0, 1, 1]]


def test_a_data_set_without_boxes(tmp_path):
    with pytest.raises(InputError, match="no feature 'box'"):
        data_set(tmp_path, {"image_id": tfds.features.Text()}, [{"image_id": "a"}, {"image_id": "b"}])
