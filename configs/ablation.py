"""The paper's comparisons in one grid: streams, pre-training, depth, share of the data, masking, objectives.

    python experiments/ablate.py --config=configs/ablation.py --config.gpus=0,1,2,3
    python experiments/ablate.py --config=configs/ablation.py --config.only_variants=two_stream,single_stream

Data     everything that configs/base.py and the recipes of the tasks name; docs/reproducing.md says how to build it.
Models   group "models": ViLBERT, the paper's single-stream baseline, which has about half of its parameters, and single
         streams deep enough to have as many parameters or to cost as many operations; "_scratch" is not pre-trained.
         All start from BERT. Every other group changes one thing of the first variant, the reference.
Masking  regions that overlap a hidden one are hidden too unless a variant says otherwise; the paper left them readable.
         "released" does so and divides the global feature by another count; "readable_overlaps" is the leak alone.
Cost     docs/reproducing.md estimates it. One GPU a run; what is done is kept, so that it can be spread over days.
Expect   the paper's figures, which ablation.md shows beside every cell. Not run here: it needs the data.

On the embedded data, with models of the size of configs/tiny.py:

    python experiments/ablate.py --config=configs/ablation.py:scenes

Cost     441 runs, 11 core hours: 3 hours on 4 cores.
Expect   docs/ablation-scenes.md.
"""

import pathlib
import runpy
from typing import Any

from ml_collections import ConfigDict

from vilbert_jax.ablation.recipe import grid_recipe
from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.model_size import Match, matched_single_stream

_SCENES_TEXT_LENGTH = 20  # cuts one caption in 23
# Half of the demo's examples. The lower rate leaves the plateau in front of alignment sooner.
_SHORT_PRETRAINING = (
    "batch_size=32", "total_steps=3000", "optimizer.learning_rate=1e-3", f"text_length={_SCENES_TEXT_LENGTH}",
    "eval_every=1500", "checkpoint_every=1500",
)  # fmt: skip
_SHORT_FINETUNING = ("eval_every=1000",)  # at its end alone: none is as long


def get_config(data: str = "real") -> ConfigDict:
    """The grid; ``data`` is ``real`` or ``scenes``."""
    if data not in ("real", "scenes"):
        raise ValueError(f"configs/ablation.py:{data}: choose scenes, or nothing for the real data")
    scenes = data == "scenes"
    recipe = "configs/tiny.py" if scenes else "configs/base.py"
    return grid_recipe(
        seeds=(0, 1, 2),
        reference="two_stream",
        pretraining=recipe,
        pretraining_flags=_SHORT_PRETRAINING if scenes else (),
        finetuning_flags=_SHORT_FINETUNING if scenes else (),
        variants=_scenes_variants() if scenes else _variants(_recipe(recipe), "bert-base-uncased"),
        columns=_scenes_columns() if scenes else _columns(),
    )


def _scenes_variants() -> dict[str, dict[str, Any]]:
    recipe = _recipe("configs/tiny.py")
    recipe.text_length = _SCENES_TEXT_LENGTH
    return _variants(recipe, "")


def _variants(recipe: Any, init_from: str) -> dict[str, dict[str, Any]]:
    model, lengths = ViLBERTConfig.from_dict(recipe.model.to_dict()), (recipe.text_length, recipe.max_regions + 1)
    variants = _models(model, *lengths) | _depths(model)
    variants |= {
        "data_0": dict(group="data", title="0 % of the pairs", pretrained=False),
        "data_25": dict(group="data", title="25 % of the pairs", pretraining=("train_split=train[:25%]",)),
        "data_50": dict(group="data", title="50 % of the pairs", pretraining=("train_split=train[:50%]",)),
        "data_100": dict(group="data", title="100 % of the pairs"),
    }
    for masking, title in (("released", "released masking"), ("readable_overlaps", "overlaps readable")):
        variants[f"masking_{masking}"] = dict(group="masking", title=title, pretraining=(f"region_masking={masking}",))
    for loss, title in (("token", "masked words"), ("region", "masked regions"), ("alignment", "alignment")):
        variants[f"no_{loss}_loss"] = dict(
            group="objectives", title=f"without {title}", pretraining=(f"loss_weights.{loss}_loss=0.0",)
        )
    variants["no_coattention"] = dict(
        group="co-attention", title="streams that meet in the pooled vector alone", model=("use_coattention=False",)
    )
    return {name: {**entry, "init_from": init_from} for name, entry in variants.items()}


def _models(model: ViLBERTConfig, text_length: int, num_regions: int) -> dict[str, dict[str, Any]]:
    """Two streams, and one stream as the paper has it, of equal size, and of equal cost."""

    def depth(match: Match) -> int:
        return matched_single_stream(model, match, text_length=text_length, num_regions=num_regions).text.num_layers

    models = {
        "two_stream": ("two streams", ()),
        "single_stream": ("one stream, as in the paper", ("num_streams=1",)),
        "single_stream_parameters": (
            "one stream, as many parameters", ("num_streams=1", f"text.num_layers={depth('parameters')}"),
        ),
        "single_stream_compute": (
            "one stream, as many operations", ("num_streams=1", f"text.num_layers={depth('compute')}"),
        ),
    }  # fmt: skip
    variants = {}
    for name, (title, flags) in models.items():
        variants[name] = dict(group="models", title=title, model=flags)
        variants[f"{name}_scratch"] = dict(
            group="models", title=f"{title}, not pre-trained", model=flags, pretrained=False
        )
    return variants


