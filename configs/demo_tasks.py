"""Every task on the embedded data: with pre-training, without it, and what language alone tells.

    make demo-tasks
    python experiments/ablate.py --config=configs/demo_tasks.py "--config.seeds=(0,1,2)"

Data     drawn pictures, built on first use; held out are 400 pictures, for retrieval 200.
Models   that of configs/tiny.py, pre-trained by its recipe once a seed. "Language alone" starts from the pre-trained
         model and sees no picture in fine-tuning and evaluation: features, boxes and their number are blank.
Cost     about an hour a seed on 4 CPU cores; starting again continues.
Expect   docs/tasks.md has the scores.
"""

from ml_collections import ConfigDict

from vilbert_jax.ablation.recipe import grid_recipe


def get_config() -> ConfigDict:
    """Three variants, every task by its own recipe."""
    variants = {
        "pretrained": dict(title="with pre-training"),
        "scratch": dict(title="without pre-training", pretrained=False),
        "language": dict(title="language alone", finetuning=("blank_pictures=True",)),
    }
    retrieval = dict(split="test[:200]", metric="caption_to_image/recall@1")
    columns = {
        "vqa": dict(title="VQA", recipe="configs/vqa.py:scenes", split="test", metric="accuracy"),
        "vcr_qa": dict(title="VCR Q→A", recipe="configs/vcr_qa.py:scenes", split="test", metric="answer_accuracy"),
        "vcr_qar": dict(
            title="VCR QA→R", recipe="configs/vcr_qar.py:scenes", split="test", metric="rationale_accuracy"
        ),
        "refcoco_plus": dict(
            title="RefCOCO+", recipe="configs/refcoco_plus.py:scenes", split="test", metric="accuracy"
        ),
        "flickr30k": dict(title="retrieval R@1", recipe="configs/flickr30k.py:scenes", **retrieval),
        "zero_shot": dict(
            title="zero-shot R@1", recipe="configs/zero_shot_flickr30k.py:scenes", trained=False, **retrieval
        ),
    }
    return grid_recipe(variants=variants, columns=columns, pretraining="configs/tiny.py", reference="pretrained")
