"""Pre-training examples: a picture, a caption that may belong to another picture, and what is hidden of both.

B rows of the batch, T tokens, S = R + 1 region slots, R regions, F feature width, C target width, M predicted tokens,
N NCE negatives. The recipe is the released one (Lu et al. 2019; vilbert_beta and vilbert-multi-task,
concept_cap_dataset.py) except where the docstrings of ``masking`` and of this file say otherwise.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, get_args, runtime_checkable

import numpy as np

from vilbert_jax.data.annotations import Rows, how_to_get, metadata, open_annotations, open_regions, require_features
from vilbert_jax.data.coverage import Coverage, keep_covered
from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.masking import RegionMaskingRecipe, mask_regions, mask_tokens
from vilbert_jax.data.negatives import nce_negatives
from vilbert_jax.data.region_codec import RegionRecord, StoredRegions, decode_record
from vilbert_jax.data.text import Tokenizer, load_tokenizer, pack
from vilbert_jax.data.transforms import pad_rows, region_row, relative_boxes
from vilbert_jax.errors import InputError

RegionTargets = Literal["class_probs", "features"]

_MAX_REDRAWS = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainingDataConfig:
    """What pre-training reads and how it hides parts of it. ``open(split)`` gives the examples.

    Attributes:
        annotations: TFDS ``name/config`` with text features ``image_id`` and ``caption``.
        regions: region store, TFDS ``name/config`` or a folder.
        vocab: ``vocab.txt``, tokenizer folder, or hub name.
        batch_size: rows of the global batch.
        seed: of order, masking and mismatches.
        min_coverage: least share of a split's pairs whose image is in the region store. Pairs without are left out; a
            smaller share than this is an error, because then the store is hardly the one that belongs to the pairs.
        data_dir: TFDS folder; None means ``TFDS_DATA_DIR`` or ``~/tensorflow_datasets``.
        text_length: T, [CLS] and [SEP] included; longer captions lose their tail.
        max_regions: R; of an image with more boxes the first R are kept.
        max_masked_tokens: M. Where more tokens are selected, only the first M are masked and predicted. At the default
            sizes this happens to 2 in a million full rows (binomial, 34 tokens, rate 0.15, more than 16).
        token_mask_rate: share of word pieces to predict.
        region_mask_rate: share of regions to predict.
        region_masking: recipe, see ``masking.mask_regions``.
        mismatch_rate: share of examples whose caption is that of another image.
        region_targets: ``class_probs`` (the detector's class distribution) or ``features`` (before masking).
        num_nce_negatives: negatives drawn for each region for the NCE objective, 0 for none; see ``nce_negatives``.
        build_hint: the command that builds the annotations; empty or None means one made up from the data set's name.
        embedded_hint: the command that runs on embedded data instead; empty for none.
    """

    annotations: str
    regions: str
    vocab: str
    batch_size: int
    seed: int = 0
    min_coverage: float = 0.01
    data_dir: str | None = None
    text_length: int = 36
    max_regions: int = 36
    max_masked_tokens: int = 16
    token_mask_rate: float = 0.15
    region_mask_rate: float = 0.15
    region_masking: RegionMaskingRecipe = "hide_overlaps"
    mismatch_rate: float = 0.5
    region_targets: RegionTargets = "class_probs"
    num_nce_negatives: int = 0
    build_hint: str | None = None
    embedded_hint: str = "python experiments/pretrain.py --config=configs/base.py:scenes"

    def __post_init__(self) -> None:
        """Refuses values that cannot work, by name."""
        least = {"batch_size": 1, "text_length": 3, "max_regions": 1, "max_masked_tokens": 1, "num_nce_negatives": 0}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {minimum}")
        for name in ("token_mask_rate", "region_mask_rate", "mismatch_rate", "min_coverage"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; it is a share, between 0 and 1")
        for name, choices in (("region_masking", RegionMaskingRecipe), ("region_targets", RegionTargets)):
            if getattr(self, name) not in get_args(choices):
                raise InputError(f"{name} is {getattr(self, name)!r}; use one of {', '.join(get_args(choices))}")
        if self.num_nce_negatives and self.region_targets != "features":
            raise InputError(
                "num_nce_negatives needs features as targets: set region_targets='features' (or num_nce_negatives=0)"
            )
        if self.num_nce_negatives and (self.batch_size < 2 or self.max_regions < 2):
            raise InputError(
                f"num_nce_negatives needs other images and other regions to draw from; batch_size is {self.batch_size} "
                f"and max_regions {self.max_regions}: use at least 2 of each, or num_nce_negatives=0"
            )

    def open(self, split: str) -> "PretrainingSource":
        """Opens the data of one split: the pairs whose image is in the region store.

        Raises:
            InputError: data, vocabulary or class probabilities are missing, no caption can be mismatched, or the store
                covers less than ``min_coverage`` of the pairs; the message says what to do.
        """
        hint = functools.partial(how_to_get, data_dir=self.data_dir, embedded_hint=self.embedded_hint)
        build = hint(self.annotations, build_hint=self.build_hint)
        rows = open_annotations(self.annotations, split, data_dir=self.data_dir, hint=build)
        require_features(rows, self.annotations, ("image_id", "caption"))
        store = open_regions(self.regions, data_dir=self.data_dir, hint=hint(self.regions))
        content_words = metadata(rows).get("content_words", {})
        rows, coverage = keep_covered(rows, store, least=self.min_coverage)
        return PretrainingSource(rows, store, load_tokenizer(self.vocab), self, content_words, coverage)

    def embedded_names(self) -> list[str]:
        """Data sets among these that are drawn on first use, ``scenes/...``."""
        return [name for name in (self.annotations, self.regions) if name.startswith("scenes/")]


@runtime_checkable
class Regions(Protocol):
    """What is needed of a region store."""

    @property
    def contract(self) -> FeatureContract:
        """What the features mean."""
        ...

    def stored(self, image_id: str, /) -> StoredRegions:
        """Returns the regions of an image, or raises KeyError."""
        ...


class Probe(NamedTuple):
    """A true pair with one word hidden: what is shown to see what a model makes of it.

    Attributes:
        fields: as ``PretrainingSource.example`` gives them; all regions are visible.
        tokens: the caption's word pieces.
        record: the regions.
    """

    fields: dict[str, np.ndarray]
    tokens: list[str]
    record: RegionRecord


class PretrainingSource:
    """The examples of one split that have regions, by row. ``example`` is a pure function of (row, generator).

    Attributes:
        rows: annotations of images that the store has.
        regions: the store.
        tokenizer: of the captions.
        contract: what the region features mean.
        target_dim: C.
        word_groups: token ids of the content words that the data set names, by kind (colour, shape, ...); may be empty.
        coverage: of the annotations by the region store, where that was looked at.
    """

    def __init__(
        self,
        rows: Rows,
        regions: Regions,
        tokenizer: Tokenizer,
        config: PretrainingDataConfig,
        content_words: Mapping[str, Sequence[str]] | None = None,
        coverage: Coverage | None = None,
    ) -> None:
        """Takes opened data, rows with regions alone; see ``PretrainingDataConfig.open`` for errors."""
        self.rows, self.regions, self._config = rows, regions, config
        self.tokenizer, self.contract, self.coverage = tokenizer, regions.contract, coverage
        self.word_groups = _single_pieces(content_words or {}, tokenizer)
        wants_classes = config.region_targets == "class_probs"
        if wants_classes and not self.contract.num_classes:
            raise InputError(_no_class_probs(f"region store {config.regions!r}"))
        self.target_dim = self.contract.num_classes if wants_classes else self.contract.feature_dim
        if not len(rows):
            raise InputError(f"data set {config.annotations!r} has an empty split; build it again")
        if config.mismatch_rate:
            self._other_caption(0, np.random.default_rng(0))

    @property
    def num_negatives(self) -> int:
        """NCE negatives of a region; 0 for none."""
        return self._config.num_nce_negatives

    def __len__(self) -> int:
        """Number of image-caption pairs with regions."""
        return len(self.rows)

    def pair(self, index: int) -> tuple[str, str]:
        """Returns the image id and the caption of a row."""
        row = self.rows[index]
        return _text(row["image_id"]), _text(row["caption"])

    def example(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One example: the fields of the batch without the leading axis B.

        Args:
            index: row, among those with regions.
            rng: decides the caption and the masking, always drawing in the same order.

        Returns:
            token_ids [T] int32, token_types [T] int32, text_mask [T] bool, the fields of ``RegionRow``,
            masked_positions [M] int32, token_labels [M] int32, token_label_mask [M] bool, region_label_mask [R] bool,
            alignment_labels [] int32 (0 = the pair matches, 1 = it does not); for class targets target_probs [R,C] or,
            of a store that keeps the K likeliest classes, [R,K], with target_classes [R,K] int16. Padding is 0 and
            False everywhere.

        Raises:
            InputError: the region store lacks the image or its class probabilities.
        """
        image_id, caption = self.pair(index)
        mismatched = rng.random() < self._config.mismatch_rate
        if mismatched:
            caption = self._other_caption(index, rng)
        pieces = self.tokenizer.encode(caption)[: self._config.text_length - 2]
        vocab_size = self.tokenizer.vocab_size
        return {
            **self._text_fields(pieces, rng.random(len(pieces)), rng.integers(vocab_size, size=len(pieces))),
            **self._region_fields(image_id, rng.random),
            "alignment_labels": np.array(mismatched, np.int32),
        }

    def probe(self, index: int) -> Probe:
        """The pair of a row with one word piece masked, a content word if it has one; always the same one."""
        image_id, caption = self.pair(index)
        pieces = self.tokenizer.encode(caption)[: self._config.text_length - 2]
        content = np.isin(pieces, [token for ids in self.word_groups.values() for token in ids])
        candidates = content.nonzero()[0] if content.any() else np.arange(len(pieces))
        hidden = candidates[index % len(candidates)]
        draws = np.where(np.arange(len(pieces)) == hidden, 0.0, 1.0)  # 0 is selected and becomes [MASK], 1 is not
        return Probe(
            fields={
                **self._text_fields(pieces, draws, random_ids=pieces),
                **self._region_fields(image_id, np.ones),
                "alignment_labels": np.array(0, np.int32),
            },
            tokens=self.tokenizer.tokens(pieces),
            record=decode_record(self.regions.stored(image_id), self.contract.num_classes),
        )

    def batch_fields(
        self, rows: range, batch_size: int, generators: Iterable[np.random.Generator]
    ) -> dict[str, np.ndarray]:
        """Fields that depend on the place in the global batch: ``nce_negatives`` [B,R,N] int32, if asked for."""
        if not self._config.num_nce_negatives:
            return {}
        shape = {"num_rows": batch_size, "num_regions": self._config.max_regions}
        negatives = [
            nce_negatives(rng, row=row, num_negatives=self._config.num_nce_negatives, **shape)
            for row, rng in zip(rows, generators, strict=True)
        ]
        return {"nce_negatives": np.stack(negatives)}

    def _other_caption(self, index: int, rng: np.random.Generator) -> str:
        """A caption of another image with another text, uniform over all such captions of the split."""
        image_id, caption = self.pair(index)
        drawn = 0
        for _ in range(_MAX_REDRAWS):
            drawn = int(rng.integers(len(self)))
            other_id, other = self.pair(drawn)
            if other_id != image_id and other != caption:
                return other
        # Nearly all captions are this image's or this text: look for one that is not, in order.
        for step in range(1, len(self)):
            other_id, other = self.pair((drawn + step) % len(self))
            if other_id != image_id and other != caption:
                return other
        raise InputError(
            f"no mismatched caption for image {image_id!r}: data set {self._config.annotations!r} has no other image "
            "with another caption; set mismatch_rate=0 or use a larger data set"
        )

    def _text_fields(self, pieces: np.ndarray, draws: np.ndarray, random_ids: np.ndarray) -> dict[str, np.ndarray]:
        config, tokenizer = self._config, self.tokenizer
        masked = mask_tokens(
            pieces,
            draws,
            random_ids,
            mask_id=tokenizer.mask_id,
            rate=config.token_mask_rate,
            max_selected=config.max_masked_tokens,
        )
        packed = pack(masked.token_ids, config.text_length, tokenizer)
        (chosen,) = masked.selected.nonzero()
        return {
            "token_ids": packed.token_ids,
            "token_types": np.zeros(config.text_length, np.int32),
            "text_mask": packed.text_mask,
            "masked_positions": pad_rows((chosen + 1).astype(np.int32), config.max_masked_tokens),  # [CLS] is token 0
            "token_labels": pad_rows(pieces[chosen], config.max_masked_tokens),
            "token_label_mask": np.arange(config.max_masked_tokens) < len(chosen),
        }

    def _region_fields(self, image_id: str, draws_for: Callable[[int], np.ndarray]) -> dict[str, np.ndarray]:
        config = self._config
        try:
            record = self.regions.stored(image_id)
        except KeyError as error:
            raise InputError(
                f"image {image_id!r} of data set {config.annotations!r} is not in the region store {config.regions!r}: "
                "build the store for all images of the data set, or name the store that belongs to it"
            ) from error
        boxes = record.boxes[: config.max_regions]
        masked = mask_regions(boxes, draws_for(len(boxes)), recipe=config.region_masking, rate=config.region_mask_rate)
        regions = region_row(
            record.features[: config.max_regions],
            record.scales[: config.max_regions],
            relative_boxes(boxes, record.width, record.height),
            masked.hidden,
            masked.num_pooled,
            num_slots=config.max_regions + 1,
        )
        return {
            **regions._asdict(),
            **(self._class_targets(record) if config.region_targets == "class_probs" else {}),
            "region_label_mask": pad_rows(masked.selected, config.max_regions),
        }

    def _class_targets(self, record: StoredRegions) -> dict[str, np.ndarray]:
        """As stored: probabilities of all classes, or of the likeliest with their numbers."""
        if record.class_probs is None:
            raise InputError(_no_class_probs(f"image {record.image_id!r} of region store {self._config.regions!r}"))
        num_regions = self._config.max_regions
        targets = {"target_probs": pad_rows(record.class_probs[:num_regions], num_regions)}
        if record.class_ids is not None:
            targets["target_classes"] = pad_rows(record.class_ids[:num_regions], num_regions)
        return targets


def _single_pieces(words: Mapping[str, Sequence[str]], tokenizer: Tokenizer) -> dict[str, list[int]]:
    """Ids of the words that are one piece of the vocabulary."""
    pieces = {group: [tokenizer.encode(word) for word in members] for group, members in words.items()}
    return {group: sorted(int(ids[0]) for ids in found if len(ids) == 1) for group, found in pieces.items()}


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _no_class_probs(what: str) -> str:
    return f"{what} has no class probabilities; set region_targets='features' to predict features instead"
