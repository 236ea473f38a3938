"""A run that is resumed reads its images as it did, also where an older version began it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from encoded_images import encoded, noise

from hfgen.registry import get_modality
from hfgen.settings.arguments import TrainingArguments
from hfgen.training.start import find_data

IMAGES = get_modality("image")


@pytest.fixture
def resumed(tmp_path):
    """Return the images of a run in a folder, given its files and the facts that it kept."""

    def find(files, **facts):
        (tmp_path / "photos").mkdir()
        for name, content in files.items():
            (tmp_path / "photos" / name).write_bytes(content)
        (tmp_path / "env.json").write_text(json.dumps({"data": {"channels": 3, **facts}}))
        arguments = TrainingArguments(dataset_name=str(tmp_path / "photos"), resume_from_checkpoint="latest")
        return find_data(SimpleNamespace(arguments=arguments), IMAGES, tmp_path)

    return find


def test_alpha_that_an_older_version_kept_is_kept(resumed):
    assert resumed({"a.png": encoded(noise().convert("RGBA"))}, channels=4).mode == "RGBA"


def test_a_range_is_kept_and_was_16_bits_before_there_was_one(resumed, tmp_path):
    images = resumed({"a.tif": encoded(np.full((2, 2), 4000, np.uint16), "TIFF")}, channels=1)
    assert (images.mode, images.value_range, images.decode(0, 2).max()) == ("L", (0, 65535), 16)
    (tmp_path / "env.json").write_text(json.dumps({"data": {"channels": 1, "value_range": [0, 16383]}}))
    arguments = TrainingArguments(dataset_name=str(tmp_path / "photos"), resume_from_checkpoint="latest")
    assert find_data(SimpleNamespace(arguments=arguments), IMAGES, tmp_path).value_range == (0, 16383)
    fresh = TrainingArguments(dataset_name=str(tmp_path / "photos"))
    assert find_data(SimpleNamespace(arguments=fresh), IMAGES, tmp_path).value_range == (0, 4095)
