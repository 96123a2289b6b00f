"""Converts checkpoints, in either direction.

    python experiments/convert_checkpoint.py --input=PATH --output=PATH

--input   a released ViLBERT file (.bin, .tar, .safetensors), a BERT folder or hub name, or a run, a checkpoint or a
          saved folder of this project. What it is, its content says. A detector needs no conversion: load_detector and
          extract_features.py read its file.
--output  NAME.safetensors or NAME.bin: a file for the released PyTorch code, with NAME.json, its config.
          Any other name: a folder that vj.load_pretrained and config.init_from read; with --format=bert a folder for
          transformers. Must not exist.
"""

import argparse
from pathlib import Path

from vilbert_jax import cli
from vilbert_jax.checkpoints import convert
from vilbert_jax.checkpoints.detectors import is_detector
from vilbert_jax.errors import InputError


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--input", required=True)
    add("--output", required=True, type=Path)
    add("--format", choices=convert.FORMATS, help="of the output, where its name does not say it")
    add("--model_config", help="JSON of the model's config; default: worked out from a released file's shapes, or the "
        "paper's model around a BERT")  # fmt: skip
    add("--vocab", help="vocab.txt, folder or hub name to save with the model; empty: none; default: the input's own, "
        "or bert-base-uncased")  # fmt: skip
    add("--features", help="region store, or JSON of its feature contract, that the model was trained on")
    add("--fresh", default="", help="heads to initialise instead of convert, comma-separated")
    add("--seed", type=int, default=0, help="of what is initialised")
    add("--licence", help="note to save with the model; default: one that names the publisher")
    add("--verify", action="store_true", help="read the output again and compare; a BERT also with torch's own results")
    args = parser.parse_args()
    try:
        return convert.convert(convert.Request(**vars(args)), say=print)
    except InputError as error:
        if not is_detector(args.input):
            raise
        raise InputError(
            f"{args.input} is a detector of regions, no ViLBERT: its file is read as it is, by "
            "vilbert_jax.checkpoints.detectors.load_detector and by experiments/extract_features.py --weights="
            f"{args.input}"
        ) from error


if __name__ == "__main__":
    cli.guarded(main)
