"""`hfgen sample` from given pictures: --init_image, --strength and --mask_image."""

import json

import numpy as np
import pytest
import torch
from command_line import call
from PIL import Image
from tiny_diffusion import tiny

from hfgen.errors import UsageError
from hfgen.registry import get_family

DDIM = ("--scheduler", "ddim", "--scheduler.timestep_spacing", "trailing")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a DDPM of 8x8 pixels, a picture of that size, another one, and a mask."""
    folder = tmp_path_factory.mktemp("place")
    tiny(**{"scheduler.num_train_timesteps": 100, "scheduler.beta_end": 0.2}).save_pretrained(folder / "model")
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(pixels).save(folder / "given.png")
    wide = Image.fromarray(np.pad(pixels, ((0, 0), (4, 4)))).convert("RGB")
    wide.resize((32, 16), Image.Resampling.NEAREST).save(folder / "wide.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    Image.fromarray(np.pad(mask, ((0, 0), (4, 4)))).resize((32, 16)).save(folder / "wide_mask.png")
    return folder


def drawn(place, *words, model="model"):
    call("sample", place / model, "-n", 2, "-o", place / "a.npz", "--overwrite", *DDIM, *words)
    return np.load(place / "a.npz")["images"].astype(int)


def given(place, name="given"):
    return np.asarray(Image.open(place / f"{name}.png")).astype(int)


def test_the_lower_the_strength_the_nearer_to_the_picture(place):
    words = ("--init_image", place / "given.png", "--strength")
    apart = [np.abs(drawn(place, *words, s) - given(place)).mean() for s in ("0.001", "0.2", "1")]
    assert apart[0] < 10 < apart[1] - 5 < apart[2] - 10
    np.testing.assert_allclose(drawn(place, *words, "1"), drawn(place), atol=1)
    assert np.abs(drawn(place, *words, "0.5") - drawn(place, *words[:2])).max() == 0  # the default


def test_what_is_black_in_the_mask_stays(place, capsys):
    words = ("--init_image", place / "given.png", "--mask_image", place / "mask.png", "--jump_n_sample", 1)
    images = drawn(place, *words)
    assert "taken as" not in capsys.readouterr().err
    assert (images[:, :, :4] == given(place)[:, :4]).all()
    assert np.abs(images[0] - images[1])[:, 4:].mean() > 5
    assert np.abs(images[0] - given(place))[:, 4:].mean() > 5


def test_a_picture_of_another_size_and_mode_is_taken_as_in_a_training(place, capsys):
    images = drawn(place, "--init_image", place / "wide.png", "--strength", "0.001")
    assert "wide.png is 32x16, RGB; taken as 8x8, L" in capsys.readouterr().err
    assert np.abs(images - given(place)).mean() < 10
    words = ("--mask_image", place / "wide_mask.png", "--jump_n_sample", 1)
    filled = drawn(place, "--init_image", place / "wide.png", *words)
    assert (filled[0] == filled[1])[:, :4].all()
    assert not (filled[0] == filled[1])[:, 4:].all()


def test_a_picture_is_squeezed_where_the_training_squeezed(place):
    (place / "model" / "config.yaml").write_text("center_crop: false\n")
    squeezed = drawn(place, "--init_image", place / "wide.png", "--strength", "0.001")
    (place / "model" / "config.yaml").unlink()
    assert np.abs(squeezed - given(place)).mean() > 20


def test_going_back_and_forth(place):
    words = ("--init_image", place / "given.png", "--mask_image", place / "mask.png", "--num_inference_steps", 4)
    once, twice, further = (
        drawn(place, *words, "--jump_n_sample", r, "--jump_length", length) for r, length in ((1, 1), (2, 1), (2, 2))
    )
    assert np.abs(once - twice).max() > 2
    assert np.abs(twice - further).max() > 2


def test_a_folder_remembers_what_it_was_drawn_from(place):
    folder = place / "drawn"
    words = ["sample", place / "model", "-n", 1, "-o", folder, *DDIM, "--num_inference_steps", 2]
    call(*words, "--init_image", place / "given.png")
    assert {"init_image"} <= json.loads((folder / "samples.json").read_text()).keys()
    with pytest.raises(UsageError, match="It differs in: init_image"):
        call(*words, "--init_image", place / "mask.png")
    with pytest.raises(UsageError, match="It differs in: strength"):
        call(*words, "--init_image", place / "given.png", "--strength", "0.4")


def test_a_family_that_cannot(place, monkeypatch):
    torch.manual_seed(0)
    options = {"generator.base_channels": 4, "generator.latent_dim": 6, "discriminator.base_channels": 4}
    get_family("dcgan").load().build(16, 1, **options).save_pretrained(place / "gan")
    monkeypatch.setattr("hfgen.commands.sample.load", lambda *_: pytest.fail("weights are read"))
    with pytest.raises(UsageError, match="DCGANPipeline, which does not draw in steps"):
        drawn(place, "--init_image", place / "given.png", model="gan")
