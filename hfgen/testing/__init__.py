"""Tests that every family must pass, called laws. The whole test file of a plugin:

    from hfgen.testing import FamilyTests

    class TestMyFamily(FamilyTests):
        family = "my-family"
        overrides = {"network.width": 4}  # tiny: the laws build, train and load it many times

It needs pytest. List a law that the family cannot obey in `expected_failures`, with the reason.
"""

import pytest

# so that a failing law shows its values
pytest.register_assert_rewrite(*(f"hfgen.testing.{name}" for name in ("laws", "calls", "latents", "bundles")))

from hfgen.testing.laws import FamilyTests, assert_equal_states, make_data, state, weights  # noqa: E402
from hfgen.testing.processes import quiet_environment  # noqa: E402

__all__ = ["FamilyTests", "assert_equal_states", "make_data", "quiet_environment", "state", "weights"]
