"""Questions and annotations of one split: read, checked record by record, joined, and sorted by question_id.

A file of annotations holds 4.4 million answers. They are made small while the JSON is parsed, and equal answers are one
string, so that a split costs little more memory than its largest file.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from tfds_builders import archived_files
from tfds_builders.archived_files import FileNote, FoundFile
from tfds_builders.manual_files import is_count, is_text, parse_json, shown
from vilbert_jax.errors import InputError

NUM_ANSWERS = 10
_KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "number": ("a whole number from 0", is_count),
    "text": ("text", is_text),
    "list": ("a list", lambda value: isinstance(value, list)),
}
_QUESTION = {"question_id": "number", "image_id": "number", "question": "text"}
_ANNOTATION = {
    "question_id": "number",
    "image_id": "number",
    "question_type": "text",
    "answer_type": "text",
    "multiple_choice_answer": "text",
    "answers": "list",
}
_ANSWER = {"answer_id": "number", "answer": "text"}


class Question(NamedTuple):
    """One question; of a test question the last four are empty."""

    question_id: int
    image_id: int
    question: str
    question_type: str = ""
    answer_type: str = ""
    multiple_choice_answer: str = ""
    answers: tuple[str, ...] = ()


class Split(NamedTuple):
    """What the files of one split hold.

    Attributes:
        questions: sorted by question_id.
        files: "questions" and, not of test splits, "annotations".
    """

    questions: list[Question]
    files: dict[str, FileNote]


class _Answer(NamedTuple):
    answer_id: int
    answer: str


def read_split(questions: FoundFile, annotations: FoundFile | None) -> Split:
    """Reads one split.

    Raises:
        InputError: naming the file and the first record that cannot be used, or has no counterpart in the other file.
    """
    asked, places, question_note = _read_questions(questions)
    files = {"questions": question_note}
    if annotations is not None:
        asked, files["annotations"] = _join(asked, places, questions, annotations)
    return Split([asked[question_id] for question_id in sorted(asked)], files)


def _read_questions(file: FoundFile) -> tuple[dict[int, Question], dict[int, int], FileNote]:
    """The questions by id, and the place of each in the file."""
    records, note = _read_records(file, "questions")
    asked: dict[int, Question] = {}
    places: dict[int, int] = {}
    for place, record in enumerate(records):
        where = _where(file, "questions", place, record)
        _check_fields(record, _QUESTION, where)
        question_id = record["question_id"]
        if question_id in places:
            _refuse_twice(where, f"questions[{places[question_id]}]")
        asked[question_id] = Question(question_id, record["image_id"], record["question"])
        places[question_id] = place
    return asked, places, note


def _join(
    asked: Mapping[int, Question], places: Mapping[int, int], questions: FoundFile, file: FoundFile
) -> tuple[dict[int, Question], FileNote]:
    """Gives every question what its annotation says."""
    records, note = _read_records(file, "annotations", _small_answers())
    joined: dict[int, Question] = {}
    seen: dict[int, int] = {}
    for place, record in enumerate(records):
        where = _where(file, "annotations", place, record)
        _check_fields(record, _ANNOTATION, where)
        question_id = record["question_id"]
        if question_id in seen:
            _refuse_twice(where, f"annotations[{seen[question_id]}]")
        question = asked.get(question_id)
        if question is None:
            raise InputError(f"{where}: {questions} has no such question; both files must be of one split and whole")
        if record["image_id"] != question.image_id:
            raise InputError(
                f"{where}: image_id is {record['image_id']}, but {question.image_id} in {questions}: "
                f"questions[{places[question_id]}]; both files must be of one split"
            )
        seen[question_id] = place
        joined[question_id] = question._replace(
            question_type=record["question_type"],
            answer_type=record["answer_type"],
            multiple_choice_answer=record["multiple_choice_answer"],
            answers=_answers(record["answers"], where),
        )
    without = [question_id for question_id in asked if question_id not in joined]
    if without:
        raise InputError(
            f"{questions}: questions[{places[without[0]]}] (question_id {without[0]}): {file} has no annotation of it "
            f"({len(without):,} such questions); both files must be of one split and whole"
        )
    return joined, note


def _read_records(
    file: FoundFile, key: str, object_hook: Callable[[dict[str, Any]], Any] | None = None
) -> tuple[list[Any], FileNote]:
    content = archived_files.read(file)
    parsed = parse_json(content, file, object_hook=object_hook)
    records = parsed.get(key) if isinstance(parsed, dict) else None
    if not isinstance(records, list) or not records:
        found = f"an object with {', '.join(parsed) or 'nothing'}" if isinstance(parsed, dict) else shown(parsed)
        raise InputError(f"{file}: expected an object with a list {key!r} that is not empty; found {found}")
    return records, archived_files.describe(file, content, len(records))


def _small_answers() -> Callable[[dict[str, Any]], Any]:
    """An object hook: answers as they should be become an `_Answer`, all else stays and is refused where it is used."""
    known: dict[str, str] = {}

    def hook(record: dict[str, Any]) -> Any:
        answer, answer_id = record.get("answer"), record.get("answer_id")
        if isinstance(answer, str) and is_count(answer_id) and (answer in known or is_text(answer)):
            return _Answer(record["answer_id"], known.setdefault(answer, answer))
        return record

    return hook


def _answers(records: Sequence[Any], where: str) -> tuple[str, ...]:
    if len(records) != NUM_ANSWERS:
        raise InputError(f"{where}: {len(records)} answers; expected {NUM_ANSWERS}")
    for place, record in enumerate(records):
        if not isinstance(record, _Answer):
            _check_fields(record, _ANSWER, f"{where}: answers[{place}]")
    if len({record.answer_id for record in records}) != NUM_ANSWERS:
        ids = ", ".join(str(record.answer_id) for record in records)
        raise InputError(f"{where}: the answer_id of two answers is the same: {ids}; expected {NUM_ANSWERS} different")
    return tuple(record.answer for record in records)


def _check_fields(record: Any, expected: Mapping[str, str], where: str) -> None:
    if not isinstance(record, dict):
        raise InputError(f"{where}: expected an object with {', '.join(expected)}; found {shown(record)}")
    if absent := [name for name in expected if name not in record]:
        raise InputError(f"{where}: has no {', '.join(absent)}; it has {', '.join(record) or 'nothing'}")
    for name, kind in expected.items():
        described, fits = _KINDS[kind]
        if not fits(record[name]):
            raise InputError(f"{where}: {name} is {shown(record[name])}; expected {described}")


def _where(file: FoundFile, key: str, place: int, record: Any) -> str:
    number = record.get("question_id") if isinstance(record, dict) else None
    return f"{file}: {key}[{place}]" + (f" (question_id {number})" if is_count(number) else "")


def _refuse_twice(where: str, first: str) -> NoReturn:
    raise InputError(f"{where}: this question_id is also that of {first}; remove one of them")
