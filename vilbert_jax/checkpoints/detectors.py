"""A detector as one file: the public ones, and those that were trained here."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from vilbert_jax.checkpoints.conversion import fingerprint, match, normalised, to_source
from vilbert_jax.checkpoints.frcnn import abstract_detector_params, detector_table, flavour_of
from vilbert_jax.checkpoints.tensor_files import TensorFile, open_tensors, write_safetensors
from vilbert_jax.detector.config import CAFFE, DETECTRON2, DetectorConfig
from vilbert_jax.detector.faster_rcnn import FasterRCNN
from vilbert_jax.errors import InputError
from vilbert_jax.paths import named_leaves

_NOTE = "vilbert_jax_detector"  # in the head of a file that was written here
_PUBLIC = {  # by flavour, in the words of the contracts of imported features
    CAFFE.name: "faster_rcnn_r101_c4 visual genome, MILVLG",
    DETECTRON2.name: "faster_rcnn_r101_c4 visual genome, detectron2 port",
}


class Detector(NamedTuple):
    """A network with its parameters, and what its numbers mean.

    Attributes:
        model: the module.
        params: nested dict of float32 arrays.
        family: what it is and what it was trained on, for feature contracts.
        weights_hash: of the parameters and of the config, apart from ``regions_per_chunk``: of all that decides which
            numbers a picture gives. The same for every file that holds them.
        class_names: C + 1 names, background first; empty where they are not known.
        attribute_names: names without "none"; empty where they are not known.
        left_out: what else was in the file that it was loaded from: counters of training, the optimizer's state.
    """

    model: FasterRCNN
    params: dict[str, Any]
    family: str
    weights_hash: str
    class_names: tuple[str, ...] = ()
    attribute_names: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def make_detector(
    model: FasterRCNN,
    params: dict[str, Any],
    *,
    family: str,
    class_names: tuple[str, ...] = (),
    attribute_names: tuple[str, ...] = (),
) -> Detector:
    """A detector from its parts.

    Raises:
        InputError: there are names, but not as many as the network has outputs.
    """
    config = model.config
    for kind, names, wanted in (
        ("class", class_names, config.num_classes + 1),
        ("attribute", attribute_names, config.num_attributes),
    ):
        if names and len(names) != wanted:
            background = ", the background among them" if kind == "class" else ""
            raise InputError(
                f"{len(names)} {kind} names for a detector of {wanted}{background}: give one each, or none"
            )
    leaves = {path: np.asarray(leaf, np.float32) for path, leaf in named_leaves(params).items()}
    params = traverse_util.unflatten_dict(leaves, sep="/")
    return Detector(model, params, family, _hash_of(leaves, config), class_names, attribute_names)


def _hash_of(leaves: Mapping[str, np.ndarray], config: DetectorConfig) -> str:
    fields = {name: value for name, value in config.to_dict().items() if name != "regions_per_chunk"}
    fields = json.loads(json.dumps(fields), parse_int=float)  # 16 and 16.0 are one side
    return hashlib.sha256(f"{fingerprint(leaves)} {json.dumps(fields, sort_keys=True)}".encode()).hexdigest()[:32]


def load_detector(path: str | os.PathLike[str], config: DetectorConfig | None = None) -> Detector:
    """A detector from a safetensors file, or one that ``torch.save`` wrote.

    Public files are Hugging Face's ``frcnn-vg-finetuned`` and MILVLG's ``bua-caffe-frcn-r101``; names of classes and
    attributes are not in them.

    Args:
        path: of the file; the names of its tensors say which of the two layouts it has.
        config: of the network. By default that which ``save_detector`` noted, or else that of the public ones in the
            file's flavour.

    Raises:
        InputError: no such file, of another kind or flavour, with names or shapes that do not fit (all of them listed),
            or with values that are not finite.
    """
    origin, file = str(path), open_tensors(Path(path).expanduser())
    tensors = normalised(file.tensors)
    flavour, noted = flavour_of(tensors, origin), _read_note(origin, file)
    if config is None:
        config = DetectorConfig.from_dict(noted["config"]) if noted else DetectorConfig.resnet101_c4(flavour)
    if config.flavour.name != flavour.name:
        raise InputError(
            f"{origin} is a detector of the flavour {flavour.name!r}, the config says {config.flavour.name!r}: the "
            "same numbers would mean other boxes and classes. Take the file's flavour, or another file."
        )
    table = detector_table(config)
    found = match(origin, tensors, table, abstract_detector_params(config))
    leaves = {path: np.ascontiguousarray(tensor.read(()), np.float32) for path, tensor in found.items()}
    broken = [path for path, array in leaves.items() if not np.isfinite(array).all()]
    if broken:
        raise InputError(
            f"{origin} has {len(broken)} of {len(leaves)} tensors with values that are not finite, the first is "
            f"{broken[0]}: the file is damaged, or its training diverged; get it again"
        )
    detector = make_detector(
        FasterRCNN(config),
        traverse_util.unflatten_dict(leaves, sep="/"),
        family=noted.get("family", _PUBLIC[flavour.name]),
        class_names=tuple(noted.get("class_names", ())),
        attribute_names=tuple(noted.get("attribute_names", ())),
    )
    return detector._replace(left_out=(*(name for name in tensors if name in table.unused), *file.left_out))


def is_detector(path: str | os.PathLike[str]) -> bool:
    """Whether a file has the tensors of a detector, by their names; False for everything that cannot be read."""
    try:
        flavour_of(normalised(open_tensors(Path(path).expanduser()).tensors), str(path))
    except InputError:
        return False
    return True


def save_detector(path: str | os.PathLike[str], detector: Detector) -> None:
    """Writes one safetensors file, in the public layout of the flavour, with config and names in its head.

    The same detector gives the same bytes, wherever and whenever it is written.

    Args:
        path: replaced if it exists; ends in ``.safetensors``.
        detector: what to write.

    Raises:
        InputError: the path ends in something else.
        OSError: it cannot be written; then nothing is there.
    """
    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: a detector is written as NAME.safetensors")
    config = detector.model.config
    note = {
        "config": config.to_dict(),
        "family": detector.family,
        "class_names": detector.class_names,
        "attribute_names": detector.attribute_names,
    }
    leaves = {path: np.asarray(leaf, np.float32) for path, leaf in named_leaves(detector.params).items()}
    tensors = to_source(leaves, detector_table(config))
    write_safetensors(path, tensors, (_NOTE, json.dumps(note)))


def _read_note(origin: str, file: TensorFile) -> Mapping[str, Any]:
    """What ``save_detector`` noted; empty for a file from elsewhere."""
    try:
        noted = json.loads(file.notes.get(_NOTE, "{}"))
        names = [noted.get(key, []) for key in ("class_names", "attribute_names")]
        if all(isinstance(name, str) for listed in names for name in listed) and (not noted or "config" in noted):
            return noted
    except (ValueError, TypeError, AttributeError):
        pass
    raise InputError(f"{origin}: its head, {_NOTE}, is damaged; get the file again, or save the detector again")
