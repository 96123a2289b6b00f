"""RefCOCO+: which region of a picture does a phrase mean? RefCOCO and RefCOCOg by another annotations set.

    python experiments/finetune.py --config=configs/refcoco_plus.py --config.init_from=PATH
    python experiments/evaluate.py --config=configs/refcoco_plus.py --checkpoint=RUN --split=testA --output=DIR

Data     tfds_builders/build.py refcoco_plus over the REFER files, a region store of MAttNet's detections, and one of
         the annotated boxes, which only training sees (docs/data.md).
Recipe   batch 256, 20 epochs of the 120,191 expressions, rate 4e-5 (paper section 3.2).
Expect   the paper reports 72.34 (validation), 78.52 (testA), 62.61 (testB), by its own box rule, here
         accuracy_vilbert_rule. Not run here: it needs the data.

On the embedded data, in minutes on 4 CPU cores; docs/tasks.md has the scores:

    python experiments/finetune.py --config=configs/refcoco_plus.py:scenes --config.init_from=runs/tiny
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config(data: str = "refcoco_plus") -> ConfigDict:
    """The recipe; ``data`` is ``refcoco_plus`` or ``scenes``."""
    if data not in ("refcoco_plus", "scenes"):
        raise ValueError(f"configs/refcoco_plus.py:{data}: choose refcoco_plus (the default) or scenes")
    shared = runpy.run_path(str(pathlib.Path(__file__).with_name("finetuning.py")))
    config = shared["get_config"]()
    config.task = "vilbert_jax.tasks.grounding:Grounding"
    config.annotations = "refcoco_plus/refcoco_plus"
    config.regions, config.given_regions = "region_features/refcoco_plus", "region_features/refcoco_plus_given"
    config.build_hint = "python tfds_builders/build.py refcoco_plus/refcoco_plus --manual_dir=DIR --data_dir=DIR"
    config.embedded_hint = "python experiments/finetune.py --config=configs/refcoco_plus.py:scenes"
    config.whole_image = True  # the whole picture is a candidate too
    config.batch_size = 256
    config.text_length = 20
    config.total_steps = 9_400
    config.optimizer.learning_rate = 4e-5
    if data == "scenes":
        shared["make_small"](config, "scenes/expressions_small")
        config.given_regions = "scenes/given_regions_small"
        config.text_length = 14
    return config
