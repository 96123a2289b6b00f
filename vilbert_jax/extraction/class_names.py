"""Names of objects for detectors whose files do not have them."""

import os
import pathlib

from vilbert_jax.checkpoints.detectors import Detector
from vilbert_jax.errors import InputError

BACKGROUND = "background"


def with_class_names(detector: Detector, path: str | os.PathLike[str]) -> Detector:
    """The detector with the names of its objects from a file such as ``objects_vocab.txt``.

    Args:
        detector: whose own names are replaced, if it has any.
        path: one object a line, background not among them; of several names, separated by commas, the first one counts.

    Raises:
        InputError: no such file, an empty line, or another number of names than the detector has objects.
    """
    try:
        lines = pathlib.Path(path).expanduser().read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"class names: {path} cannot be read ({error})") from error
    names = [line.partition(",")[0].strip().lower() for line in lines]
    if not all(names):
        raise InputError(f"class names: line {names.index('') + 1} of {path} is empty; expected one name a line")
    if len(names) != detector.model.config.num_classes:
        raise InputError(
            f"class names: {path} has {len(names)}, the detector knows {detector.model.config.num_classes} objects: "
            "one a line, without the background"
        )
    return detector._replace(class_names=(BACKGROUND, *names))
