"""RealNVP: the laws."""

import pytest

from hfgen.testing import FamilyTests

BYTE = 1 / 255 + 1e-6  # samples are rounded down to bytes, and one at the edge may fall on either side

TINY = {"flow.hidden_channels": 6, "flow.num_blocks": 1, "flow.num_couplings": 2}


class TestRealNVP(FamilyTests):
    family = "realnvp"
    sample_tolerance = BYTE
    overrides = TINY
    sample_size = 8

    @pytest.mark.slow  # the toys of test_wrapped.py and Glow train in two processes, and nothing here differs
    def test_two_processes_train_what_one_does(self, data, tmp_path):
        super().test_two_processes_train_what_one_does(data, tmp_path)


class TestVariationalRealNVP(FamilyTests):
    family = "realnvp"
    sample_tolerance = BYTE
    overrides = {
        **TINY,
        "flow.coupling": "spline",
        "flow.num_bins": 4,
        "flow.num_scales": 3,
        "dequantizer.class_name": "VariationalDequantizer",
        "dequantizer.hidden_channels": 4,
    }
    sample_size = 8
    in_channels = 3
    in_processes = False


class TestNICE(FamilyTests):
    family = "realnvp"
    sample_tolerance = BYTE
    overrides = {**TINY, "flow.coupling": "additive", "flow.num_scales": 1, "scheduler.distribution": "logistic"}
    sample_size = 7
    in_processes = False
