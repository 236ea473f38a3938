"""Alternative classes of a component: declared in the signature, chosen by `class_name`."""

import pytest
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from hfgen import HFGenPipeline, Objective, PriorScheduler
from hfgen.errors import UsageError
from hfgen.settings.resolve import resolve


class Narrow(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, sample_size: int = 4, width: int = 2) -> None:
        super().__init__()
        self.layer = nn.Linear(width, sample_size)


class Deep(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, sample_size: int = 4, depth: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(depth, sample_size)


class EitherPipeline(HFGenPipeline):
    objective_class = Objective
    _optional_components = ["extra"]

    def __init__(self, network: Narrow | Deep, scheduler: PriorScheduler, extra: Deep | Narrow | None = None) -> None:
        super().__init__()
        self.register_modules(network=network, scheduler=scheduler, extra=extra)

    @classmethod
    def default_configs(cls, sample_size, in_channels, num_classes, overrides):
        cls.asked = cls.component_classes(overrides)
        return {"network": {"sample_size": sample_size}, "extra": {"sample_size": sample_size}}


def test_the_first_class_is_the_default():
    pipeline = EitherPipeline.build(6, 1)
    assert (type(pipeline.network), type(pipeline.extra)) == (Narrow, Deep)
    assert pipeline.network.config.sample_size == 6


def test_a_class_is_chosen_by_name_and_the_family_may_ask_which():
    pipeline = EitherPipeline.build(6, 1, **{"network.class_name": "Deep", "network.depth": 5})
    assert type(pipeline.network) is Deep
    assert pipeline.network.config.depth == 5
    assert EitherPipeline.asked == {"network": Deep, "scheduler": PriorScheduler, "extra": Deep}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network.class_name": "Dep"}, "network.class_name is 'Dep'. Did you mean 'Deep'"),
        ({"network.class_name": "PriorScheduler"}, "network.class_name is 'PriorScheduler'"),
        ({"network.class_name": "Deep", "network.width": 3}, "unknown option 'width'"),
        ({"network.class_name": "Deep", "network.sample_size": 3}, "cannot be set"),
    ],
)
def test_wrong_choices(options, message):
    with pytest.raises(UsageError, match=message):
        EitherPipeline.build(6, 1, **options)


def test_layers_agree_on_a_class():
    """Options join those of earlier layers of the same class; another class starts anew."""
    recipe = ("recipe", {"network": {"class_name": "Deep", "depth": 7}})
    joined = resolve([recipe, ("command line", {"network": {"sample_size": 4}})], "either", EitherPipeline)
    assert joined.components == {"network": {"class_name": "Deep", "depth": 7, "sample_size": 4}}
    changed = resolve([recipe, ("command line", {"network": {"class_name": "Narrow"}})], "either", EitherPipeline)
    assert changed.components == {"network": {"class_name": "Narrow"}}
    with pytest.raises(UsageError, match="command line: network: unknown option 'width'"):
        resolve([recipe, ("command line", {"network": {"width": 1}})], "either", EitherPipeline)
    shorthand = resolve([("recipe", {"network": "Deep"})], "either", EitherPipeline)
    assert shorthand.components == {"network": {"class_name": "Deep"}}
    with pytest.raises(UsageError, match="recipe: --network.class_name is 'Depp'"):
        resolve([("recipe", {"network": {"class_name": "Depp"}})], "either", EitherPipeline)
