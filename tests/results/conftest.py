"""A small measured model, and results made from its record."""

import copy
import hashlib
import json

import pytest
import torch
import yaml
from compared import BOUND

from hfgen import load_images
from hfgen.commands import main
from hfgen.data.builtin import BUILT_IN_FOLDERS
from hfgen.evaluation.real_images import RealImages
from hfgen.registry import get_family
from hfgen.results.protocol import Protocol


@pytest.fixture(scope="module")
def gan(tmp_path_factory):
    """A tiny model, measured by a small protocol: (its folder, the record)."""
    import pyarrow.parquet as parquet

    from hfgen.evaluation import real_images

    folder = tmp_path_factory.mktemp("measured")
    (folder / "data").mkdir()
    for split in ("train", "test"):
        table = parquet.read_table(BUILT_IN_FOLDERS["mnist-mini"] / f"{split}.parquet")
        parquet.write_table(table.slice(0, 100), folder / "data" / f"{split}.parquet")
    sha256 = RealImages.of(load_images(str(folder / "data"), "test")).sha256
    few = Protocol(name="few", split="test", reference_sha256=sha256, extractor="digitnet-mnist", num_images=50)
    settings = {**few.to_dict(), "batch_size": 25, "bootstraps": 4, "floor_draws": 2, "dataset": str(folder / "data")}
    (folder / "few.yaml").write_text(yaml.safe_dump(settings))
    torch.manual_seed(0)
    tiny = {"generator.base_channels": 4, "discriminator.base_channels": 4}
    get_family("dcgan").load().build(28, 1, **tiny).save_pretrained(folder / "gan")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(real_images, "cache_folder", lambda: folder / "cache")
        words = ["evaluate", str(folder / "gan"), "--protocol", str(folder / "few.yaml")]
        main.cli.main(words, standalone_mode=False)
    file = next((folder / "gan" / "evaluation").glob("*.json"))
    return folder / "gan", json.loads(file.read_text())


@pytest.fixture
def hfgen(capsys, monkeypatch, tmp_path):
    """Runs the command line in this process and an empty folder; returns exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        with pytest.raises(SystemExit) as stop:
            main.main([str(word) for word in words])
        out, err = capsys.readouterr()
        return stop.value.code or 0, out, err

    return run


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
