"""A tensor under two names: refused before it is saved or trained, unless transformers ties it."""

import pytest
import torch
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
