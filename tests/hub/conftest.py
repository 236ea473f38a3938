"""A run that was trained and pushed once for all tests of this folder."""

import pytest
from hub_server import TOKEN, HubServer
from pushing import CHILD, Hfgen, copied, training

from hfgen.testing import make_data


@pytest.fixture(scope="package")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="package")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("publishing")


@pytest.fixture(scope="package")
def hfgen(processes, hub, place):
    child = Hfgen(processes, hub, place / "home", CHILD, HF_TOKEN=TOKEN)
    yield child
    child.close()


@pytest.fixture(scope="package")
def trained(hfgen, place):
    """A run that pushed itself, to me/my-model."""
    return hfgen(*training(make_data(place / "blobs.npz", 16, 1), place / "my-model", "--hub_private_repo"))


@pytest.fixture(scope="package")
def run(trained, place):
    return place / "my-model"


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run, to be changed."""
    return copied(run, tmp_path / "copy")
