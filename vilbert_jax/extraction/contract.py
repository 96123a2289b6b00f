"""What the features of a detector mean, in the words of the contracts of imported feature files."""

from vilbert_jax.checkpoints.detectors import Detector
from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.detector.config import Flavour
from vilbert_jax.detector.selection import Best, ClassAgnostic, Confident, SelectionRule
from vilbert_jax.errors import InputError

_RESIZE = {"opencv": "OpenCV linear after mean subtraction", "half_pixel": "bilinear"}
_HF_OVERLAPS = ClassAgnostic().overlaps


def contract_of(detector: Detector, rule: SelectionRule) -> FeatureContract:
    """The contract of features that a detector gives under a selection rule.

    It says in the same words what ``tfds_builders/region_features/contracts`` says of files from elsewhere; the hash of
    the weights, which those files do not tell, differs in any case.
    """
    config = detector.model.config
    mean = f"mean of res5 over {config.pooling_resolution} x {config.pooling_resolution}"
    return FeatureContract(
        detector=detector.family,
        weights_hash=detector.weights_hash,
        layer=mean if config.flavour.background_first else f"roi pooled: {mean}",
        colour_order="bgr",
        resize_rule=_resize_rule(config.flavour),
        selection_rule=_selection_rule(rule),
        feature_dim=config.feature_width,
        num_classes=config.num_classes + 1,
        class_names=detector.class_names,
    )


def parse_rule(text: str) -> SelectionRule:
    """The selection rule that a command line names: ``10-36``, ``36``, ``best100`` or ``hf36``.

    Raises:
        InputError: it names none, or counts that cannot be met.
    """
    kind = text.rstrip("0123456789-")
    least, dash, most = text.removeprefix(kind).partition("-")
    if least.isdecimal() and (most.isdecimal() or not dash):
        fewest, largest = int(least), int(most or least)
        if kind == "":
            return Confident(min_boxes=fewest, max_boxes=largest)
        if kind == "best" and not dash:
            return Best(max_boxes=largest)
        if kind == "hf":
            return ClassAgnostic(min_boxes=fewest, max_boxes=largest)
    raise InputError(
        f"boxes {text!r} name no selection rule: write 10-36 (those that are surely something, 10 to 36 of them), 36 "
        "(always so many), best100 (the best so many, as MMF keeps them) or hf36 (as Hugging Face's LXMERT keeps them)"
    )


def _resize_rule(flavour: Flavour) -> str:
    return f"{flavour.short_side}/{flavour.long_side}, {_RESIZE[flavour.resize]}"


def _selection_rule(rule: SelectionRule) -> str:
    if isinstance(rule, ClassAgnostic):
        if rule.overlaps == _HF_OVERLAPS and rule.min_boxes == rule.max_boxes:
            how = f"thresholds rising until {rule.max_boxes}"
        else:
            tried = ", ".join(f"{overlap:g}" for overlap in rule.overlaps)
            how = f"thresholds {tried} until {rule.min_boxes}, at most {rule.max_boxes}"
        return f"class-agnostic NMS on regressed boxes, {how}; box = regressed"
    usual = type(rule)()
    border = (
        "" if rule.inclusive == usual.inclusive else f" (an equal overlap {'drops' if rule.inclusive else 'stays'})"
    )
    if isinstance(rule, Confident):
        kept = f"score {rule.confidence:g}, {rule.min_boxes} to {rule.max_boxes}"
    else:
        kept = f"{f'score {rule.confidence:g}, ' if rule.confidence else ''}best {rule.max_boxes}"
    return f"per-class NMS {rule.overlap:g}{border} on proposals, {kept}; box = proposal"
