"""What the fine-tuning recipes share; each of them names its task, its data and what differs.

The paper fine-tunes for 20 epochs with the Adam of BERT: warm-up over a tenth of the run, then a constant rate that
falls to a tenth after 12 and again after 16 epochs (vilbert_beta, train_tasks.py). Unlike that code, weight decay is on
kernels and embeddings and not on biases and norms; docs/porting.md says how to get the released behaviour back.
"""

import dataclasses
import pathlib
import runpy

from ml_collections import ConfigDict

from tfds_builders.scenes import vocabulary
from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.launch import HostsConfig
from vilbert_jax.sharding import MeshConfig
from vilbert_jax.training.optimizer import OptimizerConfig


def get_config() -> ConfigDict:
    """The paper's fine-tuning without a task."""
    config = ConfigDict()

    # --- task and data: set by the recipe of the task
    config.task = ""  # module:Class
    config.data_dir = ""  # TFDS folder; empty: TFDS_DATA_DIR, or else ~/tensorflow_datasets
    config.annotations = ""
    config.regions = ""
    config.given_regions = ""  # region store of annotated boxes, for the tasks that read them
    config.train_split = "train"
    config.eval_split = "validation"
    config.vocab = "bert-base-uncased"  # a vocab.txt, a tokenizer folder, or a hub name
    config.pictures = ""  # folder of <image_id>.jpg or .png, for examples.png alone
    config.build_hint = ""
    config.embedded_hint = ""
    config.batch_size = 64
    config.text_length = 30
    config.max_regions = 99  # the released 100 count the global region
    config.truncation = "keep_sep"  # or "cut": a long text loses its [SEP], as the paper's checkpoints saw it
    config.min_coverage = 0.01  # least share of the rows whose image has regions, in training
    config.allow_missing = False  # evaluate although images are missing; metrics.json says how many
    config.blank_pictures = False  # what language alone tells
    config.task_token = 0  # number of the task, for models with task tokens
    config.num_workers = 8  # processes that prepare batches; 0: threads of this process

    # --- what it starts from; a ViLBERT there brings its own model config
    config.init_from = ""  # a pre-training run, a checkpoint, a released ViLBERT, a BERT; empty: at random
    config.fresh_heads = ""  # heads of init_from that start at random all the same, comma-separated
    config.allow_other_features = False  # go on although init_from was trained on other region features
    config.model = ConfigDict(dataclasses.asdict(ViLBERTConfig.base()))  # of a start at random or from a BERT

    # --- optimisation
    optimizer = OptimizerConfig(
        variant="bertadam",
        b2=0.999,
        eps=1e-6,
        bias_correction=False,
        schedule="constant",
        schedule_offset=1,
        drop_at=(0.6, 0.8),
        drop_factor=0.1,
        clip="per_tensor",
        learning_rate=2e-5,
    )
    config.optimizer = ConfigDict(dataclasses.asdict(optimizer))
    config.total_steps = 1
    config.num_microbatches = 1
    config.param_dtype = "float32"
    config.remat = "none"
    config.seed = 0

    # --- where and how often
    config.mesh = ConfigDict(dataclasses.asdict(MeshConfig(data=-1)))  # -1: all devices that the other axes leave
    config.hosts = ConfigDict(dataclasses.asdict(HostsConfig()))  # of a run of several processes: docs/scaling.md
    config.log_every = 50
    config.eval_every = 2000
    config.checkpoint_every = 1000
    config.keep_checkpoints = 1  # besides the best one
    config.patience = 0  # evaluations without a better score after which the run stops; 0: never
    return config


def make_small(config: ConfigDict, annotations: str) -> None:
    """Changes a recipe into one on the embedded data, of the size of configs/tiny.py."""
    tiny = runpy.run_path(str(pathlib.Path(__file__).with_name("tiny.py")))["get_config"]()
    config.annotations, config.regions = annotations, tiny.regions
    config.train_split, config.eval_split = "train", "validation"
    config.vocab = str(vocabulary.FILE)
    config.max_regions = tiny.max_regions
    config.model = tiny.model
    config.build_hint = config.embedded_hint = ""
    config.num_workers = 0
    config.batch_size = 64
    # As pre-training does at this size: Adam at a high rate that falls to zero.
    config.optimizer = ConfigDict(dataclasses.asdict(OptimizerConfig(learning_rate=1e-3)))
    config.total_steps = 600
    config.log_every = 20
    config.eval_every = 200
    config.checkpoint_every = 200
