"""Training arguments: the options of `hfgen train`, each with its default, help, range, aliases and resume rule.

This module imports no torch: the command line's help comes from it.
"""

import dataclasses
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hfgen.errors import UsageError
from hfgen.settings.data_arguments import DataArguments
from hfgen.settings.ema_profiles import EMAProfile, parse_profiles
from hfgen.settings.fields import check_bounds, option
from hfgen.settings.licenses import known_license
from hfgen.settings.optimizers import OptimizerOptions, check_schedule, options_of
from hfgen.tokens import clean_token


@dataclass(kw_only=True)
class TrainingArguments(DataArguments):
    """Everything about a run that is not the model. Each field is an option of `hfgen train` of the same name.

    Raises:
        UsageError: a number is out of its range, or two options contradict each other.
    """

    pretrained_model_name_or_path: str | None = option(
        None, "Run folder or repository to train further, instead of a new model.", resume="free"
    )
    output_dir: str | None = option(
        None, "Run folder (default: runs/MODEL-DATASET, then -2, -3).", resume="free", saved=False
    )
    overwrite_output_dir: bool = option(
        False, "Rename a run that is in --output_dir to NAME.old-1, and start a new one.", resume="free", saved=False
    )
    seed: int = option(0, "Seed of weights, data order and noise.", resume="fixed", at_least=0)
    train_batch_size: int = option(
        64,
        "Images per process and micro-batch.",
        resume="free",
        at_least=1,
        aliases=("per_device_train_batch_size", "batch_size"),
    )
    gradient_accumulation_steps: int = option(1, "Micro-batches per optimizer step.", resume="free", at_least=1)
    num_train_epochs: int = option(
        20,
        "Passes over the data, unless --max_train_steps is given.",
        resume="free",
        at_least=1,
        aliases=("num_epochs", "epochs"),
    )
    max_train_steps: int | None = option(
        None,
        "Number of optimizer steps; overrides --num_train_epochs.",
        resume="free",
        at_least=1,
        aliases=("max_steps",),
    )
    time_limit: str | None = option(
        None, "Finish after this time, whatever the step: 90s, 30m, 1.5h.", resume="free", saved=False
    )

    learning_rate: float = option(
        1e-4, "Learning rate after the warm-up.", resume="reported", above=0, aliases=("lr",)
    )
    lr_scheduler: str = option(
        "constant",
        "Learning rate schedule, by diffusers' name: constant, linear, cosine ...",
        resume="reported",
        aliases=("lr_scheduler_type",),
    )
    lr_warmup_steps: int = option(
        0, "Optimizer steps of warm-up.", resume="reported", at_least=0, aliases=("warmup_steps",)
    )
    lr_step_rules: str | None = option(
        None,
        "For --lr_scheduler piecewise_constant: factor:step, ..., last factor; `1:1000,0.1` divides by 10 "
        "after step 1000.",
        resume="reported",
    )
    adam_beta1: float = option(0.9, "Adam's decay of the first moment.", resume="reported", at_least=0, below=1)
    adam_beta2: float = option(0.999, "Adam's decay of the second moment.", resume="reported", at_least=0, below=1)
    adam_weight_decay: float = option(
        0.0, "Decoupled weight decay (AdamW).", resume="reported", at_least=0, aliases=("weight_decay",)
    )
    adam_epsilon: float = option(1e-8, "Added to Adam's denominator.", resume="reported", at_least=0)
    max_grad_norm: float | None = option(
        None, "Clip each component's gradient to this norm (default: no clipping).", resume="reported", at_least=0
    )
    optimizer: Mapping[str, Mapping[str, Any]] | None = option(
        None,
        "Component -> options of its own optimizer, such as {discriminator: {learning_rate: 4e-4}}; on the command "
        "line --optimizer.discriminator.learning_rate 4e-4. What is not given comes from the options above.",
        resume="reported",
    )

    data: Mapping[str, Any] | None = option(
        None,
        "Options of the data that only one modality has, such as {block_size: 64} of texts; on the command line "
        "--block_size 64, or --data.block_size 64.",
        resume="fixed",
    )

    mixed_precision: Literal["no", "fp16", "bf16"] = option("no", "Precision inside the networks.", resume="reported")
    allow_tf32: bool = option(
        False, "Let NVIDIA GPUs multiply float32 in TF32: faster, to about 3 digits.", resume="reported"
    )
    torch_compile: bool = option(
        False, "Compile the networks: faster steps after a start of minutes.", resume="reported"
    )
    sync_batch_norm: bool = option(
        False,
        "Compute BatchNorm over the images of all processes, so that two processes compute the same as one.",
        resume="reported",
    )
    channels_last: bool = option(
        False,
        "Use the channels-last memory format: faster or slower, depending on the network. Not with sharding.",
        resume="reported",
    )
    use_ema: bool = option(
        True, "Keep an exponential moving average (EMA) of the weights; sample from it and save it.", resume="fixed"
    )
    ema_decay: float = option(
        0.999,
        "Decay of the EMA, after a warm-up of (1 + n) / (10 + n).",
        resume="reported",
        at_least=0,
        below=1,
        aliases=("ema_max_decay",),
    )
    ema_power: float | None = option(
        None,
        "Warm the EMA up by 1 - (1 + n / ema_inv_gamma) ** -ema_power instead.",
        resume="reported",
        at_least=0,
        hidden=True,
    )
    ema_inv_gamma: float = option(
        1.0,
        "Steps in which the warm-up by --ema_power begins; larger is slower.",
        resume="reported",
        above=0,
        hidden=True,
    )
    ema_profiles: str | None = option(
        None,
        "Averages to keep instead of that of --ema_decay, comma-separated: decay=0.9999, half_life=500000 (images), "
        "sigma_rel=0.1 (width relative to the training so far). The first is sampled and saved, others go to ema/.",
        resume="fixed",
    )

    logging_steps: int = option(50, "Optimizer steps between two lines of metrics.", resume="free", at_least=1)
    validation_steps: int = option(
        500,
        "Optimizer steps between two validations with a sample grid; 0 samples the last grid only.",
        resume="free",
        at_least=0,
        aliases=("eval_steps",),
    )
    validation_epochs: int | None = option(
        None, "Passes over the data between two validations, instead of --validation_steps.", resume="free", at_least=1
    )
    num_validation_images: int = option(
        64, "Images in a sample grid, with the seeds 0, 1, 2 ...", resume="free", at_least=1
    )
    validation_split: str | None = option(
        None, "Split of the data to measure at each validation; it is not trained on.", resume="reported"
    )
    validation_fraction: float | None = option(
        None,
        "Share of the data, chosen by --seed, that is measured at each validation and not trained on: 0.1. The run "
        "remembers it, and `hfgen evaluate` compares with it where the data have no test split.",
        resume="fixed",
        above=0,
        below=1,
        aliases=("train_val_split",),
    )
    validation_metrics: str | None = option(
        None,
        "Metrics on the validation images: fid,kid,coverage ... (default: the likelihoods that the family has).",
        resume="reported",
    )
    num_evaluation_images: int = option(
        500, "Validation images to measure; the same number is sampled.", resume="reported", at_least=1
    )
    extractor: str | None = option(
        None,
        "Extractor of the features in which sampled images are measured (default: that of the dataset's protocol).",
        resume="reported",
    )
    best_metric: str | None = option(
        None, "Metric by which the best model is kept in best/: bits_per_dim, nats, fid ...", resume="reported"
    )
    early_stopping_patience: int | None = option(
        None, "End the training after this many validations without a better --best_metric.", resume="free", at_least=1
    )
    num_inference_steps: int | None = option(
        None,
        "Steps in which a grid is sampled, for a model that samples in many steps (default: the model's choice).",
        resume="free",
        at_least=1,
    )
    checkpointing_steps: int = option(
        500,
        "Optimizer steps between two checkpoints; 0 writes one on a signal only.",
        resume="free",
        at_least=0,
        aliases=("save_steps",),
    )
    checkpoints_total_limit: int | None = option(
        2, "Number of newest checkpoints to keep (0: all).", resume="free", at_least=0, aliases=("save_total_limit",)
    )
    resume_from_checkpoint: str | None = option(
        None, "Folder of a checkpoint, or `latest` for the newest in the output folder.", resume="free", saved=False
    )
    report_to: str = option(
        "none",
        "Trackers of Accelerate, comma-separated: tensorboard, wandb ... or all.",
        resume="free",
        aliases=("logger",),
    )
    license: str | None = option(
        None, "License of the trained model, for the card; it is never guessed.", resume="free"
    )
    push_to_hub: bool = option(False, "Push the model to the Hub at the end.", resume="free", saved=False)
    hub_model_id: str | None = option(
        None,
        "Repository to push to: ORG/NAME (default: your account and the run folder's name).",
        resume="free",
        saved=False,
    )
    hub_strategy: Literal["end", "every_validation"] = option(
        "end",
        "When to push: at the end only, or also with every sample grid the model of that step.",
        resume="free",
        saved=False,
    )
    hub_private_repo: bool = option(
        False, "Create the repository as private; a repository that is public is refused.", resume="free", saved=False
    )
    hub_token: str | None = option(
        None,
        "Token of the Hub. Others may read a command line: prefer HF_TOKEN, or `hf auth login`.",
        resume="free",
        saved=False,
        secret=True,
    )

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            check_bounds(f.name, getattr(self, f.name), f.metadata["bounds"])
        self.hub_token = clean_token(self.hub_token, "--hub_token")
        self.license = known_license(self.license)
        self._check_optimizers()
        self._check_averages()
        self._check_validation()
        _ = self.seconds_limit, self.value_limits
        if self.dataset_name and self.train_data_dir:
            raise UsageError("Give either --dataset_name or --train_data_dir, not both.")
        if self.unlabeled == "skip" and not self.class_conditional:
            raise UsageError("--unlabeled skip is of --class_conditional; without classes all images are used.")
        if self.unlabeled == "skip" and self.streaming:
            raise UsageError("--unlabeled skip needs all labels in advance, which --streaming does not read.")
        if self.overwrite_output_dir and self.resume_from_checkpoint:
            raise UsageError("--overwrite_output_dir starts a new run, --resume_from_checkpoint goes on; give one.")

    def _check_optimizers(self) -> None:
        check_schedule("", self.lr_scheduler, self.lr_warmup_steps, self.lr_step_rules)
        for component in self.optimizer or {}:
            own = self.optimizer_of(component)
            names = own.lr_scheduler, own.lr_warmup_steps, own.lr_step_rules
            check_schedule(f"optimizer.{component}.", *names)

    def _check_averages(self) -> None:
        _ = self.averages
        if self.ema_profiles and not self.use_ema:
            raise UsageError("--ema_profiles are averages that --no_use_ema leaves out; give one of them.")
        if self.ema_profiles and self.ema_power is not None:
            raise UsageError("--ema_power warms up the EMA of --ema_decay; leave it out with --ema_profiles.")

    def _check_validation(self) -> None:
        if self.validation_split and self.validation_fraction:
            raise UsageError("Validation images are those of --validation_split or --validation_fraction; give one.")
        if self.validation_fraction and self.all_frames:
            raise UsageError(
                "--validation_fraction would hold out some pictures of a file whose others are trained on, with "
                "--all_frames.\nName a split of its own: --validation_split."
            )
        if self.validation_fraction and self.streaming:
            raise UsageError(
                "--validation_fraction chooses images by number, which a stream does not have.\n"
                "Leave out --streaming, or name a split of its own: --validation_split."
            )
        if self.validation_metrics and not self.validates:
            raise UsageError(
                "--validation_metrics are measured on --validation_split, or --validation_fraction; give one of them."
            )
        if self.best_metric and not (self.validates and (self.validation_steps or self.validation_epochs)):
            raise UsageError(
                "--best_metric is measured on --validation_split, or --validation_fraction, every --validation_steps; "
                "give them."
            )
        if self.early_stopping_patience is not None and not self.best_metric:
            raise UsageError("--early_stopping_patience waits for a better --best_metric; give it too.")

    def optimizer_of(self, component: str) -> OptimizerOptions:
        """Return the options of a component's optimizer: its own and, where it has none, those of all components.

        Raises:
            UsageError: an option is unknown, or the optimizer's class does not take it.
        """
        general = {"learning_rate": self.learning_rate, "betas": (self.adam_beta1, self.adam_beta2)}
        general |= {"eps": self.adam_epsilon, "weight_decay": self.adam_weight_decay}
        general |= {"lr_scheduler": self.lr_scheduler, "lr_warmup_steps": self.lr_warmup_steps}
        general |= {"lr_step_rules": self.lr_step_rules}
        return options_of(component, (self.optimizer or {}).get(component, {})).over(general)

    @property
    def options(self) -> dict[str, Any]:
        """Return all options by name, those that only the modality has among them."""
        flat = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "data"}
        return {**flat, **(self.data or {})}

    @property
    def validates(self) -> bool:
        """Return True if there are validation images, which are not trained on."""
        return self.validation_split is not None or self.validation_fraction is not None

    @property
    def averages(self) -> list[EMAProfile]:
        """Return the profiles of EMA; the first is what is sampled and saved."""
        return parse_profiles(self.ema_profiles) if self.ema_profiles else [EMAProfile("decay", self.ema_decay)]

    @property
    def seconds_limit(self) -> float | None:
        """Return `time_limit` in seconds.

        Raises:
            UsageError: it cannot be read.
        """
        if self.time_limit is None:
            return None
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", self.time_limit)
        if found is None or not float(found[1]):
            raise UsageError(f"--time_limit is {self.time_limit!r}; expected 90s, 30m or 1.5h.")
        return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


FIELDS = {f.name: f for f in dataclasses.fields(TrainingArguments)}
HINTS = typing.get_type_hints(TrainingArguments)
NOT_SAVED = [name for name, f in FIELDS.items() if not f.metadata["saved"]]
ALIASES = {alias: name for name, f in FIELDS.items() for alias in f.metadata["aliases"]}


def canonical(key: str) -> str:
    """Return an option's own name: dashes are underscores, an alias is what it stands for.

    >>> canonical("per-device-train-batch-size")
    'train_batch_size'
    """
    key = key.replace("-", "_")
    return ALIASES.get(key, key)


def shown(name: str) -> str:
    """Return a setting as messages name it: an option with its dashes, another fact as it is.

    >>> shown("seed"), shown("num_processes")
    ('--seed', 'num_processes')
    """
    return f"--{name}" if name in FIELDS else name
