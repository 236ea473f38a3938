"""A family with optimizers of its own: RMSprop beside Adam, schedules, progress, a half-life, a frozen average."""

import json
import math

import plugin_site
import pytest
import torch
from torch import nn

from hfgen import HFGenPipeline, registry
from hfgen.errors import HFGenError, UsageError
from hfgen.run_folder import read_metrics
from hfgen.settings.optimizers import OptimizerOptions
from hfgen.testing import FamilyTests, make_data, state
from hfgen.training import run
from hfgen.training.averages import FrozenAverage
from hfgen.training.checkpoint import TRAINER, list_checkpoints
from hfgen.training.optimizers import STATES, load_optimizer, make_optimizer, optimizer_tensors


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory):
    """Where the families are installed."""
    folder = tmp_path_factory.mktemp("site")
    wgan, transformer = plugin_site.TOY_WGAN, plugin_site.TOY_TRANSFORMER
    entries = {"toy_wgan": "toy_wgan:WGANPipeline", "toy_transformer": "toy_transformer:ToyTransformerPipeline"}
    plugin_site.install(folder, "toys", entries, {"toy_wgan": wgan, "toy_transformer": transformer})
    with plugin_site.on_path(folder):
        yield folder


class TestWGAN(FamilyTests):
    family = "toy_wgan"
    sample_size = 8
    in_shards = True  # the generator's last call in a step may have no backward pass, and its average is in shards
    training = {"optimizer": {"critic": {"momentum": 0.5}}}


class Muon(FamilyTests):
    """One law of it, for matrices that Muon steps beside what AdamW does."""

    family = "toy_transformer"
    sample_size = 8
    in_shards = True
    training = {"optimizer": {"transformer": {"class_name": "Muon", "weight_decay": 0.1, "no_decay": True}}}
    invariance = 1e-4  # Newton and Schulz iterate in bfloat16


@pytest.fixture
def data(tmp_path):
    return str(make_data(tmp_path / "blobs.npz", 8, 1))


@pytest.fixture
def make(data):
    law = TestWGAN()
    return lambda folder=None, **settings: law.trainer(data, folder, **{"logging_steps": 1, **settings})


@pytest.mark.whole
def test_muon_trains_in_two_processes_and_shards_as_in_one(data, tmp_path):
    Muon().test_two_processes_train_what_one_does(data, tmp_path)


def test_a_component_that_was_not_stepped_does_not_advance(make, tmp_path):
    """Two updates of the critic in a step advance it once; the generator steps in every second step."""
    run = make(tmp_path / "run")
    run.train()
    assert run.networks.schedules.counts == {"generator": 2, "critic": 4}
    lines = read_metrics(tmp_path / "run")
    assert [line["critic_learning_rate"] for line in lines] == pytest.approx([1.5e-3, 1e-3, 5e-4, 0])
    assert [line["generator_learning_rate"] for line in lines] == pytest.approx([1e-3, 8.75e-4, 7.5e-4, 6.25e-4])
    assert not any("learning_rate" in line for line in lines)  # which would not say whose it is
    assert json.loads((list_checkpoints(tmp_path / "run")[-1] / TRAINER / "state.json").read_text())[
        "component_steps"
    ] == {"generator": 2, "critic": 4}


def test_a_schedule_of_what_is_stepped_sometimes_resumes_exactly(make, tmp_path, monkeypatch):
    """The generator's schedule lags; it goes on from its own count, and from the step where a checkpoint has none."""
    own = {"generator": {"lr_scheduler": "linear"}}
    monkeypatch.setattr(registry.get_family("toy_wgan").load().objective_class, "optimizer_settings", lambda *_: {})
    whole, halted = make(tmp_path / "whole", optimizer=own), make(tmp_path / "run", optimizer=own)
    whole.train()
    for step in halted.steps():
        if step == 2:
            break
    resumed = make(tmp_path / "run", optimizer=own)
    resumed.resume(tmp_path / "run" / "checkpoints" / "checkpoint-2")
    assert resumed.networks.schedules.counts == {"generator": 1, "critic": 2}
    assert resumed.networks.schedules.rates()["generator_learning_rate"] == pytest.approx(0.75e-3)
    resumed.train()
    assert all(torch.equal(tensor, state(resumed)[name]) for name, tensor in state(whole).items())


def test_a_checkpoint_of_an_older_version_resumes(make, tmp_path):
    """It kept no counts, no profiles and no optimizers of components: each was stepped in every step."""
    make(tmp_path / "run").train()
    file = tmp_path / "run" / "checkpoints" / "checkpoint-2" / TRAINER / "state.json"
    older = json.loads(file.read_text())
    for part, names in ((older, ("digest", "component_steps")), (older["settings"], ("ema_profiles", "optimizer"))):
        for name in names:
            del part[name]
    file.write_text(json.dumps(older | {"settings": {**older["settings"], "scheduled_steps": None}}))
    resumed = make(tmp_path / "run")
    resumed.resume(file.parent.parent)
    assert resumed.networks.schedules.counts == {"generator": 2, "critic": 2}


