"""Flow matching: the laws."""

import pytest

from hfgen.testing import FamilyTests

TINY = {"unet.block_out_channels": [8, 8], "unet.layers_per_block": 1}
FEW = {"num_inference_steps": 3}
ROUGH = {"tolerance": 0.1, "num_probes": 1}


class TestFlowMatching(FamilyTests):
    family = "flow_matching"
    overrides = TINY
    objective = {"coupling": "optimal_transport"}  # which gathers, and so is what two processes could do otherwise
    sample_size = 8
    sampling = training = FEW
    likelihood = ROUGH
    tolerance = 1e-4


@pytest.mark.slow  # half a minute of solving; test_flow_matching_calls.py has labels and the other predictions
class TestConditionalFlowMatching(FamilyTests):
    family = "flow_matching"
    overrides = {**TINY, "scheduler.prediction_type": "sample", "scheduler.interpolant": "trigonometric"}
    sample_size = 8
    in_channels = 3
    num_classes = 3
    in_processes = False
    sampling = training = FEW
    likelihood = ROUGH
    tolerance = 1e-4
