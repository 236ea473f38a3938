"""Every option of every verb changes something that can be seen, or is refused: none is taken and ignored."""

import ast
import functools
import json
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest
import torch
from command_line import call, hfgen
from option_tests import COVERED
from tiny_trainings import config_of

from hfgen.cards.card import card_data
from hfgen.commands.evaluate import LIMITS, require
from hfgen.commands.info import dataset_facts
from hfgen.commands.main import cli
from hfgen.commands.options import READING
from hfgen.commands.pipelines import load
from hfgen.data.load import load_images
from hfgen.data.sources import DataSource
from hfgen.errors import CheckError, UsageError
from hfgen.evaluation.drawing import draw
from hfgen.processes.world import make_accelerator
from hfgen.registry import get_family
from hfgen.settings.arguments import TrainingArguments
from hfgen.settings.ignored import NEEDS, REPLACED
from hfgen.testing import make_data
from hfgen.training.start import build
from hfgen.training.trainer import Trainer
from hfgen_image.modality import source_of

TESTS = Path(__file__).parents[1]
EXAMPLES = {}


def example(verb, *options):
    """Register a function of a `Place` that sees these options change something, or be refused."""

    def register(function):
        EXAMPLES.update({(verb, option): function for option in options})
        return function

    return register


def verbs(group=cli, before=""):
    for name, command in group.commands.items():
        yield f"{before}{name}", command
        if isinstance(command, click.Group):
            yield from verbs(command, f"{before}{name} ")


def options_of(command):
    return ["json" if p.name == "as_json" else p.name for p in command.params if isinstance(p, click.Option)]


OPTIONS = {(verb, option) for verb, command in verbs() for option in options_of(command)}


# --- examples: options that no other test is about --------------------------------------------------------------
class Place:
    """A folder with data, `data`, and a saved model, `model`."""

    def __init__(self, folder):
        self.folder, self.data = folder, str(make_data(folder / "blobs.npz", 16, 1))
        torch.manual_seed(0)
        self.model = folder / "model"
        tiny = {"generator.base_channels": 4, "generator.latent_dim": 6, "discriminator.base_channels": 4}
        get_family("dcgan").load().build(16, 1, **tiny).save_pretrained(self.model)

    def trainer(self, **settings):
        config = config_of(self.data, **settings)
        images = load_images(self.data)
        return Trainer(build(config, get_family("dcgan").load(), images), images, config.arguments)

    def sampled(self, *words):
        call("sample", self.model, "-o", self.folder / "a.npz", "--overwrite", *words)
        return np.load(self.folder / "a.npz")["images"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("place"))


def refused(words, *said):
    with pytest.raises((UsageError, click.UsageError)) as error:
        call(*words)
    assert all(word in str(error.value) for word in said), str(error.value)


@example("train", "model_option")
def by_name(place):
    config = hfgen("train", "--model", "vae", "--dataset_name", place.data, "--print_config").out
    assert config.startswith("model: vae")


@example("train", "dataset_split")
def of_data(place):
    assert DataSource.of(TrainingArguments(dataset_name="mnist-mini", dataset_split="test")).split == "test"
    assert len(load_images("mnist-mini", "test")) != len(load_images("mnist-mini"))


@example("train", "dataset_config_name")
@example("evaluate", "dataset_config_name")
def of_the_hub(place):
    assert DataSource.of(TrainingArguments(dataset_name="org/x", dataset_config_name="small")).config_name == "small"
    with pytest.raises(UsageError, match="--dataset_config_name small: .* has no configurations"):
        load_images(place.data, config_name="small")


@example("train", "data_memory_limit")
def in_memory(place):
    assert place.trainer().batches.source.pixels is not None
    assert place.trainer(data_memory_limit=0.0).batches.source.pixels is None


@example("train", "allow_tf32")
def of_cuda(place):
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        make_accelerator(TrainingArguments(allow_tf32=True))
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = before


@example("train", "channels_last")
def layout_in_memory(place):
    for given in (True, False):
        weights = [w for w in place.trainer(channels_last=given).pipeline.discriminator.parameters() if w.ndim == 4]
        last = [w.is_contiguous(memory_format=torch.channels_last) for w in weights if min(w.shape[1:]) > 1]
        assert last == [given] * len(last)
        assert last


@example("train", "num_train_epochs")
def length(place):
    lengths = [place.trainer(max_train_steps=None, num_train_epochs=n).last_step for n in (1, 3)]
    assert lengths[1] == 3 * lengths[0]