def test_settings_of_a_step_are_undone_in_the_next(make):
    run = make()
    schedules, group = run.networks.schedules, run.networks.optimizers["generator"].param_groups[0]
    assert schedules.given["generator"]["betas"] == (0.9, 0.999)
    schedules.apply({"generator": {"betas": (0.0, 0.5), "lr": 0.1}})
    assert (group["betas"], group["lr"]) == ((0.0, 0.5), 0.1)
    schedules.apply({"generator": {"lr": 0.2}})
    assert (group["betas"], group["lr"]) == ((0.9, 0.999), 0.2)
    schedules.apply({"critic": {"weight_decay": 0.5}})
    decays = [group["weight_decay"] for group in run.networks.optimizers["critic"].param_groups]
    assert sorted(decays) == [0.0, 0.5]
    with pytest.raises(HFGenError, match=r"names 'generater'. Did you mean 'generator'"):
        schedules.apply({"generater": {}})
    with pytest.raises(HFGenError, match="sets 'betas' of critic, which its optimizer does not have"):
        schedules.apply({"critic": {"betas": (0, 0)}})
    with pytest.raises(UsageError, match="sets the learning rate of critic in each step; leave its --lr_scheduler"):
        schedules.apply({"critic": {"lr": 1.0}})


def test_the_frozen_average_follows_its_component(make):
    """average = 0.5 * average + 0.5 * weights, from the first weights on; the objective's call has no gradient."""
    run = make()
    average, network = run.networks.frozen_averages["teacher"], run.networks.trained["generator"]
    assert run.objective.teacher is average.model
    again = FrozenAverage(network, nn.Linear(1, 1).train(), run.accelerator)
    assert not average.network.training
    assert not again.network.training
    assert not any(p.requires_grad for p in average.network.parameters())
    expected = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for _ in run.steps():
        expected = {name: (expected[name] + tensor) / 2 for name, tensor in network.state_dict().items()}
        torch.testing.assert_close(average.state_dict(), expected)
    assert "teacher" not in run.pipeline.components


def test_an_average_needs_a_decay_and_a_trained_component(make, monkeypatch):
    objective_class = registry.get_family("toy_wgan").load().objective_class
    with pytest.raises(HFGenError, match=r"average_decay\('teacher'\) is 2; it must be in"):
        with monkeypatch.context() as patch:
            patch.setattr(objective_class, "average_decay", lambda *_: 2)
            make()
    with monkeypatch.context() as patch:
        patch.delattr(objective_class, "average_decay")
        with pytest.raises(HFGenError, match=r"WGANObjective has averages, so it must define average_decay"):
            make()
    monkeypatch.setattr(objective_class, "averages", {"teacher": "scheduler"})
    with pytest.raises(HFGenError, match="is of 'scheduler', which is not trained"):
        make()


def test_the_half_life_of_a_step_is_the_objectives(make):
    """100 images times the progress, in batches of 4: 0 at first, then 25, 50, 75."""
    run, decays = make(), []
    for _ in run.steps():
        decays.append(run.networks.emas["generator"].average.decay)
    assert decays == pytest.approx([0, 0.5 ** (4 / 25), 0.5 ** (4 / 50), 0.5 ** (4 / 75)])
    assert math.prod([decays[1]] * 25) == pytest.approx(0.5**4)


def test_the_planned_last_step_outlives_limits_and_is_compared(make, tmp_path, capsys):
    run = make(tmp_path / "run", checkpointing_steps=1)
    for step in run.steps():
        if step == 2:
            run._end_here("a limit")
    assert (run.objective.last_step, run.last_step) == (4, 2)
    place = tmp_path / "run" / "checkpoints" / "checkpoint-2"
    for steps, line in ((4, ""), (6, "scheduled_steps was 4 up to the checkpoint and is 6 from here on")):
        resumed = make(tmp_path / "run", max_train_steps=steps)
        capsys.readouterr()
        resumed.resume(place)
        assert line in capsys.readouterr().err
        assert resumed.objective.last_step == steps
        assert "scheduled_steps" in line or "scheduled_steps" not in capsys.readouterr().err


