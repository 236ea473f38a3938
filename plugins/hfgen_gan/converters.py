"""DCGANs that others trained: PyTorch's tutorial and torchgan are hfgen's architecture, StudioGAN is not."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from hfgen import (
    BATCH_NORM_COUNTER,
    Conversion,
    Converter,
    ConverterOptions,
    ForeignFiles,
    UsageError,
    describe_shapes,
    rename_tensors,
)
from hfgen_gan.dcgan import DCGANPipeline

BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
Tensors = Mapping[str, Tensor]


class PyTorchDCGAN(Converter):
    """PyTorch's DCGAN tutorial, which is pytorch/examples/dcgan: `netG_epoch_24.pth`, with `netD_epoch_24.pth` if both
    stand alone in a folder. The discriminator's last layer, a sigmoid without tensors, is dropped: hfgen's gives
    logits."""

    name = "pytorch-dcgan"
    description = "state dict of PyTorch's DCGAN tutorial"
    family = "dcgan"

    @classmethod
    def recognizes(cls, source: ForeignFiles) -> bool:
        """Names `main.N.*` with a kernel first."""
        return any(_is_tutorial(tensors) for tensors in source.networks().values())

    @classmethod
    def read(cls, source: ForeignFiles, options: ConverterOptions, model: str | None) -> Conversion:
        """Sizes and channels are those of the kernels; strides and paddings are the tutorial's."""
        networks = {key: tensors for key, tensors in source.networks().items() if _is_tutorial(tensors)}
        generator = the_one({k: t for k, t in networks.items() if "main.1.running_mean" in t}, "generator", source)
        discriminators = {k: t for k, t in networks.items() if "main.1.running_mean" not in t}
        discriminator = the_one(discriminators, "discriminator", source) if discriminators else None
        kernels, names = _tutorial_generator(generator)
        weights = {"generator": rename_tensors(generator, names, "the tutorial's generator")}
        if discriminator is not None:
            theirs = _tutorial_discriminator(discriminator)
            weights["discriminator"] = rename_tensors(discriminator, theirs, "the tutorial's discriminator")
        width = None if discriminator is None else len(discriminator["main.0.weight"])
        bias = {"image_bias": "to_image.bias" in weights["generator"]}
        layers = [generator[name] for name in kernels]
        return Conversion(lambda: build(layers, bias, options, width), weights, [ASSUMED])


ASSUMED = (
    "A state dict tells no strides, paddings and activations: taken are those of the original, each layer after the "
    "first doubling the side, ReLU and tanh."
)


def _is_tutorial(tensors: Tensors) -> bool:
    """Recognize a network by the names of its tensors; extra tensors are reported when it is read."""
    first = tensors.get("main.0.weight")
    if first is None or first.ndim != 4:
        return False
    of_generator = "main.1.running_mean" in tensors
    names = _tutorial_generator(tensors)[1] if of_generator else _tutorial_discriminator(tensors)
    return all(re.match(r"main\.\d+\.", name) for name in tensors) or _has_all(tensors, names)


def _has_all(tensors: Tensors, names: Iterable[str]) -> bool:
    """Return True if all names are there, with a BatchNorm's among them: else they could be any network's."""
    names = [name for name in names if not name.endswith(BATCH_NORM_COUNTER)]
    return any(name.endswith("running_mean") for name in names) and all(name in tensors for name in names)


def _kernels(tensors: Tensors, pattern: str) -> list[int]:
    """Numbers of the layers that have a kernel, in order."""
    found = ((re.fullmatch(pattern, name), tensor) for name, tensor in tensors.items())
    return sorted(int(match[1]) for match, tensor in found if match and tensor.ndim == 4)


def _tutorial_generator(tensors: Tensors) -> tuple[list[str], dict[str, str]]:
    """Names of the kernels, and the source's names -> hfgen's."""
    layers = _kernels(tensors, r"main\.(\d+)\.weight")
    names: dict[str, str] = {}
    for block, layer in enumerate(layers[:-1]):
        names[f"main.{layer}.weight"] = f"blocks.{block}.0.weight"
        names |= {f"main.{layer + 1}.{part}": f"blocks.{block}.1.{part}" for part in BATCH_NORM}
    last = f"main.{layers[-1]}"
    names[f"{last}.weight"] = "to_image.weight"
    if f"{last}.bias" in tensors:
        names[f"{last}.bias"] = "to_image.bias"
    return [f"main.{layer}.weight" for layer in layers], names


def _tutorial_discriminator(tensors: Tensors) -> dict[str, str]:
    first, *layers = _kernels(tensors, r"main\.(\d+)\.weight")
    names = {f"main.{first}.weight": "from_image.0.weight"}
    for block, layer in enumerate(layers[:-1]):
        names[f"main.{layer}.weight"] = f"blocks.{block}.0.weight"
        names |= {f"main.{layer + 1}.{part}": f"blocks.{block}.1.{part}" for part in BATCH_NORM}
    return names | {f"main.{layer}.weight": "to_logit.weight" for layer in layers[-1:]}


