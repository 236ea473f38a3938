"""TrainingArguments; and recipe file + config file + command line -> one resolved config.

Precedence, later wins: the defaults here < the family's `training_defaults` < recipe < `--config` < command line.
This module imports no torch: the command line's help comes from it.
"""

import dataclasses
import math
import re
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from hfgen.errors import UsageError


def option(default: Any, help: str, secret: bool = False, **metadata: Any) -> Any:
    return field(default=default, repr=not secret, metadata={"help": help, **metadata})


@dataclass(kw_only=True)
class TrainingArguments:
    """Everything about a run that is not the model. Each field is an option of `hfgen train` of the same name."""

    dataset_name: str | None = option(
        None, "Built-in name, local folder or file (images, parquet, npz, npy), or id of a Hub dataset."
    )
    dataset_config_name: str | None = option(None, "Configuration of a Hub dataset.")
    dataset_split: str = option("train", "Split to train on.")
    train_data_dir: str | None = option(None, "A local folder of images; the same as giving it as --dataset_name.")
    image_column: str | None = option(None, "Column of the images (default: the only one).")
    label_column: str | None = option(None, "Column of the class labels (default: the only one).")
    cache_dir: str | None = option(None, "Where Hub datasets are cached.")
    resolution: int | None = option(None, "Side of the square images, in pixels (default: the data's own).")
    center_crop: bool = option(
        True, "Resize the shorter side, then crop the center; otherwise both sides are resized to the square."
    )
    random_flip: bool = option(False, "Flip half of the images horizontally, drawn anew each epoch.")
    class_conditional: bool = option(False, "Train on the class labels too.")
    streaming: bool = option(
        False,
        "Read the dataset as it comes, from the Hub or from files, without a copy on the disk. Its length must be "
        "known, or --max_train_steps given; size and mode are those of its first 200 images.",
    )
    shuffle_buffer_size: int = option(
        1000,
        "Of a streamed dataset: so many undecoded images at a time are held in memory and mixed. Files are read in "
        "an order drawn anew each epoch, but what is sorted within them is mixed only so far.",
    )
    data_memory_limit: float = option(
        2.0, "GiB up to which decoded images stay in memory; larger or streamed data are decoded as they are needed."
    )
    dataloader_num_workers: int | None = option(
        None, "Worker processes that decode images as they are needed (default: cores - 1, at most 8)."
    )

    pretrained_model_name_or_path: str | None = option(
        None, "A run's folder or a repository to train further, instead of a new model."
    )
    output_dir: str | None = option(None, "Run folder (default: runs/MODEL-DATASET, then -2, -3).")
    overwrite_output_dir: bool = option(
        False, "Set a run that lies in --output_dir aside, as NAME.old-1, and start anew."
    )
    seed: int = option(0, "Seed of weights, data order and noise.")
    train_batch_size: int = option(64, "Images per process and micro-batch.")
    gradient_accumulation_steps: int = option(1, "Micro-batches per optimizer step.")
    num_train_epochs: int = option(20, "Passes over the data, unless --max_train_steps is given.")
    max_train_steps: int | None = option(None, "Optimizer steps in all; overrides --num_train_epochs.")
    time_limit: str | None = option(None, "Finish after this time, whatever the step: 90s, 30m, 1.5h.")

    learning_rate: float = option(1e-4, "Learning rate after the warm-up.")
    lr_scheduler: str = option("constant", "Schedule by diffusers' name: constant, linear, cosine ...")
    lr_warmup_steps: int = option(0, "Optimizer steps of warm-up.")
    lr_step_rules: str | None = option(
        None, "Of piecewise_constant: factor:step, ..., last factor; `1:1000,0.1` divides by 10 after step 1000."
    )
    adam_beta1: float = option(0.9, "Adam's decay of the first moment.")
    adam_beta2: float = option(0.999, "Adam's decay of the second moment.")
    adam_weight_decay: float = option(0.0, "Decoupled weight decay (AdamW).")
    adam_epsilon: float = option(1e-8, "Added to Adam's denominator.")
    max_grad_norm: float | None = option(None, "Clip each component's gradient to this norm (default: no clipping).")

    mixed_precision: Literal["no", "fp16", "bf16"] = option("no", "Precision inside the networks.")
    allow_tf32: bool = option(False, "Let NVIDIA GPUs multiply float32 in TF32: faster, to about 3 digits.")
    torch_compile: bool = option(False, "Compile the networks: faster steps after a start of minutes.")
    sync_batch_norm: bool = option(False, "BatchNorm over the images of all processes, so that two compute as one.")
    channels_last: bool = option(
        False, "Lay images out channels last: faster or slower by the network. Not in shards."
    )
    use_ema: bool = option(True, "Average the weights, and sample from and save the average.")
    ema_decay: float = option(0.999, "Decay of that average, after a warm-up of (1 + n) / (10 + n).")
    ema_power: float | None = option(
        None, "Warm the average up by 1 - (1 + n / ema_inv_gamma) ** -ema_power instead.", hidden=True
    )
    ema_inv_gamma: float = option(1.0, "Steps in which that other warm-up begins; larger is slower.", hidden=True)

    logging_steps: int = option(50, "Optimizer steps between two lines of metrics.")
    validation_steps: int = option(500, "Optimizer steps between two sample grids; 0 draws the last one only.")
    validation_epochs: int | None = option(None, "Passes over the data between two, instead of --validation_steps.")
    num_validation_images: int = option(64, "Images in a sample grid, of seeds 0, 1, 2 ...")
    validation_split: str | None = option(None, "Split of the data to measure, and not train on, at each validation.")
    validation_metrics: str | None = option(
        None, "What is measured on it: fid,kid,coverage ... (default: the likelihoods that the family has)."
    )
    num_evaluation_images: int = option(500, "Images of --validation_split that are measured; as many are drawn.")
    extractor: str | None = option(
        None, "In whose features drawn images are measured (default: that of the dataset's protocol)."
    )
    best_metric: str | None = option(None, "Keep in best/ the model of the best: bits_per_dim, nats, fid ...")
    early_stopping_patience: int | None = option(None, "End after so many validations without a better --best_metric.")
    num_inference_steps: int | None = option(
        None, "Steps in which a grid is drawn, of a model that samples in many (default: the model's choice)."
    )
    checkpointing_steps: int = option(500, "Optimizer steps between two checkpoints; 0 writes none but on a signal.")
    checkpoints_total_limit: int | None = option(2, "How many of the newest checkpoints to keep (0: all).")
    resume_from_checkpoint: str | None = option(None, "A checkpoint's folder, or `latest` of the output folder.")
    report_to: str = option("none", "Trackers of Accelerate, comma-separated: tensorboard, wandb ... or all.")
    license: str | None = option(None, "License of the trained model, for the card; asked, never guessed.")
    push_to_hub: bool = option(False, "Push the model to the Hub at the end.")
    hub_model_id: str | None = option(None, "Where to: ORG/NAME (default: your account, the run folder's name).")
    hub_strategy: Literal["end", "every_validation"] = option(
        "end", "When: at the end only, or with every sample grid too, the model of that step."
    )
    hub_private_repo: bool = option(False, "Make the repository a private one; one that is public is refused.")
    hub_token: str | None = option(
        None, "Token for that. Others may read a command line: prefer HF_TOKEN, or `hf auth login`.", secret=True
    )

    def __post_init__(self) -> None:
        for name, low, what in _RANGES:
            value = getattr(self, name)
            if value is not None and not (value >= low and math.isfinite(value)):
                raise UsageError(f"{name} is {value}; it must be {what}.")
        for name in ("adam_beta1", "adam_beta2", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must lie in [0, 1).")
        for name in ("learning_rate", "ema_inv_gamma"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be above 0.")
        if self.lr_scheduler in WITHOUT_WARM_UP and self.lr_warmup_steps:
            raise UsageError(f"lr_scheduler {self.lr_scheduler} has no warm-up; choose constant_with_warmup.")
        if (self.lr_scheduler == "piecewise_constant") != (self.lr_step_rules is not None):
            raise UsageError("lr_step_rules and lr_scheduler piecewise_constant go together; give both or neither.")
        if self.validation_metrics and not self.validation_split:
            raise UsageError("validation_metrics are measured on a --validation_split; say which.")
        if self.best_metric and not (self.validation_split and (self.validation_steps or self.validation_epochs)):
            raise UsageError("best_metric is measured on a --validation_split, every --validation_steps; give them.")
        if self.early_stopping_patience is not None and not self.best_metric:
            raise UsageError("early_stopping_patience waits for a better --best_metric; say which.")
        _ = self.seconds_limit
        if self.dataset_name and self.train_data_dir:
            raise UsageError("Give either --dataset_name or --train_data_dir, not both.")
        if self.overwrite_output_dir and self.resume_from_checkpoint:
            raise UsageError("--overwrite_output_dir starts anew, --resume_from_checkpoint goes on; give one of them.")

    @property
    def seconds_limit(self) -> float | None:
        """`time_limit` in seconds."""
        if self.time_limit is None:
            return None
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", self.time_limit)
        if found is None or not float(found[1]):
            raise UsageError(f"time_limit is {self.time_limit!r}; expected 90s, 30m or 1.5h.")
        return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


_RANGES = [
    *[(n, 1, "at least 1") for n in ("train_batch_size", "gradient_accumulation_steps", "num_train_epochs")],
    *[(n, 1, "at least 1") for n in ("max_train_steps", "resolution", "logging_steps", "num_validation_images")],
    *[(n, 1, "at least 1") for n in ("num_evaluation_images", "early_stopping_patience")],
    *[(n, 1, "at least 1") for n in ("validation_epochs", "num_inference_steps")],
    *[(n, 0, "at least 0") for n in ("lr_warmup_steps", "checkpointing_steps", "validation_steps", "seed")],
    ("shuffle_buffer_size", 1, "at least 1"),
    *[(n, 0, "at least 0") for n in ("checkpoints_total_limit", "dataloader_num_workers", "data_memory_limit")],
    *[(n, 0, "a number of at least 0") for n in ("learning_rate", "adam_epsilon", "adam_weight_decay")],
    *[(n, 0, "a number of at least 0") for n in ("max_grad_norm", "ema_power")],
]
WITHOUT_WARM_UP = ("constant", "piecewise_constant")

# Where a run was written, from where it went on, where it was pushed to: no part of what repeats it.
NOT_SAVED = [
    *("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "cache_dir", "time_limit"),
    *("push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_token"),
]

ALIASES = {  # the names of transformers' TrainingArguments and of the older diffusers scripts
    "per_device_train_batch_size": "train_batch_size",
    "batch_size": "train_batch_size",
    "num_epochs": "num_train_epochs",
    "epochs": "num_train_epochs",
    "max_steps": "max_train_steps",
    "lr": "learning_rate",
    "lr_scheduler_type": "lr_scheduler",
    "warmup_steps": "lr_warmup_steps",
    "weight_decay": "adam_weight_decay",
    "save_steps": "checkpointing_steps",
    "save_total_limit": "checkpoints_total_limit",
    "eval_steps": "validation_steps",
    "image_size": "resolution",
    "ema_max_decay": "ema_decay",
    "logger": "report_to",
}

FIELDS = {f.name: f for f in dataclasses.fields(TrainingArguments)}
HINTS = typing.get_type_hints(TrainingArguments)


def canonical(key: str) -> str:
    """
    >>> canonical("per-device-train-batch-size")
    'train_batch_size'
    """
    key = key.replace("-", "_")
    return ALIASES.get(key, key)
