"""Fixtures that several folders share.

Where things are: a folder tests the package of its name (`tests/data` tests `hfgen/data`; the root of `hfgen/` is
tested by the files beside this one), `families/` the built-in families and their mathematics, `whole/` the package as
a whole: layers, documents, attacks, kills. `helpers/` holds modules that tests import by name: the command line
(`command_line`), a stand-in for the Hub (`hub_server`) and a process that uses it (`hub_child`), installed plugins
(`plugin_site`), fast processes (`nursery`), a small evaluation protocol (`small_protocol`).
"""

import gc
import os
import sys

import pytest


def pytest_collection_modifyitems(items):
    """Mark as `whole` what is not quick, and the laws of a family's further configurations."""
    from tiers import is_quick

    for item in items:
        if not is_quick(item) or not getattr(item.cls, "in_processes", True):
            item.add_marker("whole")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Seed what a test and its fixtures draw, so that it does not depend on the tests before."""
    import torch

    torch.default_generator.manual_seed(0)


def pytest_collection_finish():
    """Keep what was imported out of garbage collections: Accelerate asks for one at the end of each training."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def threads():
    """One thread unless $OMP_NUM_THREADS says otherwise: tiny networks run faster, and tests share the cores."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(scope="session", autouse=True)
def unsynced():
    """Nothing waits for the disk, which takes longer than what is written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda number: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def drawn_plots():
    """The real `plot_run`; elsewhere its files are blank, since drawing them is half of a tiny training."""
    from hfgen.training import run

    real, run.plot_run = run.plot_run, blank_plots
    yield real
    run.plot_run = real


def blank_plots(metrics, folder):
    """Write the files that `plot_run` writes, of one pixel each."""
    from PIL import Image

    from hfgen.run_folder import listed

    folder.mkdir(parents=True, exist_ok=True)
    for name in ("loss", *listed(metrics[-1])):
        Image.new("L", (1, 1)).save(folder / f"{name}.png")


@pytest.fixture(scope="session")
def hfgen():
    """The command line in this process: `hfgen("list", "--json")` returns code, out and err."""
    from command_line import hfgen

    return hfgen


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    """The current folder, with nothing in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def processes():
    """Starts processes in which the libraries are imported, and hfgen is not."""
    from nursery import Nursery

    found = Nursery()
    yield found
    found.close()


@pytest.fixture(scope="session")
def law_processes(processes):
    """Starts the processes of the laws, in which hfgen is imported too."""
    from law_processes import Context, LawNursery

    from hfgen.testing.processes import PRELOADED

    nursery = LawNursery(processes, PRELOADED)
    yield Context(nursery)
    nursery.close()


@pytest.fixture(autouse=True)
def _laws_share_a_nursery(request, monkeypatch):
    monkeypatch.setattr("hfgen.testing.processes._forks", lambda: request.getfixturevalue("law_processes"))


@pytest.fixture(scope="session")
def few(tmp_path_factory):
    """The file of a small protocol: 200 real images, 103 sampled ones in batches of 16, the last one short."""
    from small_protocol import small_protocol

    return str(small_protocol(tmp_path_factory.mktemp("few"), 200, num_images=103, batch_size=16, bootstraps=5))


@pytest.fixture(scope="module")
def toy_site(tmp_path_factory):
    """A folder of installed plugins, on the path, with the family `toy`."""
    from plugin_site import toy_installed

    site = tmp_path_factory.mktemp("site")
    with toy_installed(site):
        yield site


@pytest.fixture(scope="module")
def toy_pipelines(toy_site):
    """`main` and `other`: two pipelines of the family `toy`, of the same shape with other weights."""
    import torch

    pipelines = {}
    for seed, name in enumerate(("main", "other")):
        torch.manual_seed(seed)
        pipelines[name] = sys.modules["toy_family"].ToyPipeline.build(4, 1)
    return pipelines
