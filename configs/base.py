"""Pre-training the paper's model: BERT-base text stream, 6 region and 6 co-attention layers, 3.3 M pairs.

    python experiments/pretrain.py --config=configs/base.py --config.init_from=bert-base-uncased

Data     Conceptual Captions with the features of 36 regions a picture; docs/data.md says how to build both. Pairs whose
         picture has no features are left out, and coverage.json in the workdir counts them.
Recipe   batch 512, 10 epochs (about 61,000 steps on the 3.1 M pairs that can be had), AdamW at 1e-4, 10 % warm-up,
         linear decay, all three losses on matched and mismatched pairs alike (paper section 3.1). Unlike the paper's,
         regions overlapping a hidden one are hidden too, and AdamW decays kernels and embeddings only;
         docs/porting.md names the switches back. The paper's text stream starts from BERT, as the command says;
         without init_from it starts at random.
Cost     the paper used 8 GPUs; 239 M parameters, 1 GB in float32, 4 GB with gradients and moments.
Expect   the paper reports zero-shot Flickr30k image retrieval R@1 31.86 after its pre-training. Not run here: it
         needs the data.

The same model and recipe on the embedded data, on any machine and without a download (it draws 26,000 pictures first,
about 2 minutes); these three steps take 2 minutes and 6.4 GB on 4 CPU cores (/usr/bin/time -v):

    python experiments/pretrain.py --config=configs/base.py:scenes --config.total_steps=3 --config.batch_size=8
"""

import dataclasses

from ml_collections import ConfigDict

from tfds_builders.scenes import classifier, descriptors, detections, vocabulary
from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.launch import HostsConfig
from vilbert_jax.sharding import MeshConfig
from vilbert_jax.training.optimizer import OptimizerConfig


def get_config(data: str = "conceptual_captions") -> ConfigDict:
    """The recipe; ``data`` is ``conceptual_captions`` or ``scenes``."""
    if data not in ("conceptual_captions", "scenes"):
        raise ValueError(f"configs/base.py:{data}: choose conceptual_captions (the default) or scenes")
    config = ConfigDict()

    # --- data
    config.data_dir = ""  # TFDS folder; empty: TFDS_DATA_DIR, or else ~/tensorflow_datasets
    config.annotations = "conceptual_captions/captions"
    config.regions = "region_features/conceptual_captions"
    config.min_coverage = 0.01  # least share of the pairs whose image the region store has; others are left out
    config.build_hint = "python tfds_builders/build.py conceptual_captions --manual_dir=DIR --data_dir=DIR"
    config.vocab = "bert-base-uncased"  # a vocab.txt, a tokenizer folder, or a hub name
    config.pictures = ""  # folder of <image_id>.jpg or .png, for examples.png alone
    config.batch_size = 512
    config.pairs_per_row = 8  # pairs that share a row, at most, so that padding costs nothing; 1: each has its own
    config.pairs_per_group = 128  # pairs that are arranged into rows together, at most; a host's share or part of it
    config.text_length = 36
    config.max_regions = 36
    config.train_split = "train"  # or a share of it, train[:25%]
    config.eval_split = "validation"  # held-out pairs; a slice such as validation[:500] makes evaluations shorter
    config.num_workers = 8  # processes that prepare batches; 0: threads of this process

    # --- what is hidden, and what that costs
    config.max_masked_tokens = 16  # vocabulary logits are computed for so many positions of a caption
    config.token_mask_rate = 0.15
    config.region_mask_rate = 0.15
    config.region_masking = (
        "hide_overlaps"  # or "released", "released_multitask"; "readable_overlaps" is the leak alone
    )
    config.mismatch_rate = 0.5
    config.masked_losses_on = "all"  # or "aligned", the recipe of vilbert-multi-task
    config.loss_weights = ConfigDict({"token_loss": 1.0, "region_loss": 1.0, "alignment_loss": 1.0})

    # --- model
    config.model = ConfigDict(dataclasses.asdict(ViLBERTConfig.base()))

    # --- what it starts from
    config.init_from = ""  # a BERT (folder or hub name), a released ViLBERT, a run or checkpoint; empty: at random
    config.fresh_heads = ""  # heads of init_from that start at random all the same, comma-separated
    config.allow_other_features = False  # go on although init_from was trained on other region features

    # --- optimisation
    config.optimizer = ConfigDict(dataclasses.asdict(OptimizerConfig(learning_rate=1e-4)))
    config.total_steps = 61_000
    config.num_microbatches = 1  # parts a batch is worked through in: the same numbers in less memory
    config.param_dtype = "float32"  # or, with model.dtype = "bfloat16", "bfloat16": docs/precision.md
    config.remat = "none"  # "light" and "full" compute more and keep less: docs/precision.md
    config.seed = 0

    # --- where and how often
    config.mesh = ConfigDict(dataclasses.asdict(MeshConfig(data=-1)))  # -1: all devices that the other axes leave
    config.hosts = ConfigDict(dataclasses.asdict(HostsConfig()))  # of a run of several processes: docs/scaling.md
    config.log_every = 50
    config.eval_every = 2000
    config.checkpoint_every = 1000
    config.keep_checkpoints = 3

    if data == "scenes":
        config.annotations, config.regions = "scenes/captions", "scenes/regions"
        config.build_hint = ""
        config.vocab = str(vocabulary.FILE)
        config.max_regions = detections.MAX_BOXES
        config.eval_split = "validation[:256]"  # the base model scores about ten pairs a second on a CPU
        config.num_workers = 0
        config.model.vocab_size = len(vocabulary.FILE.read_text().splitlines())
        config.model.region_feature_dim = descriptors.FEATURE_DIM
        config.model.region_target_dim = len(classifier.CLASS_NAMES)
    return config