def _depths(model: ViLBERTConfig) -> dict[str, dict[str, Any]]:
    """2 to 8 co-attention layers.

    As in the paper each stands before one of the last text layers, with a region layer of its own. The small model has
    too few text layers for that, and with more it does not train in minutes: there they share the places that it has.
    """
    variants = {}
    for depth in (2, 4, 6, 8):
        num_text_layers, flags = model.text.num_layers, ()
        if num_text_layers >= 8:
            text_co_layers, region_co_layers = range(num_text_layers - depth, num_text_layers), range(depth)
            flags = (f"regions.num_layers={depth}",)
        else:
            copies = depth // len(model.text_co_layers)
            text_co_layers, region_co_layers = (
                sorted(model.text_co_layers * copies),
                sorted(model.region_co_layers * copies),
            )
        flags += (f"text_co_layers={tuple(text_co_layers)}", f"region_co_layers={tuple(region_co_layers)}")
        is_default = depth == len(model.text_co_layers)
        stacked = "" if num_text_layers >= 8 else f" at {len(model.text_co_layers)} places"
        title = f"{depth} co-attention layers{stacked}"
        variants[f"depth_{depth}"] = dict(group="depth", title=title, model=() if is_default else flags)
    return variants


def _columns() -> dict[str, dict[str, Any]]:
    """The paper's tasks; one model for both passes of VCR, as in the paper."""
    vcr = dict(
        recipe="configs/vcr_qa.py",
        split="validation",
        flags=("passes=both", "text_length=80", "total_steps=133080"),
    )
    return {
        "vqa": dict(title="VQA", recipe="configs/vqa.py", split="validation[-3000:]", metric="accuracy", digits=2),
        "vcr_qa": dict(title="VCR Q→A", metric="answer_accuracy", digits=2, **vcr),
        "vcr_qar": dict(title="VCR QA→R", metric="rationale_accuracy", digits=2, **vcr),
        "vcr_q2ar": dict(title="VCR Q→AR", metric="joint_accuracy", digits=2, **vcr),
        "refcoco_plus": dict(
            title="RefCOCO+", recipe="configs/refcoco_plus.py", split="validation", metric="accuracy_vilbert_rule",
            digits=2,
        ),
        "flickr30k": dict(
            title="retrieval R@1", recipe="configs/flickr30k.py", split="test", metric="caption_to_image/recall@1",
            digits=2,
        ),
        "zero_shot": dict(
            title="zero-shot R@1", recipe="configs/zero_shot_flickr30k.py", split="test", trained=False,
            metric="caption_to_image/recall@1", digits=2,
        ),
        **_region_losses("validation", ("masking", "models")),
    }  # fmt: skip


def _scenes_columns() -> dict[str, dict[str, Any]]:
    """The same tasks on drawn pictures, fine-tuned for a minute; scored on pictures that nothing else has seen.

    Two of them compare the models alone: all tasks of all variants would take days on a CPU.
    """
    vcr = dict(
        recipe="configs/vcr_qa.py:scenes", split="test", groups=("models",),
        flags=("passes=both", "text_length=40", "batch_size=16", "total_steps=300", "optimizer.learning_rate=5e-4"),
    )  # fmt: skip
    return {
        "vqa": dict(
            title="VQA", recipe="configs/vqa.py:scenes", split="test", metric="accuracy", flags=("total_steps=400",),
            groups=("models",),
        ),
        "vcr_qa": dict(title="VCR Q→A", metric="answer_accuracy", **vcr),
        "vcr_qar": dict(title="VCR QA→R", metric="rationale_accuracy", **vcr),
        "vcr_q2ar": dict(title="VCR Q→AR", metric="joint_accuracy", **vcr),
        "refcoco_plus": dict(
            title="RefCOCO+", recipe="configs/refcoco_plus.py:scenes", split="test", metric="accuracy",
            flags=("total_steps=200",),
        ),
        "flickr30k": dict(
            title="retrieval R@1 of 50", recipe="configs/flickr30k.py:scenes", split="test[:50]",
            metric="caption_to_image/recall@1", flags=("batch_size=16", "total_steps=150"),
        ),
        "zero_shot": dict(
            title="zero-shot R@1 of 50", recipe="configs/zero_shot_flickr30k.py:scenes", split="test[:50]",
            trained=False, metric="caption_to_image/recall@1",
        ),
        **_region_losses("test[:1000]", ("masking",)),
    }  # fmt: skip


def _region_losses(split: str, groups: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """How well pre-training predicts hidden regions with their overlaps hidden too, readable, or as released.

    The released masking leaves overlaps readable and also divides the global feature by another count.
    """
    shared = dict(
        recipe="", split=split, trained=False, metric="region_loss", digits=3, unit="nats", groups=groups,
        script="experiments/evaluate_pretraining.py",
    )  # fmt: skip
    return {
        "region_loss_hide_overlaps": dict(
            title="region loss, overlaps hidden", eval_flags=("region_masking=hide_overlaps",), **shared
        ),
        "region_loss_released": dict(
            title="region loss, released masking", eval_flags=("region_masking=released",), **shared
        ),
        "region_loss_readable": dict(
            title="region loss, overlaps readable", eval_flags=("region_masking=readable_overlaps",), **shared
        ),
    }


def _recipe(name: str) -> Any:
    return runpy.run_path(str(pathlib.Path(__file__).with_name(pathlib.Path(name).name)))["get_config"]()
