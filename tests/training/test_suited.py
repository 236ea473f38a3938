"""What an objective declares is held against the arguments, before the first step and in a rehearsal."""

import pytest
import torch
from plugin_site import TOYS, install, on_path

from hfgen.errors import UsageError
from hfgen.objective import Objective
from hfgen.registry import get_family, get_modality
from hfgen.settings.arguments import TrainingArguments
from hfgen.settings.resolve import resolve
from hfgen.testing import make_data
from hfgen.training.dry_run import dry_run
from hfgen.training.start import build, find_data
from hfgen.training.suited import explained, require_suited
from hfgen.training.trainer import Trainer

IMAGES = get_modality("image")


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    install(folder, "toys", *TOYS)
    with on_path(folder):
        yield folder


@pytest.fixture
def configured(tmp_path):
    def configured(family, **settings):
        data = {"dataset_name": str(make_data(tmp_path / "blobs.npz", 8, 1)), "train_batch_size": 4}
        pipeline_class = get_family(family).load()
        return resolve([("test", {**data, "max_train_steps": 2, **settings})], family, pipeline_class), pipeline_class

    return configured


@pytest.fixture
def make(configured):
    def make(family, **settings):
        config, pipeline_class = configured(family, **settings)
        images = find_data(config, IMAGES)
        pipeline = build(config, pipeline_class, images)
        return Trainer(pipeline, images, config.arguments, None, config.components.get("objective"))

    return make


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("toy_coupled", {"gradient_accumulation_steps": 2}, "ToyCoupledObjective couples the images of a batch"),
        ("toy_critic", {"generator": {"tied": True}}, "generator's first.weight and again.weight are one tensor"),
        ("toy_critic", {"objective": {"n_critic": 3}}, "3 equal parts, which 4 images are not"),
    ],
)
def test_a_rehearsal_refuses(configured, tmp_path, family, settings, message):
    with pytest.raises(UsageError, match=message):
        dry_run(*configured(family, **settings), tmp_path / "run", lambda line: None)


def test_a_second_derivative_of_what_is_compiled_is_refused():
    """Where the objective declares it, before the first step; else as torch says it (test_wrappers.py raises it)."""
    compiled, objective = TrainingArguments(torch_compile=True), Objective()
    require_suited(objective, compiled)
    objective.differentiates_twice = True
    require_suited(objective, TrainingArguments())
    with pytest.raises(UsageError, match=r"--torch_compile cannot .* and Objective .*\n.*`unwrapped\(network\)`"):
        require_suited(objective, compiled)
    with pytest.raises(UsageError, match="--torch_compile cannot"), explained(compiled):
        raise RuntimeError("This backward function was compiled with non-empty donated buffers")
    with pytest.raises(RuntimeError, match="donated"), explained(TrainingArguments()):
        raise RuntimeError("This backward function was compiled with non-empty donated buffers")


@pytest.mark.slow  # a minute of compiling
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_penalty_inside_what_is_compiled_trains_as_without(make):
    losses = []
    for compiled in (False, True):
        trainer = make("toy_critic")
        if compiled:
            trainer.objective.critic = torch.compile(trainer.objective.critic, backend="aot_eager")
        trainer.train_step(next(trainer.batches.steps(0, 1)))
        losses.append(trainer.window.means())
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_an_objective_knows_micro_batch_and_update(make):
    trainer, seen = make("toy_critic", gradient_accumulation_steps=2), []
    original = trainer.objective.start_update

    def start_update():
        o = trainer.objective
        seen.append((o.step, o.update, o.micro_batch, o.num_micro_batches))
        original()

    trainer.objective.start_update = start_update
    list(trainer.steps())
    updates = [(step, update, micro, 2) for step in range(2) for update in range(3) for micro in range(2)]
    assert seen == updates
