"""Extractors: what they declare, take and refuse; the shipped weights; weights that cannot be fetched."""

import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from hfgen import load_images
from hfgen.commands.main import cli
from hfgen.errors import HFGenError, UsageError
from hfgen.evaluation.extractors import extractor_class
from hfgen.evaluation.real_images import RealImages
from hfgen_extractors import digitnet
from hfgen_extractors.digitnet import DigitNet
from hfgen_extractors.digitnet_training import accuracy, standardize, train
from hfgen_extractors.dinov2 import DINOv2Base


@pytest.fixture(scope="module")
def digits():
    return load_images("mnist-mini", "test")


@pytest.fixture(scope="module")
def net():
    return DigitNet.load()


@pytest.mark.whole
def test_the_shipped_weights_are_what_is_said_of_them(net, digits):
    assert sum(p.numel() for p in net.parameters()) == 81_010
    data = digitnet.WEIGHTS.read_bytes()
    assert len(data) < 330_000
    assert net.declaration()["weights_sha256"] == hashlib.sha256(data).hexdigest() == digitnet.WEIGHTS_SHA256
    pixels = RealImages.of(digits).pixels
    assert accuracy(net, pixels, digits.labels) >= 0.985  # 0.9932 on all 10,000 test images, of which these are harder
    features = net.extract(pixels)
    assert features.var(0).sum() == pytest.approx(64, rel=0.1)
    assert torch.linalg.matrix_rank(features.double().T.cov()) == 64


@pytest.mark.whole
def test_the_training_is_deterministic_and_learns(monkeypatch):
    """Of a small one: 1,000 images and three epochs; the shipped weights are checked above."""
    from hfgen_extractors import digitnet_training

    monkeypatch.setattr(digitnet_training, "TRAINED", 1000)
    monkeypatch.setattr(digitnet_training, "EPOCHS", 3)
    images = load_images("mnist-mini", "train")
    rows = range(0, 10_000, 10)
    pixels = ((images.tensor(rows) + 1) * 127.5).round().to(torch.uint8)
    first, second = (train(pixels, images.labels[list(rows)]) for _ in range(2))
    for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert accuracy(first, pixels, images.labels[list(rows)]) > 0.5  # of 10 classes
    standardize(first, pixels)
    features = first(pixels)
    torch.testing.assert_close(features.mean(0), torch.zeros(64), atol=1e-3, rtol=0)
    torch.testing.assert_close(features.std(0), torch.ones(64), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 1, 28, 28), "takes bytes"),
        (torch.zeros(2, 3, 28, 28, dtype=torch.uint8), "1 channel and 28x28 pixels; these have 3 channels"),
        (torch.zeros(2, 1, 32, 32, dtype=torch.uint8), "these have 1 channel and 32x32"),
    ],
)
def test_nothing_is_resized_or_repeated_on_the_quiet(net, images, message):
    with pytest.raises(UsageError, match=message):
        net.extract(images)


def test_features_that_are_no_numbers(net):
    broken = DigitNet()
    broken.load_state_dict(net.state_dict())
    broken.std.zero_()
    with pytest.raises(HFGenError, match="values that are not finite"):
        broken.extract(torch.zeros(2, 1, 28, 28, dtype=torch.uint8))


def test_weights_that_are_damaged_or_others(net, tmp_path, monkeypatch):
    other = tmp_path / "other.safetensors"
    state = load_file(digitnet.WEIGHTS)
    save_file({**state, "mean": state["mean"] + 1}, other)
    assert DigitNet.load(str(other)).weights_sha256 != digitnet.WEIGHTS_SHA256  # asked for by name
    monkeypatch.setattr(digitnet, "WEIGHTS", other)
    with pytest.raises(HFGenError, match="not those that hfgen ships"):
        DigitNet.load()
    other.write_bytes(other.read_bytes()[:1000])
    with pytest.raises(HFGenError, match="cannot be read from other.safetensors"):
        DigitNet.load(str(other))
    with pytest.raises(HFGenError, match="cannot be read"):
        DigitNet.load(str(tmp_path / "none.safetensors"))


def test_names():
    assert extractor_class("digitnet-mnist") is DigitNet
    with pytest.raises(UsageError, match="Did you mean 'digitnet-mnist'"):
        extractor_class("digitnet-mnits")


@pytest.fixture(scope="module")
def tiny_dinov2(tmp_path_factory):
    from transformers import Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=224, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    return folder


class Tiny(DINOv2Base):
    hidden_size = 32


@pytest.mark.whole
def test_dinov2_from_a_folder(tiny_dinov2):
    """Of random weights: the architecture, the range and the size; the weights are not to be had here."""
    from transformers import Dinov2Model

    with pytest.raises(HFGenError, match="does not hold the weights of dinov2-base, or not all"):
        DINOv2Base.load(str(tiny_dinov2))  # of another size
    extractor = Tiny.load(str(tiny_dinov2))
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = extractor.extract(images)
    assert features.shape == (2, 32)
    assert extractor.weights_sha256 == hashlib.sha256((tiny_dinov2 / "model.safetensors").read_bytes()).hexdigest()
    gray = torch.full((1, 3, 224, 224), 128, dtype=torch.uint8)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    model = Dinov2Model.from_pretrained(tiny_dinov2).eval()
    with torch.no_grad():
        expected = model((gray / 255 - mean) / std).pooler_output
    torch.testing.assert_close(extractor.extract(gray), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(UsageError, match="3 channels and any side"):
        extractor.extract(torch.zeros(1, 2, 32, 32, dtype=torch.uint8))


def test_weights_that_cannot_be_fetched(tmp_path, monkeypatch, tiny_dinov2):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(HFGenError, match="facebook/dinov2-base at revision f9e4.*\n?.*--extractor_weights FOLDER"):
        DINOv2Base.load()
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_dinov2, damaged)
    state = load_file(damaged / "model.safetensors")
    save_file(dict(list(state.items())[1:]), damaged / "model.safetensors")
    with pytest.raises(HFGenError, match="or not all of them"):
        Tiny.load(str(damaged))  # transformers would fill up with random weights
    pickled = tmp_path / "pickled"
    shutil.copytree(tiny_dinov2, pickled)
    torch.save({}, pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(HFGenError, match="not to be had"):
        DINOv2Base.load(str(pickled))


def test_inception_without_torch_fidelity():
    with pytest.raises(HFGenError, match="needs torch-fidelity.*\n.*dinov2-base"):
        extractor_class("inception").load()


def test_they_are_listed(capsys):
    cli.main(["list", "extractors", "--json"], standalone_mode=False)
    assert {row["name"] for row in json.loads(capsys.readouterr().out)} >= {"digitnet-mnist", "dinov2-large"}
