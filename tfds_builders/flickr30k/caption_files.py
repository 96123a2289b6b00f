"""Reads pictures with their captions, from Karpathy's file or from the files that the released ViLBERT code reads."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from tfds_builders import archived_files
from tfds_builders.archived_files import FileNote, FoundFile, OfficialFile
from tfds_builders.manual_files import is_count, is_text, parse_json, shown
from vilbert_jax.errors import InputError

CAPTIONS_AN_IMAGE = 5
VILBERT_FILES = {
    "train": "all_data_final_train_2014.jsonline",
    "validation": "all_data_final_val_set0_2014.jsonline",
    "test": "all_data_final_test_set0_2014.jsonline",
}
_ARCHIVE = "caption_datasets.zip"
_COCO_IDS = 1_000_000  # COCO's ids are below; most of Flickr30k's are above, so that one is not taken for the other


@dataclasses.dataclass(frozen=True)
class Pictures:
    """What tells one data set's files from another's.

    Attributes:
        name: as Karpathy's file says it.
        splits: what Karpathy's file calls a split -> the split.
        numbered: whether pictures are named by COCO's ids, and not by their files.
    """

    name: str
    splits: Mapping[str, str]
    numbered: bool

    @property
    def official(self) -> OfficialFile:
        """Karpathy's file."""
        return OfficialFile(f"dataset_{self.name}.json", _ARCHIVE)

    @property
    def num_captions(self) -> str:
        """How many captions a picture has, in words: of COCO's some have more."""
        return f"{CAPTIONS_AN_IMAGE} or more" if self.numbered else f"{CAPTIONS_AN_IMAGE}"


class Picture(NamedTuple):
    """One picture and its five captions."""

    image_id: str
    captions: list[str]


class Found(NamedTuple):
    """What the files hold.

    Attributes:
        splits: split -> its pictures in the order of the file; splits without pictures are absent.
        surplus: captions beyond the fifth, which are left out.
        notes: on the files, by name.
    """

    splits: dict[str, list[Picture]]
    surplus: int
    notes: dict[str, FileNote]


class _Record(NamedTuple):
    """One picture as it stands in a file."""

    where: str
    split: str
    image_id: str
    captions: Sequence[Any]


def read(folder: epath.Path, pictures: Pictures) -> Found:
    """Reads Karpathy's file, or else ViLBERT's.

    Raises:
        InputError: neither is there, or a record cannot be used; with file and record.
    """
    found = archived_files.find(folder, pictures.official)
    if found is not None:
        return _collect(*_karpathy(found, pictures), pictures)
    there = {split: folder / name for split, name in VILBERT_FILES.items() if (folder / name).exists()}
    if not there:
        raise InputError(
            f"{folder} has no {pictures.official.name}, no {_ARCHIVE} with it, and no {VILBERT_FILES['train']}. "
            f"{instructions(pictures.name)}"
        )
    records: list[_Record] = []
    notes: dict[str, FileNote] = {}
    for split, path in there.items():
        content = path.read_bytes()
        of_split = list(_vilbert(content, path, split, pictures))
        if not of_split:
            raise InputError(f"{path} has no lines: download it again")
        records += of_split
        notes[path.name] = archived_files.describe(FoundFile(path), content, len(of_split))
    return _collect(records, notes, pictures)


def instructions(name: str) -> str:
    """How to get the files of one data set."""
    return (
        f"Download caption_datasets.zip from https://cs.stanford.edu/people/karpathy/deepimagesent and put it, or the "
        f"dataset_{name}.json in it, into the manual folder; or put the released code's files there: "
        f"{', '.join(VILBERT_FILES.values())}"
    )


def _karpathy(file: FoundFile, pictures: Pictures) -> tuple[list[_Record], dict[str, FileNote]]:
    content = archived_files.read(file)
    parsed = parse_json(content, file, object_hook=_without_tokens)
    images = parsed.get("images") if isinstance(parsed, dict) else None
    if not isinstance(images, list) or not images:
        found = f"an object with {', '.join(parsed) or 'nothing'}" if isinstance(parsed, dict) else shown(parsed)
        raise InputError(f"{file}: expected an object with a list 'images' that is not empty; found {found}")
    if parsed.get("dataset") != pictures.name:
        raise InputError(
            f"{file}: dataset is {shown(parsed.get('dataset'))}; expected {pictures.name!r}: the file of another data "
            "set has its name"
        )
    records = [_karpathy_record(record, f"{file}: images[{place}]", pictures) for place, record in enumerate(images)]
    return records, {file.path.name: archived_files.describe(file, content, len(images))}


