"""ViLBERT small enough to watch: a complete pre-training run in minutes on a CPU, on embedded data, no download.

    make demo
    python experiments/pretrain.py --config=configs/tiny.py

Data     6,000 drawn pictures with 27,000 captions; built on first use, about half a minute.
Model    every part of the paper's model, 0.8 M parameters: 3 text, 2 region and 2 co-attention layers, 96 wide.
Recipe   that of configs/base.py with a higher learning rate and no dropout. Masked words and regions are predicted on
         matching pairs alone (the recipe of vilbert-multi-task): in the other half of the pairs the picture says
         nothing about the words, and a short run has no time for that. The initialisation is wider, because narrow
         layers shrink signals more: 0.02 at 768 columns is 0.06 at 96.
         Of a caption at most 8 pieces are predicted; at 22 pieces more are drawn for 3 captions in a thousand.
Cost     4 to 6 minutes on 4 CPU cores, the drawing of the data included.
Expect   alignment accuracy 0.93, content words 0.57 (0.28 without the picture), region classes 0.33 (majority 0.06).
"""

import dataclasses
import pathlib
import runpy

from ml_collections import ConfigDict

from vilbert_jax.config import StreamConfig, ViLBERTConfig


def get_config() -> ConfigDict:
    """The recipe: configs/base.py:scenes, made small."""
    base = runpy.run_path(str(pathlib.Path(__file__).with_name("base.py")))
    config = base["get_config"]("scenes")
    stream = StreamConfig(
        width=96, num_layers=3, num_heads=4, mlp_dim=192, dropout_rate=0.0, attention_dropout_rate=0.0
    )
    model = ViLBERTConfig.tiny(
        text=stream,
        regions=dataclasses.replace(stream, num_layers=2),
        vocab_size=config.model.vocab_size,
        region_feature_dim=config.model.region_feature_dim,
        region_target_dim=config.model.region_target_dim,
        co_width=96,
        initializer_range=0.06,
    )
    config.model = ConfigDict(dataclasses.asdict(model))

    config.annotations, config.regions = "scenes/captions_small", "scenes/regions_small"
    config.eval_split = "validation"
    config.batch_size = 64
    config.text_length = 24
    config.max_masked_tokens = 8
    config.masked_losses_on = "aligned"
    config.optimizer.learning_rate = 2e-3
    config.total_steps = 2700
    config.log_every = 20
    config.eval_every = 675
    config.checkpoint_every = 675
    return config
