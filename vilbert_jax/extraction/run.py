"""From many pictures to a region store: resumable, memory bounded, what cannot be read is listed and passed over.

OUTPUT/1.0.0/            the store, when all is done
OUTPUT/.extraction/      parts, until then
OUTPUT/unreadable.tsv    files without regions and why, if there are any
OUTPUT/fell_short.tsv    pictures in which nothing reached what the selection rule asks for, if there are any
"""

import collections
import itertools
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import tqdm

from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.region_codec import Storage, encode_record
from vilbert_jax.errors import InputError
from vilbert_jax.extraction.batching import ahead
from vilbert_jax.extraction.extractor import Extracted, ReadyPicture
from vilbert_jax.extraction.parts import Identity, Outcome, Parts, hash_of, only_one, read_summary, remove_parts
from vilbert_jax.extraction.sources import PictureSet, printable
from vilbert_jax.progress import bar_interval
from vilbert_jax.signals import StopRequest

UNREADABLE = "unreadable.tsv"
FELL_SHORT = "fell_short.tsv"
_PICTURES_A_PART = 32  # what a kill can cost


class Extractor(Protocol):
    """``RegionExtractor``, or ``GivenBoxExtractor``."""

    @property
    def contract(self) -> FeatureContract:
        """What the features mean."""
        ...

    @property
    def given_boxes(self) -> str:
        """Hash of the boxes that are described; empty where they are found."""
        ...

    def ready(self, image_id: str, picture: np.ndarray, /) -> ReadyPicture:
        """Resizes a picture; InputError where it cannot be used."""
        ...

    def extract_ready(self, pictures: Iterable[ReadyPicture], /) -> Iterator[Extracted]:
        """The regions of each picture, in order."""
        ...


class StoreBuilding(NamedTuple):
    """How a store gets to disk, which this layer does not know.

    Attributes:
        build: makes the store of parts inside a folder; returns its own folder there, named after its version.
        finished: what the store in a folder was made from; None where there is none.
    """

    build: Callable[[Parts, pathlib.Path], pathlib.Path]
    finished: Callable[[pathlib.Path], Identity | None]


def extract_to_store(
    extractor: Extractor,
    pictures: PictureSet,
    output: pathlib.Path,
    building: StoreBuilding,
    *,
    storage: Storage = Storage(),  # noqa: B008  (frozen)
    num_readers: int = 4,
    say: Callable[[str], None] = print,
) -> None:
    """Extracts all pictures into the region store ``output``; goes on where an earlier run was ended, however it was.

    A finished store of the same pictures, detector and rule is left alone.

    Args:
        extractor: of regions.
        pictures: in the order that the store will have.
        output: folder of the store, made if it does not exist.
        building: how a store gets to disk.
        storage: of its arrays.
        num_readers: threads that read and resize pictures; each holds one (memory: ``read_picture``).
        say: takes one line on what was done, or went wrong.

    Raises:
        InputError: ``output`` belongs to other pictures, another detector or rule, or is in use; or no picture at all
            could be read.
        KeyboardInterrupt: SIGINT or SIGTERM came, and what was done by then is saved.
    """
    if num_readers < 1:
        raise InputError(f"{num_readers} readers: expected at least one thread")
    identity = Identity(
        contract=extractor.contract,
        storage=storage,
        num_pictures=len(pictures),
        pictures=hash_of(pictures.image_ids, pictures.names, pictures.states),
        given_boxes=extractor.given_boxes,
    )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise InputError(f"{output} is a file; name a folder for the store") from error
    with only_one(output):
        if (there := building.finished(output)) is not None:
            _refuse_other(output, identity, there)
            remove_parts(output)
            say(f"{output} is complete already; delete it to extract again")
            return
        _refuse_other_folders(output)
        parts = Parts(output, identity)
        _extract_missing(extractor, pictures, parts, num_readers)
        _finish(parts, pictures, output, building, say)


def _refuse_other(output: pathlib.Path, identity: Identity, there: Identity) -> None:
    if differences := identity.differences(there):
        listed = "\n".join(f"  {line}" for line in differences)
        raise InputError(
            f"{output} is complete, and was made from something else:\n{listed}\nChoose another --output, or delete it."
        )


def _refuse_other_folders(output: pathlib.Path) -> None:
    """Before hours of work whose result would find no place."""
    if others := sorted(path.name for path in output.iterdir() if path.is_dir() and not path.name.startswith(".")):
        raise InputError(
            f"{output} has the folder {others[0]!r}, which is no finished extraction: name a folder of its own for the "
            "store, or delete it"
        )


