"""Files of VCR that cannot be used: each is one error that names the file and the line."""

import pytest
from vcr_files import BOXES, OBJECTS, PICTURE, contents, pictures, run, write


@pytest.fixture
def manual(tmp_path):
    return write(tmp_path / "manual", contents(), pictures())


@pytest.mark.parametrize("img_id", ["train-17", "17", "val-", "val-1000000", "val-1a", "val-٣"])
def test_numbers_are_taken_from_official_names_alone(img_id, tmp_path, capsys):
    parsed = contents()
    parsed["val"][1]["img_id"] = img_id
    manual = write(tmp_path / "manual", parsed, pictures())
    assert run(manual, tmp_path / "data") == 0
    assert run(manual, tmp_path / "data", "choice_numbered") == 2
    assert f"{manual}/val.jsonl:2: img_id is {img_id!r}; expected val-NUMBER" in capsys.readouterr().err


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_without_the_files_says_what_to_download(there, tmp_path, capsys):
    if there:
        (tmp_path / "manual").mkdir()
        (tmp_path / "manual" / "train.json").write_text("{}")
    assert run(tmp_path / "manual", tmp_path / "data") == 2
    assert "Ask for VCR at https://visualcommonsense.com/download" in capsys.readouterr().err


def changed(**fields):
    """A change to the second line of train: None takes a field away."""

    def change(record):
        record.update(fields)
        for name in [name for name, value in fields.items() if value is None]:
            del record[name]

    return change


BAD = [
    (changed(question=["Is", [3], "?"]), "question[1] names object 3; the question has 3, counted from 0"),
    (changed(question=["Is", [0, -1], "?"]), "question[1] names object -1"),
    (changed(objects=[], question=[[0]]), "question[0] names object 0; the question has 0"),
    (lambda r: r["answer_choices"][2].append([5]), "answer_choices[2][3] names object 5"),
    (lambda r: r["rationale_choices"][3].append([0, 9]), "rationale_choices[3][0] names object 9"),
    (changed(question=["Is", [], "?"]), "question[1] is []; expected a word or a list of object numbers"),
    (changed(question=["Is", 0, "?"]), "question[1] is 0; expected a word or a list of object numbers"),
    (changed(question=["Is", [True], "?"]), "question[1] is [true]; expected a word or"),
    (changed(question=["Is", ["0"], "?"]), 'question[1] is ["0"]; expected a word or'),
    (changed(question=["\ud800"]), 'question[0] is "\\ud800"; expected a word or'),
    (changed(question="Is it?"), 'question is "Is it?"; expected a list of words'),
    (lambda r: r["answer_choices"].pop(), "answer_choices is 3 texts; expected a list of 4"),
    (lambda r: r["rationale_choices"].append([]), "rationale_choices is 5 texts; expected a list of 4"),
    (changed(answer_choices={}), "answer_choices is {}; expected a list of 4"),
    (changed(answer_choices=["a", "b", "c", "d"]), 'answer_choices[0] is "a"; expected a list of words'),
    (changed(answer_label=4), "answer_label is 4; expected 0 to 3"),
    (changed(answer_label=-1), "answer_label is -1; expected 0 to 3"),
    (changed(rationale_label="2"), 'rationale_label is "2"; expected 0 to 3'),
    (changed(rationale_label=True), "rationale_label is true; expected 0 to 3"),
    (changed(rationale_label=None), "has no rationale_label; it has movie, objects"),
    (changed(annot_id=None, img_id=None), "has no annot_id, img_id; it has"),
    (changed(annot_id="train-9"), "annot_id 'train-9' is also that of @train.jsonl:1; remove one of them"),
    (changed(annot_id=9), "annot_id is 9; expected text"),
    (changed(img_fn=""), 'img_fn is ""; expected text'),
    (changed(objects="dog"), 'objects is "dog"; expected a list of class names'),
    (changed(objects=["person", "dog", 1]), "expected a list of class names"),
    (changed(objects=["person", "cat", "dog"]), 'objects are ["person", "cat", "dog"], but names are ["person"'),
    (changed(objects=[*OBJECTS, "cup"]), 'objects are ["person", "person", "dog", "cup"], but names are'),
    (changed(metadata_fn="toy_09/none.json"), "@vcr1images/toy_09/none.json is missing (1 of 5 files of metadata are)"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD, ids=range(len(BAD)))
def test_a_line_that_cannot_be_used_is_one_error_that_names_it(change, message, tmp_path, capsys):
    parsed = contents()
    change(parsed["train"][1])
    manual = write(tmp_path / "manual", parsed, pictures())
    assert run(manual, tmp_path / "data") == 2
    said = capsys.readouterr().err
    assert f"error: {manual}/train.jsonl:2: " in said
    assert message.replace("@", f"{manual}/") in said
    assert said.count("error: ") == 1
    assert not (tmp_path / "data" / "vcr" / "choice" / "1.0.0").exists()


def test_an_id_in_two_files_is_refused(tmp_path, capsys):
    parsed = contents()
    parsed["val"][2]["annot_id"] = "train-2"
    manual = write(tmp_path / "manual", parsed, pictures())
    assert run(manual, tmp_path / "data") == 2
    assert f"{manual}/val.jsonl:3: annot_id 'train-2' is also that of {manual}/train.jsonl:2" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["answer_label", "rationale_label"])
