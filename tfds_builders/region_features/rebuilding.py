"""The detector's classifier, for stores that rebuild class probabilities instead of keeping them."""

from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from tfds_builders.region_features import normalise
from tfds_builders.region_features.dump import Background, RawRecord
from vilbert_jax.data.region_codec import Classifier
from vilbert_jax.errors import InputError

_SAME = 0.02  # float16 features, and detectors that compute in another order


def read_classifier(path: str | None, first: RawRecord, background: Background) -> Classifier | None:
    """Reads the last layer of a detector and checks it on a record whose class probabilities are known.

    Args:
        path: safetensors file with ``weight`` [C,F] and ``bias`` [C], as PyTorch keeps a linear layer; or None.
        first: a record of the dump.
        background: where the dump, and so the layer, has the background class.

    Returns:
        The classifier with the background in front, or None without a path.

    Raises:
        InputError: the file cannot be read, or its softmax is not what the dump holds.
    """
    if path is None:
        return None
    try:
        layer = safetensors.numpy.load_file(path)
        weight, bias = layer["weight"].astype(np.float32), layer["bias"].astype(np.float32)
    except (OSError, KeyError, safetensors.SafetensorError) as error:
        raise InputError(
            f"--classifier={path} cannot be used ({error}): give a safetensors file with weight [C,F] and bias [C]"
        ) from error
    num_features, num_classes = normalise.widths(first)
    if weight.shape != (num_classes, num_features) or bias.shape != (num_classes,):
        raise InputError(
            f"{Path(path).name} has weight {[*weight.shape]} and bias {[*bias.shape]}; this dump needs "
            f"[{num_classes}, {num_features}] and [{num_classes}]"
        )
    classifier = Classifier(weight.T, bias)
    difference = float(np.abs(classifier.probabilities(first.features) - first.class_probs).max())
    if difference > _SAME:
        raise InputError(
            f"{Path(path).name} is not the classifier of this dump: at {first.where} a class probability differs by "
            f"{difference:.2f}; give the right one, or keep the probabilities with --class_storage=top_k"
        )
    if background == "last":
        classifier = Classifier(np.roll(classifier.weights, 1, axis=1), np.roll(classifier.bias, 1))
    return classifier
