"""A tiny family whose network is a transformers `PreTrainedModel`, as a third party would write it."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from hfgen import Batch, HFGenPipeline, Objective, PriorScheduler, Update, UsageError


class ToyTransformerConfig(PreTrainedConfig):
    """Options of the network below; `num_layers` transformer blocks over the rows of the image."""

    model_type = "hfgen_toy_transformer"
    sample_size: int = 8
    in_channels: int = 1
    hidden_size: int = 8
    num_layers: int = 1


class ToyTransformer(PreTrainedModel):
    """Latents (B, sample_size, hidden_size) -> images (B, C, H, W) in [-1, 1]: a row for each position."""

    config_class = ToyTransformerConfig
    base_model_prefix = "transformer"
    main_input_name = "latents"

    def __init__(self, config: ToyTransformerConfig) -> None:
        super().__init__(config)
        self.places = nn.Embedding(config.sample_size, config.hidden_size)
        width = config.hidden_size
        block = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(block, config.num_layers, enable_nested_tensor=False)
        self.row = nn.Linear(config.hidden_size, config.in_channels * config.sample_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module | None:
        """None: it embeds no tokens. Sharded training (FSDP2) asks."""
        return None

    def forward(self, latents: Tensor) -> Tensor:
        size, channels = self.config.sample_size, self.config.in_channels
        hidden = self.blocks(latents + self.places.weight)
        return torch.tanh(self.row(hidden)).unflatten(2, (channels, size)).transpose(1, 2)


class ToyTransformerObjective(Objective):
    """The squared distance of each real image from the one drawn beside it: what a test needs, not a good model."""

    def __init__(self, transformer: nn.Module, scheduler: PriorScheduler) -> None:
        self.transformer, self.scheduler = transformer, scheduler

    def training_step(self, batch: Batch) -> Iterator[Update]:
        drawn = self.transformer(self.scheduler.sample_prior(self.noise))
        yield Update("transformer", (drawn - batch["pixel_values"]).float().square().mean())


class ToyTransformerPipeline(HFGenPipeline):
    """x = T(z)."""

    objective_class = ToyTransformerObjective
    training_defaults = {"learning_rate": 1e-3}
    ema_components = ("transformer",)
    description = "A transformer over the rows of an image"
    references = ("Vaswani et al. (2017), Attention is all you need, arXiv:1706.03762",)

    def __init__(self, transformer: ToyTransformer, scheduler: PriorScheduler) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)

    @classmethod
    def default_configs(cls, sample_size, in_channels, num_classes, overrides):
        if num_classes is not None:
            raise UsageError("The toy transformer has no class-conditional form; leave --class_conditional out.")
        width = overrides.get("transformer", {}).get("hidden_size", 8)
        shape = {"sample_size": sample_size, "in_channels": in_channels}
        return {"transformer": shape, "scheduler": {"latent_shape": [sample_size, width]}}

    def decode(self, latents: Tensor, class_labels: Tensor | None = None) -> Tensor:
        return self.transformer(latents.to(self.transformer.dtype))
