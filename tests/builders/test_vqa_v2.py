"""VQA v2 from official files, as JSON and in archives: every value, the order, the answer labels."""

import hashlib
import json
import pickle
import zipfile
from typing import Any, ClassVar

import numpy as np
import pytest
from vqa_files import (
    DIFFERENT,
    TEST_DEV,
    TRAIN,
    TRAIN_ANNOTATIONS,
    VALIDATION_ANNOTATIONS,
    annotation,
    contents,
    encoded,
    ids,
    read,
    run,
    write,
)

from tfds_builders import testing, vqa_v2
from tfds_builders.vqa_v2 import vqa_v2_dataset_builder as builder_module
from tfds_builders.vqa_v2.official_files import OFFICIAL_FILES, PUBLISHED_QUESTIONS
from vilbert_jax.data.annotations import metadata, row_image_ids


@pytest.fixture
def manual(tmp_path):
    return write(tmp_path / "manual", contents())


class VqaV2Test(testing.BuilderTest):
    """The files in dummy_data."""

    BUILDER = vqa_v2.Builder
    SPLITS: ClassVar[Any] = {"train": 9, "validation": 4, "test": 3, "test_dev": 2}

    def check_example(self, example, config):
        assert example["question_id"] // 1000 == int(example["image_id"])
        assert len(example["answers"]) == (0 if example["image_id"].startswith(b"97") else 10)


def test_every_value_arrives(manual, tmp_path):
    assert run(manual, tmp_path / "data") == 0
    _, validation = read(tmp_path / "data", "validation")
    assert validation[3] == {
        "question_id": 6000,
        "image_id": b"6",
        "question": b"Is it?",
        "question_type": b"where is the",
        "answer_type": b"other",
        "answers": [answer.encode() for answer in DIFFERENT],
        "multiple_choice_answer": b"sky",
    }
    _, train = read(tmp_path / "data", "train")
    assert train[0]["question"] == "Is it 7000 – café?".encode()
    assert train[0]["answers"] == [b"yes"] * 10
    assert train[0]["answer_type"] == b"yes/no"
    _, test = read(tmp_path / "data", "test")
    assert test[0] == {
        "question_id": 2000,
        "image_id": b"2",
        "question": b"Is it?",
        "question_type": b"",
        "answer_type": b"",
        "answers": [],
        "multiple_choice_answer": b"",
    }


