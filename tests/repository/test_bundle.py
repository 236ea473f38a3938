"""Code beside the weights: with it plain diffusers loads a model without hfgen; hfgen never runs it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import HubServer
from plugin_site import TOY, install, install_toy, on_path, toy_installed

from hfgen import HFGenPipeline, registry
from hfgen.cards.card import CARD
from hfgen.commands.main import cli
from hfgen.errors import UsageError
from hfgen.hub.contents import Prepared, changes, prepared
from hfgen.hub.upload import Place
from hfgen.repository import bundle
from hfgen.testing import FamilyTests
from hfgen.testing.bundles import load_by_its_code

CHILD = (Path(__file__).parents[1] / "helpers" / "bundle_cases.py").read_text(encoding="utf-8")
NARROW = {"flow.hidden_channels": 8}
VAE = {"encoder.base_channels": 4, "decoder.base_channels": 4, "encoder.latent_dim": 3}
DCGAN = {"generator.base_channels": 4, "discriminator.base_channels": 4, "generator.latent_dim": 6}
VQ = {"encoder.hidden_channels": 8, "decoder.hidden_channels": 8, "quantizer.num_embeddings": 8}
SPLINE = {"flow.coupling": "spline", "dequantizer.class_name": "VariationalDequantizer"}
# label: family, classes, options. A pipeline of the family `toy` is built beside them.
CASES = {
    "dcgan": ("dcgan", 3, DCGAN),
    "vae": ("vae", 3, {**VAE, "likelihood.class_name": "GaussianLikelihood"}),
    "logistic": ("vae", None, {**VAE, "likelihood.class_name": "DiscretizedLogisticLikelihood"}),
    "vqvae": ("vqvae", 3, VQ),
    "autoencoder_kl": ("autoencoder_kl", None, {"vae.block_out_channels": [4, 4], "vae.norm_num_groups": 2}),
    "realnvp": ("realnvp", None, {**NARROW, **SPLINE, "flow.num_couplings": 1}),
    "glow": ("glow", 3, {**NARROW, "flow.num_steps": 1, "flow.num_levels": 1, "scheduler.temperature": 0.7}),
}


class Tiny(FamilyTests):
    """Builds a tiny pipeline as the laws do, initialized and moved off its first weights."""

    sample_size = 8


def tiny(family, num_classes=None, options=None):
    kit = Tiny()
    kit.family, kit.overrides = family, options or {}
    return kit.build(num_classes)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def pipelines(place):
    """All cases, saved with their code."""
    with toy_installed(place / "site") as toy:
        torch.manual_seed(0)
        built = {label: tiny(*case) for label, case in CASES.items()}
        built["toy"] = toy.ToyPipeline.build(4, 1)
        for label, pipeline in built.items():
            pipeline.save_pretrained(place / label, bundle_code=True)
    return built


@pytest.fixture(scope="module")
def loaded(place, pipelines, processes):
    """Load each folder, and a repository, with plain diffusers in one process without hfgen; return its report."""
    with HubServer() as hub:
        hub.add("me/dcgan", place / "dcgan")
        cases = [[label, str(place / label), call(pipeline)] for label, pipeline in pipelines.items()]
        cases.append(["hub", "me/dcgan", call(pipelines["dcgan"])])
        environment = {**hub.environment(place / "home"), "PYTHONPATH": ""}
        done = processes.run(CHILD, environment=environment, text=json.dumps(cases))
    assert done.returncode == 0, done.stderr
    assert "Expected types" not in done.stderr  # which diffusers logs of components of other classes
    return json.loads(done.stdout)


def call(pipeline):
    """Arguments of each drawing."""
    return {} if pipeline.num_classes is None else {"class_labels": [2, 1]}


# --- without hfgen ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [*CASES, "toy", "hub"])
def test_plain_diffusers_draws_the_same(label, loaded, pipelines):
    pipeline = pipelines["dcgan" if label == "hub" else label]
    assert loaded[label]["class"] == type(pipeline).__name__
    expected = pipeline(seeds=[0, 1], output_type="np", **call(pipeline)).images
    assert np.abs(np.array(loaded[label]["images"]) - expected).max() <= 1e-5
    generator = torch.Generator().manual_seed(3)
    expected = pipeline(batch_size=2, generator=generator, output_type="np", **call(pipeline)).images
    assert np.abs(np.array(loaded[label]["by_generator"]) - expected).max() <= 1e-5


@pytest.mark.parametrize("label", ["dcgan", "hub"])
def test_consent_is_asked_for(label, loaded):
    assert loaded[label]["refused"].startswith("ValueError")
    assert "trust_remote_code=True" in loaded[label]["refused"]


def test_nothing_of_hfgen_was_imported(loaded):
    assert loaded["imported"] == []


@pytest.mark.parametrize("label", ["vae", "glow"])
def test_likelihoods_and_reconstructions_are_the_same(label, loaded, pipelines):
    images = torch.linspace(0, 255, 2 * 64).round().div(127.5).sub(1).view(2, 1, 8, 8)
    pipeline, labels = pipelines[label], torch.tensor([2, 1])
    nats = pipeline.log_likelihood(images, labels).nats
    assert torch.tensor(loaded[label]["nats"], dtype=nats.dtype) == pytest.approx(nats, rel=1e-5)
    reconstructed = pipeline.reconstruct(images, labels)
    assert (torch.tensor(loaded[label]["reconstructed"]) - reconstructed).abs().max() <= 1e-5


def test_errors_are_hfgens_own(loaded):
    assert loaded["wrong"] == "This model samples in one step; num_inference_steps=7."


# --- with hfgen ---------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(place, pipelines, tmp_path):
    """A copy of the bundled DCGAN, to be changed."""
    shutil.copytree(place / "dcgan", tmp_path / "dcgan")
    return tmp_path / "dcgan"


@pytest.mark.whole
def test_hfgen_loads_without_running_the_code(folder, pipelines):
    for path in folder.rglob("*.py"):
        path.write_text(f"open({str(folder / 'ran')!r}, 'w')\n" + path.read_text())
    pipeline = HFGenPipeline.from_pretrained(folder)
    assert {type(part) for part in pipeline.components.values()} == {
        type(part) for part in pipelines["dcgan"].components.values()
    }
    assert type(pipeline) is type(pipelines["dcgan"])
    assert not (folder / "ran").exists()
    expected = pipelines["dcgan"](seeds=[4], output_type="np").images
    assert np.abs(pipeline(seeds=[4], output_type="np").images - expected).max() <= 1e-5


@pytest.mark.whole
def test_saved_again_it_has_no_code(folder, tmp_path):
    pipeline = HFGenPipeline.from_pretrained(folder)
    for target in (tmp_path / "again", folder):
        pipeline.save_pretrained(target)
        assert not list(target.rglob("*.py"))
        index = json.loads((target / "model_index.json").read_text())
        assert index["_class_name"] == "DCGANPipeline"
        assert index["generator"] == ["hfgen_gan.dcgan", "DCGANGenerator"]
        assert "modules" not in index["_hfgen"]
        HFGenPipeline.from_pretrained(target)


@pytest.mark.whole
def test_code_of_others_stays_where_it_is_saved(folder):
    (folder / "pipeline_mine_00000000.py").write_text("print()\n")
    (folder / "mine.py").write_text("print()\n")
    HFGenPipeline.from_pretrained(folder).save_pretrained(folder)
    assert {path.name for path in folder.rglob("*.py")} == {"pipeline_mine_00000000.py", "mine.py"}


def test_a_variant_is_saved_with_code_too(folder):
    pipeline = HFGenPipeline.from_pretrained(folder)
    before = {path.relative_to(folder) for path in folder.rglob("*.py")}
    pipeline.save_pretrained(folder, variant="other", bundle_code=True)
    assert {path.relative_to(folder) for path in folder.rglob("*.py")} == before
    HFGenPipeline.from_pretrained(folder, variant="other")


def test_a_variant_without_code_joins_a_bundle(folder):
    """The index is the variant's, and names the code that is there."""
    before = {path.relative_to(folder) for path in folder.rglob("*.py")}
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_diffusers_version": "0.0.1"}))
    HFGenPipeline.from_pretrained(folder).save_pretrained(folder, variant="other")
    assert {path.relative_to(folder) for path in folder.rglob("*.py")} == before
    assert json.loads((folder / "model_index.json").read_text()) == index
    HFGenPipeline.from_pretrained(folder, variant="other")


