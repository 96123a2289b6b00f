"""VCR from official files: every value, the order, both kinds of picture ids, boxes or none."""

import hashlib
import json
import pickle
from typing import Any, ClassVar

import numpy as np
import pytest
from etils import epath
from vcr_files import BOXES, PICTURE, column, contents, pictures, read, run, write

from tfds_builders import testing, vcr
from tfds_builders.vcr import records
from tfds_builders.vcr import vcr_dataset_builder as builder_module
from tfds_builders.vcr.vcr_dataset_builder import PUBLISHED_QUESTIONS
from vilbert_jax.data.annotations import metadata, row_image_ids


@pytest.fixture
def manual(tmp_path):
    return write(tmp_path / "manual", contents(), pictures())


class VcrTest(testing.BuilderTest):
    """The files in dummy_data."""

    BUILDER = vcr.Builder
    SPLITS: ClassVar[Any] = {"train": 3, "validation": 1, "test": 1}
    UNIQUE: ClassVar[Any] = {"choice": "annot_id", "choice_numbered": "annot_id"}
    APART = "image_id"

    def check_example(self, example, config):
        assert example["image_id"].isdigit() == (config == "choice_numbered")
        assert len(example["boxes"]) == len(example["objects"])
        assert len(example["answer_choices"]) == len(example["rationale_choices"]) == 4


@pytest.mark.parametrize("annotations", ["", "vcr1annots"])
def test_every_value_arrives(annotations, tmp_path):
    manual = write(tmp_path / "manual", contents(), pictures(), annotations)
    assert run(manual, tmp_path / "data") == 0
    rows, (first, second, third) = read(tmp_path / "data", "validation")
    boxes = first.pop("boxes")
    assert boxes.dtype == np.float32
    np.testing.assert_array_equal(boxes, np.array(BOXES, np.float32)[:, :4])
    assert first == {
        "annot_id": b"val-42",
        "image_id": b"toy_02/c.5-7@2",
        "question": b'["Why","is",[0],"petting",[2],"?"]',
        "answer_choices": [
            b'["He","likes","dogs","."]',
            b'[[0,1],"are","lost","."]',
            b'["It","barked","."]',
            '[[2],"is","café","."]'.encode(),
        ],
        "answer_label": 0,
        "rationale_choices": [b'["a"]', b'["b",[1]]', '["日本","\u2028"]'.encode(), b"[]"],
        "rationale_label": 2,
        "objects": [b"person", b"person", b"dog"],
        "width": 640,
        "height": 360,
    }
    assert second["boxes"].shape == (0, 4)
    assert second["objects"] == []
    assert (second["width"], second["height"]) == (100, 80)
    assert (second["answer_label"], second["rationale_label"]) == (1, 3)
    np.testing.assert_array_equal(third["boxes"], boxes)
    assert metadata(rows)["choices"] == 4
    assert metadata(rows)["text"] == "tokens"


def test_texts_read_back_as_the_official_lists(manual, tmp_path):
    assert run(manual, tmp_path / "data") == 0
    for split, part in (("train", "train"), ("validation", "val"), ("test", "test")):
        examples = read(tmp_path / "data", split)[1]
        for example, record in zip(examples, contents()[part], strict=True):
            assert json.loads(example["question"]) == record["question"]
            assert [json.loads(text) for text in example["answer_choices"]] == record["answer_choices"]
            assert [json.loads(text) for text in example["rationale_choices"]] == record["rationale_choices"]


