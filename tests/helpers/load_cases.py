"""Run in a process of its own: reads cases `[label, target, options]`, loads each, prints what came of it as JSON.

Values that JSON lacks are named: a dtype by its name, a scheduler by its config. Before each load a request to
`/case/LABEL` marks the Hub's log.
"""

import json
import os
import sys
import urllib.request
from typing import Any

from hfgen import HFGenPipeline  # and nothing else of hfgen: no plugin may be needed beforehand


def main() -> None:
    print(json.dumps({label: report(label, target, options) for label, target, options in json.load(sys.stdin)}))


def report(label: str, target: str, options: dict[str, Any]) -> dict[str, Any]:
    if os.environ.get("HF_HUB_OFFLINE") != "1":
        urllib.request.urlopen(f"{os.environ['HF_ENDPOINT']}/case/{label}").close()
    before = set(sys.modules)
    try:
        facts = load(target, {name: decoded(name, value) for name, value in options.items()})
    except Exception as error:
        facts = {"error": type(error).__name__, "message": str(error)}
    return {**facts, "imported": sorted(set(sys.modules) - before)}


def load(target: str, options: dict[str, Any]) -> dict[str, Any]:
    """Facts of the pipeline that `HFGenPipeline` loads, and of the one that its own class loads."""
    pipeline = HFGenPipeline.from_pretrained(target, **options)
    again = type(pipeline).from_pretrained(target, **options)
    return {
        "class": [type(pipeline).__name__, type(again).__name__],
        "pixels": [p(seeds=[0, 1], output_type="np").images.ravel().tolist() for p in (pipeline, again)],
        "dtypes": {name: str(model.dtype).removeprefix("torch.") for name, model in pipeline.models().items()},
        "devices": sorted({str(model.device) for model in pipeline.models().values()}),
        "temperature": pipeline.scheduler.config.temperature,
    }


def decoded(name: str, value: Any) -> Any:
    import torch

    from hfgen import PriorScheduler

    if name == "dtype":
        return {k: getattr(torch, v) for k, v in value.items()} if isinstance(value, dict) else getattr(torch, value)
    return PriorScheduler(**value) if name == "scheduler" else value


if __name__ == "__main__":
    main()