def test_a_variant_of_other_classes_is_no_part_of_the_bundle(folder, pipelines):
    pipelines["toy"].save_pretrained(folder, variant="other")
    assert not list(folder.rglob("*.py"))
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == "ToyPipeline"


def test_a_variant_is_pushed_to_a_bundle_without_breaking_it(folder, tmp_path):
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} | {CARD}
    code = {name for name in there if name.endswith(".py")}
    HFGenPipeline.from_pretrained(folder).save_pretrained(tmp_path / "half", variant="half")
    with prepared(tmp_path / "half", Place("me/x"), "half", None, "again") as ready:
        sent, removed = changes(ready, there)
        assert "generator/diffusion_pytorch_model.half.safetensors" in sent
        assert not {"model_index.json", CARD} & set(sent)
        assert removed == []
        assert "model_index.json" in changes(ready, there - code)[0]
    with prepared(tmp_path / "half", Place("me/x"), "half", None, "again", bundle_code=True) as ready:
        sent, removed = changes(ready, {*there, "pipeline_old_00000000.py"})
        assert code <= set(sent)
        assert "model_index.json" in sent
        assert removed == ["pipeline_old_00000000.py"]
    assert changes(Prepared({"model_index.json": b""}), there)[1][: len(code)]  # without a variant the code goes