def _karpathy_record(record: Any, where: str, pictures: Pictures) -> _Record:
    name = "cocoid" if pictures.numbered else "filename"
    _check_keys(record, ("split", "sentences", name), where)
    where += f" ({name} {shown(record[name])})"
    if record["split"] not in list(pictures.splits):
        raise InputError(f"{where}: split is {shown(record['split'])}; expected one of {', '.join(pictures.splits)}")
    _check_list(record["sentences"], where)
    captions = [
        sentence["raw"] if isinstance(sentence, dict) and "raw" in sentence else None
        for sentence in record["sentences"]
    ]
    image_id = _coco_id(record, name, where) if pictures.numbered else _flickr_id(record, name, where)
    return _Record(where, pictures.splits[record["split"]], image_id, captions)


def _vilbert(content: bytes, path: epath.Path, split: str, pictures: Pictures) -> Iterator[_Record]:
    """The records of a file with one JSON object a line."""
    name = "id" if pictures.numbered else "img_path"
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            record = parse_json(line, path, line=number)
            where = f"{path}:{number}"
            _check_keys(record, ("sentences", name), where)
            _check_list(record["sentences"], where)
            image_id = _coco_id(record, name, where) if pictures.numbered else _flickr_id(record, name, where)
            yield _Record(where, split, image_id, record["sentences"])


def _without_tokens(record: dict[str, Any]) -> dict[str, Any]:
    """Drops the words of a caption while the JSON is parsed: most of the file, and not needed."""
    record.pop("tokens", None)
    return record


def _collect(records: Sequence[_Record], notes: dict[str, FileNote], pictures: Pictures) -> Found:
    """Checks captions and ids, and sorts the pictures into splits."""
    splits: dict[str, list[Picture]] = {split: [] for split in VILBERT_FILES}
    seen: dict[str, str] = {}
    surplus = 0
    for record in records:
        if record.image_id in seen:
            raise InputError(f"{record.where}: {record.image_id} is also the picture of {seen[record.image_id]}")
        seen[record.image_id] = record.where
        count = len(record.captions)
        if count < CAPTIONS_AN_IMAGE or (count > CAPTIONS_AN_IMAGE and not pictures.numbered):
            raise InputError(f"{record.where}: {count} captions; expected {pictures.num_captions}")
        for place, caption in enumerate(record.captions):
            if not is_text(caption):
                raise InputError(f"{record.where}: sentences[{place}] is {shown(caption)}; expected text")
        surplus += count - CAPTIONS_AN_IMAGE
        splits[record.split].append(Picture(record.image_id, list(record.captions[:CAPTIONS_AN_IMAGE])))
    return Found({split: of_split for split, of_split in splits.items() if of_split}, surplus, notes)


def _flickr_id(record: Mapping[str, Any], name: str, where: str) -> str:
    """The file's name without its extension: a number."""
    file = record[name]
    stem = file.partition(".")[0] if isinstance(file, str) else ""
    if not (stem.isascii() and stem.isdigit()):
        raise InputError(
            f"{where}: {name} is {shown(file)}; expected a number and an extension, as in 1000000001.jpg (COCO's files "
            "are for flickr30k/coco)"
        )
    return stem


def _coco_id(record: Mapping[str, Any], name: str, where: str) -> str:
    number = record[name]
    if not is_count(number) or number >= _COCO_IDS:
        raise InputError(
            f"{where}: {name} is {shown(number)}; expected a whole number below {_COCO_IDS:,}, as COCO numbers its "
            "pictures (Flickr30k's files are for flickr30k/flickr30k)"
        )
    return str(number)


def _check_keys(record: Any, expected: tuple[str, ...], where: str) -> None:
    if not isinstance(record, dict):
        raise InputError(f"{where}: expected an object with {', '.join(expected)}; found {shown(record)}")
    if absent := [name for name in expected if name not in record]:
        raise InputError(f"{where}: has no {', '.join(absent)}; it has {', '.join(record) or 'nothing'}")


def _check_list(sentences: Any, where: str) -> None:
    if not isinstance(sentences, list):
        raise InputError(f"{where}: sentences is {shown(sentences)}; expected a list of captions")