@pytest.mark.whole
def test_config_card_and_averages_of_a_run(data, tmp_path):
    """The card and config.yaml have the optimizers; each further profile is a model in ema/."""
    from hfgen.settings.resolve import resolve

    family = registry.get_family("toy_wgan").load()
    settings = {"dataset_name": data, "train_batch_size": 4, "max_train_steps": 4, "num_validation_images": 4}
    settings |= {"optimizer": {"critic.learning_rate": 3e-3}, "ema_profiles": "sigma_rel=0.1,half_life=8,decay=0.1"}
    config = resolve([("test", settings)], "toy_wgan", family)
    run.train(config, family, tmp_path / "run", say=lambda line: None)
    assert "learning_rate: 0.003" in (tmp_path / "run" / "config.yaml").read_text()
    card = (tmp_path / "run" / "README.md").read_text()
    assert "generator by Adam; critic by RMSprop (learning_rate 0.003, weight_decay 0.01, no_decay True, " in card
    assert sorted(path.name for path in (tmp_path / "run" / "ema").iterdir()) == ["decay-0.1", "half_life-8"]
    models = [tmp_path / "run", *(tmp_path / "run" / "ema").iterdir()]
    weights = [HFGenPipeline.from_pretrained(folder).generator.layers[2].weight for folder in models]
    assert not any(torch.equal(weights[one], weights[two]) for one, two in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("name", ["AdamW", "Adam", "RAdam", "RMSprop", "SGD", "Muon"])
def test_each_class_steps_groups_and_comes_back(name):
    """Its state is what the table says and comes back whatever the groups; another class's moments are not taken."""
    momentum = {"momentum": 0.9} if name in ("RMSprop", "SGD", "Muon") else {}
    options = OptimizerOptions(class_name=name, weight_decay=0.1, learning_rate=0.1, **momentum)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 5), nn.LayerNorm(5))
    made = [make_optimizer(model, it) for it in (options, OptimizerOptions(**options.given(), no_decay=True))]
    for optimizer in made:
        model(torch.tensor([0, 1])).square().sum().backward()
        optimizer.step()
    grouped = [[p for group in it.param_groups if not group["weight_decay"] for p in group["params"]] for it in made]
    assert grouped[0] == []
    assert {id(p) for p in grouped[1]} == {id(p) for p in model.parameters()} - {id(model[1].weight)}
    tensors = optimizer_tensors(made[1])
    kinds = {number: {key.partition(".")[2] for key in tensors if key.startswith(f"{number}.")} for number in range(5)}
    expected = {number: STATES["AdamW" if name == "Muon" and number != 1 else name] for number in range(5)}
    assert kinds == expected
    load_optimizer(made[0], tensors)
    torch.testing.assert_close(optimizer_tensors(made[0]), tensors, rtol=0, atol=0)
    changed = {"class_name": "RMSprop" if name != "RMSprop" else "Adam", "learning_rate": 0.1, "weight_decay": 0.0}
    other = make_optimizer(model, OptimizerOptions(**changed))
    load_optimizer(other, tensors)
    assert other.state_dict()["state"] == {}
    model(torch.tensor([0, 1])).square().sum().backward()
    other.step()


def test_a_step_of_each_class_is_torchs_own():
    """Muon's of a matrix, AdamW's of a bias; RMSprop's of all."""
    for name in ("RMSprop", "Muon"):
        torch.manual_seed(0)
        ours, torchs = nn.Linear(4, 3), nn.Linear(4, 3)
        torchs.load_state_dict(ours.state_dict())
        options = OptimizerOptions(class_name=name, learning_rate=0.1, weight_decay=0.2)
        made = [make_optimizer(ours, options)]
        if name == "RMSprop":
            made.append(torch.optim.RMSprop(torchs.parameters(), lr=0.1, weight_decay=0.2))
        else:
            adjusted = {"lr": 0.1, "weight_decay": 0.2, "adjust_lr_fn": "match_rms_adamw"}
            made.append(torch.optim.Muon([torchs.weight], **adjusted))
            made.append(torch.optim.AdamW([torchs.bias], lr=0.1, weight_decay=0.2))
        for _ in range(3):
            for model in (ours, torchs):
                model.zero_grad()
                model(torch.ones(2, 4)).square().sum().backward()
            for optimizer in made:
                optimizer.step()
        torch.testing.assert_close(ours.state_dict(), torchs.state_dict(), rtol=1e-6, atol=1e-6)


def test_muon_without_a_matrix_is_refused():
    with pytest.raises(UsageError, match=r"--optimizer.unet.class_name Muon: unet has no weights of two dimensions"):
        make_optimizer(nn.Conv2d(1, 1, 3), OptimizerOptions(class_name="Muon"), "unet")


def test_only_trained_components_have_optimizers(make):
    with pytest.raises(UsageError, match="--optimizer.scheduler: there is no such trained component. Known: critic"):
        make(optimizer={"scheduler": {"learning_rate": 1.0}})