@example("train", "adam_beta1", "adam_beta2", "adam_epsilon", "adam_weight_decay")
def of_adam(place):
    given = {"adam_beta1": 0.3, "adam_beta2": 0.7, "adam_epsilon": 1e-3, "adam_weight_decay": 0.2}
    for optimizer in place.trainer(**given).networks.optimizers.values():
        group = optimizer.param_groups[0]
        assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.3, 0.7), 1e-3, 0.2)


@example("train", "ema_inv_gamma")
def of_the_warm_up(place):
    with pytest.raises(UsageError, match="no effect without --ema_power"):
        call("train", "dcgan", "--dataset_name", place.data, "--ema_inv_gamma", "2", "--print_config")
    decays = []
    for gamma in (1.0, 10.0):
        trainer = place.trainer(ema_power=0.5, ema_inv_gamma=gamma)
        list(trainer.steps())
        decays.append(_averaged(trainer))
    assert decays[0] != decays[1]


def _averaged(trainer):
    with trainer.networks.averaged() as pipeline:
        return [w.tolist() for w in pipeline.generator.parameters()]


@example("train", "license")
def on_the_card(place):
    facts = {"config": {"license": "mit", "model": "dcgan"}, "environment": {"data": {}}}
    assert card_data("x", facts, SimpleNamespace(references=[]), []).license == "mit"


@example("train", "num_inference_steps")
def of_one_step(place):
    with pytest.raises(UsageError, match="samples in one step"):
        place.trainer(num_inference_steps=5)


@example("sample", "num_images")
def count(place):
    assert len(place.sampled("-n", 3)) == 3


@example("sample", "batch_size")
def at_a_time(place):
    class Counting:
        modality, sizes = "image", []

        def __call__(self, seeds, **options):
            self.sizes.append(len(seeds))
            return (list(seeds),)

    assert draw(Counting(), range(5), None, 2) == [*range(5)]
    assert Counting.sizes == [2, 2, 1]


@example("sample", "device")
@example("evaluate", "device")
def where(place):
    for verb in ("sample", "evaluate"):
        refused([verb, place.model, "--device", "nonsense"], "--device nonsense")


@example("sample", "dtype")
@example("evaluate", "dtype")
def precision(place):
    given = {"dtype": "bfloat16", "device": "cpu", "variant": None, "revision": None, "scheduler": None}
    assert load(str(place.model), given, {}).dtype is torch.bfloat16
    place.sampled("-n", 2, "--dtype", "bfloat16")


@example("sample", "revision")
@example("evaluate", "revision")
@example("info", "revision")
def of_a_repository(place):
    for verb in ("sample", "evaluate", "info"):
        refused([verb, place.model, "--revision", "v1"], "--revision v1", "is local")


@example("sample", "variant")
@example("evaluate", "variant")
def of_weights(place):
    for verb in ("sample", "evaluate"):
        with pytest.raises(Exception, match="ema"):
            call(verb, place.model, "--variant", "ema")


@example("info", *READING)
def of_reading(place):
    """As the data verb of a training: each is handed to the one that finds the data."""
    data = place.folder / "a.npz"
    make_data(data, 4, 1)
    refused(["info", data, "--dataset_split", "tset"], "no split 'tset'")
    refused(["info", data, "--dataset_config_name", "small"], "has no configurations")
    for column in ("image_column", "label_column"):
        refused(["info", data, f"--{column}", "nonsense"], "nonsense")
    assert dataset_facts(str(data), {"image_mode": "RGB"})["mode"] == "RGB"
    seen = DataSource("mnist-mini", on_error="skip", all_frames=True, value_range=(0, 4095))
    given = {"on_error": "skip", "all_frames": True, "value_range": "0,4095"}
    assert source_of("mnist-mini", "train", given) == seen


@example("evaluate", *LIMITS)
def limits(place):
    for limit in LIMITS:
        side, _, name = limit.partition("_")
        result = SimpleNamespace(values={name: {"value": 0.5}}, name="x")
        require([result], {limit: 0.5})
        with pytest.raises(CheckError, match=f"--{limit} is "):
            require([result], {limit: 0.4 if side == "max" else 0.6})


@example("convert", "format_name", "revision")
def of_a_source(place):
    refused(["convert", place.data, place.folder / "new", "--format", "nonsense"], "nonsense")
    refused(["convert", place.data, place.folder / "new", "--revision", "v1"], "--revision v1", "is local")


