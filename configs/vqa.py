"""VQA v2: answers to questions, from a list of 3,129.

    python experiments/finetune.py --config=configs/vqa.py --config.init_from=PATH
    python experiments/evaluate.py --config=configs/vqa.py --checkpoint=runs/vqa --split=validation[-3000:] --output=DIR

Data     tfds_builders/build.py vqa_v2 over the official files, and a region store of COCO's pictures (docs/data.md).
         Training takes train and validation without its last 3,000 questions, "minval", which choose the checkpoint.
Recipe   batch 256, 20 epochs of the 655,111 questions, rate 4e-5 and 1e-4 in the answer head (paper section 3.2).
Expect   the paper reports 70.55 on test-dev. Not run here: it needs the data.

On the embedded data, in minutes on 4 CPU cores; docs/tasks.md has the scores:

    python experiments/finetune.py --config=configs/vqa.py:scenes --config.init_from=runs/tiny
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config(data: str = "vqa_v2") -> ConfigDict:
    """The recipe; ``data`` is ``vqa_v2`` or ``scenes``."""
    if data not in ("vqa_v2", "scenes"):
        raise ValueError(f"configs/vqa.py:{data}: choose vqa_v2 (the default) or scenes")
    shared = runpy.run_path(str(pathlib.Path(__file__).with_name("finetuning.py")))
    config = shared["get_config"]()
    config.task = "vilbert_jax.tasks.vqa:VQA"
    config.annotations, config.regions = "vqa_v2", "region_features/coco"
    config.train_split, config.eval_split = "train+validation[:-3000]", "validation[-3000:]"
    config.build_hint = "python tfds_builders/build.py vqa_v2 --manual_dir=DIR --data_dir=DIR"
    config.embedded_hint = "python experiments/finetune.py --config=configs/vqa.py:scenes"
    config.rules = "2021"  # of the official evaluator; "2017" is the one of ViLBERT's time
    config.answer_labels = ""  # list of the answers, or a checkpoint that has it; empty: the data set's
    config.batch_size = 256
    config.text_length = 16
    config.total_steps = 51_180
    config.optimizer.learning_rate = 4e-5
    config.optimizer.learning_rate_by_path = (("vqa_head/.*", 2.5),)
    if data == "scenes":
        shared["make_small"](config, "scenes/vqa_small")
        config.text_length = 18
    return config
