"""Calls of a pipeline with other things than it takes: each is one sentence that says what it takes."""

import pytest
import torch
from tiny_trainings import TINY

from hfgen.errors import UsageError
from hfgen.registry import get_family


@pytest.fixture(scope="module")
def pipeline():
    return get_family("dcgan").load().build(16, 1, **TINY["dcgan"])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda p: p("a cat"), "batch_size is 'a cat'; expected the number of images. A prompt is not taken"),
        (lambda p: p(batch_size=2.5), "batch_size is 2.5; expected the number"),
        (lambda p: p(seeds=3), r"seeds is 3; expected one for each image, such as \[3\]"),
        (lambda p: p(seeds=["a"]), "seeds must be whole numbers"),
        (lambda p: p(generator=3), "generator is 3; expected a torch.Generator"),
        (lambda p: p(generator=[1, 2]), "expected a torch.Generator"),
        (lambda p: p(num_images=3), "takes no num_images. Known: batch_size, "),
        (lambda p: p(batchsize=3), "takes no batchsize. Did you mean 'batch_size'"),
        (lambda p: p(output_type="jpg"), "output_type is 'jpg'. Known: np, pil, pt"),
    ],
)
def test_what_a_call_does_not_take_is_said(pipeline, call, says):
    with pytest.raises(UsageError, match=says):
        call(pipeline)


def test_numbers_of_numpy_and_torch_are_numbers(pipeline):
    import numpy as np

    assert len(pipeline(np.int64(2)).images) == len(pipeline(seeds=torch.arange(2)).images) == 2


def test_components_are_known_once(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="takes no 'foo'") as error:
        type(pipeline).from_pretrained(tmp_path, foo=1)
    assert str(error.value).count("generator,") == 1
