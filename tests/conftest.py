"""One place for what every test shares."""

import pytest


@pytest.fixture(scope="session")
def quiet_threads():
    """Tiny networks run faster on one thread, and two test processes do not fight."""
    import torch

    torch.set_num_threads(1)
