"""hfgen: generative models that train, sample, save and load the same way, in Hugging Face conventions.

This is the one door: what users and authors of plugins need is imported from `hfgen`, so that every module behind it
is free to move. The names are imported on first use (PEP 562), so that `import hfgen` does not import torch.
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
    from hfgen.data.arrangement import arranged as arranged
    from hfgen.data.batches import Batches as Batches
    from hfgen.data.facts import Items as Items
    from hfgen.data.images import decode_images as decode_images
    from hfgen.data.labels import classes_of as classes_of
    from hfgen.data.load import load_images as load_images
    from hfgen.data.sources import DataSource as DataSource, NoSplitError as NoSplitError, load_table as load_table
    from hfgen.data.splits import chosen_split as chosen_split, splits_in as splits_in
    from hfgen.editing import Given as Given
    from hfgen.errors import (
        CheckError as CheckError,
        HFGenError as HFGenError,
        LoadError as LoadError,
        PluginError as PluginError,
        UsageError as UsageError,
        did_you_mean as did_you_mean,
    )
    from hfgen.evaluation.drawn_features import AsStored as AsStored, costs as costs, draw_features as draw_features
    from hfgen.evaluation.extractors import FeatureExtractor as FeatureExtractor
    from hfgen.evaluation.real import Estimate as Estimate, Real as Real, stored_sha256 as stored_sha256
    from hfgen.files import parse_json as parse_json, read_json as read_json
    from hfgen.hub.download import local_folder as local_folder
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
    from hfgen.modality import Metric as Metric, Modality as Modality
    from hfgen.noise import Noise as Noise, SeededNoise as SeededNoise, StepNoise as StepNoise
    from hfgen.objective import (
        Batch as Batch,
        Diagnosis as Diagnosis,
        Objective as Objective,
        Update as Update,
        frozen as frozen,
    )
    from hfgen.pipeline import HFGenPipeline as HFGenPipeline
    from hfgen.registry import (
        find_by_class as find_by_class,
        find_by_component as find_by_component,
        get_family as get_family,
        list_families as list_families,
        register_family as register_family,
    )
    from hfgen.repository.model_folder import ModelFolder as ModelFolder
    from hfgen.repository.processor_files import check_tokenizer_file as check_tokenizer_file
    from hfgen.repository.single_model import load_model as load_model
    from hfgen.results.protocol import Protocol as Protocol
    from hfgen.scheduler import PriorScheduler as PriorScheduler, slerp as slerp
    from hfgen.settings.arguments import TrainingArguments as TrainingArguments
    from hfgen.settings.fields import option as option
    from hfgen.settings.model_configs import component_config as component_config
    from hfgen.settings.options import component_choices as component_choices, signature_of as signature_of
    from hfgen.settings.resolve import check_options as check_options
    from hfgen.training.trainer import Trainer as Trainer
    from hfgen.whole_batch import parts as parts
    from hfgen.wrappers import (
        directional_derivative as directional_derivative,
        eval_mode as eval_mode,
        unwrapped as unwrapped,
    )

__version__ = "0.1.0"

_HOME = {  # name -> the module that defines it
    # use: load, train, look up
    "HFGenPipeline": "hfgen.pipeline",
    "Trainer": "hfgen.training.trainer",
    "TrainingArguments": "hfgen.settings.arguments",
    "load_images": "hfgen.data.load",
    "list_families": "hfgen.registry",
    "get_family": "hfgen.registry",
    "register_family": "hfgen.registry",
    # errors, with the exit codes of the command line
    "HFGenError": "hfgen.errors",
    "UsageError": "hfgen.errors",
    "CheckError": "hfgen.errors",
    "LoadError": "hfgen.errors",
    "PluginError": "hfgen.errors",
    "did_you_mean": "hfgen.errors",
    # a family: its objective, and where it takes random numbers from
    "Objective": "hfgen.objective",
    "Batch": "hfgen.objective",
    "Update": "hfgen.objective",
    "Diagnosis": "hfgen.objective",
    "frozen": "hfgen.objective",
    "parts": "hfgen.whole_batch",
    "unwrapped": "hfgen.wrappers",
    "directional_derivative": "hfgen.wrappers",
    "Noise": "hfgen.noise",
    "SeededNoise": "hfgen.noise",
    "StepNoise": "hfgen.noise",
    # a family: its scheduler, and what its pipeline checks
    "PriorScheduler": "hfgen.scheduler",
    "slerp": "hfgen.scheduler",
    "check_images": "hfgen.modalities.image",
    "check_latents": "hfgen.inputs",
    "labels_for": "hfgen.inputs",
    "noise_for": "hfgen.inputs",
    "eval_mode": "hfgen.wrappers",
    "Given": "hfgen.editing",
    "signature_of": "hfgen.settings.options",
    # a family: its likelihood
    "LogLikelihood": "hfgen.likelihood",
    "bits_per_dim": "hfgen.likelihood",
    "importance_weighted_bound": "hfgen.likelihood",
    "check_num_samples": "hfgen.likelihood",
    "IMPORTANCE_CHUNK": "hfgen.likelihood",
    "images_to_levels": "hfgen.likelihood",
    "levels_to_images": "hfgen.likelihood",
    # a family that wraps one model of another library
    "ModelFolder": "hfgen.repository.model_folder",
    "load_model": "hfgen.repository.single_model",
    "local_folder": "hfgen.hub.download",
    # an extractor
    "FeatureExtractor": "hfgen.evaluation.extractors",
    "decode_images": "hfgen.data.images",
    # a modality: what it finds data with
    "classes_of": "hfgen.data.labels",
    "option": "hfgen.settings.fields",
    "Batches": "hfgen.data.batches",
    "Items": "hfgen.data.facts",
    "Modality": "hfgen.modality",
    "DataSource": "hfgen.data.sources",
    "NoSplitError": "hfgen.data.sources",
    "load_table": "hfgen.data.sources",
    "arranged": "hfgen.data.arrangement",
    "chosen_split": "hfgen.data.splits",
    "splits_in": "hfgen.data.splits",
    "parse_json": "hfgen.files",
    "read_json": "hfgen.files",
    "check_tokenizer_file": "hfgen.repository.processor_files",
    # a modality: what it measures
    "Metric": "hfgen.modality",
    "Protocol": "hfgen.results.protocol",
    "Real": "hfgen.evaluation.real",
    "Estimate": "hfgen.evaluation.real",
    "stored_sha256": "hfgen.evaluation.real",
    "draw_features": "hfgen.evaluation.drawn_features",
    "AsStored": "hfgen.evaluation.drawn_features",
    "costs": "hfgen.evaluation.drawn_features",
    # a converter
    "Converter": "hfgen.conversion.converter",
    "Conversion": "hfgen.conversion.converter",
    "ConverterOptions": "hfgen.conversion.converter",
    "BATCH_NORM_COUNTER": "hfgen.conversion.converter",
    "describe_shapes": "hfgen.conversion.converter",
    "ForeignFiles": "hfgen.conversion.foreign_files",
    "StateDict": "hfgen.conversion.foreign_files",
    "is_state_dict": "hfgen.conversion.foreign_files",
    "plain_state_dict": "hfgen.conversion.foreign_files",
    "rename_tensors": "hfgen.conversion.convert",
    "find_by_class": "hfgen.registry",
    "find_by_component": "hfgen.registry",
    "component_choices": "hfgen.settings.options",
    "component_config": "hfgen.settings.model_configs",
    "check_options": "hfgen.settings.resolve",
}

__all__ = sorted(_HOME)


if not TYPE_CHECKING:  # which would take any name for one of hfgen's, of any type

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'hfgen' has no attribute {name!r}")
        return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
