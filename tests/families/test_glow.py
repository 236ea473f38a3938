"""Glow: the laws."""

from hfgen.testing import FamilyTests

BYTE = 1 / 255 + 1e-6  # samples are rounded down to bytes, and one at the edge may fall on either side


class TestGlow(FamilyTests):
    family = "glow"
    in_shards = True  # the first batch sets parameters (ActNorm), and the loss has determinants of weights
    sample_tolerance = BYTE
    overrides = {"flow.num_levels": 2, "flow.num_steps": 2, "flow.hidden_channels": 8}
    sample_size = 8


class TestConditionalGlow(FamilyTests):
    family = "glow"
    sample_tolerance = BYTE
    overrides = {
        "flow.num_levels": 1,
        "flow.num_steps": 2,
        "flow.hidden_channels": 8,
        "flow.coupling": "additive",
        "flow.convolution": "plain",
        "flow.preprocessing": "logit_2alpha",
        "dequantizer.class_name": "VariationalDequantizer",
        "dequantizer.hidden_channels": 4,
        "dequantizer.num_couplings": 2,
    }
    sample_size = 8
    num_classes = 3
    in_processes = False


class TestSplineGlow(FamilyTests):
    family = "glow"
    sample_tolerance = BYTE
    overrides = {"flow.num_levels": 2, "flow.num_steps": 1, "flow.hidden_channels": 8, "flow.coupling": "spline"}
    overrides = {**overrides, "flow.num_bins": 4, "dequantizer.num_bits": 5}
    sample_size = 8
    in_channels = 3
    in_processes = False
