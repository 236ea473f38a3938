"""Recipe file + config file + command line -> one resolved config."""

import dataclasses
import doctest
import typing

import pytest

from hfgen.errors import UsageError
from hfgen.files import read_config_file
from hfgen.registry import get_family
from hfgen.settings.arguments import ALIASES, FIELDS, HINTS, NOT_SAVED, TrainingArguments
from hfgen.settings.resolve import resolve


@pytest.fixture
def family():
    return get_family("dcgan").load()


def test_later_layers_win_over_earlier_and_over_the_family(family):
    layers = [("recipe", {"learning_rate": 1e-3, "seed": 1}), ("config", {"seed": 2}), ("command line", {"seed": 3})]
    resolved = resolve(layers, "dcgan", family).arguments
    assert (resolved.seed, resolved.learning_rate) == (3, 1e-3)
    assert resolved.adam_beta1 == family.training_defaults["adam_beta1"] != TrainingArguments().adam_beta1


def test_component_blocks_are_merged(family):
    layers = [("a", {"generator": {"base_channels": 8, "latent_dim": 4}}), ("b", {"generator": {"latent_dim": 5}})]
    assert resolve(layers, "dcgan", family).components == {"generator": {"base_channels": 8, "latent_dim": 5}}


def test_the_saved_config_resolves_to_itself(family):
    first = resolve([("a", {"lr": 3e-4, "generator": {"base_channels": 8}})], "dcgan", family)
    again = resolve([("config.yaml", first.to_dict())], "dcgan", family)
    assert again.to_dict() == first.to_dict()


def test_where_a_run_was_written_is_no_part_of_its_config(family):
    resolved = resolve([("a", {"output_dir": "/x", "resume_from_checkpoint": "latest"})], "dcgan", family)
    assert not {"output_dir", "resume_from_checkpoint"} & set(resolved.to_dict())


def test_no_token_is_part_of_a_config_or_a_message(family):
    resolved = resolve([("a", {"push_to_hub": True, "hub_token": "hf_secret"})], "dcgan", family)
    assert resolved.arguments.hub_token == "hf_secret"
    assert "hf_secret" not in f"{resolved} {resolved.to_dict()}"
    assert not {name for name in resolved.to_dict() if name.startswith(("hub_", "push_"))}


def test_a_later_choice_drops_what_cannot_go_with_it(family):
    """A recipe's warm-up, where the command line wants a schedule without one."""
    recipe = {"lr_scheduler": "cosine", "lr_warmup_steps": 500, "validation_epochs": 3}
    later = {"lr_scheduler_type": "constant", "eval_steps": 7}
    resolved = resolve([("recipe", recipe), ("command line", later)], "dcgan", family).arguments
    assert (resolved.lr_scheduler, resolved.lr_warmup_steps) == ("constant", 0)
    assert (resolved.validation_steps, resolved.validation_epochs) == (7, None)
    stepped = {"lr_scheduler": "piecewise_constant", "lr_step_rules": "1:10,0.1"}
    changed = resolve([("recipe", stepped), ("command line", {"lr_scheduler": "linear"})], "dcgan", family)
    assert changed.arguments.lr_step_rules is None
    both = {**TrainingArguments().__dict__, **recipe, "output_dir": None}
    assert resolve([("config.yaml", both)], "dcgan", family).arguments.validation_epochs == 3


@pytest.mark.parametrize("alias", sorted(ALIASES))
def test_every_alias_names_a_field(alias):
    assert ALIASES[alias] in FIELDS
    assert alias not in FIELDS


NUMBERS = sorted(name for name, hint in HINTS.items() if {int, float} & {hint, *typing.get_args(hint)})
NEXT = {"at_least": -1, "above": 0, "below": 0}  # from a bound to the nearest whole number that it excludes


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_a_range_and_keeps_it(name):
    bounds = FIELDS[name].metadata["bounds"]
    assert bounds
    for rule, bound in bounds.items():
        with pytest.raises(UsageError, match=f"^--{name} is .*; it must be .*{rule.replace('_', ' ')} {bound}"):
            TrainingArguments(**{name: bound + NEXT[rule]})
    with pytest.raises(UsageError, match=f"--{name} is inf; it must be finite and"):
        TrainingArguments(**{name: float("inf")})


def test_what_is_not_saved_is_where_a_run_was_written_and_pushed():
    pushed = {"push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_token"}
    written = {"output_dir", "overwrite_output_dir", "resume_from_checkpoint", "cache_dir", "time_limit"}
    assert {*NOT_SAVED} == pushed | written


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"lerning_rate": 1}, "my.yaml: unknown key 'lerning_rate'. Did you mean 'learning_rate'"),
        ({"train_batch_size": "many"}, "my.yaml: train_batch_size is 'many'; expected a whole number"),
        ({"train_batch_size": 0}, "train_batch_size is 0; it must be at least 1"),
        ({"train_batch_size": True}, "expected a whole number"),
        ({"use_ema": 1}, "expected true or false"),
        ({"mixed_precision": "bf32"}, "one of 'no', 'fp16', 'bf16'"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"adam_beta1": 1.0}, "--adam_beta1 is 1.0; it must be at least 0 and below 1"),
        ({"generator": {"base_chanels": 8}}, "my.yaml: generator: unknown option 'base_chanels'. Did you mean 'base_"),
        ({"generator": {"base_channels": "x"}}, "my.yaml: generator: base_channels is 'x'"),
        ({"objective": {"loss": "hinge"}}, "one of 'non_saturating', 'minimax'"),
        ({"objective": {"generator": 1}}, "objective: unknown option 'generator'"),
        ({"generater": {"base_channels": 8}}, "has no component 'generater'. Did you mean 'generator'"),
        ({"lr_warmup_steps": 5}, "choose constant_with_warmup"),
        ({"dataset_name": "a", "train_data_dir": "b"}, "either --dataset_name or --train_data_dir"),
        (
            {"overwrite_output_dir": True, "resume_from_checkpoint": "latest"},
            "starts a new run, --resume_from_checkpoint",
        ),
        ({"validation_epochs": 0}, "validation_epochs is 0; it must be at least 1"),
        ({"ema_inv_gamma": 0.0}, "ema_inv_gamma is 0.0; it must be above 0"),
        ({"generator": {"from_config": "/nowhere"}}, "no config of a DCGANGenerator there"),
    ],
)
def test_what_cannot_be_used_is_named(family, layer, message):
    with pytest.raises(UsageError, match=message.replace("?", "[?]")):
        resolve([("my.yaml", layer)], "dcgan", family)


def test_numbers_that_yaml_reads_as_text(family):
    """PyYAML reads 2e-4 as a string, and a whole number may stand for a float."""
    resolved = resolve([("a", {"learning_rate": "2e-4", "max_grad_norm": 1})], "dcgan", family).arguments
    assert resolved.learning_rate == 2e-4
    assert isinstance(resolved.max_grad_norm, float)


@pytest.mark.parametrize("text", ["- a list", "just words", "a: [1", "1: 2"])
def test_a_broken_config_file_is_told(tmp_path, text):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match="broken.yaml"):
        read_config_file(path)


def test_every_field_has_a_help_text():
    for f in dataclasses.fields(TrainingArguments):
        assert f.metadata["help"].endswith((".", ").")), f.name


@pytest.mark.parametrize(
    "module",
    [
        "hfgen.errors",
        "hfgen.noise",
        "hfgen.processes.world",
        "hfgen.settings.options",
        "hfgen.cards.card",
        "hfgen.settings.arguments",
    ],
)
def test_docstring_examples(module):
    import importlib

    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0
