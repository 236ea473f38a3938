"""Test what every family promises (`FamilyTests`), and collect the state that such tests compare."""

import inspect
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from hfgen import registry
from hfgen.components import components
from hfgen.data.layout import Layout
from hfgen.data.load import load_images
from hfgen.declaration import require_known_names
from hfgen.errors import UsageError
from hfgen.noise import StepNoise
from hfgen.pipeline import HFGenPipeline
from hfgen.repository.components import STACK
from hfgen.run_folder import read_metrics
from hfgen.settings.arguments import FIELDS
from hfgen.settings.model_configs import component_config, construct
from hfgen.settings.options import build_objective
from hfgen.settings.resolve import resolve
from hfgen.testing.bundles import BundleLaws
from hfgen.testing.calls import CallLaws
from hfgen.testing.culprits import describe_unchanged, follow_gradients, named_parameters
from hfgen.testing.editing import EditingLaws
from hfgen.testing.latents import LatentLaws
from hfgen.testing.processes import load_in_subprocess, split_of, train_in_two_processes
from hfgen.train import main
from hfgen.training.checkpoint import list_checkpoints
from hfgen.training.trainer import Trainer

BATCH = 4


class FamilyTests(CallLaws, LatentLaws, EditingLaws, BundleLaws):
    """Subclass this with the name of a family and its smallest config.

    Attributes:
        family: the registered name.
        overrides: options of its components, as `HFGenPipeline.build` takes them.
        sample_size, in_channels: shape of the images.
        num_classes: number of classes, if the family can be class-conditional.
        training: further training arguments.
        objective: options of its objective.
        sampling: options of sampling, `encode` and `decode`; few steps keep the laws quick.
        likelihood: options of `log_likelihood`.
        expected_failures: name of a law -> why this family cannot obey it.
        in_processes: run the laws that start other processes, and those on the whole run folder and on resuming
            (about half a minute); one configuration of each family is enough.
        in_shards: train under FSDP2 too, not only under DDP. Set it where sharded parameters could break the family:
            its training uses them outside a network's `forward`, sets them or its buffers, or freezes a network.
        tolerance: largest difference of a latent or a sample (in [-1, 1]) between batches or processes; of latents
            above 1, that part of the largest.
        invariance: largest difference of losses and weights after 3 steps between one process and two; None if the
            loss is not a mean over images, since it then depends on how a batch is split.
        sample_tolerance: as `tolerance`, for samples that the family rounds: one step of their values.
    """

    family: ClassVar[str]
    overrides: ClassVar[dict[str, Any]] = {}
    sample_size: ClassVar[int] = 16
    in_channels: ClassVar[int] = 1
    num_classes: ClassVar[int | None] = None
    training: ClassVar[dict[str, Any]] = {}
    objective: ClassVar[dict[str, Any]] = {}
    sampling: ClassVar[dict[str, Any]] = {}
    likelihood: ClassVar[dict[str, Any]] = {}
    expected_failures: ClassVar[dict[str, str]] = {}
    in_processes: ClassVar[bool] = True
    in_shards: ClassVar[bool] = False
    tolerance: ClassVar[float] = 1e-5
    sample_tolerance: ClassVar[float | None] = None
    invariance: ClassVar[float | None] = 1e-5

    @pytest.fixture(autouse=True)
    def _expected_failures(self, request: pytest.FixtureRequest) -> None:
        unknown = [name for name in self.expected_failures if not hasattr(self, name)]
        assert not unknown, f"expected_failures names no law: {unknown}"
        reason = self.expected_failures.get(request.node.originalname)
        if reason is not None:
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))

    @pytest.fixture
    def data(self, tmp_path: Path) -> str:
        """Write a dataset of 24 images of blobs, with labels; return its name."""
        return str(make_data(tmp_path / "blobs.npz", self.sample_size, self.in_channels, self.num_classes))

    def build(self, num_classes: int | None = None) -> HFGenPipeline:
        """Build the tiny pipeline, the same at each call, with weights moved off their initial values."""
        torch.manual_seed(0)
        pipeline = self.pipeline_class().build(self.sample_size, self.in_channels, num_classes, **self.overrides)
        for parameter in (p for model in pipeline.models().values() for p in model.parameters()):
            parameter.data.add_(torch.randn_like(parameter) * 0.02)
        return self._initialized(pipeline)

    def _initialized(self, pipeline: HFGenPipeline) -> HFGenPipeline:
        """Initialize what the first training step sets from its images."""
        images, labels = self._images(BATCH)
        batch = {"pixel_values": images, **({} if pipeline.num_classes is None else {"class_labels": labels})}
        with torch.no_grad():
            pipeline.objective_class.initialize(pipeline, batch, StepNoise(0, 0, slice(0, BATCH), BATCH))
        return pipeline

    def pipeline_class(self) -> Any:
        return registry.get_family(self.family).load()

    def trainer(self, data: str, folder: Path | None = None, **arguments: Any) -> Trainer:
        settings = {"train_batch_size": BATCH, "max_train_steps": 4, "checkpointing_steps": 2, **self.training}
        settings |= {"num_validation_images": 4, "class_conditional": self.num_classes is not None, **arguments}
        config = resolve([("law", settings)], self.family, self.pipeline_class())
        return Trainer(self.build(self.num_classes), load_images(data), config.arguments, folder, self.objective)

    # --- laws ---------------------------------------------------------------------------------------------------

    def test_is_registered(self) -> None:
        """Check its names, its description and references, and that saved files can name its components' modules."""
        family, cls = registry.get_family(self.family), self.pipeline_class()
        assert registry.find_by_class(cls.__name__) == family, f"another family has the class name {cls.__name__}"
        assert registry.family_of(cls) == family
        assert issubclass(cls, HFGenPipeline)
        assert cls.description, f"{cls.__name__}.description is empty: `hfgen info` and cards show it"
        assert cls.references, f"{cls.__name__}.references is empty: cards cite them"
        for name, component in cls.component_classes().items():
            assert inspect.isclass(component), f"the annotation of {name!r} in `__init__` is not a class: {component}"
            own = component.__module__.partition(".")[0] not in STACK  # diffusers saves its own by the top package
            assert not own or component.__module__.count(".") <= 1, (
                f"{name}: {component.__module__} is more than two levels deep, which diffusers misreads"
            )
        require_known_names(cls)

    def test_training_defaults_are_training_arguments(self) -> None:
        cls = self.pipeline_class()
        unknown = sorted(set(cls.training_defaults) - set(FIELDS))
        assert not unknown, f"{cls.__name__}.training_defaults names {unknown}; these are not training arguments"
        resolve([], self.family, cls)

    def test_config_round_trip(self) -> None:
        """A component built from its own config has that config again, also after JSON."""
        for name, component in components(self.build(self.num_classes)).items():
            config = component_config(component)
            again = construct(type(component), json.loads(json.dumps(config)))
            again_config, saved = component_config(again), json.loads(json.dumps(config))
            changed = [key for key in {**saved, **again_config} if again_config.get(key) != saved.get(key)]
            assert not changed, f"{name}: built from its own config, these come out otherwise: {changed}"

    def test_unknown_options_are_refused(self) -> None:
        name = next(iter(self.pipeline_class().component_classes()))
        for option in (f"{name}.no_such", "no_such.x"):
            with pytest.raises(UsageError, match="no_such"):
                self.pipeline_class().build(self.sample_size, self.in_channels, **{**self.overrides, option: 1})

    def test_class_conditioning_is_declared_or_refused(self) -> None:
        """A family that ignored the labels would train, and its card would call it class-conditional."""
        if self.num_classes is not None:
            assert self.build(self.num_classes).num_classes == self.num_classes, "no config has `num_classes`"
            return
        try:
            assert self.build(3).num_classes == 3, "labels would be ignored: no config has `num_classes`"
        except UsageError:
            return

    def test_buffers_are_persistent(self) -> None:
        """A buffer that is not saved is lost: a loaded model has the value that `__init__` gives it."""
        for name, model in self.build(self.num_classes).models().items():
            unsaved = {n for n, _ in model.named_buffers()} - set(model.state_dict())
            assert not unsaved, f"{name}: these buffers are not saved (persistent=False): {sorted(unsaved)}"

    def test_every_parameter_gets_a_gradient(self, data: str) -> None:
        """Every trainable parameter gets a gradient; gradients and losses are finite; each update names a network."""
        trainer = self.trainer(data)
        pipeline, reached = trainer.pipeline, set()
        objective = build_objective(pipeline.objective_class, pipeline.components, self.objective)
        objective.noise, objective.last_step = StepNoise(0, 0, Layout(BATCH).rows(0), BATCH), trainer.last_step
        for update in objective.training_step(next(trainer.batches.steps(0, 1))[0]):
            where = f"the loss of {' and '.join(update.components)}"
            assert update.loss.ndim == 0, f"{where} has shape {tuple(update.loss.shape)}; it must be a scalar"
            assert update.loss.dtype == torch.float32, f"{where} is {update.loss.dtype}; it must be float32"
            assert torch.isfinite(update.loss), f"{where} is {update.loss}"
            update.loss.backward()
            for component in update.components:
                for name, parameter in pipeline.models()[component].named_parameters():
                    if parameter.grad is not None:
                        assert parameter.grad.isfinite().all(), f"the gradient of {component}.{name} is not finite"
                        reached.add(f"{component}.{name}")
        missed = sorted(set(named_parameters(pipeline.models())) - reached)
        assert not missed, f"no update of its own component gives these a gradient: {missed}"

    def test_two_steps_change_the_weights(self, data: str) -> None:
        trainer = self.trainer(data, max_train_steps=2)
        before, gradients = weights(trainer), follow_gradients(trainer.pipeline.models())
        trainer.train()
        unchanged = [name for name, after in weights(trainer).items() if torch.equal(before[name], after)]
        found = describe_unchanged(unchanged, before, gradients)
        assert not unchanged, f"two steps leave these weights as they were:\n{found}"
        for component, ema in trainer.networks.emas.items():
            for name, tensor in ema.state_dict().items():
                assert tensor.isfinite().all(), f"the EMA of {component}.{name} is not finite"

    def test_save_and_load_in_a_fresh_process(self, tmp_path: Path) -> None:
        """A process that has imported only hfgen loads it: whole, as a variant, from shards, in another dtype."""
        self._need_processes()
        pipeline = self.build(self.num_classes)
        pipeline.save_pretrained(tmp_path / "whole")
        pipeline.save_pretrained(tmp_path / "variant", variant="other")
        pipeline.save_pretrained(tmp_path / "shards", max_shard_size=4096)
        report = load_in_subprocess(tmp_path, self.sampling)
        expected = pipeline(seeds=[0, 1], output_type="np", **self.sampling).images
        for name in ("whole", "variant", "shards"):
            assert np.abs(np.load(tmp_path / f"{name}.npy") - expected).max() <= self._of_samples(), name
        assert report["class"] == type(pipeline).__name__
        assert set(report["dtypes"]) == {"torch.float64"}

    def test_a_run_leaves_what_it_promises(self, data: str, tmp_path: Path) -> None:
        """The folder loads, its card is complete, and the seeds of its last grid give the same images again."""
        self._need_processes()
        from hfgen.training import run

        settings = {"dataset_name": data, "train_batch_size": BATCH, "max_train_steps": 2, "num_validation_images": 4}
        config = resolve([("law", {**settings, **self._components()})], self.family, self.pipeline_class())
        folder = tmp_path / "run"
        run.train(config, self.pipeline_class(), folder, say=lambda line: None)
        for name in ("model_index.json", "config.yaml", "metrics.jsonl", "env.json", "plots/loss.png"):
            assert (folder / name).is_file(), f"{name} is missing in the run folder"
        card = (folder / "README.md").read_text()
        for left in ("More Information", "{{", str(tmp_path)):
            assert left not in card, f"the card has {left!r}"
        grid = np.asarray(Image.open(folder / "samples" / "step_000002.png"))
        loaded = HFGenPipeline.from_pretrained(folder)
        tile = np.asarray(loaded(seeds=[3], **loaded.validation_options).images[0])
        difference = np.abs(grid[self.sample_size :, self.sample_size :].astype(int) - tile).max()
        assert difference <= 1, f"seed 3 gives another image than in the last grid: pixels differ by {difference}"

    def test_resume_is_exact(self, data: str, tmp_path: Path) -> None:
        """Two steps, a checkpoint and two more equal four steps bit for bit: weights, EMA, optimizers."""
        self._need_processes()
        whole = self.trainer(data, tmp_path / "whole")
        whole.train()
        halted = self.trainer(data, tmp_path / "halted")
        next(steps := halted.steps())
        next(steps)
        steps.close()
        resumed = self.trainer(data, tmp_path / "halted")
        resumed.resume(tmp_path / "halted" / "checkpoints" / "checkpoint-2")
        assert resumed.step == 2
        resumed.train()
        assert_equal_states(resumed, whole)
        timed = {f"{registry.modality_of(whole.pipeline).noun[1]}_per_second", "seconds", "data_wait"}
        logged = [read_metrics(tmp_path / name)[-1] for name in ("whole", "halted")]
        other = {k for k in {**logged[0], **logged[1]} if k not in timed and logged[0].get(k) != logged[1].get(k)}
        assert not other, f"metrics of the last step differ after resuming: {sorted(other)}"

    def test_two_processes_train_what_one_does(self, data: str, tmp_path: Path) -> None:
        """A global batch split over two processes gives the same losses, weights and EMA up to rounding.

        It is accumulated from micro-batches too, unless the family has BatchNorm or a coupled loss. The large epsilon
        keeps Adam from making a whole step of a gradient that is only rounding error. Under FSDP2 (`in_shards`) the
        run is also stopped and resumed, and ends bit for bit like the uninterrupted one.
        """
        self._need_processes()
        micro, split = split_of(self.build(self.num_classes), self.objective)
        arguments = ["--model", self.family, "--dataset_name", data, *self._options(), "--num_validation_images", "4"]
        arguments += ["--max_train_steps", "3", "--logging_steps", "1", "--adam_epsilon", "1e-3"]
        arguments += [] if self.num_classes is None else ["--class_conditional"]
        whole = ["--train_batch_size", str(2 * micro * BATCH), "--output_dir", str(tmp_path / "whole")]
        with pytest.raises(SystemExit) as done:
            main([*arguments, *whole])
        assert not done.value.code
        arguments += ["--train_batch_size", str(BATCH), *split]
        train_in_two_processes(arguments, tmp_path, self.in_shards)
        ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
        assert ranks[0]["world"] == ranks[1]["world"] == 2
        for name, tensor in ranks[0]["weights"].items():
            assert torch.equal(tensor, ranks[1]["weights"][name]), f"{name} differs between the processes"
        for name in ["ddp", "fsdp2"][: 1 + self.in_shards]:
            if self.invariance is not None:
                assert_same_training(tmp_path / name, tmp_path / "whole", self.invariance)
            HFGenPipeline.from_pretrained(tmp_path / name)
        if self.in_shards:
            resumed = checkpoint_tensors(tmp_path / "resumed")
            for key, tensor in checkpoint_tensors(tmp_path / "fsdp2").items():
                assert torch.equal(resumed[key], tensor), f"under FSDP2, {key} differs after resuming"

    def _of_samples(self) -> float:
        return self.tolerance if self.sample_tolerance is None else self.sample_tolerance

    def _need_processes(self) -> None:
        if not self.in_processes:
            pytest.skip("another configuration of this family runs it")

    def _components(self) -> dict[str, Any]:
        from hfgen.settings.options import nest_options

        return nest_options(self.overrides)

    def _options(self) -> list[str]:
        own = {f"optimizer.{name}": options for name, options in self.training.get("optimizer", {}).items()}
        blocks = {**self._components(), "objective": self.objective, **own}
        options = {f"{c}.{k}": v for c, block in blocks.items() for k, v in block.items()}
        words = [word for key, value in options.items() for word in (f"--{key}", json.dumps(value))]
        for key, value in self.training.items():
            plain = [f"--{key}" if value else f"--no_{key}"] if isinstance(value, bool) else [f"--{key}", str(value)]
            words += plain if key != "optimizer" else []
        return words


