"""What is wrong with a folder is told in one clear error that names it; nothing of the folder is run."""

import re
import shutil
import warnings

import pytest
import torch
from plugin_site import toy_installed
from refusals import edit, refuse
from safetensors.torch import load_file, save_file

from hfgen import HFGenPipeline
from hfgen.errors import UsageError

CONFIG, WEIGHTS = "generator/config.json", "generator/diffusion_pytorch_model.safetensors"
SHARD, SHARDS = "generator/diffusion_pytorch_model-00002-of-00006.safetensors", f"{WEIGHTS}.index.json"


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    with toy_installed(tmp_path_factory.mktemp("site")) as module:
        yield module


@pytest.fixture(scope="module")
def saved(toy, tmp_path_factory):
    """A folder, and the same in shards."""
    root = tmp_path_factory.mktemp("saved")
    pipeline = toy.ToyPipeline.build(4, 1)
    pipeline.save_pretrained(root / "whole")
    pipeline.save_pretrained(root / "shards", max_shard_size=64)
    return root


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved / "whole", tmp_path / "toy")


@pytest.fixture
def shards(saved, tmp_path):
    return shutil.copytree(saved / "shards", tmp_path / "toy")


def edit_weights(folder, **tensors):
    """Replace tensors; None drops one."""
    weights = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()} | tensors
    kept = {name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(kept, folder / WEIGHTS, {"format": "pt"})


# --- files that are missing or damaged --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nothing", "a/b/c", "toy/model_index.json"])
def test_no_folder(folder, name):
    refuse(folder.parent / name, "is not a folder")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model_index.json", r"has no model_index\.json"),
        (CONFIG, r"'generator' is incomplete: generator/config\.json is missing"),
        ("scheduler/scheduler_config.json", r"scheduler/scheduler_config\.json is missing"),
        (WEIGHTS, r"'generator' has no weights: generator/\*\.safetensors is missing"),
    ],
)
def test_missing_file(folder, name, words):
    (folder / name).unlink()
    refuse(folder, words)


@pytest.mark.parametrize("name", [SHARD, SHARDS])
def test_missing_shard(shards, name):
    (shards / name).unlink()
    refuse(shards, "generator.*is missing")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"3", b"null", b'{"a": 1}'])
def test_damaged_index(folder, content):
    (folder / "model_index.json").write_bytes(content)
    refuse(folder, r"model_index\.json (is damaged|names no pipeline class)")


@pytest.mark.parametrize("name", [CONFIG, "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"3", b"null"])
def test_damaged_config(folder, name, content):
    (folder / name).write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # diffusers takes a list or a number for a path
        refuse(folder, name)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"inner.weight": 1}}'])
def test_damaged_shard_index(shards, content):
    (shards / SHARDS).write_text(content)
    refuse(shards, re.escape(SHARDS))


def test_truncated_weights(folder):
    whole = (folder / WEIGHTS).read_bytes()
    for length in (0, 200, len(whole) - 4):
        (folder / WEIGHTS).write_bytes(whole[:length])
        refuse(folder, f"{WEIGHTS} is truncated or damaged")


def test_truncated_shard(shards):
    (shards / SHARD).write_bytes((shards / SHARD).read_bytes()[:50])
    refuse(shards, f"{SHARD} is truncated or damaged")


def test_pickled_weights_are_not_read(folder):
    torch.save(load_file(folder / WEIGHTS), folder / "generator" / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    refuse(folder, "'generator' has no weights")


# --- weights that do not fit ------------------------------------------------------------------------------------


@pytest.mark.parametrize("low_cpu_mem_usage", [True, False])
@pytest.mark.parametrize("key", ["inner.weight", "norm.running_mean"])
def test_missing_key(folder, key, low_cpu_mem_usage):
    """A parameter or a buffer: neither stays at its initial value or on the meta device."""
    edit_weights(folder, **{key: None})
    refuse(folder, f"'generator' are incomplete: 1 of 9 .*{key}", low_cpu_mem_usage=low_cpu_mem_usage)


@pytest.mark.parametrize("low_cpu_mem_usage", [True, False])
@pytest.mark.parametrize("key", ["inner.weight", "norm.running_mean"])
def test_wrong_shape(folder, key, low_cpu_mem_usage):
    edit_weights(folder, **{key: load_file(folder / WEIGHTS)[key][:4].clone()})
    refuse(folder, re.escape(key), low_cpu_mem_usage=low_cpu_mem_usage)


@pytest.mark.parametrize("width", [-1, "wide"])
def test_a_config_that_makes_no_network(folder, width):
    edit(folder / CONFIG, width=width)
    refuse(folder, "cannot be loaded")


def test_a_config_that_makes_no_scheduler(folder):
    edit(folder / "scheduler" / "scheduler_config.json", distribution="cauchy")
    refuse(folder, "scheduler.distribution is 'cauchy'", error=UsageError)


def test_the_default_dtype_survives_a_failure(folder):
    """diffusers sets it while it builds a network, and leaves it where that fails."""
    edit(folder / CONFIG, width=-1)
    refuse(folder, "cannot be loaded", dtype=torch.float16)
    assert torch.get_default_dtype() == torch.float32


def test_unknown_variant(folder):
    refuse(folder, "no weights of the variant .ema.: it was saved without any", variant="ema")


def test_a_variant_beside_a_file_without_a_suffix(folder):
    """diffusers looks for the variant in the second part of each name in the folder."""
    HFGenPipeline.from_pretrained(folder).save_pretrained(folder, variant="ema")
    (folder / "generator" / "LICENSE").write_text("Anyone may play.\n")
    refuse(folder, "generator/LICENSE", variant="ema")


def test_a_dtype_must_be_one(folder):
    """diffusers loads in float32 instead, with a line in the log."""
    for dtype in ("float64", {"generator": "float64"}):
        with pytest.raises(UsageError, match="dtype.*'float64'"):
            HFGenPipeline.from_pretrained(folder, dtype=dtype)


@pytest.mark.parametrize("value", ["x", torch.nn.Linear(2, 2)], ids=["text", "network"])
def test_a_given_component_must_be_one(folder, value):
    with pytest.raises(UsageError, match="'scheduler'"):
        HFGenPipeline.from_pretrained(folder, scheduler=value)