# --- the walk ---------------------------------------------------------------------------------------------------
def test_every_option_has_an_example_or_a_test():
    listed = {(verb, option) for verb, options in COVERED.items() for option in options}
    assert not OPTIONS - listed - EXAMPLES.keys(), "seen to change nothing"
    assert not (listed | EXAMPLES.keys()) - OPTIONS, "there is no such option"


@functools.cache
def functions(file):
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("place", sorted({t for options in COVERED.values() for t in options.values()}))
def test_the_tests_that_are_named_exist(place):
    file, _, name = place.partition("::")
    assert name in functions(TESTS / file)


@pytest.mark.parametrize("key", EXAMPLES, ids=" ".join)
def test_an_option_changes_something_or_is_refused(place, key):
    EXAMPLES[key](place)


# --- options that need another ----------------------------------------------------------------------------------
VALUES = {"hub_strategy": "end", "overwrite_output_dir": None, "hub_private_repo": None}


@pytest.mark.parametrize("option", NEEDS)
def test_an_option_without_the_one_that_it_needs_is_refused(place, option):
    words = [f"--{option}", *([] if VALUES.get(option, "") is None else [VALUES.get(option, "1")])]
    words += ["--no_use_ema"] if "use_ema" in NEEDS[option] else []
    words += ["--checkpointing_steps", "0"] if "checkpointing_steps" in NEEDS[option] else []
    words = [word.replace("1", "0.5") if option == "ema_decay" else word for word in words]
    call_words = ["train", "dcgan", "--dataset_name", place.data, *words, "--print_config"]
    refused(call_words, f"--{option} has no effect without --{NEEDS[option][0]}")


def test_one_that_another_replaces_is_refused(place):
    assert REPLACED == {"ema_decay": "ema_profiles"}
    words = ["--ema_decay", "0.9", "--ema_profiles", "decay=0.99", "--print_config"]
    refused(["train", "dcgan", "--dataset_name", place.data, *words], "no effect beside --ema_profiles")


def test_a_file_may_hold_what_has_no_effect(place):
    """As that of a run does, which names all options."""
    (place.folder / "all.yaml").write_text(json.dumps({"shuffle_buffer_size": 5, "num_evaluation_images": 7}))
    words = ["--config", place.folder / "all.yaml", "--print_config"]
    assert hfgen("train", "dcgan", "--dataset_name", place.data, *words).code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sample", "MODEL", "--seeds", "1,2", "--seed", "5"], "--seed has no effect beside --seeds"),
        (["sample", "MODEL", "--seeds", "1,2", "-n", "5"], "--num_images has no effect beside --seeds"),
        (["sample", "MODEL", "--num_frames", "5"], "--num_frames has no effect without a latent walk"),
        (["sample", "MODEL", "--batch_size", "5", "-o", "x.webp"], "--batch_size has no effect on a latent walk"),
        (["card", "MODEL", "--num_redrawn", "2"], "--num_redrawn has no effect without --check"),
        (["card", "MODEL", "--no_snippets"], "--no_snippets has no effect without --check"),
        (["compare", "MODEL", "--overwrite"], "--overwrite has no effect without --output"),
        (["plugins", "--check", "new", "x"], "--check has no effect before new"),
        (["train", "dcgan", "--dry_run", "--json"], "--json has no effect beside --dry_run"),
        (["train", "dcgan", "--print_config", "--dry_run"], "--dry_run has no effect beside --print_config"),
        (["evaluate", "MODEL", "--metrics", "parameters", "-n", "9"], "--num_images has no effect on parameters"),
        (["evaluate", "MODEL", "--metrics", "parameters", "--seed", "9"], "--seed has no effect on parameters"),
        (
            ["evaluate", "MODEL", "--metrics", "parameters", "--num_likelihood_images", "9"],
            "--num_likelihood_images has no effect where no likelihood is measured",
        ),
        (
            ["evaluate", "MODEL", "--metrics", "parameters", "--extractor_weights", "w"],
            "--extractor_weights has no effect on parameters: no features are compared",
        ),
    ],
)
def test_an_option_of_another_way_is_refused(place, words, said):
    words = [place.model if word == "MODEL" else word for word in words]
    of_data = ["--dataset_name", place.data, "--split", "train"] if words[0] == "evaluate" else []
    refused([*words, *of_data], said)
