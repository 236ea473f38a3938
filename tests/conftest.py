"""What every test shares."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny networks run faster on one thread, and the processes that tests start do not fight over the cores."""
    import torch

    torch.set_num_threads(1)
