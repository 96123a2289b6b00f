"""VCR, QA->R: which of four reasons justifies the right answer?

    python experiments/finetune.py --config=configs/vcr_qar.py --config.init_from=PATH
    python experiments/evaluate.py --config=configs/vcr_qar.py --checkpoint=runs/vcr_qar --output=DIR

Data     tfds_builders/build.py vcr over the official files, a region store of detected boxes and one of the given
         boxes, which the objects of a question refer to (docs/data.md). The released features name pictures by number:
         with them --config.annotations=vcr/choice_numbered.
Recipe   batch 64, 20 epochs of the 212,923 questions, rate 2e-5 (paper section 3.2). The paper trains one model on both
         passes: --config.passes=both --config.text_length=80 --config.total_steps=133080.
Expect   the paper reports 74.47 on the validation split, and 54.04 for both right (Q->AR):
         --config.answer_predictions=DIR/predictions.json of configs/vcr_qa.py. Not run here: it needs the data.

On the embedded data, in minutes on 4 CPU cores; docs/tasks.md has the scores:

    python experiments/finetune.py --config=configs/vcr_qar.py:scenes --config.init_from=runs/tiny
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config(data: str = "vcr") -> ConfigDict:
    """The recipe; ``data`` is ``vcr`` or ``scenes``."""
    if data not in ("vcr", "scenes"):
        raise ValueError(f"configs/vcr_qar.py:{data}: choose vcr (the default) or scenes")
    shared = runpy.run_path(str(pathlib.Path(__file__).with_name("finetuning.py")))
    config = shared["get_config"]()
    config.task = "vilbert_jax.tasks.vcr:VCR"
    config.annotations = "vcr/choice"
    config.regions, config.given_regions = "region_features/vcr", "region_features/vcr_given"
    config.build_hint = "python tfds_builders/build.py vcr --manual_dir=DIR --data_dir=DIR"
    config.embedded_hint = "python experiments/finetune.py --config=configs/vcr_qar.py:scenes"
    config.passes = "rationale"  # "answer" is Q->A, "rationale" QA->R, "both" trains one model on both
    config.names = ""  # CSV of names for persons; empty: the project's list
    config.answer_predictions = ""  # predictions.json of Q->A: an evaluation of QA->R then scores Q->AR
    config.batch_size = 64
    config.text_length = 80
    config.total_steps = 66_540
    config.optimizer.learning_rate = 2e-5
    if data == "scenes":
        shared["make_small"](config, "scenes/choice_small")
        config.given_regions = "scenes/given_regions_small"
        config.batch_size = 32  # of four pairs each
        config.total_steps = 500
        config.eval_every = 250
        config.text_length = 40
    return config
