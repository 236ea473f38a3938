"""Laws that fail name the culprit: a family with one fault at a time."""

import re

import pytest
import torch
from _pytest.outcomes import Failed
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from pages import ROOT
from torch import nn

from hfgen import HFGenPipeline, Objective, PriorScheduler, Update, check_images, eval_mode, noise_for, registry
from hfgen.testing import FamilyTests, make_data

FAULT = None  # of the family, at the moment


class FaultyNetwork(ModelMixin, ConfigMixin):
    """Two maps between images and latents, and two weights that a fault may cut off."""

    @register_to_config
    def __init__(self, sample_size: int = 8) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(sample_size**2, 2), nn.Linear(2, sample_size**2)
        self.offset, self.spare = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(5))
        self.normalize = nn.BatchNorm1d(2)
        self.register_buffer("scale", torch.ones(1), persistent=FAULT != "buffer")

    def encode(self, images):
        return self.normalize(self.encoder(images.flatten(1)))

    def forward(self, images):
        images = self.decoder(self.encode(images)).tanh().view_as(images)
        offset = self.offset - self.offset if FAULT == "offset" else self.offset
        return images + offset.sum() + (0 if FAULT == "spare" else self.spare.sum())


class FaultyObjective(Objective):
    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def training_step(self, batch):
        loss = (self.network(batch["pixel_values"]) - batch["pixel_values"]).square().mean((1, 2, 3))
        yield Update("network", loss if FAULT == "shape" else loss.mean())


class FaultyPipeline(HFGenPipeline):
    objective_class = FaultyObjective
    training_defaults = {"adam_weight_decay": 0.0, "learning_rate": 1e-2}
    references, description = ("None (2020)",), "faults"

    def __init__(self, network: FaultyNetwork, scheduler: PriorScheduler) -> None:
        super().__init__()
        self.register_modules(network=network, scheduler=scheduler)

    @classmethod
    def default_configs(cls, sample_size, in_channels, num_classes, overrides):
        return {"network": {"sample_size": sample_size}, "scheduler": {"latent_shape": [2]}}

    def encode(self, images, class_labels=None, seeds=None):
        if FAULT != "images":
            check_images(images, (1, 8, 8))
        if FAULT != "seeds":
            noise_for(len(images), seeds, self.device)
        if FAULT == "training":
            return self.network.encode(images)
        with torch.no_grad(), eval_mode([self.network]):
            return self.network.encode(images)

    def decode(self, latents, class_labels=None):
        return self.network.decoder(latents).tanh().view(-1, 1, 8, 8)


class Laws(FamilyTests):
    __test__ = False
    family = "faulty"
    sample_size = 8


@pytest.fixture
def fails(monkeypatch, tmp_path):
    """Runs a law under a fault; returns the words with which it fails, or None."""
    monkeypatch.setitem(registry._registered, "faulty", None)
    monkeypatch.delitem(registry._registered, "faulty")
    registry.register_family("faulty", FaultyPipeline)

    def fails(law, fault):
        monkeypatch.setitem(globals(), "FAULT", fault)
        if fault == "defaults":
            monkeypatch.setattr(FaultyPipeline, "training_defaults", {"weight_decay": 0.0})
        words = [str(make_data(tmp_path / f"{fault}.npz", 8, 1))] if law in NEED_DATA else []
        try:
            getattr(Laws(), law)(*words)
        except (AssertionError, Failed) as error:
            return str(error)
        return None

    yield fails
    registry._registered.pop("faulty")


NEED_DATA = ("test_two_steps_change_the_weights", "test_every_parameter_gets_a_gradient")
CASES = [
    (
        NEED_DATA[0],
        "offset",
        "two steps leave these weights as they were:\n  network.offset (3,): its gradient is always 0",
    ),
    (NEED_DATA[0], "spare", "network.spare (5,): no update gave it a gradient"),
    (NEED_DATA[1], "spare", "no update of its own component gives these a gradient: ['network.spare']"),
    (NEED_DATA[1], "shape", "the loss of network has shape (4,); it must be a scalar"),
    ("test_training_defaults_are_training_arguments", "defaults", "training_defaults names ['weight_decay']"),
    ("test_wrong_images_are_refused", "images", "encode of images with floats of 0 to 255: accepted"),
    ("test_wrong_images_are_refused", "seeds", "encode of 3 images with 1 seed: accepted"),
    ("test_latents_are_those_of_eval_mode", "training", "encode calls ['network'] in training mode"),
    ("test_buffers_are_persistent", "buffer", "network: these buffers are not saved (persistent=False): ['scale']"),
]


def test_the_guide_explains_each_law():
    """The table of `docs/plugins.md` names the laws that there are."""
    explained = re.findall(r"^\| `(test_\w+)` \| ", (ROOT / "docs" / "plugins.md").read_text(), flags=re.MULTILINE)
    assert sorted(explained) == sorted(name for name in dir(FamilyTests) if name.startswith("test_"))


@pytest.mark.parametrize(("law", "fault", "said"), CASES, ids=lambda value: str(value)[:30])
@pytest.mark.whole
def test_the_message_names_the_culprit(fails, law, fault, said):
    assert fails(law, None) is None
    assert said in (fails(law, fault) or "nothing")
