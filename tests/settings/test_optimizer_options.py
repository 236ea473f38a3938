"""Optimizers of components: layers, refusals, what comes from the options of the whole training."""

import pytest
import yaml

from hfgen.errors import UsageError
from hfgen.registry import get_family
from hfgen.settings.arguments import TrainingArguments
from hfgen.settings.ignored import refuse_ignored
from hfgen.settings.optimizers import OPTIONS
from hfgen.settings.options import trainable
from hfgen.settings.resolve import resolve

DCGAN = get_family("dcgan").load()


def settled(*layers):
    return resolve([(f"layer {number}", layer) for number, layer in enumerate(layers)], "dcgan", DCGAN).arguments


def test_layers_are_merged_and_what_is_not_given_is_that_of_all(monkeypatch):
    monkeypatch.setattr(DCGAN, "training_defaults", {"optimizer": {"discriminator": {"eps": 1e-5}}})
    layers = (
        {"optimizer": {"discriminator": {"learning_rate": "4e-4"}}},
        {"optimizer": {"discriminator.betas": [0, 0.9]}},
    )
    arguments = settled(*layers, {"learning_rate": 1e-4, "adam_weight_decay": 0.1, "lr_scheduler": "cosine"})
    own, other = arguments.optimizer_of("discriminator"), arguments.optimizer_of("generator")
    assert (own.class_name, own.learning_rate, own.betas, own.eps, own.weight_decay) == (
        "AdamW",
        4e-4,
        [0, 0.9],
        1e-5,
        0.1,
    )
    assert (other.learning_rate, other.betas, other.eps, other.lr_scheduler) == (1e-4, (0.9, 0.999), 1e-8, "cosine")
    assert own.lr_scheduler == "cosine"
    again = TrainingArguments(optimizer=yaml.safe_load(yaml.safe_dump(arguments.optimizer)))
    assert again.optimizer == arguments.optimizer


def test_another_class_drops_what_it_does_not_take():
    rmsprop = {"optimizer": {"generator": {"class_name": "RMSprop", "alpha": 0.9, "eps": 1e-4}}}
    found = settled(rmsprop, {"optimizer": {"generator.class_name": "SGD"}}).optimizer_of("generator")
    assert (found.class_name, found.alpha, found.eps, found.betas, found.learning_rate) == (
        "SGD",
        None,
        None,
        None,
        2e-4,
    )
    constant = {"optimizer": {"generator": {"lr_scheduler": "constant"}}}
    own = settled({"lr_scheduler": "cosine", "lr_warmup_steps": 5}, constant)
    assert (own.optimizer_of("generator").lr_warmup_steps, own.optimizer_of("discriminator").lr_warmup_steps) == (0, 5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"discriminater.eps": 1}, "--optimizer.discriminater: there is no such trained component. Did you"),
        ({"eps": 1}, "--optimizer.eps names no component: --optimizer.generator.eps"),
        ({"generator.lr": 1}, "layer 0: optimizer.generator: unknown option 'lr'"),
        ({"generator.betas": "high"}, "layer 0: optimizer.generator: betas is 'high'; expected a list"),
        ({"generator.betas": [0.5]}, r"--optimizer.generator.betas is \[0.5\]; expected two numbers"),
        ({"generator.betas": [0.5, 1.0]}, "--optimizer.generator.betas is 1.0; it must be at least 0 and below 1"),
        ({"generator.learning_rate": 0}, "--optimizer.generator.learning_rate is 0.0; it must be above 0"),
        ({"generator.alpha": 0.9}, "alpha is an option of RMSprop; generator is trained by AdamW, which takes"),
        ({"generator": {"class_name": "RMSprop", "betas": [0, 0]}}, "betas is an option of AdamW, Adam, RAdam, Muon;"),
        ({"generator.class_name": "Lion"}, "class_name is 'Lion'; expected one of 'AdamW'"),
        ({"generator.lr_step_rules": "1:1,2"}, "--optimizer.generator.lr_step_rules and --optimizer.generator.lr_s"),
        ({"generator": {"lr_scheduler": "constant", "lr_warmup_steps": 3}}, "lr_scheduler constant has no warm-up"),
    ],
)  # fmt: skip
def test_what_is_refused(given, message):
    with pytest.raises(UsageError, match=message):
        settled({"optimizer": given})


def test_in_python_an_unknown_option_is_told_too():
    with pytest.raises(UsageError, match=r"--optimizer.generator.lr is unknown. Known: alpha, betas"):
        TrainingArguments(optimizer={"generator": {"lr": 1}})


def test_help_and_info_list_every_option(hfgen):
    for target in (("info", "dcgan"), ("train", "--help")):
        told = hfgen(*target).out
        assert all(name in told for name in OPTIONS), target


def test_the_command_line_sets_them(hfgen):
    own = ["--optimizer.discriminator.learning_rate", "4e-4", "--optimizer.generator.class_name", "RMSprop"]
    printed = yaml.safe_load(hfgen("train", "dcgan", *own, "--print_config").out)
    assert printed["optimizer"] == {"discriminator": {"learning_rate": 4e-4}, "generator": {"class_name": "RMSprop"}}
    refused = hfgen("train", "dcgan", "--optimizer.generator.lr", "1", "--print_config")
    assert refused.code == 2
    assert "unknown option 'lr'. Known: alpha, betas" in refused.err


def test_only_what_is_trained_has_an_optimizer():
    assert trainable(DCGAN) == ["generator", "discriminator"]
    with pytest.raises(UsageError, match="--optimizer.scheduler: there is no such trained component"):
        settled({"optimizer": {"scheduler": {"learning_rate": 1.0}}})


def test_a_default_that_is_no_option_names_the_family(monkeypatch):
    monkeypatch.setattr(DCGAN, "training_defaults", {"learning_rat": 1e-3})
    with pytest.raises(UsageError, match="DCGANPipeline.training_defaults: unknown key 'learning_rat'.*learning_rate"):
        settled()


def test_options_of_adam_that_no_optimizer_takes_are_refused():
    plain = {"generator": {"class_name": "SGD"}, "critic": {"class_name": "RMSprop"}}
    arguments = TrainingArguments(dataset_name="x", optimizer=plain, adam_beta1=0.5)
    with pytest.raises(UsageError, match="--adam_beta1 has no effect: no optimizer takes it, all are RMSprop, SGD"):
        refuse_ignored(["adam_beta1"], arguments, ["generator", "critic"])
    refuse_ignored(["adam_epsilon"], arguments, ["generator", "critic"])  # RMSprop takes it
    refuse_ignored(["adam_beta1"], arguments, ["generator", "critic", "encoder"])  # which has AdamW