@pytest.mark.whole
def test_code_of_an_earlier_version_gives_way_to_todays(folder):
    """Outdated code is neither refused nor sent; code that somebody wrote is refused, whatever its name."""
    code = bundle.code_for(folder)
    (old,) = folder.glob("pipeline_*.py")
    older = old.rename(old.with_name("pipeline_dcgan_00000000.py"))
    older.write_bytes(older.read_bytes().replace(b"# Generated by hfgen ", b"# Generated by hfgen 0.0."))
    with prepared(folder, Place("me/x"), None, None, "again") as ready:
        assert {name for name in ready.files if name.endswith(".py")} == set(code) - {"model_index.json"}
        assert changes(ready, {older.name})[1] == [older.name]
    mine = older.rename(older.with_name("pipeline_mine.py"))
    with pytest.raises(UsageError, match="pipeline_mine.py: code"):
        push_dryly(folder)
    mine.rename(older).write_text("print()\n")
    with pytest.raises(UsageError, match=f"{older.name}: code"):
        push_dryly(folder)


def push_dryly(folder):
    with prepared(folder, Place("me/x"), None, None, "again"):
        pass


def test_code_for_an_index_that_tells_no_origin(folder):
    bundled = json.loads((folder / "model_index.json").read_text())
    HFGenPipeline.from_pretrained(folder).save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    del index["_hfgen"]
    (folder / "model_index.json").write_text(json.dumps(index))
    made = json.loads(bundle.code_for(folder)["model_index.json"])
    assert made == {**bundled, "_hfgen": {"modules": bundled["_hfgen"]["modules"]}}


def test_the_index_can_name_installed_classes_only(folder):
    path = folder / "model_index.json"
    index = json.loads(path.read_text())
    modules = {"discriminator": "os", "scheduler": ["hfgen.scheduler"], "_class_name": "os", "x": "y"}
    index["_hfgen"]["modules"] |= modules
    path.write_text(json.dumps(index))
    with pytest.raises(OSError, match="'os', which no enabled family provides"):
        HFGenPipeline.from_pretrained(folder)


def test_what_plain_diffusers_reads_has_no_code(tmp_path, capsys):
    options = {"unet.block_out_channels": [8, 8], "unet.norm_num_groups": 4}
    pipeline = tiny("ddpm", None, options)
    with pytest.warns(UserWarning, match="Nothing is bundled"):
        pipeline.save_pretrained(tmp_path / "ddpm", bundle_code=True)
    assert not list(tmp_path.rglob("*.py"))
    assert json.loads((tmp_path / "ddpm" / "model_index.json").read_text())["_class_name"] == "DDPMPipeline"
    words = ["push", str(tmp_path / "ddpm"), "me/ddpm", "--bundle_code", "--dry_run"]
    cli.main(words, standalone_mode=False)
    said = capsys.readouterr()
    assert "Nothing is bundled" in said.err
    assert ".py" not in said.out


