"""Autoregressive language models with transformers' decoders: objective, sampling with a cache, exact likelihood."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GPT2LMHeadModel, LlamaForCausalLM, PreTrainedTokenizerFast

from hfgen import Batch, LogLikelihood, Objective, SeededNoise, Update, UsageError, eval_mode
from hfgen_text.symbols import draw, log_probs_of, tempered
from hfgen_text.text_networks import attend_both_ways, check_room, network_config
from hfgen_text.text_pipeline import TextPipeline
from hfgen_text.text_scheduler import TextScheduler

SMALL = 100_000_000  # parameters of a network whose texts are drawn in float64 on a CPU


def shifted(scheduler: TextScheduler, ids: Tensor, class_labels: Tensor | None) -> Tensor:
    """Inputs from which each symbol of a text is predicted, (B, L): the begin, or the class, and all but the last."""
    if class_labels is None:
        first = torch.full_like(ids[:, :1], scheduler.start_id)
    else:
        first = scheduler.class_symbols(class_labels)
    return torch.cat([first, ids[:, :-1]], dim=1)


def predict(network: Any, scheduler: TextScheduler, ids: Tensor, class_labels: Tensor | None = None) -> Tensor:
    """Log-probabilities of each symbol given those before it, (B, L, V)."""
    logits = network(input_ids=shifted(scheduler, ids, class_labels), use_cache=False).logits
    return log_probs_of(logits, scheduler.config.vocab_size, scheduler.never(ids.device))


class CausalLMObjective(Objective):
    """-ln p(text), in nats a symbol; the first symbol too is predicted, from the begin symbol or the class."""

    def __init__(self, transformer: nn.Module, scheduler: TextScheduler) -> None:
        self.transformer, self.scheduler = transformer, scheduler

    def training_step(self, batch: Batch) -> Iterator[Update]:
        """Mean over texts and symbols of -ln p(symbol | those before it), in float32."""
        ids = batch["input_ids"]
        log_probs = predict(self.transformer, self.scheduler, ids, batch.get("class_labels"))
        yield Update("transformer", -log_probs.gather(-1, ids.unsqueeze(-1)).mean())


class CausalLMPipeline(TextPipeline):
    """Samples texts one symbol after the other; their likelihood is exact.

    References:
        Radford et al. (2019), Language models are unsupervised multitask learners
    """

    objective_class = CausalLMObjective
    ema_components = ("transformer",)
    description = "Autoregressive language model with transformers' decoders: the baseline, its likelihood exact"
    references = (
        "Radford et al. (2019), Language models are unsupervised multitask learners",
        "Touvron et al. (2023), LLaMA: open and efficient foundation language models, arXiv:2302.13971",
    )
    notes = ("`temperature` and `top_p` draw from another model than the one whose likelihood is given.",)

    def __init__(
        self,
        transformer: LlamaForCausalLM | GPT2LMHeadModel,
        tokenizer: PreTrainedTokenizerFast,
        scheduler: TextScheduler,
    ) -> None:
        super().__init__()
        scheduler.take_symbols(tokenizer, "bos")
        attend_both_ways(transformer, both=False)
        check_room(transformer, scheduler.config.vocab_size + (scheduler.config.num_classes or 0), scheduler.length)
        self.register_modules(transformer=transformer, tokenizer=tokenizer, scheduler=scheduler)

    @classmethod
    def default_configs(
        cls, sample_size: int, in_channels: int, num_classes: int | None, overrides: Mapping[str, dict[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """A network of 4 layers, 128 wide; symbols of classes follow those of the tokenizer."""
        class_name = cls.component_classes(overrides)["transformer"].__name__
        vocab_size = in_channels + (num_classes or 0)
        config = network_config(class_name, vocab_size, sample_size, overrides.get("transformer", {}))
        scheduler = {"sequence_length": sample_size, "vocab_size": in_channels, "num_classes": num_classes}
        return {"transformer": config, "scheduler": scheduler}

    def sample(
        self,
        noise: SeededNoise,
        class_labels: Tensor | None = None,
        num_inference_steps: int | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        prompt: str | None = None,
    ) -> Tensor:
        """Ids of texts, (B, L), int64.

        Args:
            num_inference_steps: not taken: there is a step for each symbol.
            temperature: what logits are divided by; any but 1 draws from another model.
            top_p: the mass of the likeliest symbols that are kept; any but 1 draws from another model.
            prompt: what texts begin with.

        Raises:
            UsageError: an argument out of its range, or a number of steps.
        """
        if num_inference_steps not in (None, self.sequence_length):
            raise UsageError(
                f"An autoregressive model takes a step for each symbol, {self.sequence_length}: "
                "leave out num_inference_steps."
            )
        ids, known = self.known(len(noise), prompt, None, None)
        chance, length = noise.uniform(self.sequence_length), int(known[0].sum())
        network, cache, texts = self._sampling_network(), DynamicCache(), ids.clone()
        inputs = shifted(self.scheduler, ids, class_labels)[:, : length + 1]
        for place in self.progress(range(length, self.sequence_length)):
            logits = network(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
            log_probs = log_probs_of(logits, self.vocab_size, self.scheduler.never(ids.device))
            texts[:, place] = draw(tempered(log_probs, temperature, top_p), chance[:, place])
            inputs = texts[:, place : place + 1]
        return texts

    def _sampling_network(self) -> Any:
        """The network, or a copy in float64: with a cache, rounding depends on the batch, and may flip a symbol."""
        small = sum(parameter.numel() for parameter in self.transformer.parameters()) <= SMALL
        if self._execution_device.type != "cpu" or self.transformer.dtype != torch.float32 or not small:
            return self.transformer
        return copy.deepcopy(self.transformer).double()

    @torch.no_grad()
    def log_likelihood(
        self, images: Tensor, class_labels: Tensor | None = None, seeds: Sequence[int] | None = None
    ) -> LogLikelihood:
        """ln p(text), exactly, of ids of texts (B, L); the first symbol counts.

        Raises:
            UsageError: ids of another shape, or a symbol that no text has.
        """
        ids = self.checked_ids(images)
        labels, found = self.labels_of(ids, class_labels), []
        with eval_mode(self.models().values()):
            for start in range(0, len(ids), self.rows_at_once()):
                part = slice(start, start + self.rows_at_once())
                own = None if labels is None else labels[part]
                log_probs = predict(self.transformer, self.scheduler, ids[part], own)
                found.append(log_probs.gather(-1, ids[part].unsqueeze(-1)).double().sum((1, 2)))
        return LogLikelihood(
            torch.cat(found).cpu(),
            "exact",
            self.sizes_of(ids)["byte"],
            num_values=256,
            method=f"the first symbol from a begin symbol, blocks of {self.sequence_length}",
            unit="byte",
            noun="text",
        )
