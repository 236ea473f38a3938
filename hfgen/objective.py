"""The objective: turns a batch into losses, in the order in which optimizers step."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from hfgen.errors import HFGenError, PluginError
from hfgen.noise import Noise
from hfgen.whole_batch import gather_rows

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Batch = Mapping[str, Tensor]


class Update(NamedTuple):
    """A request for one optimizer step: minimize `loss` in `component`.

    Attributes:
        component: name of the pipeline's component whose optimizer steps; several, as a tuple, step together.
        loss: a scalar in float32.
        metrics: further scalars to log, beside the loss: numbers, or tensors of one element. Names of the training's
            own (`step`, `epoch`, `learning_rate`, `<component>_loss` ...) are refused.
        name: what the loss is called in metrics; `<component>_loss`, or `loss` where several step together.
    """

    component: str | tuple[str, ...]
    loss: Tensor
    metrics: Mapping[str, Tensor | float] = {}
    name: str | None = None

    @property
    def components(self) -> tuple[str, ...]:
        return (self.component,) if isinstance(self.component, str) else self.component

    def require_known(self, names: Iterable[str]) -> None:
        """Raise an HFGenError if a component is not one of these."""
        for name in self.components:
            if name not in names:
                raise HFGenError(f"The objective updates {name!r}; the networks are {', '.join(names)}.")

    @property
    def loss_name(self) -> str:
        return self.name or (f"{self.component}_loss" if isinstance(self.component, str) else "loss")


class Diagnosis(NamedTuple):
    """Measurements that show whether a model has gone wrong in a way that its loss does not show.

    Attributes:
        values: name -> a number, or a list of numbers such as one for each latent dimension.
        warnings: for the user: what is wrong, and what to try.
        pictures: name -> a PIL image, or a tensor or array (H, W) or (H, W, 3) of bytes, or of floats in [0, 1].
        curves: name -> x and y, of at most 500 points.
        tables: name -> columns and rows, of at most 500 cells.

    Pictures and curves are written to `samples/` of the run folder at each validation, and all is shown on the card.
    At most eight pictures, curves and tables each.
    """

    values: Mapping[str, float | list[float]] = {}
    warnings: Sequence[str] = ()
    pictures: Mapping[str, Any] = {}
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]] = {}
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[Any]]]] = {}


class Objective:
    """Base of all objectives.

    The signature of a subclass's `__init__` is its config: first the components that it needs, by their names in the
    pipeline, then its own options, each with a default. The trainer hands it the components as Accelerate prepared
    them, so that calling one is the training computation; none but the scheduler is sure to have a `.config`.

    Attributes:
        noise: where `training_step` draws from; the trainer keys it by (seed, step), for the global batch.
        step: optimizer steps taken before this one.
        update: number of the next yield within the step, from 0.
        micro_batch: number of the micro-batch that is at work, from 0: what keeps state per forward call changes it in
            the first of each update only.
        num_micro_batches: micro-batches of this step.
        coupled: True if the loss of an image depends on the others of its batch, so that a batch must not be split to
            accumulate gradients; `gather` is for these. May depend on options: set it in `__init__` then.
        differentiates_twice: True if it differentiates a gradient of a network as it was handed over, which
            `--torch_compile` cannot compile. False if it does so to `unwrapped(network)` alone.
        last_step: the step with which the training ends as planned, the same after a resume and with --time_limit; so
            `step / last_step` goes from 0 to just below 1. 0 outside a training.
        averages: parameter of `__init__` -> the component whose average it gets: a copy in eval mode, not published,
            which follows the component by `average_decay` after each step.
    """

    noise: Noise
    step: int = 0
    update: int = 0
    micro_batch: int = 0
    num_micro_batches: int = 1
    coupled: bool = False
    differentiates_twice: bool = False
    averages: ClassVar[Mapping[str, str]] = {}
    _last_step: int = 0
    reads_last_step = False  # a longer run then changes the training

    @property
    def last_step(self) -> int:
        self.reads_last_step = True
        return self._last_step

    @last_step.setter
    def last_step(self, step: int) -> None:
        self._last_step = step

    def training_step(self, batch: Batch) -> Iterator[Update]:
        """Yield one `Update` per optimizer step; code after a yield runs after that step.

        Args:
            batch: `pixel_values` (B, C, H, W), float in [-1, 1]; `class_labels` (B,), int64, where the model is
                class-conditional.
        """
        raise NotImplementedError

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the rows of all processes, (num_processes * B, ...), in the order of the global batch.

        Gradients flow to this process's rows, from the losses of all processes: their mean is what is minimized.
        Every process must call it, in the same order.

        Raises:
            PluginError: the objective does not declare that it is `coupled`.
        """
        if not self.coupled:
            name = type(self).__name__
            raise PluginError(
                f"{name} gathers the whole batch, which couples its images. Declare it: `coupled = True` in {name}."
            )
        return gather_rows(tensor)

    def finish_step(self) -> Mapping[str, Tensor | float]:
        """Update what is learned without a gradient, such as moving averages; return scalars to log.

        Called once after each step, on every process, when all micro-batches are done.
        """
        return {}

    def optimizer_settings(self, given: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        """Return component -> settings of its optimizer for this step; called before each `training_step`.

        Must be a function of `step` and `last_step` alone, so that a resumed training goes on as before.

        Args:
            given: component -> the settings that the user chose, by the names of torch's parameter groups: `lr`,
                `betas`, `eps`, `weight_decay`, `momentum` ...

        Returns:
            those that differ in this step: `{"generator": {"lr": 0.5 * given["generator"]["lr"]}}`. With `lr`, the
            component's learning rate schedule must be constant.
        """
        return {}

    def ema_half_life(self) -> float | None:
        """Return the images after which a weight counts half in the EMA of this step; None leaves it to --ema_decay.

        A function of `step` and `last_step` alone. `--ema_profiles` overrides it.
        """
        return None

    def average_decay(self, name: str) -> float:
        """Return the decay in [0, 1] with which one of the `averages` takes in the weights of this step.

        average = decay * average + (1 - decay) * weights; a function of `step` and `last_step` alone.
        """
        raise HFGenError(f"{type(self).__name__} has averages, so it must define average_decay({name!r}).")

    @classmethod
    def initialize(cls, pipeline: "DiffusionPipeline", batch: Batch, noise: Noise) -> None:
        """Data-dependent initialization, from this process's images of the first step, all micro-batches together.

        Called once, before the first step of a training that is not resumed, without gradients, on the networks
        themselves. What it sets must come out equal on all processes. A network remembers in a buffer that it was.
        """

    @classmethod
    def diagnose(cls, pipeline: "DiffusionPipeline", examples: Batch) -> Diagnosis:
        """Look at the model on some training images, always the same; called without gradients, in eval mode."""
        return Diagnosis()

    @classmethod
    def refresh_statistics(cls, pipeline: "DiffusionPipeline") -> None:
        """Recompute what the weights imply but averaging them does not give, such as BatchNorm's statistics.

        Called on a pipeline that holds the averaged weights, before it samples or is saved. Must not depend on, or
        disturb, the random state of the training.
        """


_frozen_depth: WeakKeyDictionary[nn.Module, tuple[int, list[nn.Parameter]]] = WeakKeyDictionary()


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Compute no gradients for a module's parameters inside the context; they still flow to its input.

    This saves their computation (and, under DDP, their reduction), and keeps a stale gradient out of the module's next
    step. It may be entered more than once: the accumulated micro-batches of a step are inside at the same time.
    """
    depth, parameters = _frozen_depth.get(module, (0, []))
    if depth == 0:
        parameters = [p for p in module.parameters() if p.requires_grad]
        for parameter in parameters:
            parameter.requires_grad_(False)
    _frozen_depth[module] = (depth + 1, parameters)
    try:
        yield
    finally:
        depth, parameters = _frozen_depth.pop(module)
        if depth > 1:
            _frozen_depth[module] = (depth - 1, parameters)
        else:
            for parameter in parameters:
                parameter.requires_grad_(True)