def test_a_package_of_several_modules(tmp_path, monkeypatch):
    """Relative imports, another name for what is imported, a name given by a re-export, a value that is changed."""
    start, pipeline = TOY.split("class ToyPipeline")
    start = start.replace("torch.tanh(", "FINISH[-1](").replace(
        "from torch import", "from .parts import FINISH\nfrom torch import"
    )
    family = (
        "from __future__ import annotations\nfrom typing import TYPE_CHECKING\nfrom torch import Tensor\n"
        "from hfgen import HFGenPipeline, PriorScheduler\nfrom . import half as scaled\n"
        "from .networks import ToyCritic, ToyGenerator\nif TYPE_CHECKING:\n    from nowhere import Nothing\n"
        f"class ToyPipeline{pipeline}".replace("return self.generator(", "return scaled(self.generator)(")
    )
    modules = {
        "toy_package.parts": "import torch\nFINISH = [abs]\nFINISH += [torch.tanh]\n",
        "toy_package.networks": start,
        "toy_package.scale": "def half(call: object):\n    return lambda x: call(x) / 2\n",
        "toy_package.family": family,
    }
    install(tmp_path / "site", "toy-package", {"toypackage": "toy_package.family:ToyPipeline"}, modules)
    (tmp_path / "site" / "toy_package" / "__init__.py").write_text("from .scale import half\n")
    with on_path(tmp_path / "site"):
        pipeline = __import__("toy_package.family").family.ToyPipeline.build(4, 1)
        pipeline.save_pretrained(tmp_path / "saved", bundle_code=True)
        loaded = load_by_its_code(tmp_path, monkeypatch)
        again = HFGenPipeline.from_pretrained(tmp_path / "saved")
    expected = pipeline(seeds=[0], output_type="np").images
    assert 0.25 <= expected.min() <= expected.max() <= 0.75
    for other in (loaded, again):
        assert np.abs(other(seeds=[0], output_type="np").images - expected).max() <= 1e-5
    text = next((tmp_path / "saved").glob("*.py")).read_text()
    assert text.count("__future__") == 1
    assert "scaled = half" in text
    assert "ToyGenerator" not in text


@pytest.mark.whole
def test_a_model_stays_what_it_is_when_another_is_loaded(tmp_path, monkeypatch):
    """Of two versions of a plugin, whose files lie in one folder and run in modules of their names."""
    drawn = {}
    for number in (1, 2):
        source = TOY.replace("return self.generator(", "return times(self.generator)(")
        source += f"\n\ndef times(call):\n    return lambda x: call(x) / {number}\n"
        install_toy(tmp_path / f"site{number}", source=source)
        with on_path(tmp_path / f"site{number}"):
            torch.manual_seed(0)
            pipeline = __import__("toy_family").ToyPipeline.build(4, 1)
            pipeline.save_pretrained(tmp_path / "saved", bundle_code=True)
            drawn[number] = load_by_its_code(tmp_path, monkeypatch), pipeline(seeds=[0], output_type="np").images
    assert np.abs(drawn[1][1] - drawn[2][1]).max() > 1e-3
    for loaded, expected in drawn.values():
        assert np.abs(loaded(seeds=[0], output_type="np").images - expected).max() <= 1e-5


# What a module does beside defining; without any of it the samples are others, or there are none.
DOES_THINGS = """
from typing import TYPE_CHECKING
SCALES = {}
for name in ("a",):
    SCALES[name] = 0.5
torch.backends.of_the_toy = SCALES["a"]
"A text, which does nothing."
if TYPE_CHECKING:
    from hfgen.nowhere import squash
else:
    def squash(x: torch.Tensor) -> torch.Tensor:
        return SCALES.get("a", 7.0) * torch.backends.of_the_toy * torch.sin(x)
"""
AT_THE_END = """
ToyPipeline.description = "Registered by hand."
register_family("toy-by-hand", ToyPipeline)
if __name__ == "__main__":
    import torch
    print(torch)
"""


