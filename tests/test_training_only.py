"""Components that only training uses: in checkpoints, told on the card, and not in what is saved or published."""

import json

import pytest
import torch
from composed import install_composed

from hfgen import HFGenPipeline, Trainer, UsageError, load_images, registry
from hfgen.hub.contents import contents
from hfgen.registry import get_modality
from hfgen.settings.resolve import resolve
from hfgen.testing import FamilyTests, make_data, state
from hfgen.training import run
from hfgen.training.start import build, find_data

IMAGES = get_modality("image")


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory):
    with install_composed(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture(scope="module")
def teacher(site):
    """A model whose generator is the teacher."""
    torch.manual_seed(5)
    registry.get_family("one_step").load().build(8, 1).save_pretrained(site / "teacher")
    return str(site / "teacher" / "generator")


class TestDistilled(FamilyTests):
    family = "distilled"
    sample_size = 8
    in_shards = True

    @pytest.fixture(autouse=True)
    def _source(self, teacher):
        type(self).overrides = {"teacher.from_pretrained": teacher, "critic.width": 4}


@pytest.fixture
def data(tmp_path):
    return str(make_data(tmp_path / "blobs.npz", 8, 1))


def config_of(data, **settings):
    layer = {"dataset_name": data, "train_batch_size": 8, "max_train_steps": 2, "num_validation_images": 4}
    return resolve([("", {**layer, **settings})], "distilled", registry.get_family("distilled").load())


def test_a_run_leaves_the_model_without_them(teacher, data, tmp_path):
    """Its card says what was used; a checkpoint has it, beside a model that loads without it."""
    cls = registry.get_family("distilled").load()
    settings = {"teacher": {"from_pretrained": teacher}, "checkpointing_steps": 1}
    run.train(config_of(data, **settings), cls, tmp_path / "run", say=lambda line: None)
    published = contents(tmp_path / "run")
    assert not [name for name in published if "teacher" in name or "critic" in name]
    assert json.loads((tmp_path / "run" / "model_index.json").read_text())["teacher"] == [None, None]
    card = (tmp_path / "run" / "README.md").read_text()
    assert "| teacher |" not in card
    assert "Training used a `ToyDecoder` of 648 parameters too, `teacher`, which is not part of this model." in card
    assert "`teacher` was not trained: it is that of `generator`." in card
    place = tmp_path / "run" / "checkpoints" / "checkpoint-2"
    assert {path.name for path in (place / "trainer").glob("*.weights.safetensors")} == {
        "teacher.weights.safetensors",
        "critic.weights.safetensors",
    }
    for folder in (tmp_path / "run", place):
        loaded = HFGenPipeline.from_pretrained(folder)
        assert list(loaded.models()) == ["generator"]
        assert loaded.teacher is None


def test_training_further_builds_them_anew_or_asks(teacher, data, tmp_path):
    cls = registry.get_family("distilled").load()
    cls.build(8, 1, **{"generator.width": 6}).save_pretrained(tmp_path / "model")
    further = {"pretrained_model_name_or_path": str(tmp_path / "model"), "critic": {"width": 3}}
    config = config_of(data, **further)
    with pytest.raises(UsageError, match=r"(?s)teacher is frozen.*--teacher.from_pretrained SOURCE"):
        build(config, cls, find_data(config, IMAGES))
    config = config_of(data, **further, teacher={"from_pretrained": teacher})
    pipeline = build(config, cls, find_data(config, IMAGES))
    assert (pipeline.generator.config.width, pipeline.critic.config.width) == (6, 3)
    assert torch.equal(
        pipeline.teacher.inner.weight, HFGenPipeline.from_pretrained(teacher[:-10]).generator.inner.weight
    )
    trainer = Trainer(pipeline, load_images(data), config.arguments)
    trainer.train()
    assert {name.partition(".")[0] for name in state(trainer)} == {"generator", "critic", "teacher"}
    loaded = HFGenPipeline.from_pretrained(tmp_path / "model")
    with pytest.raises(UsageError, match="teacher is used in training only, so it was not saved"):
        Trainer(loaded, load_images(data), config.arguments)


def test_saving_leaves_the_pipeline_as_it_is(teacher, tmp_path):
    pipeline = registry.get_family("distilled").load().build(8, 1, **{"teacher.from_pretrained": teacher})
    pipeline.save_pretrained(tmp_path / "saved", bundle_code=True)
    assert set(pipeline.models()) == {"generator", "teacher", "critic"}
    assert not list((tmp_path / "saved").rglob("*teacher*"))
    assert pipeline.config["teacher"] == ("toy_composed", "ToyDecoder")
