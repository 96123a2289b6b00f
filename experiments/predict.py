"""Asks a checkpoint about one picture.

    python experiments/predict.py --checkpoint=RUN --detector=FILE --image=PICTURE --question="What is the dog holding?"
    python experiments/predict.py --checkpoint=RUN --detector=FILE --image=PICTURE --expression="the red cup"
    python experiments/predict.py --checkpoint=RUN --detector=FILE --image=PICTURE --caption="a dog" --caption="a cat"
    python experiments/predict.py --checkpoint=RUN --detector=FILE --image=PICTURE --text="a [MASK] dog"

--checkpoint  a run, a checkpoint or saved folder of this project, or a released ViLBERT file, with the head that the
              request takes: vqa (or gqa), grounding, choice (or alignment), tokens.
--image       a picture file; or an image id, where --regions=STORE names a region store instead of --detector.
--output      NAME.png: the picture with the regions that were looked at, and the scores.
"""

import argparse
from pathlib import Path
from typing import Any

from vilbert_jax import cli
from vilbert_jax.predictor import command


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--question", help="answered from the list of answers that the head knows")
    asked.add_argument("--expression", help="what it means is found: a box in pixels")
    asked.add_argument("--caption", action="append", default=[], help="scored; several of them are ranked")
    asked.add_argument("--text", help="its blanks, [MASK], are filled")
    add("--checkpoint", required=True)
    add("--image", required=True)
    add("--detector", help="file of a detector: a public one, or one that was trained here")
    add("--boxes", help="regions that the detector keeps: 10-36 (the default), 36, best100 or hf36")
    add("--regions", help="region store that has the image: its name in the TFDS folder, or a folder")
    add("--vocab", help="vocabulary, for released files: vocab.txt, folder or hub name, such as bert-base-uncased")
    add("--answer_labels", help="list of answers, for released files: JSON or pickle")
    add("--task_token", type=int, help="number of the task, for checkpoints with task tokens")
    add("--top_k", type=int, default=5, help="how many answers to show")
    add("--json", action="store_true", help="print the result as one line of JSON")
    add("--output", type=Path, help="picture of the answer to write, NAME.png")
    add(
        "--allow_other_features",
        action="store_true",
        help="go on although the checkpoint was trained on other features",
    )
    args: dict[str, Any] = vars(parser.parse_args())
    args["caption"] = tuple(args["caption"])
    return command.predict(command.Request(**args), say=print)


if __name__ == "__main__":
    cli.guarded(main)
