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
    """The recipe of configs/vcr_qa.py with the other pass; ``data`` is ``vcr`` or ``scenes``."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("vcr_qa.py")))["get_config"](data)
    config.passes = "rationale"
    config.text_length = 40 if data == "scenes" else 80
    config.embedded_hint = config.embedded_hint.replace("vcr_qa", "vcr_qar")
    return config
