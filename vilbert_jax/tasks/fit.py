"""Does a model fit the data it is to be trained or evaluated on?"""

from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.text import Tokenizer
from vilbert_jax.errors import InputError


def misfits(config: ViLBERTConfig, contract: FeatureContract, tokenizer: Tokenizer, text_length: int) -> list[str]:
    """One line for every field of the model that does not fit, with the value that would; empty if all do."""
    pairs = {
        "region_feature_dim": (config.region_feature_dim, contract.feature_dim, "width of the region features"),
        "vocab_size": (config.vocab_size, tokenizer.vocab_size, "size of the vocabulary"),
    }
    problems = [
        f"model.{name} is {ours}, the {what} is {theirs}: set --config.model.{name}={theirs}"
        for name, (ours, theirs, what) in pairs.items()
        if ours != theirs
    ]
    if text_length > config.max_text_length:
        problems.append(f"text_length is {text_length}, the model has {config.max_text_length} positions")
    return problems


def require_fit(problems: list[str]) -> None:
    """Raises InputError that lists the problems, if there are any."""
    if problems:
        raise InputError(
            "the model and the data do not fit together:\n  "
            + "\n  ".join(problems)
            + "\nA model from a checkpoint keeps its sizes: give it the data that it was trained on."
        )
