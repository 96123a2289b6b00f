"""What an extraction has done so far: small files, each of some pictures, that appear whole or not at all.

A part holds the regions of consecutive pictures as a store will hold them, and which pictures could not be read.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.region_codec import Storage
from vilbert_jax.errors import InputError

FOLDER = ".extraction"  # in the folder of the store
_LOCK = ".extraction.lock"
_IDENTITY = "identity.json"
_PART = re.compile(r"(\d{9})-(\d{9})\.npz")
_OUTCOME = "outcome/"  # of the names in a part; others are fields of the store's examples


class Outcome(NamedTuple):
    """What became of one picture.

    Attributes:
        number: its place in the source.
        example: from ``region_codec.encode_record``, or None where there is none.
        fell_short: see ``Extracted``.
        problem: why there is none; else empty.
    """

    number: int
    example: Mapping[str, Any] | None
    fell_short: bool = False
    problem: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """What parts belong to: two extractions that agree in it give the same store.

    Attributes:
        contract: of the features.
        storage: of the arrays.
        num_pictures: in the source.
        pictures: hash of their ids, names and contents, in order.
        given_boxes: hash of the boxes that are described; empty where they are found.
    """

    contract: FeatureContract
    storage: Storage
    num_pictures: int
    pictures: str
    given_boxes: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a dict that json.dumps accepts."""
        return dataclasses.asdict(self) | {"contract": self.contract.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Identity":
        """Reads what ``to_json`` gave."""
        contract, storage = FeatureContract.from_json(values["contract"]), Storage(**values["storage"])
        return cls(**{**values, "contract": contract, "storage": storage})

    def differences(self, other: "Identity") -> list[str]:
        """One line for each field in which they differ, this one's value first."""
        lines = self.contract.differences(other.contract)
        if self.storage != other.storage:
            lines.append(f"storage: {self.storage} here, {other.storage} there")
        if self.num_pictures != other.num_pictures:
            lines.append(f"pictures: {self.num_pictures} here, {other.num_pictures} there")
        elif self.pictures != other.pictures:
            lines.append("pictures: other files, contents or image ids, or another order")
        if self.given_boxes != other.given_boxes and self.given_boxes and other.given_boxes:
            lines.append("given boxes: others")
        return lines


def hash_of(image_ids: Sequence[str], names: Sequence[str], states: Sequence[str]) -> str:
    """Hash of the pictures of a source: another order, id, name or content gives another one."""
    digest = hashlib.sha256()
    for texts in zip(image_ids, names, states, strict=True):
        digest.update(json.dumps(texts).encode())
    return digest.hexdigest()[:32]


def _read_identity(file: pathlib.Path) -> Identity:
    try:
        return Identity.from_json(json.loads(file.read_text()))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} is damaged ({error!r}), so it cannot be told what was begun there: delete {file.parent} and start "
            "the same command again"
        ) from error


class Parts:
    """The parts of one extraction.

    Attributes:
        folder: they lie in.
        identity: what they belong to.
    """

    def __init__(self, output: pathlib.Path, identity: Identity):
        """Opens the parts in the folder of a store, or begins with none.

        Raises:
            InputError: there are parts of another extraction, or of one that cannot be told.
        """
        self.folder, self.identity = output / FOLDER, identity
        file = self.folder / _IDENTITY
        if file.exists():
            differences = identity.differences(_read_identity(file))
            if differences:
                listed = "\n".join(f"  {line}" for line in differences)
                raise InputError(
                    f"{output} was begun with something else:\n{listed}\nChoose another --output, go on with what it "
                    f"was begun with, or delete {self.folder} to start from nothing."
                )
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(file, json.dumps(identity.to_json()).encode())

    @property
    def paths(self) -> list[pathlib.Path]:
        """The parts, in the order of the pictures."""
        return sorted(path for path in self.folder.iterdir() if _PART.fullmatch(path.name))

    @property
    def done(self) -> np.ndarray:
        """[num_pictures] bool: which pictures a part has."""
        done = np.zeros(self.identity.num_pictures, bool)
        for path in self.paths:
            found = _PART.fullmatch(path.name)
            assert found
            done[int(found[1]) : int(found[2])] = True
        return done

    def write(self, outcomes: Sequence[Outcome]) -> None:
        """Writes the part of consecutive pictures, at least one; it is there whole, or not at all."""
        first, last = outcomes[0].number, outcomes[-1].number
        assert [outcome.number for outcome in outcomes] == list(range(first, last + 1))
        path = self.folder / f"{first:09d}-{last + 1:09d}.npz"
        temporary = path.with_suffix(".incomplete")
        with temporary.open("wb") as file:
            np.savez(file, **_packed(outcomes))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def remove(self) -> None:
        """Removes all of them."""
        remove_parts(self.folder.parent)


