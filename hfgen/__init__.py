"""hfgen: generative models that train, sample, save and load the same way, in Hugging Face conventions.

This is the one door: what users and authors of plugins need is imported from `hfgen`, so that every module behind it
is free to move. The names are imported on first use (PEP 562): `import hfgen` costs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names for type checkers and editors; a test compares the two lists
    from hfgen.conversion.convert import rename_tensors as rename_tensors
    from hfgen.conversion.converter import (
        BATCH_NORM_COUNTER as BATCH_NORM_COUNTER,
        Conversion as Conversion,
        Converter as Converter,
        ConverterOptions as ConverterOptions,
        describe_shapes as describe_shapes,
    )
    from hfgen.conversion.foreign_files import (
        ForeignFiles as ForeignFiles,
        StateDict as StateDict,
        is_state_dict as is_state_dict,
        plain_state_dict as plain_state_dict,
    )
    from hfgen.data.images import decode_images as decode_images, load_images as load_images
    from hfgen.errors import (
        CheckError as CheckError,
        HFGenError as HFGenError,
        LoadError as LoadError,
        UsageError as UsageError,
        did_you_mean as did_you_mean,
    )
    from hfgen.evaluation.extractors import FeatureExtractor as FeatureExtractor
    from hfgen.hub.download import DOWNLOAD_OPTIONS as DOWNLOAD_OPTIONS, local_folder as local_folder
    from hfgen.inputs import check_latents as check_latents, labels_for as labels_for, noise_for as noise_for
    from hfgen.likelihood import (
        IMPORTANCE_CHUNK as IMPORTANCE_CHUNK,
        LogLikelihood as LogLikelihood,
        bits_per_dim as bits_per_dim,
        check_num_samples as check_num_samples,
        images_to_levels as images_to_levels,
        importance_weighted_bound as importance_weighted_bound,
        levels_to_images as levels_to_images,
    )
    from hfgen.modalities.image import check_images as check_images
    from hfgen.noise import Noise as Noise, SeededNoise as SeededNoise, StepNoise as StepNoise
    from hfgen.objective import (
        Batch as Batch,
        Diagnosis as Diagnosis,
        Objective as Objective,
        Update as Update,
        frozen as frozen,
    )
    from hfgen.pipeline import HFGenPipeline as HFGenPipeline, eval_mode as eval_mode
    from hfgen.registry import (
        find_by_class as find_by_class,
        find_by_component as find_by_component,
        get_family as get_family,
        list_families as list_families,
        register_family as register_family,
    )
    from hfgen.repository.checks import (
        check_component as check_component,
        clear_errors as clear_errors,
        read_config as read_config,
    )
    from hfgen.repository.index import (
        MODEL_INDEX as MODEL_INDEX,
        component_entries as component_entries,
        read_index as read_index,
        single_component as single_component,
    )
    from hfgen.scheduler import PriorScheduler as PriorScheduler, slerp as slerp
    from hfgen.settings.arguments import TrainingArguments as TrainingArguments
    from hfgen.settings.model_configs import component_config as component_config
    from hfgen.settings.options import component_choices as component_choices, signature_of as signature_of
    from hfgen.settings.resolve import check_options as check_options
    from hfgen.training.trainer import Trainer as Trainer

__version__ = "0.1.0"

_HOME = {
    "rename_tensors": "hfgen.conversion.convert",
    "BATCH_NORM_COUNTER": "hfgen.conversion.converter",
    "Conversion": "hfgen.conversion.converter",
    "Converter": "hfgen.conversion.converter",
    "ConverterOptions": "hfgen.conversion.converter",
    "describe_shapes": "hfgen.conversion.converter",
    "ForeignFiles": "hfgen.conversion.foreign_files",
    "StateDict": "hfgen.conversion.foreign_files",
    "is_state_dict": "hfgen.conversion.foreign_files",
    "plain_state_dict": "hfgen.conversion.foreign_files",
    "decode_images": "hfgen.data.images",
    "load_images": "hfgen.data.images",
    "CheckError": "hfgen.errors",
    "HFGenError": "hfgen.errors",
    "LoadError": "hfgen.errors",
    "UsageError": "hfgen.errors",
    "did_you_mean": "hfgen.errors",
    "FeatureExtractor": "hfgen.evaluation.extractors",
    "DOWNLOAD_OPTIONS": "hfgen.hub.download",
    "local_folder": "hfgen.hub.download",
    "check_latents": "hfgen.inputs",
    "labels_for": "hfgen.inputs",
    "noise_for": "hfgen.inputs",
    "IMPORTANCE_CHUNK": "hfgen.likelihood",
    "LogLikelihood": "hfgen.likelihood",
    "bits_per_dim": "hfgen.likelihood",
    "check_num_samples": "hfgen.likelihood",
    "importance_weighted_bound": "hfgen.likelihood",
    "images_to_levels": "hfgen.likelihood",
    "levels_to_images": "hfgen.likelihood",
    "check_images": "hfgen.modalities.image",
    "Noise": "hfgen.noise",
    "SeededNoise": "hfgen.noise",
    "StepNoise": "hfgen.noise",
    "Batch": "hfgen.objective",
    "Diagnosis": "hfgen.objective",
    "Objective": "hfgen.objective",
    "Update": "hfgen.objective",
    "frozen": "hfgen.objective",
    "HFGenPipeline": "hfgen.pipeline",
    "eval_mode": "hfgen.pipeline",
    "find_by_class": "hfgen.registry",
    "find_by_component": "hfgen.registry",
    "get_family": "hfgen.registry",
    "list_families": "hfgen.registry",
    "register_family": "hfgen.registry",
    "check_component": "hfgen.repository.checks",
    "clear_errors": "hfgen.repository.checks",
    "read_config": "hfgen.repository.checks",
    "MODEL_INDEX": "hfgen.repository.index",
    "component_entries": "hfgen.repository.index",
    "read_index": "hfgen.repository.index",
    "single_component": "hfgen.repository.index",
    "PriorScheduler": "hfgen.scheduler",
    "slerp": "hfgen.scheduler",
    "TrainingArguments": "hfgen.settings.arguments",
    "component_config": "hfgen.settings.model_configs",
    "component_choices": "hfgen.settings.options",
    "signature_of": "hfgen.settings.options",
    "check_options": "hfgen.settings.resolve",
    "Trainer": "hfgen.training.trainer",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hfgen' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
