"""Masked diffusion of texts (Sahoo et al. 2024, arXiv:2406.07524; Shi et al. 2024, arXiv:2406.04329): the pipeline.

The network is one of transformers' bidirectional encoders, without time, which the optimal one does not need (Ou et
al. 2025, arXiv:2406.03736): plain `AutoModelForMaskedLM` loads it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import (
    BertForMaskedLM,
    EuroBertForMaskedLM,
    LlamaForCausalLM,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
)

from hfgen import LogLikelihood, SeededNoise, UsageError, did_you_mean, eval_mode, noise_for
from hfgen_text.curve import estimate, measured_curve
from hfgen_text.masked_objective import MaskedDiffusionObjective, predict
from hfgen_text.masking import counts_of, masked_places, mean_cross_entropy, strata
from hfgen_text.samplers import (
    Canvas,
    Sampler,
    by_confidence,
    by_drawn_confidence,
    by_entropy,
    by_grid,
    grid_of,
    in_random_order,
    remasking,
)
from hfgen_text.text_networks import attend_both_ways, check_room, network_config
from hfgen_text.text_pipeline import TextPipeline, noise_of_rows
from hfgen_text.text_scheduler import TextScheduler

NUM_DRAWS = 16  # numbers of masked places that a likelihood is measured at


class MaskedLMPipeline(TextPipeline):
    """Samples texts by revealing masked places in random order, and bounds their likelihood.

    References:
        Sahoo et al. (2024), Simple and effective masked diffusion language models, arXiv:2406.07524
    """

    objective_class = MaskedDiffusionObjective
    ema_components = ("transformer",)
    description = "Masked diffusion of texts with transformers' encoders: any order, infilling, a bound of ln p"
    references = (
        "Sahoo et al. (2024), Simple and effective masked diffusion language models, arXiv:2406.07524",
        "Shi, Han, Wang, Doucet & Titsias (2024), Simplified and generalized masked diffusion, arXiv:2406.04329",
        "Ou et al. (2025), Your absorbing discrete diffusion secretly models the conditional distributions, "
        "arXiv:2406.03736",
    )
    notes = (
        "Texts are drawn one symbol at a time in random order unless `num_inference_steps` says otherwise; "
        "`temperature` and `top_p` draw from another model than the one whose likelihood is given.",
    )

    def __init__(
        self,
        transformer: EuroBertForMaskedLM | ModernBertForMaskedLM | BertForMaskedLM | LlamaForCausalLM,
        tokenizer: PreTrainedTokenizerFast,
        scheduler: TextScheduler,
    ) -> None:
        super().__init__()
        scheduler.take_symbols(tokenizer, "mask")
        attend_both_ways(transformer, both=True)
        if hasattr(transformer.config, "mask_token_id"):
            transformer.config.mask_token_id = scheduler.start_id
        room = scheduler.config.num_classes or 0
        check_room(transformer, scheduler.config.vocab_size + room, scheduler.length + (room > 0))
        self.register_modules(transformer=transformer, tokenizer=tokenizer, scheduler=scheduler)

    @classmethod
    def default_configs(
        cls, sample_size: int, in_channels: int, num_classes: int | None, overrides: Mapping[str, dict[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """A network of 4 layers, 128 wide; symbols of classes follow those of the tokenizer."""
        class_name = cls.component_classes(overrides)["transformer"].__name__
        classes = num_classes or 0
        length = sample_size + (classes > 0)
        config = network_config(class_name, in_channels + classes, length, overrides.get("transformer", {}))
        scheduler = {"sequence_length": sample_size, "vocab_size": in_channels, "num_classes": num_classes}
        return {"transformer": config, "scheduler": scheduler}

    @property
    def validation_options(self) -> dict[str, Any]:
        """Options of validation samples: 32 calls of the network."""
        return {"num_inference_steps": min(32, self.sequence_length)}

    # --- sampling ---------------------------------------------------------------------------------------------------

    def sample(
        self,
        noise: SeededNoise,
        class_labels: Tensor | None = None,
        num_inference_steps: int | None = None,
        sampler: Sampler = "random",
        grid: Literal["uniform", "cosine"] = "uniform",
        entropy_bound: float = 0.5,
        remasking_eta: float = 0.02,
        remasking_rule: Literal["cap", "rescale"] = "cap",
        temperature: float = 1.0,
        top_p: float = 1.0,
        prompt: str | None = None,
        suffix: str | None = None,
        infill: str | None = None,
    ) -> Tensor:
        """Ids of texts, (B, L), int64.

        Args:
            num_inference_steps: default as many as there are unknown places, whose law is the model's own.
            sampler: `"random"` reveals places in random order, as many in each step; `"bernoulli"` each by itself, at
                the shares of a grid; `"entropy_bound"` as many of the surest as may be drawn at once;
                `"confidence"` the surest places first, chosen before their symbols are drawn; `"drawn_confidence"`
                those whose drawn symbols are likeliest, whose law is another one than the model's; `"remdm"` masks
                some places again.
            grid: of the samplers `bernoulli` and `remdm`.
            entropy_bound: of that sampler, nats by which drawing several places at once may err in each step.
            remasking_eta: of `remdm`, with which probability a place is masked again in a step, at most.
            remasking_rule: of `remdm`.
            temperature: what logits are divided by; any but 1 draws from another model.
            top_p: the mass of the likeliest symbols that are kept; any but 1 draws from another model.
            prompt: what texts begin with.
            suffix: what they end with.
            infill: a text with gaps: each mask symbol is an unknown place, `<mask*20>` twenty of them.

        Raises:
            UsageError: an argument that another sampler takes, or out of its range.
        """
        self._check(sampler, num_inference_steps, entropy_bound, remasking_eta, remasking_rule)
        ids, known = self.known(len(noise), prompt, suffix, infill)
        canvas = Canvas.of(ids, known, noise, self.scheduler.start_id, temperature=temperature, top_p=top_p)
        steps = num_inference_steps or self.sequence_length

        def predicted(hidden: Tensor) -> Tensor:
            return predict(self.transformer, self.scheduler, hidden, class_labels)

        if sampler in ("bernoulli", "remdm"):
            times = grid_of(grid, steps)
            if sampler == "bernoulli":
                by_grid(predicted, canvas, times, self.progress)
            else:
                remasking(predicted, canvas, times, remasking_eta, remasking_rule, noise, self.progress)
        elif sampler == "entropy_bound":
            by_entropy(predicted, canvas, entropy_bound, self.progress)
        elif sampler == "drawn_confidence":
            by_drawn_confidence(predicted, canvas, num_inference_steps, noise, self.progress)
        else:
            by = in_random_order if sampler == "random" else by_confidence
            by(predicted, canvas, num_inference_steps, self.progress)
        return canvas.ids

    def _check(self, sampler: str, steps: int | None, bound: float, eta: float, rule: str) -> None:
        known = get_args(Sampler)
        if sampler not in known:
            raise UsageError(f"sampler is {sampler!r}.{did_you_mean(str(sampler), known)}")
        if sampler == "entropy_bound" and steps is not None:
            raise UsageError("The sampler entropy_bound chooses its steps; give it an entropy_bound, and no number.")
        if steps is not None and steps < 1:
            raise UsageError(f"num_inference_steps is {steps}; it must be at least 1.")
        if not bound >= 0:
            raise UsageError(f"entropy_bound is {bound}; it must be at least 0.")
        if not 0 <= eta <= 1:
            raise UsageError(f"remasking_eta is {eta}; it lies in [0, 1].")
        if rule not in ("cap", "rescale"):
            raise UsageError(f"remasking_rule is {rule!r}; it is cap or rescale.")

    # --- likelihood -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def log_likelihood(
        self,
        images: Tensor,
        class_labels: Tensor | None = None,
        seeds: Sequence[int] | None = None,
        num_draws: int = NUM_DRAWS,
    ) -> LogLikelihood:
        """Lower bound of ln p(text): minus the negative ELBO, a sum over numbers of masked places.

        It depends on the text and its seed alone (0, 1, 2 ... by default).

        Args:
            images: ids of texts, (B, L).
            num_draws: numbers of masked places, one in each of so many equal parts of 1..L.

        Raises:
            UsageError: ids of another shape, or a symbol that no text has.
        """
        ids = self.checked_ids(images)
        _, nats = self._draws(ids, class_labels, seeds, num_draws)
        noun = "draw" if num_draws == 1 else "draws"
        return LogLikelihood(
            -estimate(nats, self.sequence_length).cpu(),
            "lower bound",
            self.sizes_of(ids)["byte"],
            num_values=256,
            method=f"one symbol a step in any order, {num_draws} {noun} a text, blocks of {self.sequence_length}",
            unit="byte",
            noun="text",
        )

    @torch.no_grad()
    def curve(
        self,
        input_ids: Tensor,
        class_labels: Tensor | None = None,
        seeds: Sequence[int] | None = None,
        num_draws: int = NUM_DRAWS,
    ) -> list[float]:
        """Measure f(1), ..., f(L) on texts (B, L): the cross-entropy of one masked place, in nats, where n are masked.

        `hfgen_text.curve` has what it bounds: any sampler, with any number of steps.
        """
        counts, nats = self._draws(self.checked_ids(input_ids), class_labels, seeds, num_draws)
        return measured_curve(counts.flatten(), nats.flatten(), self.sequence_length)

    def _draws(
        self, ids: Tensor, class_labels: Tensor | None, seeds: Sequence[int] | None, num_draws: int
    ) -> tuple[Tensor, Tensor]:
        """Return numbers of masked places, (B, M), and the mean cross-entropy at each, in nats."""
        if num_draws < 1:
            raise UsageError(f"num_draws is {num_draws}; it must be at least 1.")
        labels, noise = self.labels_of(ids, class_labels), noise_for(len(ids), seeds, ids.device)
        rows = max(1, self.rows_at_once() // num_draws)
        found = []
        with eval_mode(self.models().values()):
            for start in range(0, len(ids), rows):
                part = slice(start, start + rows)
                own = None if labels is None else labels[part].repeat_interleave(num_draws)
                found.append(self._some_draws(ids[part], own, noise_of_rows(noise, part), num_draws))
        return torch.cat([counts for counts, _ in found]), torch.cat([nats for _, nats in found])

    def _some_draws(
        self, ids: Tensor, labels: Tensor | None, noise: SeededNoise, num_draws: int
    ) -> tuple[Tensor, Tensor]:
        length = ids.shape[1]
        counts = counts_of(strata(noise.uniform(num_draws)), length)
        masked = masked_places(noise.uniform(num_draws, length).flatten(0, 1), counts.flatten())
        whole = ids.repeat_interleave(num_draws, dim=0)
        log_probs = predict(
            self.transformer, self.scheduler, whole.masked_fill(masked, self.scheduler.start_id), labels
        )
        return counts, mean_cross_entropy(log_probs, whole, masked).view(len(ids), num_draws)
