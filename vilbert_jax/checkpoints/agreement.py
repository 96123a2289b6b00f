"""Does a checkpoint belong to the data it is to be used on? Its vocabulary, its region features, its answers."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from vilbert_jax.checkpoints.folder import find_checkpoint, read_contents
from vilbert_jax.checkpoints.sources import Source
from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.text import Tokenizer, load_tokenizer
from vilbert_jax.errors import InputError

Outputs = Mapping[str, Sequence[str]]  # what each output of a head means, in order, by head

SIZES = {"vqa": "num_vqa_answers", "gqa": "num_gqa_answers"}  # config fields of the heads whose outputs are answers


def check_data(
    source: Source,
    *,
    tokenizer: Tokenizer,
    contract: FeatureContract,
    allow_other_features: bool,
    ignoring: Collection[str] = (),
) -> None:
    """Compares the vocabulary and the feature contract of a source, where it states them, with those of data.

    Args:
        source: of the parameters.
        tokenizer: of the data.
        contract: of the data's region features.
        allow_other_features: the contracts may differ in everything.
        ignoring: fields in which they may differ.

    Raises:
        InputError: they differ.
    """
    if source.vocab is not None and load_tokenizer(source.vocab).fingerprint != tokenizer.fingerprint:
        raise InputError(
            f"{source.origin} was trained with another vocabulary than config.vocab names (order or casing differ, if "
            f"not the size): set --config.vocab={source.vocab}."
        )
    if source.features is not None and not allow_other_features:
        differences = contract.differences(FeatureContract.from_json(dict(source.features)), ignoring=ignoring)
        if differences:
            raise InputError(
                f"{source.origin} was trained on other region features than this run has (here: this run):\n  "
                + "\n  ".join(differences)
                + "\nGive the data it was trained on, or set --config.allow_other_features=True to go on regardless."
            )


def check_outputs(source: Source, loaded: Collection[str], outputs: Outputs, *, stated: bool) -> None:
    """Compares what the outputs of loaded heads mean with what the data take them to mean.

    An answer head is a list of logits whose order is nowhere in its shapes: with another list of answers it gives
    fluent nonsense.

    Args:
        source: of the parameters.
        loaded: heads that are loaded from it.
        outputs: of the data, by head.
        stated: the user named the list that belongs to the head, so that a source which does not say may be used.

    Raises:
        InputError: the lists differ, nothing says what the source's outputs mean, or the named list has another length.
    """
    for head in sorted(set(loaded) & set(outputs)):
        theirs, ours = source.outputs.get(head), tuple(outputs[head])
        if theirs is None:
            if not stated:
                raise InputError(
                    f"{source.origin} has a {head} head, but does not say which answer each of its outputs is: name "
                    "the list that belongs to it with --config.answer_labels=FILE. Fine-tuning can start the head at "
                    f"random: --config.fresh_heads={head}."
                )
            size = getattr(source.config, SIZES[head])
            if size != len(ours):
                raise InputError(
                    f"the {head} head of {source.origin} has {size} answers, the list that config.answer_labels names "
                    f"has {len(ours)}: name the one that belongs to it."
                )
        elif tuple(theirs) != ours:
            unlike = [k for k, pair in enumerate(zip(theirs, ours, strict=False)) if pair[0] != pair[1]]
            first = (
                f"; the first at output {unlike[0]}: {theirs[unlike[0]]!r}, here {ours[unlike[0]]!r}" if unlike else ""
            )
            raise InputError(
                f"the {head} head of {source.origin} has {len(theirs)} answers, the data {len(ours)}, and they are not "
                f"the same{first}. Use the data it was trained on or, in a recipe with answer_labels, its list: "
                f"--config.answer_labels={source.origin}. Fine-tuning can start the head at random: "
                f"--config.fresh_heads={head}."
            )


def outputs_of(path: str | os.PathLike[str], head: str) -> tuple[str, ...]:
    """What the outputs of a head of a checkpoint of this project mean, in order.

    Raises:
        InputError: no checkpoint, or it does not say.
    """
    checkpoint = find_checkpoint(Path(path).expanduser())
    outputs = {} if checkpoint is None else read_contents(checkpoint).identity.get("outputs", {})
    if head not in outputs:
        raise InputError(
            f"{path} does not say what the outputs of a {head} head are: give a fine-tuned run or checkpoint of this "
            "project, or a file that lists the answers in order"
        )
    return tuple(outputs[head])