def test_what_a_module_does_is_done_in_its_file(tmp_path, monkeypatch):
    source = TOY.replace("torch.tanh(", "squash(").replace("PriorScheduler\n", f"PriorScheduler\n{DOES_THINGS}", 1)
    source = source.replace("import HFGen", "import register_family, HFGen", 1) + AT_THE_END
    install(tmp_path / "site", "toy-by-hand", {}, {"toy_by_hand": source})
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(torch.backends, "of_the_toy", 0.0, raising=False)
    with on_path(tmp_path / "site"):
        pipeline = __import__("toy_by_hand").ToyPipeline.build(4, 1)
        pipeline.save_pretrained(tmp_path / "saved", bundle_code=True)
    expected = pipeline(seeds=[0], output_type="np").images
    assert 0.375 <= expected.min() <= expected.max() <= 0.625
    torch.backends.of_the_toy = 0.0
    loaded = load_by_its_code(tmp_path, monkeypatch)
    assert type(loaded).description == "Registered by hand."
    assert np.abs(loaded(seeds=[0], output_type="np").images - expected).max() <= 1e-5


# --- what cannot be bundled ---------------------------------------------------------------------------------------

AFTER = "from hfgen import HFGenPipeline, PriorScheduler\n"
DECODE = "        return self.generator(latents.to(self.generator.dtype))\n"
INIT = "        self.register_modules(generator=generator, scheduler=scheduler, critic=critic)\n"
FROZEN = "from hfgen.objective import frozen\nSCALES = {}\nSCALES.update(a=1.0, b=frozen)\n"
# label: what is replaced in the toy family's source, by what, and what the error says.
REFUSED = {
    "data": (DECODE, "        open(__file__).close()\n" + DECODE, "reads files beside the module, by __file__"),
    "inside": (
        DECODE,
        "        from hfgen.modalities.image import postprocess\n" + DECODE,
        "imports hfgen.modalities.image inside",
    ),
    "whole": (AFTER, AFTER + "import hfgen.modalities.image as images\n", None),
    "class": (INIT, "        assert isinstance(generator, ToyGenerator)\n" + INIT, "uses the class ToyclassGenerator"),
    "effect": (
        AFTER,
        AFTER + "torch.set_num_threads(1)\n",
        "has an effect when the module is imported: torch.set_num",
    ),
    "hidden": (AFTER, AFTER + FROZEN, "has an effect when the module is imported: SCALES.update"),
    "loop": (AFTER, AFTER + "for n in (1,):\n    torch.set_num_threads(n)\n", "line 10 .* imported: torch.set_num"),
    "inner": (AFTER, AFTER + "ALL = [[]]\nfor one in ALL:\n    one[:] = [1]\n", "imported: for one in ALL"),
    "star": (
        AFTER,
        AFTER + "from math import *\n",
        "'sqrt' is not defined at the top level of toy_star; import it by name instead of from math",
    ),
    "nothing": (AFTER, AFTER, "'undefined' is not defined at the top level of toy_nothing; define or import it"),
    "twice": (AFTER, AFTER + "from math import sqrt\nsqrt = abs\n", "imports 'sqrt', and line 10 defines it again"),
    "clash": (AFTER, AFTER + "def postprocess(x):\n    return x\n", "'postprocess' stands for two things"),
}
USED = {"whole": "images.postprocess", "clash": "postprocess", "star": "sqrt", "twice": "sqrt"}
USED |= {"nothing": "lambda: undefined"}


@pytest.mark.parametrize("label", REFUSED)
@pytest.mark.whole
def test_what_cannot_be_bundled_is_an_error_before_anything_is_written(label, tmp_path):
    old, new, said = REFUSED[label]
    source = TOY.replace(old, new)
    if label in USED:
        source = source.replace(DECODE, f"        {USED[label]}\n{DECODE}")
    module = f"toy_{label}"
    install_toy(tmp_path / "site", f"toy{label}", module, source)
    with on_path(tmp_path / "site"):
        pipeline_class = getattr(__import__(module), f"Toy{label}Pipeline")
        pipeline = pipeline_class.build(4, 1)
        with pytest.raises(UsageError, match=said or "uses the module 'images' as a whole"):
            pipeline.save_pretrained(tmp_path / "saved", bundle_code=True)
        assert not (tmp_path / "saved").exists()
        pipeline.save_pretrained(tmp_path / "saved")
