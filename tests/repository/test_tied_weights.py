"""A tensor under two names: refused before it is saved or trained, unless transformers ties it."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from toy.toy_critic import ToyCriticPipeline
from toy.toy_transformer import ToyTransformer, ToyTransformerConfig

from hfgen.errors import UsageError
from hfgen.repository.tied_weights import require_untied


class Tied(ToyTransformer):
    """The rows are the places' embedding."""

    _tied_weights_keys = {"row.weight": "places.weight"}


def test_a_parameter_with_two_names_is_refused(tmp_path):
    pipeline = ToyCriticPipeline.build(8, 1, **{"generator.tied": True})
    with pytest.raises(UsageError, match=r"generator's first.weight and again.weight .*\n.*call it twice.*Pre"):
        pipeline.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_module_that_is_called_twice_has_one_name(tmp_path):
    pipeline = ToyCriticPipeline.build(8, 1)
    pipeline.save_pretrained(tmp_path / "saved")
    require_untied(pipeline.models())


def test_transformers_declares_what_is_tied():
    config = ToyTransformerConfig(tie_word_embeddings=True)
    declared, undeclared = Tied(config), ToyTransformer(config)
    assert declared.row.weight is declared.places.weight
    undeclared.row.weight = undeclared.places.weight
    require_untied({"transformer": declared})
    with pytest.raises(UsageError, match="places.weight and row.weight are one tensor"):
        require_untied({"transformer": undeclared})


def test_what_has_no_memory_is_not_tied():
    with torch.device("meta"):
        require_untied({"network": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))})
    require_untied({"network": nn.ParameterList([torch.zeros(0), torch.zeros(0)])})


class Views(nn.Module):
    """Two buffers of one storage."""

    def __init__(self, first: slice, second: slice) -> None:
        super().__init__()
        whole = torch.arange(10.0)
        self.register_buffer("first", whole[first])
        self.register_buffer("second", whole[second])


def test_views_that_overlap_are_refused_as_safetensors_refuses_them(tmp_path):
    for first, second in ((slice(0, 6), slice(4, 10)), (slice(0, 10), slice(2, 4)), (slice(0, 10, 3), slice(1, 3))):
        network = Views(first, second)
        with pytest.raises(UsageError, match="network's first and second are one tensor"):
            require_untied({"network": network})
    with pytest.raises(RuntimeError, match="share memory"):
        save_file(Views(slice(0, 6), slice(4, 10)).state_dict(), tmp_path / "x.safetensors")
    apart = Views(slice(0, 5), slice(5, 10))
    require_untied({"network": apart})
    save_file(apart.state_dict(), tmp_path / "x.safetensors")
