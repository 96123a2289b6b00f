"""From pixels to answers on the embedded data: a trained detector's regions beside those that the builder draws.

    make demo-pixels          # trains the detector, extracts its regions, then runs this
    python experiments/ablate.py --config=configs/pixels.py "--config.seeds=(0,1,2)"

Data     scenes/regions_small, whose boxes are noisy copies of the truth, described by hand-made features; and two
         region stores of the detector of configs/detector_scenes.py: scenes_detected and, of annotated boxes, which
         training on expressions sees, scenes_given. docs/detector_training.md has the commands.
Models   that of configs/tiny.py, pre-trained by its recipe once a seed, on either kind of regions.
Cost     45 to 80 core minutes a seed, 20 minutes on 4 cores; starting again continues.
Expect   docs/detector_training.md has the scores.
"""

from ml_collections import ConfigDict

from vilbert_jax.ablation.recipe import grid_recipe


def get_config() -> ConfigDict:
    """Two variants; questions, expressions and retrieval, each by its own recipe."""
    detected = "regions=region_features/scenes_detected"
    variants = {
        "builder": dict(title="the builder's regions"),
        "detector": dict(
            title="regions of the trained detector",
            model=("region_feature_dim=256", "region_target_dim=73"),
            pretraining=(detected,),
            finetuning=(detected, "given_regions=region_features/scenes_given"),
        ),
    }
    columns = {
        "vqa": dict(title="VQA", recipe="configs/vqa.py:scenes", split="test", metric="accuracy"),
        "refcoco_plus": dict(
            title="RefCOCO+", recipe="configs/refcoco_plus.py:scenes", split="test", metric="accuracy"
        ),
        "zero_shot": dict(
            title="zero-shot R@1 of 200", recipe="configs/zero_shot_flickr30k.py:scenes", split="test[:200]",
            trained=False, metric="caption_to_image/recall@1",
        ),
    }  # fmt: skip
    return grid_recipe(variants=variants, columns=columns, pretraining="configs/tiny.py", reference="builder")
