"""A small measured model, and results made from its record."""

import copy
import hashlib
import json

import pytest
import torch
from command_line import call
from compared import BOUND
from small_protocol import small_protocol

from hfgen.registry import get_family


@pytest.fixture(autouse=True)
def somewhere(empty_folder):
    """Targets and outputs are named relative to an empty folder."""


@pytest.fixture(scope="module")
def gan(tmp_path_factory):
    """A tiny model, measured by a small protocol: (its folder, the record)."""
    from hfgen.evaluation import real_images

    folder = tmp_path_factory.mktemp("measured")
    few = small_protocol(folder, 100, num_images=50, batch_size=25, bootstraps=4)
    torch.manual_seed(0)
    tiny = {"generator.base_channels": 4, "discriminator.base_channels": 4}
    get_family("dcgan").load().build(28, 1, **tiny).save_pretrained(folder / "gan")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(real_images, "cache_folder", lambda: folder / "cache")
        call("evaluate", folder / "gan", "--protocol", few)
    file = next((folder / "gan" / "evaluation").glob("*.json"))
    return folder / "gan", json.loads(file.read_text())


@pytest.fixture
def put(gan, tmp_path):
    """Writes the record, altered, as a result of a model of this name; `a.b=c` is given as {"a.b": c}."""

    def write(name, changes=None, fid=None, steps=None, stem="result", folder=None, weights=None):
        record = copy.deepcopy(gan[1])
        record |= {"name": name}
        record["model"]["weights_sha256"] = hashlib.sha256((weights or name).encode()).hexdigest()
        changes = dict(changes or {})
        if fid is not None:
            changes |= {"values.fid": {"value": fid[0], "error": fid[1], "error_of": "4 bootstraps"}}
        if steps is not None:
            changes |= {"sampler.options": {"num_inference_steps": steps}, "sampler.scheduler": "Stepping"}
            changes |= {"values.network_evaluations": {"value": float(steps)}}
            changes |= {"values.seconds_per_image": {"value": steps / 100}}
        for path, value in changes.items():
            place = record
            *keys, last = path.split("/") if "/" in path else path.split(".")
            for key in keys:
                place = place[key]
            place[last] = value
        place = (folder or tmp_path / name) / "evaluation"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{stem}.json").write_text(json.dumps(record))
        return str(place.parent)

    return write


EVIL = "<script>alert(1)</script>|$x_$ \x1b[31m\n\"'><img src=x onerror=y>_`#"


@pytest.fixture
def evil(put):
    changes = {
        "sampler.scheduler": EVIL,
        "sampler.options": {EVIL: EVIL},
        "protocol.name": EVIL,
        "reference.name": EVIL,
        "extractor.name": EVIL,
        "likelihood": {**BOUND, "kind": EVIL, "method": EVIL},
        "warning": EVIL,
        "values.bits_per_dim": {"value": 1.0, "error": 0.1, "error_of": EVIL},
    }
    put("evil", {**changes, "name": EVIL}, weights="evil", stem=EVIL.replace("/", ""))
    put("good", {**changes, "hardware.processor": EVIL}, fid=(1, 0.1))
    return "evil", "good"
