"""Parameter names of the public detectors and of ours, side by side.

Two layouts exist: that of airsplay/py-bottom-up-attention and of Hugging Face's ``frcnn-vg-finetuned``, whose numbers
are of the flavour ``DETECTRON2``, and that of MILVLG/bottom-up-attention.pytorch, of the flavour ``CAFFE``. They agree
in the names of all but the predictors. The only place that knows these names.
"""

import functools
from collections.abc import Collection, Iterator, Mapping

import jax

from vilbert_jax.checkpoints.conversion import Entry, Table, linear
from vilbert_jax.detector.config import CAFFE, DETECTRON2, DetectorConfig, Flavour
from vilbert_jax.detector.faster_rcnn import FasterRCNN
from vilbert_jax.detector.pictures import blank_pictures
from vilbert_jax.errors import InputError
from vilbert_jax.paths import named_leaves

_PREDICTORS = {  # by flavour: class embedding, hidden layer of attributes, attributes
    CAFFE.name: ("cls_embed", "attr_linear1", "attr_linear2"),
    DETECTRON2.name: ("cls_embedding", "fc_attr", "attr_score"),
}
_NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "variance"}
_COUNTER = "num_batches_tracked"


def detector_table(config: DetectorConfig) -> Table:
    """The table of a detector in the layout of its flavour: every parameter exactly once."""
    embedding, attribute_hidden, attributes = _PREDICTORS[config.flavour.name]
    predictor = "roi_heads.box_predictor"
    entries = (
        *(entry for source, path in _convolutions(config) for entry in _conv_norm(source, path)),
        *linear("proposal_generator.rpn_head.conv", "proposal_head/conv"),
        *linear("proposal_generator.rpn_head.objectness_logits", "proposal_head/objectness"),
        *linear("proposal_generator.rpn_head.anchor_deltas", "proposal_head/anchor_deltas"),
        Entry("proposal_generator.anchor_generator.cell_anchors.0", "proposal_head/anchors", transpose=False),
        *linear(f"{predictor}.cls_score", "region_head/classes"),
        *linear(f"{predictor}.bbox_pred", "region_head/box_deltas"),
        Entry(f"{predictor}.{embedding}.weight", "region_head/class_embedding/embedding", transpose=False),
        *linear(f"{predictor}.{attribute_hidden}", "region_head/attribute_hidden"),
        *linear(f"{predictor}.{attributes}", "region_head/attributes"),
    )
    counters = {f"{source}.norm.{_COUNTER}": "a counter of training" for source, _ in _convolutions(config)}
    return Table(entries, {}, counters)


def flavour_of(names: Collection[str], origin: str) -> Flavour:
    """The flavour in whose layout a file names its tensors.

    Raises:
        InputError: neither, or both, naming ``origin``.
    """
    found = [
        flavour
        for flavour in (CAFFE, DETECTRON2)
        if any(name.startswith(f"roi_heads.box_predictor.{_PREDICTORS[flavour.name][0]}.") for name in names)
    ]
    if len(found) != 1:
        shown = ", ".join(sorted(names)[:3])
        raise InputError(
            f"{origin} is not a Faster R-CNN of bottom-up attention: expected the tensors of Hugging Face's "
            f"frcnn-vg-finetuned or of MILVLG's bua-caffe-frcn-r101, found {len(names)} others ({shown}, ...)"
        )
    return found[0]


@functools.lru_cache(maxsize=8)
def abstract_detector_params(config: DetectorConfig) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of every parameter of a detector, by path."""
    shapes = jax.eval_shape(lambda: FasterRCNN(config).init(jax.random.key(0), blank_pictures()))
    return named_leaves(shapes["params"])


def _convolutions(config: DetectorConfig) -> Iterator[tuple[str, str]]:
    """Every convolution with a norm: its name there, its path here."""
    yield "backbone.stem.conv1", "backbone/stem/conv1"
    for stage, num_blocks in enumerate(config.blocks, start=2):
        source, path = ("roi_heads", "region_head") if stage == 5 else ("backbone", "backbone")
        for block in range(num_blocks):
            for name in ("conv1", "conv2", "conv3", *([] if block else ["shortcut"])):
                yield f"{source}.res{stage}.{block}.{name}", f"{path}/res{stage}_{block}/{name}"


def _conv_norm(source: str, path: str) -> Iterator[Entry]:
    yield Entry(f"{source}.weight", f"{path}/kernel", transpose=True)
    for theirs, ours in _NORM.items():
        yield Entry(f"{source}.norm.{theirs}", f"{path}/{ours}", transpose=False)
