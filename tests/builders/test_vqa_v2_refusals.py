"""Files of VQA v2 that cannot be used: each is one error that names the file and the record."""

import json
import zipfile

import pytest
from vqa_files import (
    TEST,
    TRAIN,
    TRAIN_ANNOTATIONS,
    VALIDATION,
    VALIDATION_ANNOTATIONS,
    annotation,
    contents,
    question,
    run,
    write,
)

from tfds_builders import build
from tfds_builders.vqa_v2.official_files import OFFICIAL_FILES


@pytest.fixture
def manual(tmp_path):
    return write(tmp_path / "manual", contents())


def test_half_an_archive_is_one_error(manual, tmp_path, capsys):
    file = OFFICIAL_FILES["validation"].annotations
    path = manual / file.archive
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(manual / file.name, file.name)
    (manual / file.name).unlink()
    path.write_bytes(path.read_bytes()[:200])
    assert run(manual, tmp_path / "data") == 2
    assert f"{path} is no whole zip archive" in capsys.readouterr().err


def test_a_member_that_does_not_fit_its_checksum_is_one_error(manual, tmp_path, capsys):
    file = OFFICIAL_FILES["validation"].annotations
    path = manual / file.archive
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.write(manual / file.name, file.name)
    (manual / file.name).unlink()
    path.write_bytes(path.read_bytes().replace(b'"sky"', b'"sly"', 1))
    assert run(manual, tmp_path / "data") == 2
    said = capsys.readouterr().err
    assert f"{path}/{file.name} is damaged (Bad CRC-32" in said
    assert f"download {file.archive} again" in said


def test_an_archive_without_the_file_is_one_error(manual, tmp_path, capsys):
    file = OFFICIAL_FILES["train"].questions
    (manual / file.name).unlink()
    with zipfile.ZipFile(manual / file.archive, "w") as archive:
        archive.writestr("readme.txt", "x")
    assert run(manual, tmp_path / "data") == 2
    assert f"should hold one file {file.name}; it holds 0 of that name among readme.txt" in capsys.readouterr().err


def test_labels_that_cannot_be_read_are_refused_before_the_questions(manual, tmp_path, capsys):
    assert run(manual, tmp_path / "data", f"--answers={tmp_path / 'none.json'}") == 2
    said = capsys.readouterr().err
    assert "none.json" in said
    assert "questions in" not in said


@pytest.mark.parametrize("name", ["a,b.json", "a=b.json"])
def test_a_path_that_no_name_can_hold_is_refused(name, manual, tmp_path, capsys):
    assert run(manual, tmp_path / "data", f"--answers={tmp_path / name}") == 2
    assert f"--answers={tmp_path / name}: TFDS takes no path with ',' or '='" in capsys.readouterr().err


def test_labels_are_for_this_data_set_alone(manual, tmp_path, capsys):
    arguments = [f"--manual_dir={manual}", f"--data_dir={tmp_path}", "--answers=x.json"]
    assert build.main(["build.py", "conceptual_captions", *arguments]) == 2
    assert "--answers is for vqa_v2 alone, not for conceptual_captions" in capsys.readouterr().err


@pytest.mark.parametrize(("gone", "left"), [(TRAIN, TRAIN_ANNOTATIONS), (VALIDATION_ANNOTATIONS, VALIDATION)])
def test_questions_and_annotations_belong_together(gone, left, manual, tmp_path, capsys):
    (manual / gone).unlink()
    assert run(manual, tmp_path / "data") == 2
    assert f"{manual} has {left}, but not {gone}, nor v2_" in capsys.readouterr().err


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_without_the_files_says_what_to_download(there, tmp_path, capsys):
    if there:
        (tmp_path / "manual").mkdir()
        (tmp_path / "manual" / "other.json").write_text("{}")
    assert run(tmp_path / "manual", tmp_path / "data") == 2
    said = capsys.readouterr().err
    assert "https://visualqa.org/download.html" in said
    assert "Traceback" not in said


def test_configs_are_not_invented(manual, capsys):
    assert build.main(["build.py", "vqa_v2/soft", f"--manual_dir={manual}"]) == 2
    assert "vqa_v2 has no config 'soft'; it has none" in capsys.readouterr().err


def changed(name, key, place, **fields):
    """A change to one record: None takes a field away."""

    def change(parsed):
        record = parsed[name][key][place]
        record.update(fields)
        for field in [field for field, value in fields.items() if value is None]:
            del record[field]

    return change


def answers_changed(change):
    def apply(parsed):
        change(parsed[TRAIN_ANNOTATIONS]["annotations"][2]["answers"])

    return apply


def copied(name, key, place):
    return lambda parsed: parsed[name][key].append(dict(parsed[name][key][place]))


def removed(name, key, place):
    return lambda parsed: parsed[name][key].pop(place)


def put(name, key, value):
    return lambda parsed: parsed[name].update({key: value})


