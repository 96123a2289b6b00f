"""Do the files beside the records of a data set, which say where which image is, agree with the records?"""

import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from tfds_builders.verify_shard import ShardReport
from vilbert_jax.data.annotations import ROW_IDS_FILE, id_bytes
from vilbert_jax.data.region_files import IDS_FILE, ROWS_FILE, DamagedError, read_classifier, read_index

Problem = tuple[str, str]  # file, what is wrong with it


def store_problems(folder: pathlib.Path, reports: Sequence[ShardReport]) -> Iterator[Problem]:
    """Compares the index of a region store with the ids that its records have.

    Args:
        folder: of the data set.
        reports: of all shards, in the order of their names, which is that of the rows.
    """
    found = _ids(reports)
    named, counts = np.unique(found[found != b""], return_counts=True)
    if (counts > 1).any():
        first = _text(named[np.argmax(counts > 1)])
        yield "records", f"image id {first} occurs more than once ({int((counts > 1).sum())} such ids)"
    storage = reports[0].shard.storage if reports else None
    try:
        if storage is not None and storage.class_probs == "rebuilt":
            read_classifier(folder)
    except DamagedError as error:
        yield error.file, error.problem
    try:
        ids, rows = read_index(folder)
    except DamagedError as error:
        yield error.file, error.problem
        return
    if reports:
        yield from _index_problems(np.asarray(ids), np.asarray(rows), found)


def _index_problems(ids: np.ndarray, rows: np.ndarray, found: np.ndarray) -> Iterator[Problem]:
    """``ids`` [N] and ``rows`` [N] as the index has them; ``found`` [M] the id of every record, empty if unknown."""
    if len(ids) != len(found):
        yield IDS_FILE, f"names {len(ids)} images, there are {len(found)} records"
    unsorted = np.flatnonzero(ids[1:] <= ids[:-1])
    if len(unsorted):
        at = int(unsorted[0]) + 1
        yield IDS_FILE, f"is not sorted: entry {at}, {_text(ids[at])}, follows {_text(ids[at - 1])}"
    outside = (rows < 0) | (rows >= len(found))
    if outside.any():
        at = int(np.argmax(outside))
        yield ROWS_FILE, f"entry {at} is row {rows[at]}, there are {len(found)} ({int(outside.sum())} such entries)"
        ids, rows = ids[~outside], rows[~outside]
    absent = np.setdiff1d(np.arange(len(found)), rows)
    if len(absent):
        yield ROWS_FILE, f"record {absent[0]} is in no entry ({len(absent)} such records)"
    theirs = found[rows]
    wrong = (theirs != b"") & (theirs != ids)
    if wrong.any():
        at = int(np.argmax(wrong))
        yield (
            f"{IDS_FILE}, {ROWS_FILE}",
            f"give row {rows[at]} for {_text(ids[at])}, but that record is of {_text(theirs[at])} "
            f"({int(wrong.sum())} such entries)",
        )


def annotation_problems(folder: pathlib.Path, reports: Sequence[ShardReport]) -> Iterator[Problem]:
    """Compares the image ids beside the records of each split with those in them."""
    for split in sorted({report.shard.split for report in reports}):
        file = folder / ROW_IDS_FILE.format(split=split)
        if not file.exists():  # older data sets and those from elsewhere have none
            continue
        try:
            stored = id_bytes(np.load(file))
        except (ValueError, EOFError, OSError) as error:
            yield file.name, f"is damaged ({error})"
            continue
        found = _ids([report for report in reports if report.shard.split == split])
        if len(stored) != len(found):
            yield file.name, f"names the images of {len(stored)} rows, split {split!r} has {len(found)}"
            continue
        wrong = (found != b"") & (found != stored)
        if wrong.any():
            row = int(np.argmax(wrong))
            yield (
                file.name,
                f"row {row} is of image {_text(stored[row])} here, of {_text(found[row])} in its record "
                f"({int(wrong.sum())} such rows)",
            )


def _ids(reports: Sequence[ShardReport]) -> np.ndarray:
    """The image id of every record, empty where it is not known."""
    parts = [
        np.zeros(report.shard.num_records, "S1") if report.image_ids is None else report.image_ids for report in reports
    ]
    return np.concatenate(parts) if parts else np.zeros(0, "S1")


def _text(image_id: bytes) -> str:
    return repr(bytes(image_id).decode(errors="replace"))
