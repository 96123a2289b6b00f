"""Flickr30k: find the picture that a caption describes. COCO by another annotations set (flickr30k/coco).

    python experiments/finetune.py --config=configs/flickr30k.py --config.init_from=PATH
    python experiments/evaluate.py --config=configs/flickr30k.py --checkpoint=runs/flickr30k --split=test --output=DIR

Data     tfds_builders/build.py flickr30k over Karpathy's file, and a region store of its pictures (docs/data.md).
Recipe   batch 64 of four pairs each, 20 epochs of the 145,000 captions, rate 2e-5 (paper section 3.2). Model selection
         takes the four-way accuracy on the validation split; the released code takes the test split for it.
Expect   the paper reports R@1 58.20, R@5 84.90, R@10 91.52 (caption to image, test). Not run here: it needs the data.

On the embedded data, in minutes on 4 CPU cores; docs/tasks.md has the scores:

    python experiments/finetune.py --config=configs/flickr30k.py:scenes --config.init_from=runs/tiny
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config(data: str = "flickr30k") -> ConfigDict:
    """The recipe; ``data`` is ``flickr30k`` or ``scenes``."""
    if data not in ("flickr30k", "scenes"):
        raise ValueError(f"configs/flickr30k.py:{data}: choose flickr30k (the default) or scenes")
    shared = runpy.run_path(str(pathlib.Path(__file__).with_name("finetuning.py")))
    config = shared["get_config"]()
    config.task = "vilbert_jax.tasks.retrieval:Retrieval"
    config.annotations, config.regions = "flickr30k/flickr30k", "region_features/flickr30k"
    config.build_hint = "python tfds_builders/build.py flickr30k/flickr30k --manual_dir=DIR --data_dir=DIR"
    config.embedded_hint = "python experiments/finetune.py --config=configs/flickr30k.py:scenes"
    config.head = "choice"  # or "alignment", that of pre-training
    config.num_hard = 100  # nearest pictures that a hard negative is drawn from
    config.num_folds = 0  # 5 with COCO's 5,000 test pictures: the "1K" numbers as well
    config.batch_size = 64
    config.text_length = 30
    config.total_steps = 45_320
    config.optimizer.learning_rate = 2e-5
    if data == "scenes":
        shared["make_small"](config, "scenes/retrieval_small")
        config.batch_size = 32  # of four pairs each
        config.text_length = 24
    return config