def test_a_label_of_test_is_checked_too(name, tmp_path, capsys):
    parsed = contents()
    parsed["test"][1][name] = 7
    manual = write(tmp_path / "manual", parsed, pictures())
    assert run(manual, tmp_path / "data") == 2
    assert f"{manual}/test.jsonl:2: {name} is 7; expected 0 to 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b'{"annot_id" "val-7"}', "val.jsonl:2:13: not JSON ("),
        (b"", "val.jsonl:2:1: not JSON (Expecting value); download the file again"),
        (b"[1]", "val.jsonl:2: expected a JSON object; found [1]"),
        (b'"caf\xe9"', "val.jsonl:2: not UTF-8"),
    ],
)
def test_broken_lines_are_named(bad, message, manual, tmp_path, capsys):
    lines = (manual / "val.jsonl").read_bytes().split(b"\n")
    (manual / "val.jsonl").write_bytes(b"\n".join([lines[0], bad, *lines[2:]]))
    assert run(manual, tmp_path / "data") == 2
    assert f"{manual}/{message}" in capsys.readouterr().err


def test_an_empty_file_is_refused(manual, tmp_path, capsys):
    (manual / "val.jsonl").write_bytes(b"")
    assert run(manual, tmp_path / "data") == 2
    assert f"{manual}/val.jsonl has no questions: download it again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"names": ["person", "dog"]}, "boxes is 3; expected one for each of 2 names"),
        ({"boxes": [], "names": OBJECTS}, "boxes is 0; expected one for each of 3 names"),
        ({"boxes": {}}, "boxes is {}; expected one for each of 3 names"),
        ({"boxes": [BOXES[0], [1, 2, 3], BOXES[2]]}, "boxes[1] is [1, 2, 3]; expected x1, y1, x2, y2 and a score"),
        ({"boxes": [BOXES[0], [5, 2, 3, 4, 1], BOXES[2]]}, "boxes[1] is [5, 2, 3, 4, 1]; expected x1"),
        ({"boxes": [BOXES[0], [1, 2, 3, float("nan"), 1], BOXES[2]]}, "boxes[1] is [1, 2, 3, NaN, 1]; expected"),
        ({"boxes": [BOXES[0], ["1", 2, 3, 4, 1], BOXES[2]]}, 'boxes[1] is ["1", 2, 3, 4, 1]; expected'),
        ({"boxes": [BOXES[0], [1, 2, float("inf"), 4, 1], BOXES[2]]}, "boxes[1] is [1, 2, Infinity, 4, 1]; expected"),
        ({"width": 0}, "width is 0; expected a number of pixels"),
        ({"height": "360"}, 'height is "360"; expected a number of pixels'),
        ({"names": "person"}, 'names is "person"; expected a list of class names'),
        (None, "expected an object with boxes, width, height, names; found segms"),
    ],
)
def test_metadata_that_cannot_be_used_names_the_line_that_needs_it(fields, message, tmp_path, capsys):
    files = pictures()
    files[PICTURE] = {"segms": []} if fields is None else files[PICTURE] | fields
    manual = write(tmp_path / "manual", contents(), files)
    assert run(manual, tmp_path / "data") == 2
    said = capsys.readouterr().err
    assert f"error: {manual}/val.jsonl:1: {manual}/vcr1images/{PICTURE}: {message}" in said
    assert not (tmp_path / "data" / "vcr" / "choice" / "1.0.0").exists()


def test_metadata_that_is_no_json_names_both_files(manual, tmp_path, capsys):
    (manual / "vcr1images" / PICTURE).write_text('{"boxes": [\n[1 2')
    assert run(manual, tmp_path / "data") == 2
    assert f"{manual}/val.jsonl:1: {manual}/vcr1images/{PICTURE}:2:4: not JSON" in capsys.readouterr().err