def _extract_missing(extractor: Extractor, pictures: PictureSet, parts: Parts, num_readers: int) -> None:
    """Writes the parts that are not there; those of an interrupted run end with the last picture that it finished."""
    done = parts.done
    missing = np.flatnonzero(~done).tolist()
    if not missing:
        return
    pending: list[Outcome] = []
    progress = tqdm.tqdm(
        total=len(done),
        initial=int(done.sum()),
        desc="extracting",
        unit="picture",
        dynamic_ncols=True,
        mininterval=bar_interval(),
    )
    with progress as bar, StopRequest() as stop:
        try:
            for outcome in _outcomes(extractor, pictures, parts.identity, missing, num_readers):
                if pending and (len(pending) == _PICTURES_A_PART or pending[-1].number + 1 != outcome.number):
                    parts.write(pending)
                    pending = []
                pending.append(outcome)
                bar.update()
                if stop.requested:
                    raise KeyboardInterrupt
        finally:
            if pending:
                parts.write(pending)


def _outcomes(
    extractor: Extractor, pictures: PictureSet, identity: Identity, numbers: Sequence[int], num_readers: int
) -> Iterator[Outcome]:
    """What became of each picture, in order."""

    def look(number: int) -> ReadyPicture | InputError:
        try:
            return extractor.ready(pictures.image_ids[number], pictures.read(number))
        except InputError as error:
            return error

    looked: collections.deque[tuple[int, InputError | None]] = collections.deque()  # and not passed on yet

    def readable() -> Iterator[ReadyPicture]:
        found = ahead(look, numbers, num_threads=num_readers, num_ahead=2 * num_readers)
        for number, picture in zip(numbers, found, strict=True):
            is_readable = isinstance(picture, ReadyPicture)
            looked.append((number, None if is_readable else picture))
            if is_readable:
                yield picture

    for extracted in extractor.extract_ready(readable()):
        yield from _unreadable(looked)
        number, _ = looked.popleft()
        yield _encoded(number, extracted, identity)
    yield from _unreadable(looked)


def _unreadable(looked: "collections.deque[tuple[int, InputError | None]]") -> Iterator[Outcome]:
    """The unreadable pictures that come first."""
    while looked and looked[0][1] is not None:
        number, problem = looked.popleft()
        yield Outcome(number, None, problem=printable(str(problem)))


def _encoded(number: int, extracted: Extracted, identity: Identity) -> Outcome:
    try:
        example = encode_record(extracted.record, identity.contract, identity.storage)
    except InputError as error:  # one picture's numbers, or its id, cannot be stored: no reason to lose the others
        return Outcome(number, None, problem=printable(str(error)))
    return Outcome(number, example, fell_short=extracted.fell_short)


def _finish(
    parts: Parts,
    pictures: PictureSet,
    output: pathlib.Path,
    building: StoreBuilding,
    say: Callable[[str], None],
) -> None:
    """Builds the store, and only then lets the parts go."""
    unreadable, fell_short = [], []
    for number, has_example, short, problem in itertools.chain.from_iterable(map(read_summary, parts.paths)):
        name = pictures.names[number]
        if not has_example:
            unreadable.append((name, problem))
        elif short:
            fell_short.append((pictures.image_ids[number], name))
    _write_table(output / UNREADABLE, ("file", "reason"), unreadable)
    _write_table(output / FELL_SHORT, ("image_id", "file"), fell_short)
    if len(unreadable) == len(pictures):
        parts.remove()  # so that the next run looks at the pictures again
        raise InputError(f"none of the {len(pictures)} pictures can be used; {output / UNREADABLE} says why")
    store = building.build(parts, parts.folder / "store")
    for path in (*store.rglob("*"), store):
        _to_disk(path)
    os.rename(store, output / store.name)
    _to_disk(output)
    parts.remove()
    if unreadable:
        say(f"{len(unreadable)} of {len(pictures)} pictures cannot be used; {output / UNREADABLE} lists them")
    if fell_short:
        say(
            f"in {len(fell_short)} pictures nothing reached what the selection rule asks for, and the best of the rest "
            f"was kept; {output / FELL_SHORT} lists them"
        )
    say(f"{output}: regions of {len(pictures) - len(unreadable)} pictures")


def _to_disk(path: pathlib.Path) -> None:
    """Waits until a power cut could not harm a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_table(path: pathlib.Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Tab-separated lines; no file where there are no rows."""
    lines = ["\t".join(re.sub(r"[\t\r\n]+", " ", cell) for cell in row) for row in rows]
    if lines:
        path.write_text("\n".join(["\t".join(header), *lines, ""]))
    else:
        path.unlink(missing_ok=True)