Q, A = "questions", "annotations"
# The third annotation of train is that of question 7000; the fourth question is.
BAD = [
    (changed(TRAIN, Q, 1, question=None), f"{TRAIN}: questions[1] (question_id 8000): has no question; it has"),
    (changed(TRAIN, Q, 1, question_id=None), f"{TRAIN}: questions[1]: has no question_id"),
    (changed(TRAIN, Q, 1, question=7), f"{TRAIN}: questions[1] (question_id 8000): question is 7; expected text"),
    (changed(TEST, Q, 2, question="\ud800"), f'{TEST}: questions[2] (question_id 2000): question is "\\ud800"'),
    (changed(TRAIN, Q, 1, question_id="8"), f'{TRAIN}: questions[1]: question_id is "8"; expected a whole number'),
    (changed(TRAIN, Q, 1, image_id=True), "questions[1] (question_id 8000): image_id is true; expected a whole number"),
    (changed(TRAIN, Q, 1, image_id=8.0), "questions[1] (question_id 8000): image_id is 8.0; expected"),
    (changed(TRAIN, Q, 1, question_id=2**63), f"questions[1]: question_id is {2**63}; expected"),
    (changed(TRAIN, Q, 1, question_id=-1), "questions[1]: question_id is -1; expected"),
    (lambda parsed: parsed[TRAIN][Q].insert(1, 5), f"{TRAIN}: questions[1]: expected an object with question_id"),
    (copied(TRAIN, Q, 3), f"{TRAIN}: questions[6] (question_id 7000): this question_id is also that of questions[3]"),
    (copied(TEST, Q, 0), f"{TEST}: questions[3] (question_id 3001): this question_id is also that of questions[0]"),
    (copied(TRAIN_ANNOTATIONS, A, 2), "[6] (question_id 7000): this question_id is also that of annotations[2]; "),
    (
        put(TRAIN, "questions", {}),
        f"{TRAIN}: expected an object with a list 'questions' that is not empty; found an ob",
    ),
    (put(TRAIN, "questions", []), f"{TRAIN}: expected an object with a list 'questions' that is not empty"),
    (
        removed(TRAIN_ANNOTATIONS, A, 2),
        f"{TRAIN}: questions[3] (question_id 7000): @{TRAIN_ANNOTATIONS} has no annotatio",
    ),
    (removed(TRAIN, Q, 3), f"{TRAIN_ANNOTATIONS}: annotations[2] (question_id 7000): @{TRAIN} has no such question"),
    (changed(TRAIN_ANNOTATIONS, A, 2, image_id=9), f"image_id is 9, but 7 in @{TRAIN}: questions[3]"),
    (changed(TRAIN_ANNOTATIONS, A, 2, answer_type=None), "annotations[2] (question_id 7000): has no answer_type"),
    (changed(TRAIN_ANNOTATIONS, A, 2, question_type=3), "(question_id 7000): question_type is 3; expected text"),
    (changed(TRAIN_ANNOTATIONS, A, 2, multiple_choice_answer=["a"]), 'multiple_choice_answer is ["a"]; expected text'),
    (changed(TRAIN_ANNOTATIONS, A, 2, answers="yes"), 'answers is "yes"; expected a list'),
    (answers_changed(lambda answers: answers.pop()), "annotations[2] (question_id 7000): 9 answers; expected 10"),
    (answers_changed(lambda answers: answers.append(answers[0])), "(question_id 7000): 11 answers; expected 10"),
    (answers_changed(lambda answers: answers[4].update(answer_id=2)), "is the same: 1, 2, 3, 4, 2, 6, 7, 8, 9, 10"),
    (answers_changed(lambda answers: answers[4].update(answer=2)), "answers[4]: answer is 2; expected text"),
    (answers_changed(lambda answers: answers[4].update(answer="\udc00")), 'answers[4]: answer is "\\udc00"; expected'),
    (answers_changed(lambda answers: answers[4].update(answer_id="5")), 'answers[4]: answer_id is "5"; expected'),
    (answers_changed(lambda answers: answers[4].pop("answer_id")), "answers[4]: has no answer_id; it has answer"),
    (answers_changed(lambda answers: answers.__setitem__(4, "yes")), "answers[4]: expected an object with answer_id"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=range(len(BAD)))
def test_a_record_that_cannot_be_used_is_one_error_that_names_it(change, message, manual, tmp_path, capsys):
    parsed = contents()
    change(parsed)
    for name, content in parsed.items():
        (manual / name).write_text(json.dumps(content))
    assert run(manual, tmp_path / "data") == 2
    said = capsys.readouterr().err
    assert message.replace("@", f"{manual}/") in said
    assert said.count("error: ") == 1
    assert str(manual) in said
    assert not (tmp_path / "data" / "vqa_v2" / "1.0.0").exists()


def test_a_question_in_both_splits_is_refused(manual, tmp_path, capsys):
    parsed = contents()
    parsed[VALIDATION]["questions"].append(question(7001))
    parsed[VALIDATION_ANNOTATIONS]["annotations"].append(annotation(7001))
    write(manual, parsed)
    assert run(manual, tmp_path / "data") == 2
    assert "question_id 7001 is in the training and in the validation questions (1 such)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"questions": [\n{"a" 1}]}', f"{TRAIN}:2:6: not JSON (Expecting ':' delimiter); download the file again"),
        (b'{"questions": [\n{"question": "cut', f"{TRAIN}:2:14: not JSON (Unterminated string"),
        (b"", f"{TRAIN}:1:1: not JSON"),
        (b'{"questions": [\n\n"caf\xe9"]}', f"{TRAIN}:3: not UTF-8"),
        (b"[1, 2]", f"{TRAIN}: expected an object with a list 'questions' that is not empty; found [1, 2]"),
    ],
)
def test_broken_files_name_line_and_column(content, message, manual, tmp_path, capsys):
    (manual / TRAIN).write_bytes(content)
    assert run(manual, tmp_path / "data") == 2
    said = capsys.readouterr().err
    assert f"{manual}/{message}" in said
    assert "Traceback" not in said
