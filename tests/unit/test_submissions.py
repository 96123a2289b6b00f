"""What a leaderboard would refuse is refused before it is sent, by the entry that is wrong."""

import csv
import json

import numpy as np
import pytest
import toy_splits as toy

from vilbert_jax.errors import InputError
from vilbert_jax.tasks.retrieval import best_images
from vilbert_jax.tasks.vcr_leaderboard import COLUMNS, has_all_passes, write_csv

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    return toy.write_vocab(tmp_path_factory.mktemp("vocab"))


def read_back(task, source, predictions):
    """As a user has it: from a file."""
    return json.loads(json.dumps(task.submission(source, predictions)))


def shares(count):
    return RNG.dirichlet(np.ones(4), count).astype(np.float32)


def vqa_case(vocab):
    task, source = toy.vqa(vocab)
    return task, source, read_back(task, source, {"labels": np.arange(12)[:, None] % 5})


def vcr_case(vocab, **more):
    task, source = toy.vcr(vocab, **more)
    return task, source, read_back(task, source, {"shares": shares(len(source))})


def grounding_case(vocab, **settings):
    task, source = toy.grounding(vocab, **settings)
    return task, source, read_back(task, source, {"region": np.array([0, 1, 2, 3, 4, 6]), "share": np.ones(6)})


def retrieval_case(vocab):
    task, source = toy.retrieval(vocab)
    return task, source, read_back(task, source, best_images(RNG.random((12, toy.NUM_IMAGES))))


CASES = {"vqa": vqa_case, "vcr": vcr_case, "grounding": grounding_case, "retrieval": retrieval_case}


def changed(entries, number, **values):
    return [{**entry, **(values if k == number else {})} for k, entry in enumerate(entries)]


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
class TestEveryTask:
    def test_its_own_submission_is_accepted_in_any_order(self, vocab, make):
        task, source, entries = make(vocab)
        task.check_submission(source, entries)
        task.check_submission(source, entries[::-1])

    def test_an_item_that_is_missing(self, vocab, make):
        task, source, entries = make(vocab)
        with pytest.raises(InputError, match=f"lacks 2 of {len(entries)} items of the split, first .*whole split"):
            task.check_submission(source, entries[1:-1])

    def test_an_item_that_is_there_twice(self, vocab, make):
        task, source, entries = make(vocab)
        with pytest.raises(InputError, match="entry 3 has .* like entry 1; .*leave one"):
            task.check_submission(source, [*entries[:3], entries[1], *entries[3:]])

    @pytest.mark.parametrize("whole", [{"results": []}, None, "[]"])
    def test_something_else_than_a_list(self, vocab, make, whole):
        task, source, _ = make(vocab)
        with pytest.raises(InputError, match=f"is a {type(whole).__name__}; expected a list"):
            task.check_submission(source, whole)

    @pytest.mark.parametrize("entry", [7, None, ["question_id"]])
    def test_an_entry_that_is_no_object(self, vocab, make, entry):
        task, source, entries = make(vocab)
        with pytest.raises(InputError, match=r"entry 1 is .*; expected an object"):
            task.check_submission(source, [entries[0], entry])

    def test_nothing_at_all(self, vocab, make):
        task, source, entries = make(vocab)
        with pytest.raises(InputError, match=f"lacks {len(entries)} of {len(entries)}"):
            task.check_submission(source, [])


BAD_VALUES = [
    (vqa_case, {"question_id": "102"}, "question_id '102'; expected int"),
    (vqa_case, {"question_id": 102.0}, "question_id 102.0; expected int"),
    (vqa_case, {"question_id": True}, "question_id True; expected int"),
    (vqa_case, {"question_id": [102]}, r"question_id \[102\]; expected int"),
    (vqa_case, {"question_id": 999}, "question_id 999, which the split does not have"),
    (vqa_case, {"answer": None}, "answer None; expected text"),
    (vqa_case, {"answer": ["red"]}, "answer .*; expected text"),
    (vcr_case, {"annot_id": "test-0"}, "annot_id 'test-0', which the split does not have"),
    (vcr_case, {"answer": [0.5, 0.5, 0.0]}, "answer .*4 probabilities that add up to 1"),
    (vcr_case, {"answer": [0.25, 0.25, 0.25, 0.252]}, "answer .*4 probabilities that add up to 1"),
    (vcr_case, {"answer": [1.5, -0.5, 0, 0]}, "answer .*4 probabilities"),
    (vcr_case, {"rationale": [float("nan"), 0, 0, 1]}, "rationale .*4 probabilities"),
    (vcr_case, {"rationale": ["1", "0", "0", "0"]}, "rationale .*4 probabilities"),
    (vcr_case, {"rationale": None}, "rationale None"),
    (vcr_case, {"rationale_conditioned_on_a0": [1, 1, 0, 0]}, "rationale_conditioned_on_a0"),
    (grounding_case, {"sent_id": "12"}, "sent_id '12'; expected int"),
    (grounding_case, {"id": "image0"}, "id 'image0'; expected 'image2', the image of the expression"),
    (grounding_case, {"target": 4}, "target 4; expected a region of the picture, 0 to 3"),
    (grounding_case, {"target": -1}, "target -1"),
    (grounding_case, {"target": 1.0}, "target 1.0"),
    (grounding_case, {"IOU": 1.01}, "IOU 1.01; expected an overlap, 0 to 1"),
    (grounding_case, {"IOU": float("nan")}, "IOU nan"),
    (grounding_case, {"IOU": None}, "IOU None"),
    (retrieval_case, {"image_id": "image9"}, "image_id 'image9', caption 0, which the split does not have"),
    (retrieval_case, {"caption": 2}, "image_id 'image1', caption 2, which the split does not have"),
    (retrieval_case, {"images": "image1"}, "images 'image1'; expected a list of image ids"),
    (retrieval_case, {"images": []}, "expected 1 to 20"),
    (retrieval_case, {"images": [f"image{k}" for k in range(21)]}, "expected 1 to 20"),
    (retrieval_case, {"images": ["image1", "image1"]}, "expected different ones"),
    (retrieval_case, {"images": ["image1", "other"]}, "images of the split, which 'other' is not"),
]


