"""What the examples of every downstream task are made of: annotations joined with region stores, texts, regions."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np

from vilbert_jax.data.annotations import Rows, how_to_get, metadata, open_annotations, open_regions, require_features
from vilbert_jax.data.coverage import Coverage, keep_covered
from vilbert_jax.data.feature_contract import NOT_READ_BY_TASKS, FeatureContract
from vilbert_jax.data.region_store import RegionStore
from vilbert_jax.data.task_regions import (
    Arrangement,
    arrange,
    arrange_with_candidates,
    arrange_with_given,
    blanked,
)
from vilbert_jax.data.text import Tokenizer, Truncation, load_tokenizer, pack, pack_pair
from vilbert_jax.errors import InputError

GivenBoxes = Literal["none", "beside", "candidates"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExamplesConfig:
    """What a task reads. The fields are keys of its recipe.

    Attributes:
        annotations: TFDS ``name/config`` or ``name``.
        regions: region store, TFDS ``name/config`` or a folder.
        vocab: ``vocab.txt``, tokenizer folder, or hub name.
        batch_size: rows of the global batch.
        text_length: T, special tokens included.
        given_regions: region store of annotated boxes, for the tasks that read them; empty for none.
        seed: of order, negatives and names.
        data_dir: TFDS folder; empty or None means ``TFDS_DATA_DIR`` or ``~/tensorflow_datasets``.
        max_regions: R, the global region not counted; of an image with more boxes the first R are kept.
        truncation: of a text that is too long, see ``text.pack``.
        min_coverage: least share of a split's rows whose image is in the region stores. Others are left out of
            training; an evaluation refuses to leave out any unless told to.
        task_token: number of the task, for models that have task tokens.
        blank_pictures: read nothing of any picture: what the language alone tells.
        build_hint: the command that builds the annotations; empty or None means one made up from the data set's name.
        embedded_hint: the command that runs on embedded data instead; empty for none.
    """

    annotations: str
    regions: str
    vocab: str
    batch_size: int
    text_length: int
    given_regions: str = ""
    seed: int = 0
    data_dir: str | None = None
    max_regions: int = 100
    truncation: Truncation = "keep_sep"
    min_coverage: float = 0.01
    task_token: int = 0
    blank_pictures: bool = False
    build_hint: str | None = None
    embedded_hint: str = ""

    def __post_init__(self) -> None:
        """Refuses values that cannot work, by name."""
        for name, minimum in {"batch_size": 1, "text_length": 4, "max_regions": 1}.items():
            if getattr(self, name) < minimum:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {minimum}")
        if not 0 <= self.min_coverage <= 1:
            raise InputError(f"min_coverage is {self.min_coverage}; it is a share, between 0 and 1")
        if self.truncation not in get_args(Truncation):
            raise InputError(f"truncation is {self.truncation!r}; use one of {', '.join(get_args(Truncation))}")

    def embedded_names(self) -> list[str]:
        """Data sets among these that are drawn on first use, ``scenes/...``."""
        names = (self.annotations, self.regions, self.given_regions)
        return [name for name in names if name.startswith("scenes/")]

    def open(self, split: str, features: tuple[str, ...], *, given: GivenBoxes = "none") -> "Examples":
        """Opens one split: the rows whose image is in the region stores.

        Args:
            split: as ``open_annotations`` takes it.
            features: that the annotations must have, besides ``image_id``.
            given: what annotated boxes are for: ``none``, ``beside`` the detected ones (VCR), or ``candidates`` to
                train on (referring expressions). The last two need ``given_regions``.

        Raises:
            InputError: data or vocabulary are missing or do not belong together; the message says what to do.
        """
        hint = self._hint(self.annotations, self.build_hint)
        rows = open_annotations(self.annotations, split, data_dir=self.data_dir, hint=hint)
        require_features(rows, self.annotations, ("image_id", *features))
        return self.join(rows, split, given=given)

    def join(self, rows: Rows, split: str, *, given: GivenBoxes = "none") -> "Examples":
        """Joins annotations with the region stores; for rows that are no TFDS data set, such as a list of dicts.

        Args:
            rows: dicts that have an ``image_id``.
            split: what they are called in messages and metrics.json.
            given: see ``open``.

        Raises:
            InputError: stores or vocabulary are missing, or do not belong to the rows.
        """
        store = open_regions(self.regions, data_dir=self.data_dir, hint=self._hint(self.regions))
        stores = [store]
        if given != "none":
            stores.append(open_regions(self.given_regions, data_dir=self.data_dir, hint=self._hint(self.given_regions)))
            _check_same_features(*stores)
        facts = metadata(rows)
        used, coverage = keep_covered(rows, *stores, least=self.min_coverage, split=split)
        tokenizer = load_tokenizer(self.vocab)
        return Examples(self, split, used, tuple(stores), tokenizer, coverage, facts, given)

    def _hint(self, missing: str, build_hint: str | None = None) -> str:
        return how_to_get(missing, data_dir=self.data_dir, build_hint=build_hint, embedded_hint=self.embedded_hint)


@dataclasses.dataclass(frozen=True)
class Examples:
    """One opened split: what a task's source makes its examples of. Pickles; safe to read from several threads.

    Attributes:
        config: what was opened.
        split: its name.
        rows: annotations of images that the stores have.
        stores: of detected regions and, where the task reads them, of given boxes.
        tokenizer: of the texts.
        coverage: of all annotations of the split by the stores.
        metadata: what the builder of the annotations noted.
        given: what the given boxes are for.
    """

    config: ExamplesConfig
    split: str
    rows: Rows
    stores: tuple[RegionStore, ...]
    tokenizer: Tokenizer
    coverage: Coverage
    metadata: dict[str, Any]
    given: GivenBoxes = "none"

    @property
    def contract(self) -> FeatureContract:
        """What the region features mean."""
        return self.stores[0].contract

    def __len__(self) -> int:
        """Number of rows whose image has regions."""
        return len(self.rows)

    def require_labels(self, has_label: Callable[[Any], bool]) -> None:
        """Raises InputError if one of up to 64 rows, spread over the split, has no label, as in test splits.

        Args:
            has_label: of a row of the annotations.
        """
        for index in range(0, len(self), -(-len(self) // 64)):
            if not has_label(self.rows[index]):
                raise self.without_labels(f", such as row {index}")

    def without_labels(self, which: str = "") -> InputError:
        """The error of a run on a split that lacks labels; ``which`` names rows."""
        return InputError(
            f"split {self.split!r} of {self.config.annotations!r} has rows without labels{which}: nothing can be "
            "learned from them, and no checkpoint chosen by them. Set --config.train_split and --config.eval_split to "
            "splits that have labels"
        )

    def image_id(self, index: int) -> str:
        """The image of a row."""
        return text_of(self.rows[index]["image_id"])

    def arrangement(self, image_id: str) -> Arrangement:
        """The regions of an image in their slots.

        Raises:
            InputError: the two stores have pictures of different sizes under this id.
        """
        regions, detected = self.config.max_regions, self.stores[0].stored(image_id)
        match self.given:
            case "none":
                return arrange(detected, max_regions=regions)
            case "beside":
                return arrange_with_given(detected, self.stores[1].stored(image_id), max_regions=regions)
            case "candidates":
                return arrange_with_candidates(detected, self.stores[1].stored(image_id), max_regions=regions)

    def region_fields(self, arrangement: Arrangement) -> dict[str, np.ndarray]:
        """The fields of a batch for the regions of one image, without the leading axis."""
        regions = arrangement.regions
        return (blanked(regions) if self.config.blank_pictures else regions)._asdict()

    def text_fields(self, *texts: str) -> dict[str, np.ndarray]:
        """The fields of a batch for one text a row: token_ids, token_types, text_mask, each [len(texts), T]."""
        config = self.config
        packed = [
            pack(self.tokenizer.encode(text), config.text_length, self.tokenizer, truncation=config.truncation)
            for text in texts
        ]
        return {
            "token_ids": np.stack([row.token_ids for row in packed]),
            "token_types": np.zeros((len(texts), config.text_length), np.int32),
            "text_mask": np.stack([row.text_mask for row in packed]),
        }

    def pair_fields(self, first: np.ndarray, seconds: list[np.ndarray]) -> dict[str, np.ndarray]:
        """The same fields for one text before each of several: word pieces [n] and, for every row, [m]."""
        packed = [pack_pair(first, second, self.config.text_length, self.tokenizer) for second in seconds]
        return {name: np.stack([getattr(row, name) for row in packed]) for name in packed[0]._fields}


def _check_same_features(detected: RegionStore, given: RegionStore) -> None:
    differences = detected.contract.differences(given.contract, ignoring=NOT_READ_BY_TASKS)
    if differences:
        raise InputError(
            f"the features of the detected regions {detected.path} (here) and of the given boxes {given.path} (there) "
            "do not mean the same:\n  "
            + "\n  ".join(differences)
            + "\nMake both with the same detector, or set --config.given_regions to a store that was"
        )


def text_of(value: str | bytes) -> str:
    """A text feature as TFDS or a test gives it."""
    return value.decode() if isinstance(value, bytes) else value


def texts_of(values: Any) -> list[str]:
    """A sequence of texts as TFDS or a test gives it."""
    return [text_of(value) for value in values]
