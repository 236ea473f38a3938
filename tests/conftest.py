"""What every test shares."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny networks run faster on one thread, and the processes that tests start do not fight over the cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def trainings():
    """Starts trainings, each in a process of its own."""
    from nursery import TRAINING, Nursery

    found = Nursery(*TRAINING)
    yield found
    found.close()


@pytest.fixture(scope="session")
def plain_diffusers():
    """Runs scripts where diffusers was imported and hfgen was not."""
    from nursery import Nursery

    found = Nursery("diffusers", "diffusers.pipelines.pipeline_utils", "numpy")
    yield found
    found.close()


@pytest.fixture(scope="session")
def few(tmp_path_factory):
    """mnist-mini-v1 in small: 200 real images, 103 drawn ones in batches of 16, the last one short."""
    import pyarrow.parquet as parquet
    import yaml

    from hfgen import load_images
    from hfgen.data.builtin import BUILT_IN_FOLDERS
    from hfgen.evaluation.real_images import RealImages
    from hfgen.results.protocol import Protocol

    folder = tmp_path_factory.mktemp("few")
    (folder / "data").mkdir()
    for split in ("train", "test"):
        table = parquet.read_table(BUILT_IN_FOLDERS["mnist-mini"] / f"{split}.parquet")
        parquet.write_table(table.slice(0, 200), folder / "data" / f"{split}.parquet")
    sha256 = RealImages.of(load_images(str(folder / "data"), "test")).sha256
    settings = Protocol(name="few", dataset=str(folder / "data"), split="test", reference_sha256=sha256).to_dict()
    settings |= {"extractor": "digitnet-mnist", "num_images": 103, "batch_size": 16, "bootstraps": 5}
    (folder / "few.yaml").write_text(yaml.safe_dump({**settings, "floor_draws": 2}))
    return str(folder / "few.yaml")