@pytest.mark.parametrize(("make", "values", "message"), BAD_VALUES, ids=lambda x: getattr(x, "__name__", str(x))[:40])
def test_a_bad_value_is_named_with_its_entry(vocab, make, values, message):
    task, source, entries = make(vocab)
    with pytest.raises(InputError, match=f"submission entry 2 has .*{message}"):
        task.check_submission(source, changed(entries, 2, **values))


@pytest.mark.parametrize(
    ("make", "key"), [(vqa_case, "answer"), (vcr_case, "answer"), (vcr_case, "rationale"), (grounding_case, "target"),
                      (grounding_case, "id"), (retrieval_case, "images"), (retrieval_case, "caption")]
)  # fmt: skip
def test_a_key_that_is_missing(vocab, make, key):
    task, source, entries = make(vocab)
    del entries[1][key]
    with pytest.raises(InputError, match=f"entry 1 has no {key} in"):
        task.check_submission(source, entries)


def test_probabilities_may_be_off_by_their_rounding(vocab):
    task, source, entries = vcr_case(vocab)
    task.check_submission(source, changed(entries, 0, answer=[0.2501, 0.25, 0.25, 0.2504]))


def test_of_a_blanked_picture_every_slot_is_valid(vocab):
    task, source, entries = grounding_case(vocab, blank_pictures=True)
    task.check_submission(source, changed(entries, 0, target=6))
    with pytest.raises(InputError, match="0 to 6"):
        task.check_submission(source, changed(entries, 0, target=7))


def test_vcr_needs_only_the_passes_that_were_asked(vocab):
    task, source, entries = vcr_case(vocab, passes="answer")
    assert set(entries[0]) == {"annot_id", "answer"}
    task.check_submission(source, entries)


def test_vcr_without_labels_needs_reasons_after_every_answer(vocab):
    task, source, entries = vcr_case(vocab, labelled=False)
    task.check_submission(source, entries)
    del entries[3]["rationale_conditioned_on_a2"]
    with pytest.raises(InputError, match="entry 3 has no rationale_conditioned_on_a2"):
        task.check_submission(source, entries)


def test_the_csv_of_vcr_value_by_value(vocab, tmp_path):
    _, _, entries = vcr_case(vocab, labelled=False)
    assert has_all_passes(entries)
    write_csv(entries, tmp_path / "vcr.csv")
    with (tmp_path / "vcr.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header[:6] == ["annot_id", "answer_0", "answer_1", "answer_2", "answer_3", "rationale_conditioned_on_a0_0"]
    assert header[-1] == "rationale_conditioned_on_a3_3"
    assert header == [*COLUMNS]
    assert len(header) == 21
    assert [row[0] for row in rows] == ["validation-0", "validation-1", "validation-2", "validation-3"]
    for row, entry in zip(rows, entries, strict=True):
        assert [float(x) for x in row[1:5]] == entry["answer"]
        assert [float(x) for x in row[13:17]] == entry["rationale_conditioned_on_a2"]
    assert [path.name for path in tmp_path.iterdir()] == ["vcr.csv"]


def test_the_csv_says_which_passes_are_missing(vocab, tmp_path):
    _, _, labelled = vcr_case(vocab)
    assert not has_all_passes(labelled)
    assert not has_all_passes([])
    with pytest.raises(InputError, match=r"'validation-0'\) has no rationale_conditioned_on_a0, .*_a3: .*answer_pred"):
        write_csv(labelled, tmp_path / "vcr.csv")
    _, _, entries = vcr_case(vocab, labelled=False, passes="rationale")
    with pytest.raises(InputError, match="has no answer: "):
        write_csv(entries, tmp_path / "vcr.csv")
    assert not [*tmp_path.iterdir()]


def test_the_csv_takes_every_item_once_and_only_probabilities(vocab, tmp_path):
    _, _, entries = vcr_case(vocab, labelled=False)
    with pytest.raises(InputError, match=r"entry 4 \('validation-1'\) is there twice"):
        write_csv([*entries, entries[1]], tmp_path / "vcr.csv")
    with pytest.raises(InputError, match="entry 2 .*answer .*4 probabilities"):
        write_csv(changed(entries, 2, answer=[1, 1, 1, 1]), tmp_path / "vcr.csv")
    assert not [*tmp_path.iterdir()]