# --- what the laws use ----------------------------------------------------------------------------------------------


def make_data(path: Path, size: int, channels: int, num_classes: int | None = None, count: int = 24) -> Path:
    """Write an .npz of bright blobs at random places, with labels 0 .. num_classes - 1 in turn; return its path."""
    random = np.random.default_rng(0)
    center = random.uniform(0.3, 0.7, (count, 2, 1, 1)) * size
    y, x = np.mgrid[:size, :size]
    blobs = np.exp(-((x - center[:, :1, 0]) ** 2 + (y - center[:, 1:, 0]) ** 2) / size)
    images = (blobs[..., None] * random.uniform(128, 255, (count, 1, 1, channels))).astype(np.uint8)
    labels = np.arange(count) % (num_classes or 2)
    np.savez(path, images=images[..., 0] if channels == 1 else images, labels=labels)
    return path


def assert_same_training(folder: Path, expected: Path, tolerance: float) -> None:
    """Compare the losses of each step, and the weights, buffers and EMA of the last checkpoint."""
    for one, two in zip(read_metrics(expected), read_metrics(folder), strict=True):
        for key in (key for key in one if key.endswith(("loss", "per_dim"))):
            near = two[key] == pytest.approx(one[key], rel=tolerance, abs=tolerance)
            assert near, f"step {one['step']}: {key} is {two[key]} under {folder.name}, {one[key]} in one process"
    tensors, found = checkpoint_tensors(expected), checkpoint_tensors(folder)
    assert tensors.keys() == found.keys()
    for key, tensor in tensors.items():
        difference = float((found[key].double() - tensor.double()).abs().max()) if tensor.numel() else 0.0
        near = torch.allclose(found[key].double(), tensor.double(), atol=tolerance, rtol=10 * tolerance)
        assert near, f"{key} differs by {difference:.2g} between {folder.name} and one process"