@pytest.mark.parametrize("questions_a_shard", [2, 100])
def test_splits_are_sorted_by_question(questions_a_shard, manual, tmp_path, monkeypatch):
    monkeypatch.setattr(builder_module, "_QUESTIONS_A_SHARD", questions_a_shard)
    assert run(manual, tmp_path / "data") == 0
    data = tmp_path / "data"
    assert ids(data, "train") == [7000, 7001, 7002, 8000, 8001, 9000]
    assert ids(data, "validation") == [4000, 5000, 5001, 6000]
    assert ids(data, "validation[-2:]") == [5001, 6000]
    assert ids(data, "train+validation[:-2]") == [7000, 7001, 7002, 8000, 8001, 9000, 4000, 5000]
    assert ids(data, "test") == [2000, 3000, 3001]
    assert ids(data, "test_dev") == [3000]
    assert len(list((data / "vqa_v2" / "1.0.0").glob("*-train.array_record*"))) == -(-6 // questions_a_shard)


def test_image_ids_lie_beside_the_records(manual, tmp_path):
    assert run(manual, tmp_path / "data") == 0
    folder = tmp_path / "data" / "vqa_v2" / "1.0.0"
    assert np.load(folder / "row_image_ids-train.npy").tolist() == [b"7", b"7", b"7", b"8", b"8", b"9"]
    rows, _ = read(tmp_path / "data", "validation[-2:]")
    assert row_image_ids(rows).tolist() == [b"5", b"6"]


def test_the_metadata_says_what_was_read(manual, tmp_path, capsys):
    assert run(manual, tmp_path / "data") == 0
    noted = metadata(read(tmp_path / "data", "train")[0])
    assert noted["answers"] == ["yes"]  # sky is the answer of one question only
    assert noted["answers_from"] == "train and validation"
    assert noted["published_questions"] == PUBLISHED_QUESTIONS
    assert noted["files"]["train"]["annotations"] == {
        "name": TRAIN_ANNOTATIONS,
        "rows": 6,
        "bytes": len(encoded(contents()[TRAIN_ANNOTATIONS])),
        "sha256": hashlib.sha256(encoded(contents()[TRAIN_ANNOTATIONS])).hexdigest(),
    }
    assert set(noted["files"]["test"]) == {"questions"}
    said = capsys.readouterr().err
    assert f"train: 6 questions in {manual / TRAIN}" in said
    assert "warning: the published train file has 443,757 questions" in said
    assert "1 answers are those of 9 questions or more" in said
    assert "3,129" not in said  # which the whole files alone should have


def test_the_published_numbers_are_no_warning(manual, tmp_path, capsys, monkeypatch):
    for split, count in (("train", 6), ("validation", 4)):
        monkeypatch.setitem(PUBLISHED_QUESTIONS, split, count)
    assert run(manual, tmp_path / "data") == 0
    said = capsys.readouterr().err
    assert "published train" not in said
    assert "published validation" not in said
    assert "the published test file has 447,793 questions" in said
    assert "warning: of the published files they are 3,129" in said  # counts fit, the number of labels does not


def test_labels_are_counted_over_both_splits(manual, tmp_path, capsys):
    parsed = contents()
    parsed[VALIDATION_ANNOTATIONS]["annotations"][0] = annotation(5001, ["no"] * 10)  # leaves 8 questions with yes
    write(manual, parsed)
    assert run(manual, tmp_path / "data") == 2
    assert "no answer is that of 9 questions among the 10 of train and validation" in capsys.readouterr().err


@pytest.mark.parametrize("inside", ["", "v2_questions/"])
def test_official_archives_build_the_same(inside, manual, tmp_path):
    assert run(manual, tmp_path / "plain") == 0
    packed = tmp_path / "packed"
    packed.mkdir()
    for files in OFFICIAL_FILES.values():
        for file in filter(None, files):
            with zipfile.ZipFile(packed / file.archive, "a", zipfile.ZIP_DEFLATED) as archive:
                archive.write(manual / file.name, inside + file.name)
    assert run(packed, tmp_path / "unpacked") == 0
    for split in OFFICIAL_FILES:
        assert read(tmp_path / "unpacked", split)[1] == read(tmp_path / "plain", split)[1]
    noted = metadata(read(tmp_path / "unpacked", "test_dev")[0])["files"]["test_dev"]["questions"]
    assert noted["name"] == f"v2_Questions_Test_mscoco.zip/{inside}{TEST_DEV}"
    assert noted["sha256"] == hashlib.sha256((manual / TEST_DEV).read_bytes()).hexdigest()


def test_a_file_in_the_folder_goes_before_its_archive(manual, tmp_path):
    (manual / OFFICIAL_FILES["train"].questions.archive).write_bytes(b"not even an archive")
    assert run(manual, tmp_path / "data") == 0


LABELS = ["no", "yes", "日本", ""]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.json", json.dumps(LABELS).encode()),
        ("ans2label.json", json.dumps({"yes": 1, "no": 0, "": 3, "日本": 2}).encode()),
        ("trainval_label2ans.pkl", pickle.dumps(LABELS, protocol=0)),
    ],
)
def test_given_labels_are_kept_in_their_order(name, content, manual, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert run(manual, tmp_path / "data", f"--answers={tmp_path / name}") == 0
    noted = metadata(read(tmp_path / "data", "train")[0])
    assert noted["answers"] == LABELS
    assert noted["answers_from"] == name
    assert ids(tmp_path / "data", "validation") == [4000, 5000, 5001, 6000]  # questions without a label stay


def test_absent_splits_are_said(manual, tmp_path, capsys):
    for name in (TRAIN, TRAIN_ANNOTATIONS, TEST_DEV):
        (manual / name).unlink()
    assert run(manual, tmp_path / "data") == 2
    said = capsys.readouterr().err
    assert f"has no {TRAIN}; answer labels are made from the training and the validation questions together" in said
    assert "--answers=FILE" in said
    (tmp_path / "labels.json").write_text('["yes"]')
    assert run(manual, tmp_path / "data", f"--answers={tmp_path / 'labels.json'}") == 0
    said = capsys.readouterr().err
    assert f"warning: {manual} has no {TRAIN}: there will be no split train" in said
    assert f"warning: {manual} has no {TEST_DEV}: there will be no split test_dev" in said
    assert set(read(tmp_path / "data", "test")[0].dataset_info.splits) == {"validation", "test"}


def test_a_mark_that_editors_put_in_front_is_skipped(manual, tmp_path):
    (manual / TRAIN).write_bytes(b"\xef\xbb\xbf" + (manual / TRAIN).read_bytes())
    assert run(manual, tmp_path / "data") == 0


def test_shards_can_be_written_by_other_processes():
    questions = [builder_module.Question(k, k, "Is it?") for k in range(5)]
    shards = pickle.loads(pickle.dumps(list(builder_module._shards(questions))))
    assert [key for shard in shards for key, _ in shard()] == [0, 1, 2, 3, 4]