@pytest.mark.parametrize("questions_a_shard", [1, 2, 100])
def test_splits_stand_in_the_order_of_the_files(questions_a_shard, manual, tmp_path, monkeypatch):
    monkeypatch.setattr(builder_module, "_QUESTIONS_A_SHARD", questions_a_shard)
    assert run(manual, tmp_path / "data") == 0
    data = tmp_path / "data"
    assert column(data, "train", "annot_id") == [b"train-9", b"train-2"]
    assert column(data, "validation", "annot_id") == [b"val-42", b"val-7", b"val-43"]
    assert column(data, "validation[-2:]", "annot_id") == [b"val-7", b"val-43"]
    assert column(data, "train", "answer_label") == [3, 0]
    assert column(data, "test", "annot_id") == [b"test-0", b"test-1"]
    shards = list((data / "vcr" / "choice" / "1.0.0").glob("*-validation.array_record*"))
    assert len(shards) == -(-3 // questions_a_shard)


def test_withheld_labels_are_minus_one_and_given_ones_stay(manual, tmp_path):
    assert run(manual, tmp_path / "data") == 0
    assert column(tmp_path / "data", "test", "answer_label") == [-1, 2]
    assert column(tmp_path / "data", "test", "rationale_label") == [-1, -1]


def test_pictures_are_named_by_file_or_by_number(manual, tmp_path):
    data = tmp_path / "data"
    for config in ("choice", "choice_numbered"):
        assert run(manual, data, config) == 0
    assert column(data, "train", "image_id") == [b"toy_01/b.0@1", b"toy_01/a@0"]
    assert column(data, "train", "image_id", "choice_numbered") == [b"3", b"0"]
    assert column(data, "validation", "image_id", "choice_numbered") == [b"1000017", b"1000008", b"1000017"]
    assert column(data, "test", "image_id", "choice_numbered") == [b"2000005", b"2000005"]
    stored = np.load(data / "vcr" / "choice_numbered" / "1.0.0" / "row_image_ids-train.npy")
    assert stored.tolist() == [b"3", b"0"]
    rows, _ = read(data, "validation[1:]")
    assert row_image_ids(rows).tolist() == [b"toy_02/d@0", b"toy_02/c.5-7@2"]


@pytest.mark.parametrize("folder_there", [False, True])
def test_without_metadata_there_are_no_boxes_and_that_is_said(folder_there, tmp_path, capsys):
    manual = write(tmp_path / "manual", contents(), {})
    if folder_there:
        (manual / "vcr1images" / "toy_01").mkdir(parents=True)
    assert run(manual, tmp_path / "data") == 0
    assert f"warning: {manual / 'vcr1images'} has no file of metadata" in capsys.readouterr().err
    rows, examples = read(tmp_path / "data", "train")
    assert metadata(rows)["boxes"] == "none"
    assert [example["boxes"].shape for example in examples] == [(0, 4), (0, 4)]
    assert [(example["width"], example["height"]) for example in examples] == [(0, 0), (0, 0)]
    assert examples[0]["objects"] == [b"person", b"person", b"dog"]


def test_the_metadata_says_what_was_read(manual, tmp_path, capsys):
    assert run(manual, tmp_path / "data") == 0
    noted = metadata(read(tmp_path / "data", "train")[0])
    content = (manual / "val.jsonl").read_bytes()
    assert noted["boxes"] == "xyxy pixels"
    assert noted["files"]["validation"] == {
        "name": "val.jsonl",
        "rows": 3,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    said = capsys.readouterr().err
    assert f"validation: 3 questions in {manual / 'val.jsonl'}" in said
    assert "warning: the published validation file has 26,534 questions" in said
    assert "has no file of metadata" not in said


def test_the_published_number_is_no_warning(manual, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(PUBLISHED_QUESTIONS, "validation", 3)
    assert run(manual, tmp_path / "data") == 0
    said = capsys.readouterr().err
    assert "published validation" not in said
    assert "published train" in said


def test_absent_splits_are_said(manual, tmp_path, capsys):
    (manual / "train.jsonl").unlink()
    assert run(manual, tmp_path / "data") == 0
    assert f"warning: {manual} has no train.jsonl: there will be no split train" in capsys.readouterr().err
    assert set(read(tmp_path / "data", "test")[0].dataset_info.splits) == {"validation", "test"}


def test_line_ends_and_marks_of_windows_change_nothing(manual, tmp_path):
    content = (manual / "val.jsonl").read_bytes()
    (manual / "val.jsonl").write_bytes(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n").removesuffix(b"\r\n"))
    assert run(manual, tmp_path / "data") == 0
    assert column(tmp_path / "data", "validation", "annot_id") == [b"val-42", b"val-7", b"val-43"]


def test_boxes_may_lack_a_score_and_may_have_no_area(tmp_path):
    files = pictures()
    files[PICTURE]["boxes"] = [[1, 2, 1, 2], [0, 0, 4, 4], [1, 1, 2, 2]]
    manual = write(tmp_path / "manual", contents(), files)
    assert run(manual, tmp_path / "data") == 0
    assert read(tmp_path / "data", "validation")[1][0]["boxes"].tolist() == files[PICTURE]["boxes"]


def test_parts_start_where_their_lines_start(manual, monkeypatch):
    """Every part can be read by itself, so that workers share the file."""
    path = epath.Path(manual / "val.jsonl")
    scan = records.scan(path, 2, {}, withheld=False)
    assert scan.num_rows == 3
    assert scan.num_bytes == path.stat().length
    assert scan.metadata == {PICTURE: 1, "toy_02/d@0.json": 2}
    monkeypatch.setattr(builder_module, "_QUESTIONS_A_SHARD", 2)
    shards = list(builder_module._shards("validation", scan, epath.Path(manual / "vcr1images"), False))
    found = [[example["annot_id"] for _, example in shard()] for shard in pickle.loads(pickle.dumps(shards))]
    assert found == [["val-42", "val-7"], ["val-43"]]
    found = records.read(path, scan.starts[1], 3, 2, withheld=False)
    assert [(number, record.annot_id) for number, record in found] == [(3, "val-43")]
