"""A toy family whose sampling has options of its own."""

from typing import Literal

from toy.toy_family import ToyPipeline


class DrawnPipeline(ToyPipeline):
    """A toy whose images are brighter by `shift`, in walks too, and mirrored by `side`."""

    def sample(
        self,
        noise,
        class_labels=None,
        num_inference_steps: int | None = None,
        shift: float = 0.0,
        side: Literal["left", "right"] = "left",
    ):
        """Sample.

        Args:
            shift: what is added to each pixel.
        """
        self.scheduler.set_timesteps(num_inference_steps)
        images = self.decode(self.latents(noise), shift=shift)
        return images if side == "left" else images.flip(3)

    def decode(self, latents, class_labels=None, shift: float = 0.0):
        return super().decode(latents) + shift
