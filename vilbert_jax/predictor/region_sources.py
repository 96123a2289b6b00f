"""Where a predictor's regions come from: a store, a detector, or neither.

H, W height and width of a picture.
"""

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from vilbert_jax.checkpoints.detectors import Detector, load_detector
from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.region_codec import RegionRecord
from vilbert_jax.data.region_store import RegionStore
from vilbert_jax.extraction.extractor import RegionExtractor
from vilbert_jax.predictor.checks import check_path


class Found(Protocol):
    """What the predictor needs of one picture's detections."""

    @property
    def record(self) -> RegionRecord:
        """Boxes and features."""
        ...

    @property
    def fell_short(self) -> bool:
        """Nothing in the picture reached the quality that the selection rule asks for."""
        ...


@runtime_checkable
class Extracts(Protocol):
    """What the predictor needs of a detector; ``vilbert_jax.extraction.extractor.RegionExtractor`` has it."""

    @property
    def contract(self) -> FeatureContract:
        """What the features mean."""
        ...

    def extract(self, pictures: Iterable[tuple[str, np.ndarray]], /) -> Iterator[Found]:
        """(image id, [H,W,3] uint8 RGB) in, what was found out, in order."""
        ...


class RegionSources(NamedTuple):
    """What finds the regions of pictures.

    Attributes:
        store: knows pictures by id.
        extractor: looks at pictures.
    """

    store: RegionStore | None
    extractor: Extracts | None

    @property
    def contracts(self) -> dict[str, FeatureContract]:
        """What the features of each mean, by what messages call it."""
        detected = {} if self.extractor is None else {"the detector": self.extractor.contract}
        stored = {} if self.store is None else {f"the region store {self.store.path}": self.store.contract}
        return detected | stored


def open_sources(
    store: str | os.PathLike[str] | RegionStore | None,
    detector: str | os.PathLike[str] | Detector | Extracts | None,
) -> RegionSources:
    """The region store and what looks at pictures, where there are such.

    Raises:
        InputError: one is not what it should be.
    """
    return RegionSources(_open_store(store), _open_extractor(detector))


def _open_store(store: str | os.PathLike[str] | RegionStore | None) -> RegionStore | None:
    if store is None or isinstance(store, RegionStore):
        return store
    check_path("store", store, "a RegionStore")
    return RegionStore(store)


def _open_extractor(detector: str | os.PathLike[str] | Detector | Extracts | None) -> Extracts | None:
    if isinstance(detector, str | os.PathLike):
        detector = load_detector(detector)
    if isinstance(detector, Detector):
        return RegionExtractor(detector)
    if detector is not None and not isinstance(detector, Extracts):
        check_path("detector", detector, "a Detector", "a RegionExtractor")
    return detector
