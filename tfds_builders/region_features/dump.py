"""What every reader of a feature dump offers: raw records, in parts that can be read alone."""

import dataclasses
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from vilbert_jax.errors import InputError

Background = Literal["first", "last", "absent"]
BoxUnits = Literal["pixels", "fractions"]


class RawRecord(NamedTuple):
    """One picture as the dump has it. n boxes, F features, C classes.

    Attributes:
        image_id: the picture.
        where: file and record, for messages.
        width: of the picture in pixels, None where the format does not tell.
        height: likewise.
        boxes: [n,4], x1, y1, x2, y2 in the units of the dump's traits.
        features: [n,F].
        class_probs: [n,C] or None.
    """

    image_id: str
    where: str
    width: int | None
    height: int | None
    boxes: np.ndarray
    features: np.ndarray
    class_probs: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Traits:
    """What a format tells about all its records.

    Attributes:
        format: for people.
        box_units: of the boxes; "fractions" of the picture's sides.
        has_sizes: whether records know the picture's size.
        background: where the background is among the class probabilities; None if there are some and the format does
            not tell, "absent" if there are none.
    """

    format: str
    box_units: BoxUnits = "pixels"
    has_sizes: bool = True
    background: Background | None = "absent"


class Dump(Protocol):
    """A feature dump. It pickles; files are opened where they are read."""

    @property
    def source(self) -> str:
        """Where it lies."""
        ...

    @property
    def traits(self) -> Traits:
        """What its format tells."""
        ...

    def parts(self, records: int) -> Sequence[Any]:
        """Cuts the dump into parts of about `records` records without reading it; parts pickle."""
        ...

    def read(self, part: Any) -> Iterator[RawRecord]:
        """The records of one part, in order.

        Raises:
            InputError: naming file and record.
        """
        ...


@dataclasses.dataclass(frozen=True)
class JoinedDump:
    """Several dumps of one format, one after the other."""

    dumps: tuple[Dump, ...]

    def __post_init__(self) -> None:
        """Raises InputError if the dumps differ in format."""
        first = self.dumps[0]
        for other in self.dumps[1:]:
            if other.traits != first.traits:
                raise InputError(
                    f"{first.source} is {first.traits.format}, {other.source} is {other.traits.format}; "
                    "import one format at a time: --source=FILE, or a pattern such as --source='DIR/*.tsv'"
                )

    @property
    def source(self) -> str:
        """The first of the dumps and their number."""
        return f"{self.dumps[0].source} and {len(self.dumps) - 1} more"

    @property
    def traits(self) -> Traits:
        """What all of them have in common."""
        return self.dumps[0].traits

    def parts(self, records: int) -> Sequence[Any]:
        """The parts of every dump."""
        return [(number, part) for number, dump in enumerate(self.dumps) for part in dump.parts(records)]

    def read(self, part: Any) -> Iterator[RawRecord]:
        """The records of one part."""
        number, inner = part
        return self.dumps[number].read(inner)


def first_record(dump: Dump) -> RawRecord:
    """The first record.

    Raises:
        InputError: there is none, or it is bad.
    """
    for part in itertools.islice(dump.parts(sys.maxsize), 1):
        for record in dump.read(part):
            return record
    raise InputError(f"{dump.source} ({dump.traits.format}) holds no records; check that it was copied whole")
