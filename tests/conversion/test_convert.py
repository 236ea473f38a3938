"""The steps that the conversions of all formats share."""

import hashlib
import itertools
import re
import shutil

import command_line
import pytest
import torch
from foreign_models import HERE, converted, hfgen, refused, saved_by_diffusers
from hub_server import HubServer
from huggingface_hub import ModelCard

from hfgen import HFGenPipeline
from hfgen.conversion import convert
from hfgen.conversion.convert import check, fill, open_source
from hfgen.errors import CheckError, UsageError
from hfgen.hub.contents import prepared
from hfgen.hub.upload import Place


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    target = tmp_path_factory.mktemp("made") / "gan"
    converted(HERE / "torchgan" / "generator.pt", target)
    return target


def test_the_folder_is_whole(made):
    """Nothing of a pickle, no path; the card tells what it was made of."""
    files = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    assert files == {
        "README.md",
        "model_index.json",
        "generator/config.json",
        "generator/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
    }
    card = ModelCard.load(made / "README.md")
    digest = hashlib.sha256((HERE / "torchgan" / "generator.pt").read_bytes()).hexdigest()
    assert f"| generator.pt | `{digest}` |" in card.text
    assert card.data.tags[:2] == ["hfgen", "dcgan"]
    assert 'from_pretrained("gan")' in card.text
    assert str(HERE) not in card.text


def test_it_is_drawn_from_and_pushed(made, tmp_path):
    drawn = command_line.hfgen("sample", made, "-n", "2", "-o", tmp_path / "grid.png")
    assert drawn.code == 0, drawn.err
    pushed = command_line.hfgen("push", made, "org/gan", "--dry_run", "--json")
    assert pushed.code == 0, pushed.err
    assert "README.md" in pushed.out


def test_the_card_tells_how_it_is_used(made):
    text = (made / "README.md").read_text()
    assert "`pip install hfgen`, then\n\n```python" in text
    introduction = text.split("# gan\n\n")[1].split("\n\n## Use")[0].splitlines()
    assert introduction[-1].endswith("under hfgen's names.")
    assert all(len(line) <= 119 for line in introduction)
    for line, following in itertools.pairwise(introduction):
        assert len(f"{line} {following.split()[0]}") > 119


def card_for_the_hub(folder):
    with prepared(folder, Place("org/gan"), None, None, "again", bundle_code=True) as ready:
        content = ready.files["README.md"]
    return content.decode() if isinstance(content, bytes) else content.read_text()


@pytest.mark.whole
def test_the_card_tells_of_bundled_code(made, tmp_path):
    """Pushed or saved; what somebody has edited stays as it is."""
    folder = tmp_path / "gan"
    shutil.copytree(made, folder)
    readme = folder / "README.md"
    plain = readme.read_text()
    assert "trust_remote_code" not in plain
    told = card_for_the_hub(folder)
    assert told.count('DiffusionPipeline.from_pretrained("org/gan", trust_remote_code=True)') == 1
    assert told.count("\n\nWithout hfgen, plain diffusers loads it") == 1
    HFGenPipeline.from_pretrained(folder).save_pretrained(folder, bundle_code=True)
    assert 'DiffusionPipeline.from_pretrained("gan", trust_remote_code=True)' in readme.read_text()
    assert card_for_the_hub(folder) == told
    HFGenPipeline.from_pretrained(folder).save_pretrained(folder)
    assert readme.read_text() == plain
    edited = plain.replace("No quality", "My own words. No quality")
    readme.write_text(edited)
    published = card_for_the_hub(folder)
    assert "My own words. No quality" in published
    assert 'HFGenPipeline.from_pretrained("org/gan")' in published
    HFGenPipeline.from_pretrained(folder).save_pretrained(folder, bundle_code=True)
    assert readme.read_text() == edited


def test_what_is_there_stays(made, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for target in (made, tmp_path / "mine", tmp_path / "mine" / "notes.txt"):
        before = sorted(target.rglob("*"))
        code, output = hfgen(HERE / "torchgan" / "generator.pt", target, "--allow_pickle")
        assert code == 2
        assert "nothing was converted" in output
        with pytest.raises(UsageError, match="nothing was converted"):
            convert.convert(open_source(str(HERE / "torchgan" / "generator.pt"), True), target)
        assert sorted(target.rglob("*")) == before
    (tmp_path / "empty").mkdir()
    converted(HERE / "torchgan" / "generator.pt", tmp_path / "empty")


def test_what_was_saved_is_what_was_read(made):
    pipeline = HFGenPipeline.from_pretrained(made)
    weights = {"generator": dict(pipeline.generator.state_dict())}
    check(made, weights)
    weights["generator"]["to_image.bias"] = weights["generator"]["to_image.bias"] + 1
    with pytest.raises(CheckError, match=r"generator\.to_image\.bias differs from the source after saving"):
        check(made, weights)


def test_all_or_nothing(tmp_path, monkeypatch):
    """A failure after everything was written leaves no trace."""

    def fails(*arguments):
        raise CheckError("not as it was read")

    monkeypatch.setattr(convert, "check", fails)
    source = HERE / "torchgan" / "generator.pt"
    refused("not as it was read", source, tmp_path / "new" / "made", "--allow_pickle", code=3)
    assert not (tmp_path / "new").exists()


def test_every_tensor_finds_its_place(made):
    pipeline = HFGenPipeline.from_pretrained(made)
    tensors = dict(pipeline.generator.state_dict())
    with pytest.raises(UsageError, match="odd: 1 there, nothing here"):
        fill(pipeline, {"generator": {**tensors, "odd": torch.zeros(1)}}, "it")
    del tensors["to_image.bias"]
    with pytest.raises(UsageError, match="to_image.bias: nothing there, 2 here"):
        fill(pipeline, {"generator": tensors}, "it")


TWICE = """
import os, sys, urllib.request
from hfgen.commands.main import main
for label, words in {"plain": [], "allowed": ["--allow_pickle"]}.items():
    urllib.request.urlopen(f"{os.environ['HF_ENDPOINT']}/case/{label}").close()
    try:
        main(["convert", "org/old", "made", *words])
    except SystemExit as stop:
        print(stop.code)
"""


def test_a_repository(tmp_path, processes):
    """Its pickles are not even fetched before the user allows it; the card tells the commit."""
    saved_by_diffusers(tmp_path / "source", safe_serialization=False)
    with HubServer() as server:
        server.add("org/old", tmp_path / "source")
        environment = server.environment(tmp_path / "home")
        done = processes.run(TWICE, environment=environment, cwd=tmp_path)
        asked = {label: {r.path for r in server.requests_of(label)} for label in ("plain", "allowed")}
    assert done.stdout.split() == ["2", "made", "0"], done.stderr
    assert "diffusion_pytorch_model.bin is a pickle" in done.stderr
    assert not any(path.endswith(".bin") for path in asked["plain"])
    assert any(path.endswith(".bin") for path in asked["allowed"])
    assert re.search(r"from `org/old at commit [0-9a-f]{40}`", (tmp_path / "made" / "README.md").read_text())
