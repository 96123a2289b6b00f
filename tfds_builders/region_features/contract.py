"""The feature contract of an imported dump: what no file tells comes from a preset or a JSON file, the rest from it."""

import json
from pathlib import Path
from typing import Any

from tfds_builders.region_features.dump import Background, RawRecord
from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.errors import InputError

_PRESETS = Path(__file__).parent / "contracts"
_ABOUT = "about"  # says what a preset is for; no part of the contract


def preset_names() -> list[str]:
    """Names that --contract takes."""
    return sorted(path.stem for path in _PRESETS.glob("*.json"))


def complete(contract: str | None, record: RawRecord, background: Background) -> FeatureContract:
    """The contract named on the command line, with what one record shows.

    Args:
        contract: a preset or a JSON file with the fields of `FeatureContract`.
        record: any of the dump.
        background: where the dump has it; stores have it first, or not at all.

    Raises:
        InputError: no such contract (the message lists the presets), or it contradicts the dump.
    """
    given = _read(contract)
    seen: dict[str, Any] = {
        "feature_dim": record.features.shape[1],
        "num_classes": 0 if record.class_probs is None else record.class_probs.shape[1],
        "background": "absent" if record.class_probs is None or background == "absent" else "first",
        "box_convention": "xyxy pixels",
    }
    for name, value in seen.items():
        if given.get(name, value) != value:
            raise InputError(
                f"--contract={contract} says {name} is {given[name]!r}, in the store of this dump it is {value!r} "
                f"({record.where}); choose the contract of the detector that made the dump"
            )
    return FeatureContract.from_json(given | seen)


def _read(contract: str | None) -> dict[str, Any]:
    if contract is None:
        raise InputError(
            "no file tells which detector made the features: say it with --contract=NAME, or --contract=FILE with a "
            f"JSON like those in {_PRESETS}. Known are\n{_list()}"
        )
    preset = _PRESETS / f"{contract}.json"
    file = preset if contract in preset_names() else Path(contract).expanduser()
    if not file.is_file():
        raise InputError(f"--contract: {contract!r} is neither a file nor one of\n{_list()}")
    try:
        values = json.loads(file.read_text())
    except ValueError as error:
        raise InputError(f"--contract: {file} is no JSON ({error})") from error
    if not isinstance(values, dict):
        raise InputError(f"--contract: {file} holds no JSON object; take one of {_PRESETS} as a pattern")
    values.pop(_ABOUT, None)
    return values


def _list() -> str:
    about = {name: json.loads((_PRESETS / f"{name}.json").read_text())[_ABOUT] for name in preset_names()}
    return "\n".join(f"  {name}: {text}" for name, text in about.items())
