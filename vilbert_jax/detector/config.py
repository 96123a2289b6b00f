"""What the detector is made of, and the differences between its two flavours.

Sources: peteanderson80/bottom-up-attention (Caffe) and its ports MILVLG/bottom-up-attention.pytorch,
airsplay/py-bottom-up-attention, and the Faster R-CNN of Hugging Face's LXMERT research project.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, Literal, Self, get_args

from vilbert_jax.errors import InputError

Layout = Literal["caffe", "detectron2"]
Resize = Literal["opencv", "half_pixel"]

FEATURE_STRIDE = 16  # pixels of the picture a cell of the feature map
_LARGEST = 1 << 20  # of any size: beyond it, a config is damaged


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flavour:
    """What the same network means by its numbers: the Caffe original and the later port differ in nothing else.

    Attributes:
        name: of the layout in which files name the parameters; also for messages.
        plus_one: boxes are inclusive: sides are ``x2 - x1 + 1``, and they are clipped to ``0 .. W - 1``.
        background_first: "no object" is class 0, with box deltas of its own, and "no attribute" attribute 0;
            otherwise they are the last, and "no object" has no deltas.
        two_way_rpn: an anchor has two outputs, all backgrounds before all foregrounds, instead of one logit.
        box_weights: what box deltas (dx, dy, dw, dh) of classes are divided by.
        min_side: the least side of a proposal, in pixels of the raw picture; in any case it is above 0. (MILVLG's port
            of the Caffe flavour drops sides that are equal to it, too.)
        filter_before_topk: proposals that are too small are dropped before the best are counted, not after.
        nms_inclusive: of proposals, an overlap equal to the threshold suppresses too.
        none_competes: "no attribute" takes part in the softmax over attributes.
        short_side: pixels that the shorter side of a picture is resized to,
        long_side: unless the longer side would become longer than this.
        resize: ``opencv`` steps by one factor for both sides, as OpenCV's linear resize; ``half_pixel`` by the ratio of
            sizes, side by side.
    """

    name: Layout
    plus_one: bool
    background_first: bool
    two_way_rpn: bool
    box_weights: tuple[float, float, float, float]
    min_side: float
    filter_before_topk: bool
    nms_inclusive: bool
    none_competes: bool
    short_side: int
    long_side: int
    resize: Resize

    def __post_init__(self):
        """Raises InputError for values that mean nothing."""
        for name in (
            "plus_one",
            "background_first",
            "two_way_rpn",
            "filter_before_topk",
            "nms_inclusive",
            "none_competes",
        ):
            if type(getattr(self, name)) is not bool:
                raise InputError(f"flavour: {name} is {getattr(self, name)!r}; expected true or false")
        if self.name not in get_args(Layout):
            raise InputError(
                f"flavour: name is {self.name!r}; expected one of {', '.join(get_args(Layout))}: files of a detector "
                "have no other layout, and all else that a flavour means can be chosen"
            )
        if self.resize not in get_args(Resize):
            raise InputError(f"flavour: resize is {self.resize!r}; expected one of {', '.join(get_args(Resize))}")
        weights = self.box_weights
        if not (isinstance(weights, tuple) and len(weights) == 4 and all(_is_number(x) and x > 0 for x in weights)):
            raise InputError(f"flavour: box_weights is {weights!r}; expected four numbers above 0")
        if not _is_number(self.min_side) or self.min_side < 0:
            raise InputError(f"flavour: min_side is {self.min_side!r}; expected pixels, at least 0")
        sides = (self.short_side, self.long_side)
        if not all(type(side) is int for side in sides) or not 1 <= self.short_side <= self.long_side:
            raise InputError(f"flavour: short_side and long_side are {sides}; expected pixels, 1 <= short <= long")


CAFFE = Flavour(
    name="caffe",
    plus_one=True,
    background_first=True,
    two_way_rpn=True,
    box_weights=(1.0, 1.0, 1.0, 1.0),
    min_side=16.0,
    filter_before_topk=True,
    nms_inclusive=True,
    none_competes=True,
    short_side=600,
    long_side=1000,
    resize="opencv",
)
DETECTRON2 = Flavour(
    name="detectron2",
    plus_one=False,
    background_first=False,
    two_way_rpn=False,
    box_weights=(10.0, 10.0, 5.0, 5.0),
    min_side=0.0,
    filter_before_topk=False,
    nms_inclusive=False,
    none_competes=False,
    short_side=800,
    long_side=1333,
    resize="half_pixel",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """Sizes of the network and limits on its boxes.

    Attributes:
        flavour: ``CAFFE`` or ``DETECTRON2``.
        blocks: bottleneck blocks of res2, res3, res4 and res5.
        stem_width: channels of the first convolution.
        bottleneck_width: channels inside the blocks of res2; every later stage has twice as many.
        res2_width: channels of res2's output; every later stage has twice as many.
        rpn_width: channels of the proposal head.
        num_anchors: anchors at each cell of the feature map.
        num_classes: objects, background not counted.
        num_attributes: attributes, "none" not counted.
        class_embedding_width: of the predicted class, from which attributes are predicted.
        attribute_width: hidden units of the attribute head.
        max_candidates: boxes that enter the suppression of proposals: the best, by logit.
        max_proposals: P, boxes that leave it.
        proposal_overlap: intersection over union above which the worse of two proposals is dropped, 0..1.
        pooling_resolution: cells of a pooled region in each direction.
        regions_per_chunk: regions of each picture that run through res5 at once; it changes memory and time
            alone. On CPUs more are slower: memory of larger arrays is given back and asked for again.
    """

    flavour: Flavour
    blocks: tuple[int, int, int, int]
    stem_width: int
    bottleneck_width: int
    res2_width: int
    rpn_width: int
    num_anchors: int
    num_classes: int
    num_attributes: int
    class_embedding_width: int
    attribute_width: int
    max_candidates: int
    max_proposals: int
    proposal_overlap: float = 0.7
    pooling_resolution: int = 14
    regions_per_chunk: int = 10

    def __post_init__(self):
        """Raises InputError for sizes that no network can have."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            for size in value if field.name == "blocks" else [value] if field.type is int else []:
                if type(size) is not int or not 1 <= size <= _LARGEST:
                    raise InputError(
                        f"detector config: {field.name} is {value!r}; sizes are integers from 1 to {_LARGEST}"
                    )
        if not isinstance(self.blocks, tuple) or len(self.blocks) != 4:
            raise InputError(f"detector config: blocks is {self.blocks}; expected one number each for res2 to res5")
        if not _is_number(self.proposal_overlap) or not 0 <= self.proposal_overlap <= 1:
            raise InputError(f"detector config: proposal_overlap is {self.proposal_overlap}; expected 0 to 1")

    @classmethod
    def resnet101_c4(cls, flavour: Flavour = DETECTRON2, **overrides: Any) -> Self:
        """The public detector: Visual Genome, 1600 objects and 400 attributes, 2048 features a region."""
        fields: dict[str, Any] = dict(
            flavour=flavour,
            blocks=(3, 4, 23, 3),
            stem_width=64,
            bottleneck_width=64,
            res2_width=256,
            rpn_width=512,
            num_anchors=12,
            num_classes=1600,
            num_attributes=400,
            class_embedding_width=256,
            attribute_width=512,
            max_candidates=6000,
            max_proposals=300,
        )
        return cls(**fields | overrides)

    @classmethod
    def tiny(cls, flavour: Flavour = DETECTRON2, **overrides: Any) -> Self:
        """A network with every part of the public one and 0.1 million parameters, 128 features a region."""
        fields: dict[str, Any] = dict(
            blocks=(3, 4, 6, 3),
            stem_width=8,
            bottleneck_width=4,
            res2_width=16,
            rpn_width=24,
            num_classes=20,
            num_attributes=10,
            class_embedding_width=16,
            attribute_width=32,
            max_candidates=800,
            max_proposals=60,
        )
        return cls.resnet101_c4(flavour, **fields | overrides)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict (JSON types), the inverse of ``from_dict``."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Builds the config from nested plain dicts.

        Raises:
            InputError: for names that are not fields, for fields that are missing, and for sizes that cannot be.
        """
        try:
            given = _lists_as_tuples(fields)
            given["flavour"] = Flavour(**_lists_as_tuples(given.get("flavour")))
            return cls(**given)
        except (TypeError, AttributeError) as error:
            raise InputError(f"detector config: {error}; it was written by another version, or is none") from error

    @property
    def map_width(self) -> int:
        """Channels of the feature map, res4's."""
        return 4 * self.res2_width

    @property
    def feature_width(self) -> int:
        """Features of a region, channels of res5: 2048 in the public detector."""
        return 8 * self.res2_width

    @property
    def num_objectness_outputs(self) -> int:
        """Outputs of the proposal head a cell, by which boxes are ranked."""
        return self.num_anchors * (2 if self.flavour.two_way_rpn else 1)

    @property
    def num_box_rows(self) -> int:
        """Classes that have box deltas: with the background first it has some too."""
        return self.num_classes + self.flavour.background_first


def _lists_as_tuples(fields: Any) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
