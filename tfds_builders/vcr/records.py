"""Reads the official lines of VCR: one JSON object a question, whose texts are lists of words and of object numbers."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from tfds_builders.manual_files import is_text, parse_json, shown
from vilbert_jax.errors import InputError

NUM_CHOICES = 4
UNKNOWN = -1  # label of questions whose answer is withheld
_EXTENSION = re.compile(r"\.(jpe?g|png)$", re.IGNORECASE)
_TEXTS = ("annot_id", "img_fn", "metadata_fn", "img_id")
_CHOICES = ("answer_choices", "rationale_choices")
_LABELS = ("answer_label", "rationale_label")
_LISTS = ("objects", "question", *_CHOICES)
_OFFSETS = {"train": 0, "val": 1_000_000, "test": 2_000_000}

Tokens = Sequence[str | list[int]]


class Record(NamedTuple):
    """One question.

    Attributes:
        annot_id: names it, in submissions too.
        img_fn: file of the picture.
        metadata_fn: file of the picture's size and boxes, beside it.
        img_id: the picture's name within its file of questions, "val-17".
        objects: class of each annotated thing; the numbers in texts count them from 0.
        question: words, and lists of object numbers.
        answer_choices: four such texts.
        answer_label: which is right; -1 where that is withheld.
        rationale_choices: four such texts, why the right answer is right.
        rationale_label: which is right; -1 where that is withheld.
    """

    annot_id: str
    img_fn: str
    metadata_fn: str
    img_id: str
    objects: list[str]
    question: Tokens
    answer_choices: Sequence[Tokens]
    answer_label: int
    rationale_choices: Sequence[Tokens]
    rationale_label: int


class Scan(NamedTuple):
    """What one reading of a whole file tells.

    Attributes:
        path: the file.
        num_rows: questions.
        starts: byte at which every ``rows_a_part``-th question starts.
        num_bytes: size.
        sha256: of the file.
        metadata: file of metadata -> line that names it first.
    """

    path: epath.Path
    num_rows: int
    starts: list[int]
    num_bytes: int
    sha256: str
    metadata: dict[str, int]


def scan(path: epath.Path, rows_a_part: int, seen: dict[str, str], *, withheld: bool) -> Scan:
    """Reads a file once, checking every line.

    Args:
        path: the file.
        rows_a_part: of ``Scan.starts``.
        seen: annot_id -> where it is, of all files read so far; added to.
        withheld: whether labels may be missing.

    Raises:
        InputError: naming the file and the first line that cannot be used.
    """
    starts: list[int] = []
    metadata: dict[str, int] = {}
    digest, position, number = hashlib.sha256(), 0, 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            digest.update(line)
            if (number - 1) % rows_a_part == 0:
                starts.append(position)
            position += len(line)
            record = parse(line, path, number, withheld=withheld)
            where = f"{path}:{number}"
            if record.annot_id in seen:
                raise InputError(
                    f"{where}: annot_id {record.annot_id!r} is also that of {seen[record.annot_id]}; remove one of them"
                )
            seen[record.annot_id] = where
            metadata.setdefault(record.metadata_fn, number)
    if not number:
        raise InputError(f"{path} has no questions: download it again")
    return Scan(path, number, starts, position, digest.hexdigest(), metadata)


def read(path: epath.Path, start: int, first_line: int, count: int, *, withheld: bool) -> Iterator[tuple[int, Record]]:
    """Yields ``count`` questions from a byte of ``Scan.starts`` on, each with its line number."""
    with path.open("rb") as file:
        file.seek(start)
        for number, line in zip(range(first_line, first_line + count), file, strict=False):
            yield number, parse(line, path, number, withheld=withheld)


def parse(line: bytes, path: epath.Path, number: int, *, withheld: bool) -> Record:
    """One line to what it asks.

    Raises:
        InputError: beginning with file and line.
    """
    where = f"{path}:{number}"
    fields = parse_json(line.rstrip(b"\r\n"), path, line=number)
    if not isinstance(fields, dict):
        raise InputError(f"{where}: expected a JSON object; found {shown(fields)}")
    required = (*_TEXTS, *_LISTS, *(() if withheld else _LABELS))
    if absent := [name for name in required if name not in fields]:
        raise InputError(f"{where}: has no {', '.join(absent)}; it has {', '.join(fields) or 'nothing'}")
    for name in _TEXTS:
        if not is_text(fields[name]) or not fields[name]:
            raise InputError(f"{where}: {name} is {shown(fields[name])}; expected text")
    objects = fields["objects"]
    if not isinstance(objects, list) or not all(is_text(name) for name in objects):
        raise InputError(f"{where}: objects is {shown(objects)}; expected a list of class names")
    _check_tokens(fields["question"], len(objects), f"{where}: question")
    for name in _CHOICES:
        choices = fields[name]
        if not isinstance(choices, list) or len(choices) != NUM_CHOICES:
            found = f"{len(choices)} texts" if isinstance(choices, list) else shown(choices)
            raise InputError(f"{where}: {name} is {found}; expected a list of {NUM_CHOICES}")
        for place, tokens in enumerate(choices):
            _check_tokens(tokens, len(objects), f"{where}: {name}[{place}]")
    fields |= {name: _label(fields, name, where) for name in _LABELS}
    return Record(**{name: fields[name] for name in Record._fields})


def as_text(tokens: Tokens) -> str:
    """A text as the data set keeps it: the official list, as JSON without blanks."""
    return json.dumps(tokens, ensure_ascii=False, separators=(",", ":"))


def file_image_id(record: Record) -> str:
    """The picture's file without its extension."""
    return _EXTENSION.sub("", record.img_fn)


def numbered_image_id(record: Record, part: str, where: str) -> str:
    """The picture's number in vilbert_beta's feature files: that in ``img_id``, and an offset a file of questions.

    Args:
        record: the question.
        part: "train", "val" or "test".
        where: file and line, for the message.

    Raises:
        InputError: img_id is not made as in the official files.
    """
    number = re.fullmatch(rf"{part}-(\d{{1,6}})", record.img_id, re.ASCII)  # six digits: parts stay apart
    if number is None:
        raise InputError(
            f"{where}: img_id is {record.img_id!r}; expected {part}-NUMBER, below 1000000, of which the numbered ids "
            "are made; config choice needs no numbers"
        )
    return str(int(number[1]) + _OFFSETS[part])


def _check_tokens(tokens: Any, num_objects: int, where: str) -> None:
    if not isinstance(tokens, list):
        raise InputError(f"{where} is {shown(tokens)}; expected a list of words and of lists of object numbers")
    for place, token in enumerate(tokens):
        if is_text(token):
            continue
        if not isinstance(token, list) or not token or not all(type(tag) is int for tag in token):
            raise InputError(f"{where}[{place}] is {shown(token)}; expected a word or a list of object numbers")
        for tag in token:
            if not 0 <= tag < num_objects:
                raise InputError(f"{where}[{place}] names object {tag}; the question has {num_objects}, counted from 0")


def _label(fields: Mapping[str, Any], name: str, where: str) -> int:
    if name not in fields:  # only where labels may be withheld
        return UNKNOWN
    label = fields[name]
    if type(label) is not int or not 0 <= label < NUM_CHOICES:
        raise InputError(f"{where}: {name} is {shown(label)}; expected 0 to {NUM_CHOICES - 1}")
    return label
