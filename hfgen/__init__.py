"""hfgen: generative models that train, sample, save and load the same way, in Hugging Face conventions.

The names below are imported on first use (PEP 562), so that `import hfgen` costs no torch.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "HFGenPipeline": "hfgen.pipeline",
    "PriorScheduler": "hfgen.scheduler",
    "Objective": "hfgen.objective",
    "Update": "hfgen.objective",
    "Diagnosis": "hfgen.objective",
    "LogLikelihood": "hfgen.likelihood",
    "frozen": "hfgen.objective",
    "Trainer": "hfgen.trainer",
    "TrainingArguments": "hfgen.arguments",
    "load_images": "hfgen.data",
    "list_families": "hfgen.registry",
    "get_family": "hfgen.registry",
    "register_family": "hfgen.registry",
    "HFGenError": "hfgen.errors",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hfgen' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
