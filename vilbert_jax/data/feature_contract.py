"""What region features mean: everything that must agree before features of two stores can stand in for each other."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

from vilbert_jax.errors import InputError

# Fields that say which boxes there are and how they were classified, not what their features mean. Pre-training on 36
# boxes a picture and fine-tuning on up to 100, or on those of another detector, is the paper's own recipe.
NOT_READ_BY_TASKS = ("selection_rule", "background", "num_classes", "class_names")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureContract:
    """Everything that must agree before features of one store mean the same as features of another.

    Attributes:
        detector: family and training set, for example "faster_rcnn_r101_c4 visual genome".
        weights_hash: identifies the detector's weights, of this project's detectors with their settings.
        layer: where the features were read, for example "pool5 mean".
        colour_order: "rgb" or "bgr".
        resize_rule: how the picture was resized before it was looked at.
        selection_rule: which boxes were kept.
        box_convention: how boxes are written.
        background: "first" if column 0 of the class probabilities is the background, "absent" if there is no such
            column.
        feature_dim: F, at least 1.
        num_classes: C, 0 if the store has no class probabilities.
        class_names: C names in column order, or empty where they are not known.
    """

    detector: str
    weights_hash: str
    layer: str
    colour_order: str
    resize_rule: str
    selection_rule: str
    box_convention: str = "xyxy pixels"
    background: str = "first"
    feature_dim: int
    num_classes: int = 0
    class_names: tuple[str, ...] = ()

    def __post_init__(self):
        """Raises InputError for values that contradict each other."""
        object.__setattr__(self, "class_names", tuple(self.class_names))
        if self.background not in ("first", "absent"):
            raise InputError(f"feature contract: background is {self.background!r}; use 'first' or 'absent'")
        if self.feature_dim < 1 or self.num_classes < 0:
            raise InputError(
                f"feature contract: feature_dim is {self.feature_dim} and num_classes {self.num_classes}; "
                "expected at least 1 and at least 0"
            )
        if self.class_names and len(self.class_names) != self.num_classes:
            raise InputError(
                f"feature contract: {len(self.class_names)} class names for {self.num_classes} classes; "
                "give one name a class, or none"
            )

    def to_json(self) -> dict[str, Any]:
        """The contract as a dict that json.dumps accepts."""
        return dataclasses.asdict(self) | {"class_names": list(self.class_names)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "FeatureContract":
        """Reads what `to_json` wrote.

        Raises:
            InputError: fields are missing or unknown.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        needed = {field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING}
        if unknown := set(values) - known:
            raise InputError(f"feature contract has unknown fields {sorted(unknown)}; known are {sorted(known)}")
        if missing := needed - set(values):
            raise InputError(f"feature contract lacks {sorted(missing)}; rebuild the store with this version")
        return cls(**values)

    def differences(self, other: "FeatureContract", *, ignoring: Collection[str] = ()) -> list[str]:
        """One line a field in which the two contracts disagree, but for some; empty if they mean the same."""
        lines = []
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if mine == theirs or field.name in ignoring:
                continue
            if field.name == "class_names":
                lines.append(_class_name_difference(mine, theirs))
            else:
                lines.append(f"{field.name}: {mine!r} here, {theirs!r} there")
        return lines


def _class_name_difference(mine: Sequence[str], theirs: Sequence[str]) -> str:
    if len(mine) != len(theirs):
        return f"class_names: {len(mine)} names here, {len(theirs)} there"
    unlike = [i for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b]
    first = unlike[0]
    return (
        f"class_names: {len(unlike)} of {len(mine)} differ, the first at class {first}: "
        f"{mine[first]!r} here, {theirs[first]!r} there"
    )
