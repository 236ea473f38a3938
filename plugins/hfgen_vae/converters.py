"""Reading models that pythae saved: VAEs of its own multi-layer perceptrons; of other networks it pickles code."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hfgen import (
    Conversion,
    Converter,
    ConverterOptions,
    ForeignFiles,
    UsageError,
    describe_shapes,
    is_state_dict,
    plain_state_dict,
    rename_tensors,
)
from hfgen_vae.vae import VAEPipeline

CONFIG, WEIGHTS = "model_config.json", "model.pt"
SAME = (  # of its models those with a mean, a log variance, a prior of N(0, 1), "mse" or "bce", and no more tensors
    "VAEConfig",
    "BetaVAEConfig",
    "BetaTCVAEConfig",
    "DisentangledBetaVAEConfig",
    "INFOVAE_MMD_Config",
    "IWAEConfig",
    "MIWAEConfig",
    "PIWAEConfig",
    "CIWAEConfig",
)
NAMES = {  # pythae's default networks -> MLPEncoder and MLPDecoder
    **{f"encoder.layers.0.0.{part}": f"encoder:layers.0.{part}" for part in ("weight", "bias")},
    **{f"encoder.embedding.{part}": f"encoder:mean.{part}" for part in ("weight", "bias")},
    **{f"encoder.log_var.{part}": f"encoder:logvar.{part}" for part in ("weight", "bias")},
    **{f"decoder.layers.0.0.{part}": f"decoder:layers.0.{part}" for part in ("weight", "bias")},
    **{f"decoder.layers.1.0.{part}": f"decoder:to_parameters.{part}" for part in ("weight", "bias")},
}


class Pythae(Converter):
    """A folder that pythae's `model.save` or `push_to_hf_hub` wrote, without encoder.pkl and decoder.pkl.

    Its decoder ends in a sigmoid. With `reconstruction_loss` "mse" that is the mean of N(x; ., 1) of images in [0, 1],
    which is sigma 2 in [-1, 1]; with "bce" it is a Bernoulli's.
    """

    name = "pythae"
    description = "folder that pythae saved, of a VAE with its default networks"
    family = "vae"

    @classmethod
    def recognizes(cls, source: ForeignFiles) -> bool:
        """Recognize a model by the name of its config file."""
        return source.has(CONFIG)

    @classmethod
    def read(cls, source: ForeignFiles, options: ConverterOptions, model: str | None) -> Conversion:
        """Read widths from the tensors; image size, loss and beta from the config."""
        config = source.json(CONFIG)
        _refuse_other_models(source, config)
        content = source.content(WEIGHTS)
        tensors = content.get("model_state_dict") if isinstance(content, Mapping) else None
        if not is_state_dict(tensors):
            raise UsageError(f"{source.name}: {WEIGHTS} holds no model_state_dict, as pythae's does.")
        found = rename_tensors(
            plain_state_dict(tensors, WEIGHTS), NAMES, f"pythae's {config['name']} with its default networks"
        )
        _refuse_other_shapes(source, config, found)
        weights = {part: _of(found, part) for part in ("encoder", "decoder")}
        moments = [_of(found, "encoder", f"{head}.") for head in ("mean", "logvar")]
        weights["encoder"] = {n: t for n, t in weights["encoder"].items() if n.startswith("layers.")}
        weights["encoder"] |= {f"to_moments.{n}": torch.cat([head[n] for head in moments]) for n in moments[0]}
        likelihood = options.get("likelihood", {}).get("class_name", LIKELIHOODS[config["reconstruction_loss"]])
        notes = _notes(config, likelihood, options)
        return Conversion(lambda: _build(config, found, likelihood, options), weights, notes)


LIKELIHOODS = {"mse": "GaussianLikelihood", "bce": "BernoulliLikelihood"}


def _refuse_other_models(source: ForeignFiles, config: Mapping[str, Any]) -> None:
    if config.get("name") not in SAME:
        known = ", ".join(name.removesuffix("Config").removesuffix("_") for name in SAME)
        raise UsageError(f"{source.name} is pythae's {config.get('name')!r}; of its models hfgen has these: {known}.")
    own = [part for part in ("encoder", "decoder") if not config.get(f"uses_default_{part}", True)]
    if own or source.has("encoder.pkl") or source.has("decoder.pkl"):
        raise UsageError(
            f"{source.name} has networks of its author's own ({' and '.join(own) or 'encoder.pkl, decoder.pkl'}).\n"
            "pythae saves these as pickled code, which is not read, whatever options are given."
        )
    shape = config.get("input_dim")
    if not (isinstance(shape, list) and len(shape) == 3 and all(isinstance(n, int) and n > 0 for n in shape)):
        raise UsageError(f"{source.name}: input_dim is {shape}; it must be that of images, [channels, side, side].")
    if shape[1] != shape[2]:
        raise UsageError(f"{source.name}: images of {shape[2]}x{shape[1]} pixels; hfgen's networks make square ones.")
    if config.get("reconstruction_loss") not in LIKELIHOODS:
        raise UsageError(
            f"{source.name}: reconstruction_loss {config.get('reconstruction_loss')!r} is not mse or bce."
        )


def _refuse_other_shapes(source: ForeignFiles, config: Mapping[str, Any], found: Mapping[str, Tensor]) -> None:
    """Raise a UsageError of tensors that do not fit, before networks of their sizes are built."""
    odd = [name for name, tensor in found.items() if tensor.ndim != (2 if name.endswith("weight") else 1)]
    if odd:
        raise UsageError(f"{source.name}: these are not linear layers: {describe_shapes(found, odd)}.")
    for part in ("weight", "bias"):
        pair = [f"encoder:{head}.{part}" for head in ("mean", "logvar")]
        if found[pair[0]].shape != found[pair[1]].shape:
            raise UsageError(
                f"{source.name}: mean and log variance are of different sizes: {describe_shapes(found, pair)}."
            )
    inputs, shape = found["encoder:layers.0.weight"].shape[1], config["input_dim"]
    if inputs != math.prod(shape):
        raise UsageError(f"{source.name}: input_dim is {shape}, but the encoder takes {inputs} values.")


def _of(tensors: Mapping[str, Tensor], component: str, prefix: str = "") -> dict[str, Tensor]:
    start = f"{component}:{prefix}"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _build(
    config: Mapping[str, Any], found: Mapping[str, Tensor], likelihood: str, options: ConverterOptions
) -> VAEPipeline:
    is_gaussian = likelihood == "GaussianLikelihood"
    derived: dict[str, dict[str, Any]] = {
        part: {"class_name": f"MLP{part.capitalize()}", "activation": "relu", "hidden_dims": [len(found[first])]}
        for part, first in (("encoder", "encoder:layers.0.bias"), ("decoder", "decoder:layers.0.bias"))
    }
    derived["encoder"]["latent_dim"] = len(found["encoder:mean.bias"])
    derived["decoder"]["bounded"] = is_gaussian
    derived["likelihood"] = {"class_name": likelihood, **({"sigma": 2.0} if is_gaussian else {})}
    derived["beta_scheduler"] = {"beta": config.get("beta", 1.0)} if config["name"] == "BetaVAEConfig" else {}
    merged: dict[str, Any] = {
        name: {**derived.get(name, {}), **options.get(name, {})} for name in {**derived, **options}
    }
    channels, side, _ = config["input_dim"]
    return VAEPipeline.build(side, channels, **merged)


SIGMA = (
    'The loss "mse" of pythae is half the sum of squares since its version 0.1.2, which is the sigma of 2 taken here. '
    "From 0.0.9 to 0.1.1 it was the whole sum, and the files do not tell the version: of a model trained by one of "
    "these say `--likelihood.sigma 1.4142` when it is converted."
)


def _notes(config: Mapping[str, Any], likelihood: str, options: ConverterOptions) -> list[str]:
    notes = [f"In pythae it was a {config['name'].removesuffix('Config').removesuffix('_')}, of images in [0, 1]."]
    assumed = likelihood == "GaussianLikelihood" and "sigma" not in options.get("likelihood", {})
    if assumed and config["reconstruction_loss"] == "mse":
        notes.append(SIGMA)
    if likelihood == "BernoulliLikelihood":
        notes.append(
            "pythae encodes gray values as they are; `encode` here binarizes them first, as the likelihood is of "
            "black and white. Converted with `--likelihood.class_name GaussianLikelihood` they are left as they are."
        )
    return notes
