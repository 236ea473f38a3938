"""DeepSpeed, which is no dependency: what trains with it, and what is refused; without it only that is tested."""

import importlib.util
import json

import pytest
import torch
from safetensors.torch import load_file

from hfgen.data.load import load_images
from hfgen.errors import UsageError
from hfgen.processes import zero
from hfgen.processes.world import join_processes
from hfgen.registry import get_family
from hfgen.settings.arguments import TrainingArguments
from hfgen.settings.resolve import resolve
from hfgen.testing import make_data
from hfgen.testing.laws import assert_same_training
from hfgen.testing.processes import run_two_processes
from hfgen.training import trainer
from hfgen.training.checkpoint import list_checkpoints

needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="it is not installed")

# Two processes, one after the other: replicas, each stage of ZeRO, and one that is stopped and resumed.
SCRIPT = """
import os, sys
from hfgen.training import trainer
from hfgen.train import main

def run(name, *options):
    try:
        main([*sys.argv[2:], "--output_dir", os.path.join(sys.argv[1], name), *options])
    except SystemExit as stop:
        if stop.code:
            raise

leave = trainer.Trainer._leave
trainer.Trainer._leave = lambda self: None  # the next training needs the process group
run("replicas")
run("half-replicas", "--mixed_precision", "bf16")
os.environ |= {"ACCELERATE_USE_DEEPSPEED": "true", "DS_ACCELERATOR": "cpu"}
for stage in "012":
    os.environ["ACCELERATE_DEEPSPEED_ZERO_STAGE"] = stage
    run(f"stage-{stage}")
    run(f"resumed-{stage}", "--max_train_steps", "2", "--lr_warmup_steps", "4")
    run(f"resumed-{stage}", "--resume_from_checkpoint", "latest")
run("half", "--mixed_precision", "bf16")
os.environ["ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE"] = "cpu"
trainer.Trainer._leave = leave
run("offloaded")
"""


@needs_deepspeed
def test_each_stage_trains_as_replicas_do_and_resumes_exactly(tmp_path):
    """Accumulated, clipped, averaged, in full and half precision; optimizer states are the same files."""
    arguments = ["--model", "glow", "--dataset_name", make_data(tmp_path / "blobs.npz", 8, 1), "--use_ema"]
    arguments += ["--flow.num_levels", 2, "--flow.num_steps", 1, "--flow.hidden_channels", 8]
    arguments += ["--max_train_steps", 4, "--train_batch_size", 3, "--gradient_accumulation_steps", 2]
    arguments += ["--learning_rate", 1e-3, "--lr_scheduler", "constant_with_warmup", "--lr_warmup_steps", 4]
    arguments += ["--max_grad_norm", 0.5, "--adam_epsilon", 1e-4, "--logging_steps", 1, "--num_validation_images", 1]
    run_two_processes(SCRIPT, [str(word) for word in arguments], tmp_path)
    for name in ("stage-0", "stage-1", "stage-2", "offloaded"):
        assert_same_training(tmp_path / name, tmp_path / "replicas", 1e-5)
        same_optimizers(tmp_path / name, tmp_path / "replicas")
    assert_same_training(tmp_path / "half", tmp_path / "half-replicas", 1e-4)
    for stage in "012":
        assert_same_training(tmp_path / f"resumed-{stage}", tmp_path / f"stage-{stage}", 0)
        same_optimizers(tmp_path / f"resumed-{stage}", tmp_path / f"stage-{stage}", atol=0, rtol=0)


def same_optimizers(folder, expected, **tolerance):
    one, two = (list_checkpoints(place)[-1] for place in (folder, expected))
    files = sorted(file.relative_to(two) for file in two.glob("trainer/*.optimizer.safetensors"))
    assert files
    for file in files:
        torch.testing.assert_close(load_file(one / file), load_file(two / file), **tolerance)


@pytest.fixture
def by_deepspeed(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")


@needs_deepspeed
@pytest.mark.filterwarnings("default")  # its own, where it is imported
def test_several_networks_are_refused(by_deepspeed, tmp_path):
    data = str(make_data(tmp_path / "blobs.npz", 16, 1))
    family = get_family("dcgan").load()
    pipeline = family.build(16, 1, **{"generator.base_channels": 4, "discriminator.base_channels": 4})
    arguments = resolve([("test", {"train_batch_size": 4, "max_train_steps": 1})], "dcgan", family).arguments
    with pytest.raises(UsageError, match="this family has 2: generator, discriminator") as error:
        trainer.Trainer(pipeline, load_images(data), arguments)
    assert "--accelerate_config fsdp2" in str(error.value)


def test_without_deepspeed_it_is_said_at_once(by_deepspeed, monkeypatch):
    monkeypatch.setattr(zero, "is_deepspeed_available", lambda: False)
    with pytest.raises(UsageError, match=r"not installed. .* one trained network: pip install 'hfgen\[deepspeed\]'"):
        join_processes()


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        (
            {"zero_optimization": {"stage": 3}},
            {},
            "ZeRO stages 0 to 2. For stage 3 use hfgen's --accelerate_config fsdp2",
        ),
        ({"zero_optimization": {"stage": 1}, "optimizer": {"type": "Adam"}}, {}, "has an optimizer; remove it"),
        ({"zero_optimization": {"stage": 1}, "bf16": {"enabled": True}}, {}, "--mixed_precision bf16"),
        (
            {"zero_optimization": {"stage": 1}},
            {"mixed_precision": "fp16"},
            "fp16 is not available with DeepSpeed; use --mixed_precision bf16",
        ),
        ({}, {}, "DeepSpeed's configuration: Please specify the ZeRO optimization config"),
    ],
)
def test_a_configuration_that_hfgen_cannot_follow(by_deepspeed, monkeypatch, tmp_path, config, arguments, message):
    (tmp_path / "deepspeed.json").write_text(json.dumps(config))
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(tmp_path / "deepspeed.json"))
    with pytest.raises(UsageError, match=message):
        zero.make_plugin(TrainingArguments(**arguments))


def test_what_the_options_say_of_batches_holds(by_deepspeed, monkeypatch, tmp_path):
    zeros = {"stage": 2, "reduce_bucket_size": "auto", "overlap_comm": False}
    said = {"gradient_accumulation_steps": 7, "gradient_clipping": "auto", "train_micro_batch_size_per_gpu": "auto"}
    (tmp_path / "deepspeed.json").write_text(json.dumps({"zero_optimization": zeros, **said}))
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(tmp_path / "deepspeed.json"))
    arguments = TrainingArguments(gradient_accumulation_steps=2, train_batch_size=3, max_grad_norm=None)
    config = zero.make_plugin(arguments).deepspeed_config
    assert [config[name] for name in said] == [2, 0.0, 3]
    assert config["zero_optimization"] == {"stage": 2, "overlap_comm": False}
