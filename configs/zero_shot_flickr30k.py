"""Flickr30k without fine-tuning: pictures for captions, by the alignment head of pre-training.

    python experiments/evaluate.py --config=configs/zero_shot_flickr30k.py --checkpoint=PATH --split=test --output=DIR

PATH is a pre-training run or checkpoint, or a released pre-training file.

Data     as configs/flickr30k.py.
Expect   the paper reports R@1 31.86, R@5 61.12, R@10 72.80. Not run here: it needs the data.

On the embedded data, in a minute on 4 CPU cores; docs/tasks.md has the scores:

    python experiments/evaluate.py --config=configs/zero_shot_flickr30k.py:scenes --checkpoint=runs/tiny --output=DIR
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config(data: str = "flickr30k") -> ConfigDict:
    """The recipe of configs/flickr30k.py with another head; ``data`` is ``flickr30k`` or ``scenes``."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("flickr30k.py")))["get_config"](data)
    config.head = "alignment"
    config.embedded_hint = config.embedded_hint and (
        "python experiments/evaluate.py --config=configs/zero_shot_flickr30k.py:scenes --checkpoint=PATH"
    )
    return config
