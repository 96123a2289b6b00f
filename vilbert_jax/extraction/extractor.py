"""A detector over pictures: batches of one canvas, on all devices of a mesh, results in the order of the pictures.

H, W sides of a picture, n its regions, F features, C classes.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from vilbert_jax.checkpoints.detectors import Detector
from vilbert_jax.data.region_codec import RegionRecord
from vilbert_jax.detector.detections import describe_boxes, detect
from vilbert_jax.detector.preparation import Prepared, prepare, stack
from vilbert_jax.detector.selection import Confident, SelectionRule
from vilbert_jax.errors import InputError
from vilbert_jax.extraction.batching import in_groups, in_order
from vilbert_jax.extraction.boxes import checked_boxes
from vilbert_jax.extraction.contract import contract_of
from vilbert_jax.sharding import BATCH_AXES, MeshConfig, batch_sharding, make_mesh, num_batch_shards

_WINDOW = 16  # pictures, beyond four batches, that may wait for others of their canvas
_LEAST_PLACES = 16  # places for given boxes; more are powers of two, so that few programs are compiled

T = TypeVar("T")


class Extracted(NamedTuple):
    """What the detector saw in one picture.

    Attributes:
        record: boxes in raw pixels, features and class probabilities, as a region store has them.
        classes: [n] likeliest object of each region, from 0, background not counted.
        class_confidences: [n] float32, its probability.
        attributes: [n] likeliest attribute, from 0, "none" not counted.
        attribute_confidences: [n] float32, its probability.
        fell_short: the rule did not find what it asks for and the best of what there is was kept.
    """

    record: RegionRecord
    classes: np.ndarray
    class_confidences: np.ndarray
    attributes: np.ndarray
    attribute_confidences: np.ndarray
    fell_short: bool


class ReadyPicture(NamedTuple):
    """A picture that is resized already, with what its results need of the raw one."""

    image_id: str
    height: int
    width: int
    prepared: Prepared


class RegionExtractor:
    """Regions of pictures, under one selection rule.

    What a picture gives does not depend on the others, on the batch size or on the number of devices, up to the last
    bits of floating-point sums. One program is compiled for each canvas that occurs, of at most seven.

    Attributes:
        detector: whose parameters lie on every device of the mesh.
        rule: which regions are kept.
        contract: what the features mean, for a store and for a checkpoint's comparison.
        num_rows: pictures a step: ``batch_size``, filled up to a multiple of the devices.
        given_boxes: empty: this extractor finds its boxes.
    """

    given_boxes = ""

    def __init__(
        self,
        detector: Detector,
        rule: SelectionRule = Confident(),  # noqa: B008  (frozen)
        *,
        batch_size: int = 1,
        mesh: Mesh | None = None,
    ):
        """Puts the detector on the devices.

        Args:
            detector: from ``load_detector``.
            rule: which regions are kept.
            batch_size: pictures a step, over all devices.
            mesh: over whose batch axes pictures are spread; by default the first local device alone.

        Raises:
            InputError: the batch size is not positive, or the rule asks for more regions than the detector proposes.
        """
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; a step takes at least one picture")
        most = detector.model.config.max_proposals
        if rule.min_boxes > most:
            raise InputError(
                f"the rule keeps at least {rule.min_boxes} regions, the detector proposes at most {most}: ask for fewer"
            )
        mesh = make_mesh(MeshConfig(), jax.local_devices()[:1]) if mesh is None else mesh
        shards = num_batch_shards(mesh)
        self.detector, self.rule, self.contract = detector, rule, contract_of(detector, rule)
        self.num_rows = -(-batch_size // shards) * shards
        self._window = 4 * self.num_rows + _WINDOW
        self._by_row = batch_sharding(mesh)
        self._params = jax.device_put(detector.params, jax.NamedSharding(mesh, jax.P()))
        self._detect = _on_rows(functools.partial(detect, detector.model, rule=rule), mesh)
        self._describe = _on_rows(functools.partial(describe_boxes, detector.model), mesh)

    def extract(self, pictures: Iterable[tuple[str, np.ndarray]]) -> Iterator[Extracted]:
        """The regions of each picture, in the order of the pictures; lazy.

        A picture in which nothing is proposed at all gets one region, the whole of it.

        Args:
            pictures: image id and [H, W, 3] uint8, RGB (``read_picture``).

        Raises:
            InputError: a picture is none, see ``prepare``.
        """
        return self.extract_ready(self.ready(image_id, picture) for image_id, picture in pictures)

    def ready(self, image_id: str, picture: np.ndarray) -> ReadyPicture:
        """Resizes one picture, on the host; safe from several threads.

        Raises:
            InputError: it is no [H, W, 3] uint8.
        """
        prepared = prepare(picture, self.detector.model.config.flavour)
        return ReadyPicture(image_id, prepared=prepared, height=picture.shape[0], width=picture.shape[1])

    def extract_ready(self, pictures: Iterable[ReadyPicture]) -> Iterator[Extracted]:
        """``extract`` of pictures that ``ready`` gave, so that others can resize them ahead."""
        groups = in_groups(pictures, _canvas, size=self.num_rows, window=self._window)
        return in_order(_run(groups, self._start, self._fetch))

    def describe(self, picture: np.ndarray, boxes: np.ndarray) -> Extracted:
        """Given boxes of one picture, in their order: nothing is proposed or selected. ``image_id`` is empty.

        Args:
            picture: [H, W, 3] uint8, RGB.
            boxes: [n, 4] float, x1, y1, x2, y2 in raw pixels; what lies outside the picture is cut off.

        Raises:
            InputError: no boxes, or such as no picture, or this one, can have.
        """
        ready = self.ready("", picture)
        checked = checked_boxes(boxes, "given boxes", (ready.height, ready.width))
        return next(self.describe_ready([(ready, checked)]))

    def describe_ready(self, pictures: Iterable[tuple[ReadyPicture, np.ndarray]]) -> Iterator[Extracted]:
        """``describe`` of many pictures that ``ready`` gave, each with its boxes, which are not checked again; lazy."""
        groups = in_groups(pictures, _canvas_and_places, size=self.num_rows, window=self._window)
        return in_order(_run(groups, self._start_given, _fetch_given))

    def _start(self, pictures: Sequence[ReadyPicture]) -> Any:
        """Detections to come; rows that no picture fills repeat the first one."""
        filled = _filled(pictures, self.num_rows)
        batch = jax.device_put(stack([picture.prepared for picture in filled]), self._by_row)
        return self._detect(self._params, batch)

    def _start_given(self, pictures: Sequence[tuple[ReadyPicture, np.ndarray]]) -> Any:
        filled = _filled(pictures, self.num_rows)
        places = np.zeros((self.num_rows, _num_places(filled[0][1]), 4), np.float32)
        mask = np.zeros(places.shape[:2], bool)
        for row, (picture, boxes) in enumerate(filled):
            places[row, : len(boxes)] = np.clip(boxes, 0, _corner(picture))
            mask[row, : len(boxes)] = True
        batch = (stack([picture.prepared for picture, _ in filled]), places, mask)
        return self._describe(self._params, *jax.device_put(batch, self._by_row))

    def _fetch(self, group: list[tuple[int, ReadyPicture]], detections: Any) -> Iterator[tuple[int, Extracted]]:
        found = jax.device_get(detections)
        for row, (number, picture) in enumerate(group):
            if found.mask[row].any():
                yield number, _result(picture, found, row)
            else:
                whole = np.concatenate([[0, 0], _corner(picture)[2:]])[None]
                yield number, next(self.describe_ready([(picture, whole)]))._replace(fell_short=True)


def _run(
    groups: Iterable[list[tuple[int, T]]],
    start: Callable[[Sequence[T]], Any],
    fetch: Callable[[list[tuple[int, T]], Any], Iterator[tuple[int, Extracted]]],
) -> Iterator[tuple[int, Extracted]]:
    """Numbered results; while one batch is fetched the next one is computed already."""
    running: tuple[list[tuple[int, T]], Any] | None = None
    for group in groups:
        previous, running = running, (group, start([item for _, item in group]))
        if previous is not None:
            yield from fetch(*previous)
    if running is not None:
        yield from fetch(*running)


def _fetch_given(group: list[tuple[int, tuple[ReadyPicture, np.ndarray]]], described: Any) -> Iterator[Any]:
    found = jax.device_get(described)
    for row, (number, (picture, _)) in enumerate(group):
        yield number, _result(picture, found, row)


def _filled(items: Sequence[T], num_rows: int) -> list[T]:
    return [*items, *[items[0]] * (num_rows - len(items))]


def _on_rows(function: Any, mesh: Mesh) -> Any:
    """``function(params, *batch)``, compiled; every device runs its own rows, as if it were alone."""
    rows = jax.P(BATCH_AXES)

    def spread(params: Any, *batch: Any) -> Any:
        specs = (jax.P(), *[rows] * len(batch))
        return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=rows, check_vma=False)(params, *batch)

    return jax.jit(spread)


def _num_places(boxes: np.ndarray) -> int:
    return max(_LEAST_PLACES, 1 << (len(boxes) - 1).bit_length())


def _canvas_and_places(item: tuple[ReadyPicture, np.ndarray]) -> tuple[int, ...]:
    picture, boxes = item
    return (*_canvas(picture), _num_places(boxes))


def _canvas(picture: ReadyPicture) -> tuple[int, ...]:
    return picture.prepared.pixels.shape


def _corner(picture: ReadyPicture) -> np.ndarray:
    """The largest x1, y1, x2, y2 inside a picture."""
    return np.array([picture.width, picture.height] * 2, np.float32)


def _result(picture: ReadyPicture, found: Any, row: int) -> Extracted:
    """One picture's rows that hold a region; ``found`` is ``Detections`` on the host."""
    count = int(found.mask[row].sum())

    def kept(array: np.ndarray) -> np.ndarray:
        return np.array(array[row, :count])  # a copy, so that the batch can go

    boxes = np.clip(kept(found.boxes), 0, _corner(picture))  # rounding aside, they are inside
    size = {"width": picture.width, "height": picture.height}
    features, class_probs = kept(found.features), kept(found.class_probs)
    return Extracted(
        RegionRecord(picture.image_id, **size, boxes=boxes, features=features, class_probs=class_probs),
        classes=kept(found.classes),
        class_confidences=kept(found.class_confidences),
        attributes=kept(found.attributes),
        attribute_confidences=kept(found.attribute_confidences),
        fell_short=bool(found.fell_short[row]),
    )