class TorchGAN(Converter):
    """torchgan.models.DCGANGenerator with BatchNorm. Its discriminator ends in a LeakyReLU, and hfgen's in none."""

    name = "torchgan"
    description = "state dict of torchgan's DCGANGenerator"
    family = "dcgan"

    @classmethod
    def recognizes(cls, source: ForeignFiles) -> bool:
        """Names `model.N.0.*` with a kernel first."""
        return any(_is_torchgan(tensors) for tensors in source.networks().values())

    @classmethod
    def read(cls, source: ForeignFiles, options: ConverterOptions, model: str | None) -> Conversion:
        """Read the generator; its activation is LeakyReLU(0.2) unless `generator.activation` says otherwise."""
        networks = {key: tensors for key, tensors in source.networks().items() if _is_torchgan(tensors)}
        generators = {k: t for k, t in networks.items() if not any(name.startswith("disc.") for name in t)}
        generator = the_one(generators, "generator", source)
        kernels, names = _torchgan_generator(generator)
        weights = {"generator": rename_tensors(generator, names, "torchgan's DCGANGenerator with BatchNorm")}
        derived = {"image_bias": True, "activation": "leaky_relu"}
        layers = [generator[name] for name in kernels]
        left = len(generators) < len(networks)
        note = ACTIVATIONS.format(options.get("generator", {}).get("activation", derived["activation"]))
        notes = [note, *([NO_DISCRIMINATOR] if left else [])]
        return Conversion(lambda: build(layers, derived, options), weights, notes)


ACTIVATIONS = (
    "A state dict tells no activations: {} and tanh are assumed. LeakyReLU(0.2) and tanh are torchgan's defaults; "
    "`--generator.activation relu` converts with the other."
)
NO_DISCRIMINATOR = "torchgan's discriminator, which ends in a LeakyReLU, was left out."


def _is_torchgan(tensors: Tensors) -> bool:
    first = tensors.get("model.0.0.weight")
    if first is None or first.ndim != 4:
        return False
    parts = all(re.match(r"(model\.\d+|disc)\.\d+\.", name) for name in tensors)
    return parts or _has_all(tensors, _torchgan_generator(tensors)[1])


def _torchgan_generator(tensors: Tensors) -> tuple[list[str], dict[str, str]]:
    layers = _kernels(tensors, r"model\.(\d+)\.0\.weight")
    names: dict[str, str] = {}
    for block in layers[:-1]:
        names[f"model.{block}.0.weight"] = f"blocks.{block}.0.weight"
        names |= {f"model.{block}.1.{part}": f"blocks.{block}.1.{part}" for part in BATCH_NORM}
    names |= {f"model.{layers[-1]}.0.{part}": f"to_image.{part}" for part in ("weight", "bias")}
    return [f"model.{layer}.0.weight" for layer in layers], names


class StudioGAN(Converter):
    """Checkpoints of PyTorch-StudioGAN, none of whose backbones is hfgen's DCGAN: recognized, and refused by name."""

    name = "studiogan"
    description = "checkpoint of StudioGAN (recognized and refused: other architectures)"
    family = "dcgan"

    @classmethod
    def recognizes(cls, source: ForeignFiles) -> bool:
        """Names of its blocks and linear layers."""
        return any(_is_studiogan(tensors) for tensors in source.networks().values())

    @classmethod
    def read(cls, source: ForeignFiles, options: ConverterOptions, model: str | None) -> Conversion:
        """Always a UsageError that says which tensors have no place."""
        tensors = next((t for t in source.networks().values() if _is_studiogan(t)), {})
        odd = [name for name in tensors if not name.endswith(BATCH_NORM[2:]) and name.endswith(KERNELS)]
        odd.sort(key=lambda name: not name.startswith(("linear", "conv")))
        backbone = "deep_conv" if any(".deconv0." in name for name in tensors) else "resnet"
        raise UsageError(
            f"{source.name} is a StudioGAN checkpoint ({backbone} blocks), whose architecture no family has here:\n"
            f"{describe_shapes(tensors, odd)} have no place.\n"
            "Its generators start with a linear layer without BatchNorm and end in a 3x3 convolution; a DCGAN has\n"
            "transposed convolutions there."
        )


KERNELS = (".weight", ".weight_orig")


def _is_studiogan(tensors: Tensors) -> bool:
    blocks = any(re.match(r"blocks\.\d+\.\d+\.", name) for name in tensors)
    return blocks and any(re.match(r"linear[01]\.weight(_orig)?$", name) for name in tensors)


def the_one(found: Mapping[str, Tensors], what: str, source: ForeignFiles) -> Tensors:
    """The only network of its kind.

    Raises:
        UsageError: there is none, or there are several.
    """
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise UsageError(f"{source.name} holds several {what}s: {', '.join(found)}. Save the one to convert alone.")
    raise UsageError(f"{source.name} holds no {what} that this format knows; without one nothing can be drawn.")


def build(
    kernels: Iterable[Tensor], derived: Mapping[str, Any], options: ConverterOptions, discriminator: int | None = None
) -> DCGANPipeline:
    """A pipeline for the kernels of a generator, (in, out, k, k) each: k and their number give the side.

    Args:
        derived: what else the tensors tell of the generator; `options` wins.
        discriminator: its base_channels; None leaves it out.
    """
    first, *_, last = kernels = list(kernels)
    if len(kernels) < 2:
        raise UsageError("A generator of one layer is not a DCGAN.")
    widths = [kernel.shape[1] for kernel in kernels[:-1]]
    if widths != [
        last.shape[0] * 2**i for i in reversed(range(len(widths)))
    ]:  # a small file could ask for huge layers
        raise UsageError(f"Its layers have {', '.join(map(str, widths))} channels; a DCGAN's halve each time.")
    generator = {"latent_dim": first.shape[0], "base_channels": last.shape[0], **derived}
    overrides: dict[str, Any] = {name: dict(given) for name, given in options.items()}
    overrides["generator"] = {**generator, **overrides.get("generator", {})}
    width = 1 if discriminator is None else discriminator  # one that is left out is narrower than any generator
    overrides["discriminator"] = {"base_channels": width, **overrides.get("discriminator", {})}
    pipeline = DCGANPipeline.build(first.shape[-1] * 2 ** (len(kernels) - 1), last.shape[1], **overrides)
    if discriminator is not None:
        return pipeline
    return DCGANPipeline(pipeline.generator, pipeline.scheduler)
