"""A saved folder is whole, holds nothing that executes, tells nothing of this machine, and replaces an older one."""

import contextlib
import json
import resource
import shutil

import numpy as np
import pytest
import torch
from plugin_site import TOY, install_toy, on_path, toy_installed

from hfgen import HFGenPipeline, registry
from hfgen.errors import UsageError
from hfgen.repository.save import staged

SHARDED = {"max_shard_size": 64}
SMALLER_THAN_THE_WEIGHTS = 700


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    with toy_installed(tmp_path_factory.mktemp("site")) as module:
        yield module


@pytest.fixture(scope="module")
def old(toy):
    torch.manual_seed(0)
    return toy.ToyPipeline.build(4, 1)


@pytest.fixture(scope="module")
def new(toy):
    torch.manual_seed(1)
    return toy.ToyPipeline.build(4, 1)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def holds(folder, pipeline, **options):
    loaded = HFGenPipeline.from_pretrained(folder, **options)
    images = [p(seeds=[0], output_type="np").images for p in (loaded, pipeline)]
    return np.allclose(*images, atol=1e-5)


@contextlib.contextmanager
def file_size_limit(size):
    """Within, a write beyond this size fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_layout_of_a_folder(old, tmp_path):
    old.save_pretrained(tmp_path)
    network = {"config.json", "diffusion_pytorch_model.safetensors"}
    expected = {f"{component}/{file}" for component in ("generator", "critic") for file in network}
    assert set(files(tmp_path)) == expected | {"model_index.json", "scheduler/scheduler_config.json"}


def test_the_index_names_installed_classes_and_where_they_are_from(old, tmp_path):
    old.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "ToyPipeline"
    assert index["generator"] == ["toy_family", "ToyGenerator"]
    assert index["scheduler"] == ["hfgen.scheduler", "PriorScheduler"]
    assert (index["_hfgen"]["family"], index["_hfgen"]["distribution"]) == ("toy", "toy-plugin")


def test_no_path_leaks_into_what_is_saved_again(old, tmp_path):
    """diffusers notes where a pipeline and its networks were loaded from."""
    old.save_pretrained(tmp_path / "private")
    loaded = HFGenPipeline.from_pretrained(tmp_path / "private")
    assert str(tmp_path) in loaded.generator.config["_name_or_path"]
    loaded.save_pretrained(tmp_path / "again")
    loaded.save_pretrained(tmp_path / "again", variant="ema")
    for name, content in files(tmp_path / "again").items():
        assert str(tmp_path).encode() not in content, name
        assert b"_name_or_path" not in content, name
    assert {k: v for k, v in files(tmp_path / "again").items() if "ema" not in k} == files(tmp_path / "private")


@pytest.mark.parametrize(("first", "second"), [(SHARDED, {}), ({}, SHARDED), (SHARDED, {"max_shard_size": 400})])
@pytest.mark.whole
def test_saving_over_other_shards_leaves_none(old, new, tmp_path, first, second):
    old.save_pretrained(tmp_path / "folder", **first)
    new.save_pretrained(tmp_path / "folder", **second)
    new.save_pretrained(tmp_path / "fresh", **second)
    assert files(tmp_path / "folder") == files(tmp_path / "fresh")
    assert holds(tmp_path / "folder", new)


@pytest.mark.parametrize(("first", "second"), [(SHARDED, {}), ({}, SHARDED), (SHARDED, {"max_shard_size": 400})])
@pytest.mark.whole
def test_saving_a_variant_over_its_other_shards_leaves_none(old, new, tmp_path, first, second):
    for name, steps in {"folder": (first, second), "fresh": (second,)}.items():
        old.save_pretrained(tmp_path / name)
        for options in steps:
            new.save_pretrained(tmp_path / name, variant="ema", **options)
    assert set(files(tmp_path / "folder")) == set(files(tmp_path / "fresh"))


def test_a_variant_saved_again_is_the_one_that_loads(old, new, tmp_path):
    """Not the shards of the older save."""
    old.save_pretrained(tmp_path, variant="ema", **SHARDED)
    new.save_pretrained(tmp_path, variant="ema")
    assert holds(tmp_path, new, variant="ema")


@pytest.mark.parametrize("options", [{}, SHARDED])
@pytest.mark.whole
def test_a_variant_joins_the_weights_that_are_there(old, new, tmp_path, options):
    old.save_pretrained(tmp_path)
    new.save_pretrained(tmp_path, variant="ema", **options)
    assert holds(tmp_path, old)
    assert holds(tmp_path, new, variant="ema")


@pytest.mark.parametrize("options", [{}, {"variant": "ema"}])
def test_a_failing_save_leaves_what_was_there(old, new, tmp_path, options):
    old.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("Mine.\n")
    before = files(tmp_path)
    with pytest.raises(Exception, match="File too large"), file_size_limit(SMALLER_THAN_THE_WEIGHTS):
        new.save_pretrained(tmp_path, **options)
    assert files(tmp_path) == before
    assert holds(tmp_path, old)
    new.save_pretrained(tmp_path, **options)
    assert (tmp_path / "README.md").read_text() == "Mine.\n"


def test_a_failing_first_save_leaves_nothing(old, tmp_path):
    with pytest.raises(Exception, match="File too large"), file_size_limit(SMALLER_THAN_THE_WEIGHTS):
        old.save_pretrained(tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_os_error(old, tmp_path):
    with pytest.raises(OSError, match="File too large"), file_size_limit(SMALLER_THAN_THE_WEIGHTS):
        old.save_pretrained(tmp_path)


def test_saving_where_it_was_loaded_from(old, tmp_path):
    """The weights are memory-mapped from the very files that are replaced."""
    old.save_pretrained(tmp_path)
    loaded = HFGenPipeline.from_pretrained(tmp_path)
    loaded.save_pretrained(tmp_path)
    assert holds(tmp_path, old)
    assert holds(tmp_path, loaded)


def test_without_its_optional_component(old, toy, tmp_path):
    without = toy.ToyPipeline(old.generator, old.scheduler)
    without.save_pretrained(tmp_path)
    assert HFGenPipeline.from_pretrained(tmp_path).critic is None


def test_another_class_of_scheduler_is_remembered(old, toy, tmp_path):
    """From the stack or from a plugin, as long as it is installed."""
    from diffusers import DDIMScheduler

    toy.ToyPipeline(old.generator, DDIMScheduler(num_train_timesteps=7)).save_pretrained(tmp_path)
    loaded = HFGenPipeline.from_pretrained(tmp_path).scheduler
    assert (type(loaded), loaded.config.num_train_timesteps) == (DDIMScheduler, 7)


@pytest.mark.parametrize("options", [{"safe_serialization": False}, {"push_to_hub": True}])
def test_what_save_does_not_do(old, tmp_path, options):
    with pytest.raises(UsageError):
        old.save_pretrained(tmp_path / "folder", **options)
    assert not (tmp_path / "folder").exists()


def test_a_deep_component_module_is_kept_or_refused(tmp_path):
    """Check D: diffusers saves `deep.ddpm.net.DeepGenerator` as `["ddpm", "DeepGenerator"]`, which nobody finds."""
    site, folder = tmp_path / "site", tmp_path / "folder"
    install_toy(site, "deep", "deep.ddpm.net", TOY)
    with on_path(site):
        try:
            registry.get_family("deep").load().build(4, 1).save_pretrained(folder)
        except UsageError as error:
            assert "deep.ddpm.net" in str(error)  # noqa: PT017
            assert not folder.exists()
        else:
            assert type(HFGenPipeline.from_pretrained(folder)).__name__ == "DeepPipeline"


def test_two_levels_are_kept(tmp_path):
    """Also where one of them bears the name of a module of diffusers' pipelines."""
    for name in ("ddpm.flat", "flat.ddpm"):
        site, folder = tmp_path / f"site-{name}", tmp_path / name
        install_toy(site, "flat", name, TOY)
        with on_path(site):
            registry.get_family("flat").load().build(4, 1).save_pretrained(folder)
            assert json.loads((folder / "model_index.json").read_text())["generator"][0] == name
            assert type(HFGenPipeline.from_pretrained(folder)).__name__ == "FlatPipeline"
        shutil.rmtree(site)


def test_a_failure_while_saving_leaves_the_former_folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "file").write_text("old")
    with pytest.raises(OSError, match="full"), staged(tmp_path / "model") as staging:
        (staging / "file").write_text("new")
        raise OSError("the disk is full")
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["file"]
    assert (tmp_path / "model" / "file").read_text() == "old"
    with pytest.raises(OSError, match="full"), staged(tmp_path / "new" / "deep"):
        raise OSError("the disk is full")
    assert not (tmp_path / "new").exists()


def test_a_component_is_back_after_a_kill_between_its_two_renames(tmp_path):
    (tmp_path / ".saving-killed" / "network.old").mkdir(parents=True)
    (tmp_path / ".saving-killed" / "network.old" / "config.json").write_text("{}")
    with staged(tmp_path) as staging:
        (staging / "other").write_text("x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["network", "other"]
