"""One checkpoint folder: what is in it, whether it is whole, how parameters are read from it.

A run's checkpoint (``RUN/checkpoints/1000``), its best one (``RUN/best/1000``) and a folder of ``save_pretrained`` look
the same, except that only the first holds optimizer state:

    state/           Orbax: params, and in a run's checkpoint step and opt_state
    contents.json    identity (model config, heads, feature contract, vocabulary, what it was trained for), provenance,
                     shapes, CRCs
    tokenizer.json   the vocabulary, where one was given

Orbax alone would restore a flipped bit as data; contents.json has size and CRC-32 of every data file.
"""

import dataclasses
import json
import logging
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from orbax.checkpoint import v1 as ocp

from vilbert_jax.errors import InputError
from vilbert_jax.paths import named_leaves

CONTENTS = "contents.json"
STATE = "state"
TOKENIZER = "tokenizer.json"
RUN_CHECKPOINTS = "checkpoints"  # in a run's work directory
RUN_BEST = "best"  # beside it, in a run that selects: parameters of the best evaluation, in a folder of its step

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contents:
    """What ``contents.json`` says.

    Attributes:
        identity: JSON-like description of what the state belongs to (model config, feature contract, vocabulary).
        provenance: JSON-like description of where the parameters come from.
        shapes: [dtype, *shape] of every array, by path below ``state``.
        files: (bytes, CRC-32) of every data file, by path below the folder ``state``, and of ``tokenizer.json``.
    """

    identity: Mapping[str, Any]
    provenance: Mapping[str, Any]
    shapes: Mapping[str, Any]
    files: Mapping[str, Any]


class Initial(NamedTuple):
    """What a run starts from: nested parameters, JSON-like provenance (checkpoints repeat it), a table for people."""

    params: Any
    provenance: Mapping[str, Any]
    summary: str = ""


def write_contents(
    folder: Path, *, identity: Mapping[str, Any], provenance: Mapping[str, Any], shapes: Mapping[str, Any],
    tokenizer_json: str | None,
) -> None:  # fmt: skip
    """Completes a folder whose ``state`` is written: the vocabulary, and ``contents.json`` last."""
    data = sorted(path for path in (folder / STATE).rglob("*") if path.is_file())
    if tokenizer_json is not None:
        (folder / TOKENIZER).write_text(tokenizer_json, "utf-8")
        data.append(folder / TOKENIZER)
    files = {str(path.relative_to(folder)): (path.stat().st_size, crc32(path)) for path in data}
    contents = Contents(identity=identity, provenance=provenance, shapes=shapes, files=files)
    (folder / CONTENTS).write_text(json.dumps(dataclasses.asdict(contents), indent=1))


def read_contents(path: str | os.PathLike[str]) -> Contents:
    """Reads ``contents.json`` of one checkpoint folder.

    Raises:
        InputError: there is no readable checkpoint at ``path``.
    """
    try:
        contents = Contents(**json.loads((Path(path) / CONTENTS).read_text()))
        if not all(isinstance(value, dict) for value in vars(contents).values()):
            raise TypeError("one of its parts is no object")
        return contents
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} is not a checkpoint of this project: {error!r}. Name a folder that holds {CONTENTS}, like "
            "RUN/checkpoints/1000."
        ) from error


def find_damage(path: Path) -> str | None:
    """What is wrong with the files of the checkpoint at ``path``; None if they are as they were written."""
    try:
        recorded = {name: (size, crc) for name, (size, crc) in read_contents(path).files.items()}
    except (InputError, ValueError, TypeError, AttributeError):
        return f"{path / CONTENTS} is missing or unreadable"
    for name, (size, crc) in recorded.items():
        file = path / name
        if not file.is_file():
            return f"{file} is missing"
        if file.stat().st_size != size:
            return f"{file} has {file.stat().st_size} bytes instead of {size}"
        if crc32(file) != crc:
            return f"{file} has changed since it was written"
    return None


def latest_checkpoint(directory: str | os.PathLike[str]) -> Path:
    """The newest undamaged checkpoint below ``directory``, which is left as it is.

    Raises:
        InputError: there is none.
    """
    folders = [path for path in Path(directory).glob("*") if path.name.isdigit()]
    problems = []
    for path in sorted(folders, key=lambda path: int(path.name), reverse=True):
        problem = find_damage(path)
        if problem is None:
            if problems:
                _logger.warning("%s is used instead: %s", path, "; ".join(problems))
            return path
        problems.append(f"checkpoint {path} is damaged ({problem})")
    found = "".join(f"\n  {problem}" for problem in problems) or " there is none"
    raise InputError(f"no usable checkpoint in {directory}:{found}\nName a run or checkpoint that is whole.")


def find_checkpoint(path: Path) -> Path | None:
    """The checkpoint folder that ``path`` names; None if there is none.

    It is ``path`` itself, or of a run the best one, or else the newest; or the newest of a folder of checkpoints.

    Raises:
        InputError: the folder to choose from has checkpoints, and all of them are damaged.
    """
    if (path / CONTENTS).is_file():
        problem = find_damage(path)
        if problem:
            raise InputError(f"the checkpoint {path} is damaged: {problem}. Restore it from a backup or save it again.")
        return path
    for folder in (path / RUN_BEST, path / RUN_CHECKPOINTS, path):
        if has_checkpoints(folder):
            return latest_checkpoint(folder)
    return None


def has_checkpoints(directory: Path) -> bool:
    """Whether checkpoints of a run, intact or not, lie in ``directory``; one without arrays is damaged, not gone."""
    folders = [below for below in directory.glob("*") if below.name.isdigit()]
    return any((below / STATE).is_dir() or (below / CONTENTS).is_file() for below in folders)


def restore_params(path: str | os.PathLike[str], abstract_params: Any) -> Any:
    """Reads the parameters of one checkpoint, or some of them, without the optimizer's moments.

    Args:
        path: a checkpoint folder.
        abstract_params: nested dict of what to read: numpy arrays give numpy arrays, ``ShapeDtypeStruct`` with
            shardings gives arrays on those devices, each host reading its part alone.
    """
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        state = ocp.load_checkpointables(str(Path(path).absolute()), {STATE: {"params": abstract_params}})[STATE]
    return state["params"]


def shapes_of(state: Any) -> dict[str, Any]:
    """``Contents.shapes`` of a tree of arrays."""
    return {name: [str(leaf.dtype), *leaf.shape] for name, leaf in named_leaves(state).items()}


def crc32(path: Path) -> int:
    """CRC-32 of a file's bytes."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            crc = zlib.crc32(block, crc)
    return crc