def remove_parts(output: pathlib.Path) -> None:
    """Removes the parts in the folder of a store, if there are any."""
    shutil.rmtree(output / FOLDER, ignore_errors=True)


def read_part(path: pathlib.Path) -> Iterator[Outcome]:
    """The outcomes of one part, in order.

    Raises:
        InputError: it is damaged.
    """
    summary = read_summary(path)
    arrays = _read_arrays(path, lambda name: not name.startswith(_OUTCOME))
    ends = np.cumsum(arrays["num_boxes"]) if arrays else np.zeros(0, int)
    row = 0
    for number, has, short, problem in summary:
        example = _example(arrays, row, ends) if has else None
        row += has
        yield Outcome(number, example, short, problem)


def read_summary(path: pathlib.Path) -> list[tuple[int, bool, bool, str]]:
    """Of each outcome of a part its number, whether there is an example, ``fell_short`` and ``problem``.

    Examples are not read: finishing an extraction asks for this of every part.

    Raises:
        InputError: it is damaged.
    """
    columns = _read_arrays(path, lambda name: name.startswith(_OUTCOME))
    return list(zip(*(columns[_OUTCOME + name].tolist() for name in _columns()), strict=True))


def _read_arrays(path: pathlib.Path, wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
    try:
        # Opened here, because np.load does not close a file that it cannot read.
        with path.open("rb") as file, np.load(file) as loaded:
            return {name: loaded[name] for name in loaded.files if wanted(name)}
    except Exception as error:  # numpy and zipfile have many errors for a damaged file
        raise InputError(f"{path} is damaged ({error}); delete it and start the same command again") from error


@contextlib.contextmanager
def only_one(output: pathlib.Path) -> Iterator[None]:
    """Holds the right to write to the folder of a store; the system takes it back however this process ends.

    Its file is removed with it, while the lock is held; who locks a file that is no longer there tries again.

    Raises:
        InputError: another process holds it.
    """
    path = output / _LOCK
    while True:
        with path.open("a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(f"another process is extracting to {output}: wait for it, or stop it first") from error
            if not _is_at(path, handle.fileno()):  # its holder ended after it was opened here
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(path: pathlib.Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _columns() -> tuple[str, ...]:
    return ("number", "has_example", "fell_short", "problem")


def _packed(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Outcomes as arrays: boxes of all pictures one after the other."""
    columns = ([o.number for o in outcomes], [o.example is not None for o in outcomes])
    columns += ([o.fell_short for o in outcomes], [o.problem for o in outcomes])
    arrays: dict[str, Any] = {
        _OUTCOME + name: np.array(column) for name, column in zip(_columns(), columns, strict=True)
    }
    examples = [outcome.example for outcome in outcomes if outcome.example is not None]
    for name in examples[0] if examples else ():
        values = [example[name] for example in examples]
        arrays[name] = np.concatenate(values) if isinstance(values[0], np.ndarray) else np.array(values)
    return arrays


def _example(arrays: Mapping[str, np.ndarray], row: int, ends: np.ndarray) -> dict[str, Any]:
    """The example of one picture: a number or text of each, or as many rows as it has boxes."""
    boxes = slice(int(ends[row - 1]) if row else 0, int(ends[row]))
    whole = {"image_id", "width", "height", "num_boxes"}
    return {name: array[row].item() if name in whole else array[boxes] for name, array in arrays.items()}


def _write(path: pathlib.Path, data: bytes) -> None:
    temporary = path.with_suffix(".incomplete")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
