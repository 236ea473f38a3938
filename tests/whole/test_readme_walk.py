"""The walk of docs/publish.md from a model to the Hub and back, as written there, against the stand-in."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import TOKEN, HubServer
from nursery import HFGEN
from pages import ROOT, blocks
from PIL import Image

PAGE = ROOT / "docs" / "publish.md"
COMMANDS, PYTHON = blocks(PAGE, "sh")[0], blocks(PAGE, "python")[0]
THEN = """
from PIL import Image
with Image.open("three.png") as drawn:
    assert three.tobytes() == drawn.tobytes()
assert (half.device.type, again.decoder.dtype, half.decoder.dtype) == ("cpu", torch.float32, torch.bfloat16)
weights, rounded = pipeline.decoder.state_dict(), again.decoder.state_dict()
for name, weight in weights.items():
    assert torch.equal(rounded[name], weight.bfloat16().float()), name
"""


@pytest.fixture(scope="module")
def walked(tmp_path_factory, processes):
    """The server, the place where the commands were typed, and what they printed."""
    place = tmp_path_factory.mktemp("walk")
    shutil.copytree(ROOT / "model_cards" / "vae-mnist", place / "model_cards" / "vae-mnist")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with HubServer() as hub:
        environment = {**hub.environment(place / "home"), "HF_TOKEN": TOKEN, "PATH": path}

        def run(line):
            """In a shell, or where the libraries are imported already."""
            name, *words = shlex.split(line, comments=True)
            if name == "hfgen":
                return processes.run(HFGEN, *words, cwd=place, environment=environment)
            return subprocess.run(["bash", "-c", line], cwd=place, env=environment, capture_output=True, text=True)

        def typed(line, python=False):
            """What is printed, and which requests that made."""
            before = len(hub.requests)
            done = processes.run(line, cwd=place, environment=environment) if python else run(line)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "%|" not in done.stderr  # bars are for a terminal
            return done.stdout, hub.requests[before:]

        yield hub, place, [typed(line) for line in COMMANDS.splitlines()], typed(PYTHON + THEN, python=True)


def picture(path):
    with Image.open(path) as image:
        return image.copy()


def test_the_dry_run_sends_nothing(walked):
    printed, requests = walked[2][0]
    assert re.search(r"^decoder/\n  config.json +218\n  diffusion_pytorch_model.safetensors +832,456$", printed, re.M)
    assert requests == []


def test_the_push_is_one_commit_of_a_private_repository(walked):
    hub, _, lines, _ = walked
    assert "/me/vae-mnist" in lines[1][0]
    assert [r.method for r in lines[1][1] if "/commit/" in r.path] == ["POST"]
    assert hub.repositories["me/vae-mnist"].token == TOKEN
    assert "model_index.json" in hub.files("me/vae-mnist")


def test_it_is_told_what_it_is(walked):
    assert "VAEPipeline" in walked[2][2][0]


def test_it_is_drawn_and_fetched_once(walked):
    _, place, lines, _ = walked
    grid, three = picture(place / "grid.png"), picture(place / "three.png")
    assert grid.size == (4 * 112, 4 * 112), "small images are enlarged so that they can be seen"
    grid = grid.reduce(4)
    assert grid.crop((3 * 28, 0, 4 * 28, 28)).tobytes() == three.tobytes()
    fetched = [r.path for line in lines for r in line[1] if r.method == "GET" and "/resolve/" in r.path]
    assert len(fetched) == len(set(fetched))
    assert any(path.endswith("model_index.json") for path in fetched)


def test_offline_nothing_is_asked(walked):
    assert walked[2][4][1] == []


def test_the_variant_lies_beside_the_weights(walked):
    hub, _, _, (_, requests) = walked
    assert [r.method for r in requests if "/commit/" in r.path] == ["POST"]
    files = hub.files("me/vae-mnist")
    whole, half = (files[f"decoder/diffusion_pytorch_model{end}.safetensors"] for end in ("", ".bf16"))
    assert len(half) < 0.6 * len(whole)


def test_every_request_bears_the_name(walked):
    """What is fetched is fetched in the name of hfgen."""
    hub = walked[0]
    fetching = [r for r in hub.requests if r.method in ("GET", "HEAD") and "/resolve/" in r.path]
    assert fetching
    assert all("hfgen/" in r.user_agent for r in fetching)
