"""HFGenPipeline: a DiffusionPipeline that loads as its family, builds itself from a config, and saves completely."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from hfgen import __version__, registry
from hfgen.building import Source, build_components, inner_family
from hfgen.cards.card import CARD
from hfgen.cards.without_run import tell_of_code
from hfgen.components import networks
from hfgen.declaration import require_known_names
from hfgen.editing import EditingPipeline
from hfgen.errors import HFGenError, LoadError, UsageError, did_you_mean
from hfgen.hub.client import bars_on_a_terminal_only
from hfgen.hub.download import download, local_folder
from hfgen.inputs import CALL, labels_for, noise_of
from hfgen.likelihood import LogLikelihood
from hfgen.noise import Noise, SeededNoise
from hfgen.objective import Objective
from hfgen.repository.checks import check_given, check_pipeline, check_weights_are_complete, loading_arguments
from hfgen.repository.components import STACK, classes_in, pipeline_class_of, redirect
from hfgen.repository.index import check_index, class_name_of, component_entries, is_bundled
from hfgen.repository.inner import is_variant_of, load_inner
from hfgen.repository.save import as_saved, saving
from hfgen.settings.model_configs import component_config
from hfgen.settings.options import chosen_class, component_choices, is_pipeline
from hfgen.settings.signatures import refuse_options
from hfgen.wrappers import eval_mode

Config = dict[str, Any]


class HFGenPipeline(EditingPipeline):
    """Base class of every family; its `from_pretrained` loads a model of any family.

    A family declares itself by class attributes, and its components by the annotations of its `__init__`:

    Attributes:
        modality: name of what it generates (`hfgen.modality`).
        objective_class: the objective that training minimizes.
        training_defaults: values of `TrainingArguments` that differ for this family.
        ema_components: components whose EMA weights are used for sampling.
        frozen_components: components that training uses in eval mode and does not change.
        training_only_components: components that checkpoints hold and saved models do not, such as a teacher; their
            default in `__init__` is None.
        description: one line, for `hfgen info` and cards.
        references: papers, as "Authors (year), title, arXiv:id".
        notes: sentences for the card, on what a sampled image is.
        is_density: True if `log_likelihood` is that of a density, in nats; bits per dimension are then not defined.
        measured_on_request: metrics that take long, or hold by construction: evaluated only if they are named.
    """

    modality: ClassVar[str] = "image"
    objective_class: ClassVar[type[Objective]]
    training_defaults: ClassVar[Mapping[str, Any]] = {}
    ema_components: ClassVar[tuple[str, ...]] = ()
    frozen_components: ClassVar[tuple[str, ...]] = ()
    training_only_components: ClassVar[tuple[str, ...]] = ()
    description: ClassVar[str] = ""
    references: ClassVar[tuple[str, ...]] = ()
    notes: ClassVar[tuple[str, ...]] = ()
    measured_on_request: ClassVar[tuple[str, ...]] = ()

    from_data: Sequence[str] = ()  # components that the data brought, such as a tokenizer
    sources: Mapping[str, Source] = {}  # component -> where `build` has loaded it from

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        known = getattr(cls, "_optional_components", [])  # in bundled code only the last class is diffusers'
        cls._optional_components = [*dict.fromkeys([*known, *cls.training_only_components])]

    @property
    def is_density(self) -> bool:
        return False

    # --- building -----------------------------------------------------------------------------------------------

    @classmethod
    def component_classes(cls, options: Mapping[str, Config] | None = None) -> dict[str, type]:
        """Component name -> class, from the annotations of `__init__`: the first class of `X | Y`, or the one that the
        component's option `class_name` names."""
        options = options or {}
        chosen = {n: chosen_class(n, choices, options.get(n, {})) for n, choices in component_choices(cls).items()}
        return {n: inner_family(n, c, options.get(n, {})) if is_pipeline(c) else c for n, c in chosen.items()}

    @classmethod
    def preferred_classes(cls, in_channels: int) -> Mapping[str, str]:
        """Component name -> class name for so many channels, if neither `class_name` nor an option is given."""
        return {}

    @classmethod
    def default_configs(
        cls, sample_size: int, in_channels: int, num_classes: int | None, overrides: Mapping[str, Config]
    ) -> dict[str, Config]:
        """Component name -> config for data of this shape.

        `overrides` are applied afterwards; `component_classes(overrides)` are the classes that were chosen."""
        raise NotImplementedError

    @classmethod
    def build(
        cls,
        sample_size: int,
        in_channels: int,
        num_classes: int | None = None,
        components: Mapping[str, Any] | None = None,
        **overrides: Any,
    ) -> Self:
        """Build an untrained pipeline for images of shape (in_channels, sample_size, sample_size).

        Of texts `sample_size` is the length and `in_channels` the number of symbols.

        Args:
            components: those that come from the data, such as a tokenizer; a family without one of that name goes
                without it.
            num_classes: the number of classes of a class-conditional model.
            overrides: `{"generator.base_channels": 32}`, or nested as `generator={"base_channels": 32}`; `class_name`
                among a component's options chooses its class, `from_pretrained` loads it (`hfgen.building`), and
                `family` chooses what a component that is a pipeline is built as.

        Raises:
            UsageError: no component has such an option, or the family cannot make images of this shape.
            LoadError: what `from_pretrained` names is missing or damaged.
            PluginError: a class attribute names a component or a metric that does not exist.
        """
        require_known_names(cls)
        brought = {name: part for name, part in (components or {}).items() if name in component_choices(cls)}
        parts, sources = build_components(cls, (sample_size, in_channels, num_classes), overrides, brought)
        pipeline = cls(**parts)
        pipeline.sources, pipeline.from_data = sources, tuple(brought)
        if num_classes is not None and pipeline.num_classes != num_classes:
            raise UsageError(f"{cls.__name__} has no class-conditional form; train it without --class_conditional.")
        for model in pipeline.models().values():
            model.eval()
        return pipeline

    def models(self) -> dict[str, nn.Module]:
        """The components that are networks; `prior.unet` is that of a pipeline `prior` inside."""
        return networks(self)

    @property
    def num_classes(self) -> int | None:
        """Number of classes of a class-conditional model, else None."""
        configs = map(component_config, self.models().values())
        return next((config["num_classes"] for config in configs if config.get("num_classes")), None)

    # --- sampling -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seeds: Sequence[int] | None = None,
        class_labels: Sequence[int] | Tensor | int | None = None,
        num_inference_steps: int | None = None,
        output_type: str | None = None,
        return_dict: bool = True,
        **options: Any,
    ) -> Any:
        """Sample images, as an `ImagePipelineOutput`, or what the modality has; a tuple if `return_dict` is False.

        The image of a seed is the same whatever the batch size, the order or the number of processes.

        Args:
            batch_size: number of images; ignored with `seeds` or a list of generators.
            generator: one generator, which gives each image its seed; or one for each image.
            seeds: one for each image.
            class_labels: one for all images or one for each, for a class-conditional model; random by default.
            num_inference_steps: for families that sample in many steps.
            output_type: of images `"pil"`, the default, `"np"` (B, H, W, C in [0, 1]), `"pt"` (B, C, H, W in [0, 1]).
            options: further arguments of this family's `sample`.

        Raises:
            UsageError: arguments contradict each other, or this model does not take one of them.
        """
        refuse_options(self, options, "sample", also=CALL)
        output_type = self.check_output_type(output_type)
        noise = noise_of(batch_size, generator, seeds, self._execution_device)
        with eval_mode(self.models().values()):
            labels = self._labels(class_labels, noise)
            images = self.sample(noise, class_labels=labels, num_inference_steps=num_inference_steps, **options)
        if not images.isfinite().all():
            raise HFGenError("Samples contain NaN or inf: the weights are damaged, or training diverged.")
        output = self.to_output(images, output_type)
        self.maybe_free_model_hooks()
        return output if return_dict else (output[0],)

    def check_output_type(self, output_type: str | None) -> str:
        """Return the type in which samples are returned, by default the modality's first.

        Raises:
            UsageError: there is no such type.
        """
        known = registry.modality_of(self).output_types
        if output_type is None:
            return str(known[0])
        if output_type not in known:
            raise UsageError(f"output_type is {output_type!r}.{did_you_mean(str(output_type), known)}")
        return output_type

    def to_output(self, samples: Tensor, output_type: str) -> Any:
        """Return samples as the modality's output."""
        return registry.modality_of(self).output(samples, self, output_type)

    def sample(
        self, noise: SeededNoise, class_labels: Tensor | None = None, num_inference_steps: int | None = None
    ) -> Tensor:
        """Sample images in [-1, 1], shape (B, C, H, W); by default `decode` of a latent from the prior."""
        self.scheduler.set_timesteps(num_inference_steps)
        return self.decode(self.latents(noise), class_labels=class_labels)

    def latents(self, noise: Noise) -> Tensor:
        """Sample latents from the scheduler's prior."""
        return self.scheduler.sample(noise)

    def decode(self, latents: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Decode latents to images in [-1, 1]."""
        raise self._cannot("decode", "it defines no map from latents to images")

    def encode(self, images: Tensor, class_labels: Tensor | None = None, seeds: Sequence[int] | None = None) -> Tensor:
        """Encode images in [-1, 1]; where that is random, `seeds` has one seed for each image."""
        raise self._cannot("encode", "it defines no map from images to latents")

    def to_latents(self, images: Tensor, class_labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map continuous images in [-1, 1] to latents (B, D) by a bijection; also ln|det d latents / d images|, (B,).

        Differentiable. ln p(x) of the continuous image is ln p(latents) under the prior, plus the second result."""
        raise self._cannot("to_latents", "its latents are not the image under a bijection")

    def from_latents(self, latents: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Map latents to images by the inverse of `to_latents`, without rounding to the values that pixels take."""
        raise self._cannot("from_latents", "its latents are not the image under a bijection")

    @torch.no_grad()
    def reconstruct(
        self, images: Tensor, class_labels: Tensor | None = None, seeds: Sequence[int] | None = None, **options: Any
    ) -> Tensor:
        """Decode the encoded images, both with the same further options, which both must take."""
        refuse_options(self, options, "encode", "decode")
        return self.decode(self.encode(images, class_labels, seeds, **options), class_labels=class_labels, **options)

    def log_likelihood(
        self, images: Tensor, class_labels: Tensor | None = None, seeds: Sequence[int] | None = None
    ) -> LogLikelihood:
        """Compute ln p(x) of each image in [-1, 1], or a bound of it: the result says which.

        It depends on the image and its seed alone (0, 1, 2 ... by default), not on the other images of the batch.
        """
        raise self._cannot("log_likelihood", "it defines no density of images")

    def between(self, start: Tensor, end: Tensor, t: float) -> Tensor:
        """The latent at a fraction t of the way from one to another, for a latent walk."""
        return self.scheduler.interpolate(start, end, t)

    def interpolate(
        self, seeds: Sequence[int], num_frames: int, class_labels: Sequence[int] | None = None, **options: Any
    ) -> Iterator[Any]:
        """Yield PIL frames of a walk through latent space, past each seed's image and back to the first.

        With class labels, the frames between two seeds keep the label of the first. `options` are those of `decode`.
        """
        refuse_options(self, options, "decode")
        if len(seeds) < 2:
            raise UsageError(f"A latent walk needs at least two seeds; {len(seeds)} given.")
        noise = noise_of(1, None, seeds, self._execution_device)
        with torch.no_grad(), eval_mode(self.models().values()):
            labels, latents = self._labels(class_labels, noise), self.latents(noise)
            for frame in range(num_frames):
                place = frame * len(seeds) / num_frames
                start, end, t = int(place), (int(place) + 1) % len(seeds), place % 1
                z = self.between(latents[start : start + 1], latents[end : end + 1], t)
                decoded = self.decode(z, None if labels is None else labels[start : start + 1], **options)
                yield self.to_output(decoded, self.check_output_type(None))[0][0]

    @property
    def validation_options(self) -> Mapping[str, Any]:
        """Arguments with which sample grids are made during training, if the family's defaults take long."""
        return {}

    def _labels(self, class_labels: Any, noise: SeededNoise) -> Tensor | None:
        if self.num_classes is None:
            return labels_for(len(noise), class_labels, None, noise.device)
        random = noise.integers(self.num_classes)  # always, so that given labels leave a seed's latents as they are
        return random if class_labels is None else labels_for(len(noise), class_labels, self.num_classes, noise.device)

    def _cannot(self, what: str, why: str) -> HFGenError:
        return UsageError(f"{type(self).__name__} has no {what}: {why}.")

    # --- loading ------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:
        """Load a folder or a repository as the family that saved it.

        Takes the arguments of `DiffusionPipeline.from_pretrained` (`dtype`, `variant`, `revision`, `token`,
        `device_map`, components by name ...), except those that run code of the repository. Components are looked up
        among installed classes; weights are read from safetensors only. `verify=False` skips the family's own check of
        the loaded model (`verify`).

        Raises:
            LoadError: the folder or repository is missing, incomplete, damaged, or names a class that is not
                installed; or the model fails its family's check.
            PluginError: two installed plugins claim the pipeline's class, or its plugin fails to import.
        """
        kwargs = loading_arguments(kwargs)
        folder = local_folder(pretrained_model_name_or_path, **kwargs)
        wrapper = registry.find_by_component(folder.single) if cls is HFGenPipeline else None
        if wrapper is not None:
            wrapping_family: Any = wrapper.load()
            return wrapping_family.from_pretrained(folder, **kwargs)
        if kwargs.get("subfolder"):
            raise UsageError(f"{cls.__name__}.from_pretrained takes no 'subfolder' of a pipeline; give its folder.")
        verify, variant = kwargs.pop("verify", True), kwargs.get("variant")
        with folder.clear_errors():
            family = cls._dispatch(folder.index)
            check_given(family, kwargs, HFGenPipeline)
            classes = check_pipeline(folder, family, kwargs, variant)
            inner = load_inner(folder, classes, {**kwargs, "verify": verify})
            if inner and not is_variant_of(folder, classes.keys() - inner.keys(), variant):
                kwargs["variant"] = None  # diffusers wants it of a network of its own
            with bars_on_a_terminal_only():
                pipeline = super(HFGenPipeline, family).from_pretrained(str(folder), **kwargs, **inner)
            loaded = {n: part for n, part in pipeline.components.items() if isinstance(part, nn.Module)}
            loaded = {name: model for name, model in loaded.items() if name not in kwargs}
            check_weights_are_complete(folder, loaded, variant)
            if verify:
                pipeline.verify()
        return pipeline

    def verify(self) -> None:
        """Check a loaded model as far as that needs no data; raise a LoadError if a check fails."""

    @classmethod
    def _dispatch(cls, index: Mapping[str, Any]) -> type[Self]:
        """Return the installed class that an index names, which must be this class or a subclass."""
        class_name = class_name_of(index)
        if cls.__name__ == class_name and cls is not HFGenPipeline:
            return cls  # a class that its user has imported needs no registration
        found = pipeline_class_of(index)
        if not issubclass(found, cls):
            raise LoadError(f"This is a {class_name}, not a {cls.__name__}; load it with HFGenPipeline.")
        return found

    @classmethod
    def class_for(cls, index: Mapping[str, Any]) -> type["HFGenPipeline"]:
        """Return the family of a saved model whose index, not checked yet, names this class: perhaps another one."""
        return cls

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """Read `model_index.json` for diffusers, each component an installed class (`hfgen.repository.components`)."""
        loaded = super().load_config(*args, **kwargs)
        index = loaded[0] if isinstance(loaded, tuple) else loaded
        check_index(index)
        for name, found in classes_in(index, cls).items():
            library, class_name = index[name]
            index[name] = redirect(library, class_name, found)
            if is_pipeline(found):
                del index[name]  # `from_pretrained` loads it by itself
        return loaded

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> str:
        """Fetch a repository's configs and safetensors, and nothing else; return the local folder."""
        return str(download(pretrained_model_name, **kwargs))

    # --- saving -------------------------------------------------------------------------------------------------

    def to_json_string(self) -> str:
        """Text of `model_index.json`, without the path it was loaded from, and with what hfgen needs to load it."""
        index = json.loads(super().to_json_string())
        index.pop("_name_or_path", None)
        index["_hfgen"] = self._origin()
        for name, library, class_name in component_entries(index):
            if library not in STACK:  # diffusers shortens `a.ddpm.net` to `ddpm`
                part = getattr(self, name)
                index[name] = [type(getattr(part, "_orig_mod", part)).__module__, class_name]
        return json.dumps(index, indent=2, sort_keys=True) + "\n"

    def _origin(self) -> dict[str, str]:
        family = registry.family_of(type(self))
        origin = {"hfgen": __version__, "pipeline": type(self).__name__}
        if family is not None:
            origin |= {"family": family.name, "distribution": family.distribution, "version": family.version}
        return origin

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save into a folder, completely or not at all.

        All files are written beside the folder's contents first, then moved into place: after a failure the folder is
        as before. Takes `variant` and `max_shard_size`, as `DiffusionPipeline.save_pretrained`. Saving without a
        variant replaces each component's folder, so that no shard of an older save stays behind. `bundle_code` adds
        code with which plain diffusers loads the weights without hfgen (`hfgen.repository.bundle`).

        Raises:
            UsageError: `safe_serialization=False` or `push_to_hub` was given, or the code cannot be bundled.
            OSError: the disk is full, or the folder cannot be written.
        """
        folder, saved = Path(save_directory), as_saved(self)
        with saving(saved, folder, kwargs) as staging, bars_on_a_terminal_only():
            super(HFGenPipeline, saved).save_pretrained(str(staging), **kwargs)
        tell_of_code(folder / CARD, bundled=is_bundled(folder))

    def push_to_hub(self, repo_id: str, **options: Any) -> Any:
        """Save into a new folder and push it as one commit; `hfgen.hub.publish.push_pipeline` has the options."""
        from hfgen.hub.publish import push_pipeline

        return push_pipeline(self, repo_id, **options)


def reconstructs(pipeline: HFGenPipeline) -> bool:
    """Return True if the family maps images to latents and back."""
    return all(getattr(type(pipeline), n) is not getattr(HFGenPipeline, n) for n in ("encode", "decode"))