def checkpoint_tensors(folder: Path) -> dict[str, Tensor]:
    """Read every weight, buffer and average of a run's last checkpoint."""
    place = list_checkpoints(folder)[-1]
    saved = [path for path in place.rglob("*.safetensors") if path.match("*model*") and path.parent.name != "trainer"]
    kept = [path for path in place.glob("trainer/*.safetensors") if not path.name.endswith(".optimizer.safetensors")]
    files = {path.relative_to(place): path for path in [*saved, *kept]}
    found = {f"{place}/{name}": tensor for place, file in files.items() for name, tensor in load_file(file).items()}
    assert found
    return found


def weights(trainer: Trainer) -> dict[str, Tensor]:
    """Copy the trainable parameters of all networks."""
    return {
        f"{component}.{name}": parameter.detach().clone()
        for component, model in trainer.pipeline.models().items()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def state(trainer: Trainer) -> dict[str, Tensor]:
    """Collect all that a training changes: weights, buffers, averages, optimizer moments."""
    found: dict[str, Tensor] = {}
    for component, model in trainer.pipeline.models().items():
        found |= {f"{component}.{name}": tensor for name, tensor in model.state_dict().items()}
    for component, optimizer in trainer.networks.optimizers.items():
        for index, entry in optimizer.state_dict()["state"].items():
            found |= {f"{component}.optimizer.{index}.{k}": torch.as_tensor(v) for k, v in entry.items()}
    for file, average in trainer.networks.averages().items():
        found |= {f"{file}.{name}": tensor for name, tensor in average.state_dict().items()}
    return found


def assert_equal_states(one: Trainer, other: Trainer) -> None:
    """Assert that two trainings have come to the same weights, buffers, EMA and optimizer moments, bit for bit."""
    found, expected = state(one), state(other)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), f"{name} differs"
