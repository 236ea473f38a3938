"""Reflow (Liu et al. 2023, arXiv:2209.03003): a second flow learns from pairs of noise and image of a first one."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from diffusers import UNet2DModel
from torch import Tensor, nn

from hfgen import Batch, Diagnosis, Update, UsageError
from hfgen_diffusion.flow_matching import FlowMatchingPipeline
from hfgen_diffusion.flow_objective import FlowMatchingObjective
from hfgen_diffusion.flow_scheduler import InterpolantScheduler
from hfgen_diffusion.jit import JiT


class ReflowObjective(FlowMatchingObjective):
    """E || v̂(x_t, t) - v ||² over pairs (ε, x), x the end of the teacher's ODE from ε (Liu et al. 2023, section 2.2).

    The lines between them do not cross, so that the new flow is nearly straight and needs few steps. Of the data only
    the classes are used.

    Args:
        teacher_steps: of the solver, for each pair.
        teacher_solver: `"heun"`, of two network calls a step, `"euler"` or `"rk4"`.
        guidance_scale: of the teacher, which the new model then has without asking.
        time_distribution, logit_mean, logit_std, conditioning_dropout_prob: as of flow matching.
    """

    def __init__(
        self,
        unet: nn.Module,
        scheduler: Any,
        teacher: FlowMatchingPipeline,
        teacher_steps: int = 8,
        teacher_solver: Literal["heun", "euler", "rk4"] = "heun",
        guidance_scale: float = 1.0,
        time_distribution: Literal["logit_normal", "uniform"] = "uniform",
        logit_mean: float | None = None,
        logit_std: float | None = None,
        conditioning_dropout_prob: float = 0.1,
    ) -> None:
        super().__init__(
            *(unet, scheduler, time_distribution, logit_mean, logit_std, "independent", conditioning_dropout_prob)
        )
        if teacher_steps < 1:
            raise UsageError(f"--objective.teacher_steps is {teacher_steps}; it must be at least 1.")
        if teacher_solver not in ("heun", "euler", "rk4"):
            raise UsageError(f"--objective.teacher_solver is {teacher_solver!r}; it is heun, euler or rk4.")
        if guidance_scale != 1.0 and (teacher.num_classes is None or not math.isfinite(guidance_scale)):
            raise UsageError(
                f"--objective.guidance_scale is {guidance_scale}; it is a number, and needs a class-conditional "
                "teacher."
            )
        self.teacher, self.guidance_scale = teacher, guidance_scale
        self.options: dict[str, Any] = {"num_inference_steps": teacher_steps, "solver": teacher_solver}

    def training_step(self, batch: Batch) -> Iterator[Update]:
        """The same, of the given classes."""
        self._classes = batch.get("class_labels")
        yield from super().training_step(batch)

    def pairs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(x, ε): new noise, and the image to which the teacher leads from it."""
        epsilon = self.noise.normal(*x.shape[1:])
        labels = None if self.teacher.num_classes is None else self._classes
        image = self.teacher.decode(epsilon, labels, guidance_scale=self.guidance_scale, **self.options)
        return image.to(x), epsilon

    @classmethod
    def diagnose(cls, pipeline: Any, examples: Batch) -> Diagnosis:
        """Return nothing: the images are not those of its pairs, by which flow matching's is measured."""
        return Diagnosis()


class ReflowPipeline(FlowMatchingPipeline):
    """A flow whose paths are straight, learned from another flow's pairs; sampled in one step or few.

    `--teacher.from_pretrained` names the first flow, and `--unet.from_pretrained` may name it again: the new network
    then starts from its weights.

    References:
        Liu, Gong & Liu (2023), Flow straight and fast, arXiv:2209.03003
    """

    objective_class = ReflowObjective
    frozen_components = ("teacher",)
    training_only_components = ("teacher",)
    description = "Reflow: a flow that is straightened by a second training, for one step or few"
    notes = ("Trained on pairs of noise and image of another flow; without `num_inference_steps`, 2 steps are taken.",)

    def __init__(
        self, unet: UNet2DModel | JiT, scheduler: InterpolantScheduler, teacher: FlowMatchingPipeline | None = None
    ) -> None:
        super().__init__(unet, scheduler)
        if self.interpolant.path != "linear":
            raise UsageError(f"--scheduler.interpolant is {self.interpolant.path}; reflow straightens: it is linear.")
        if teacher is not None:
            _check_teacher(self, teacher)
        self.register_modules(teacher=teacher)

    @classmethod
    def default_configs(
        cls, sample_size: int, in_channels: int, num_classes: int | None, overrides: Mapping[str, dict[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """Return those of flow matching; a network of the teacher's class predicts the same as that."""
        configs = super().default_configs(sample_size, in_channels, num_classes, overrides)
        taught = overrides.get("teacher", {}).get("scheduler", {})
        if overrides.get("unet", {}).get("class_name") == overrides.get("teacher", {}).get("unet", {}).get(
            "class_name"
        ):
            configs["scheduler"]["prediction_type"] = taught.get("prediction_type", "velocity")
        return configs

    def to_json_string(self) -> str:
        """Text of `model_index.json`, without the teacher, whom plain diffusers would not know."""
        index = json.loads(super().to_json_string())
        if index["_class_name"] == "DDPMPipeline" and self.teacher is None:
            del index["teacher"]
        return json.dumps(index, indent=2, sort_keys=True) + "\n"


def _check_teacher(pipeline: ReflowPipeline, teacher: FlowMatchingPipeline) -> None:
    if teacher.image_shape != pipeline.image_shape:
        shapes = ["x".join(map(str, found.image_shape)) for found in (teacher, pipeline)]
        raise UsageError(
            f"The teacher's images are {shapes[0]}, and these are {shapes[1]}: take another --resolution."
        )
    if teacher.num_classes != pipeline.num_classes:
        raise UsageError(
            f"The teacher has {teacher.num_classes or 'no'} classes, and this model {pipeline.num_classes or 'none'}: "
            "train both with --class_conditional, or neither."
        )
