"""JiT: the laws of the families that take it, and what holds of the network itself."""

import pytest
import torch
from diffusers import UNet2DModel
from gaussian_diffusion import four_pairs
from gaussian_flow import Quantiles
from torch.nn import functional as F

from hfgen.errors import UsageError
from hfgen.noise import SeededNoise
from hfgen.testing import FamilyTests
from hfgen_diffusion import jit
from hfgen_diffusion.ddpm import DDPMPipeline
from hfgen_diffusion.flow_matching import FlowMatchingPipeline
from hfgen_diffusion.flow_objective import FlowMatchingObjective
from hfgen_diffusion.jit import JiT
from hfgen_diffusion.networks import null_class_of
from hfgen_diffusion.objective import DDPMObjective

NETWORK = {"hidden_size": 16, "num_layers": 2, "num_attention_heads": 1, "bottleneck_dim": 8, "in_context_len": 2}
TINY = {"unet.class_name": "JiT", "unet.patch_size": 4, **{f"unet.{name}": value for name, value in NETWORK.items()}}


class TestFlowMatchingWithJiT(FamilyTests):
    family = "flow_matching"
    overrides = TINY
    sample_size = 8
    num_classes = 2
    tolerance = 1e-4
    in_shards = True


@pytest.mark.slow  # test_diffusion_training.py trains a DDPM, and the class above a JiT
class TestDDPMWithJiT(FamilyTests):
    family = "ddpm"
    overrides = {**TINY, "scheduler.num_train_timesteps": 8, "scheduler.beta_schedule": "squaredcos_cap_v2"}
    objective = {"snr_gamma": 5.0}
    sample_size = 8
    in_channels = 3
    tolerance = 1e-4


def network(size=8, patch_size=2, **options):
    """With weights moved off the zeros that it starts with."""
    torch.manual_seed(0)
    found = JiT(size, **{**NETWORK, "patch_size": patch_size, **options}).eval()
    for parameter in found.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return found


def small(family, num_classes=None, **options):
    torch.manual_seed(0)
    return family.build(8, 1, num_classes, **{**TINY, **options})


def test_patches_are_put_together_again():
    images = torch.randn(2, 3, 12, 12)
    patches = jit.patchify(images, 4)
    assert patches.shape == (2, 9, 48)
    assert torch.equal(patches[0, 5].view(3, 4, 4), images[0, :, 4:8, 8:12])
    assert torch.equal(jit.unpatchify(patches, 4, 3), images)


@torch.no_grad()
def test_a_permutation_of_the_patches_with_their_places_permutes_the_output(monkeypatch):
    """Nothing but the place tells one patch from another."""
    net, images = network(), torch.randn(2, 1, 8, 8)
    expected = jit.patchify(net(images, 300.0).sample, 2)
    order, place = torch.randperm(16), jit.positions(4, images.device)
    permuted = jit.unpatchify(jit.patchify(images, 2)[:, order], 2, 4)
    assert not torch.allclose(jit.patchify(net(permuted, 300.0).sample, 2), expected[:, order], atol=1e-3)
    monkeypatch.setattr(jit, "positions", lambda side, device: tuple(line[order] for line in place))
    torch.testing.assert_close(jit.patchify(net(permuted, 300.0).sample, 2), expected[:, order], atol=1e-4, rtol=1e-4)


def test_turned_queries_and_keys_depend_on_their_distance():
    """<R_m q, R_n k> is a function of n - m, in rows and in columns."""
    turn = jit.rotation(jit.positions(6, torch.device("cpu")), 16)
    q, k = torch.randn(2, 1, 1, 1, 16).expand(2, 1, 1, 36, 16)
    scores = (jit.rotated(q, turn) @ jit.rotated(k, turn).transpose(-1, -2)).view(6, 6, 6, 6)
    torch.testing.assert_close(scores[0, 0, 2, 1], scores[3, 2, 5, 3])
    assert not torch.isclose(scores[0, 0, 2, 1], scores[0, 0, 1, 2])


@pytest.mark.parametrize("prediction", ["sample", "velocity"])
def test_the_loss_of_a_network_that_starts_at_0(prediction):
    """E x² E 1/max(t, 0.05)² of a predicted image, 2.963472 E x² with the times of Li & He; 1 + E x² of a velocity."""
    x, epsilon = (pairs.expand(-1, -1, 8, 8).float() for pairs in four_pairs(1024, 0.3))
    pipeline = small(FlowMatchingPipeline, **{"scheduler.prediction_type": prediction})
    objective = FlowMatchingObjective(pipeline.unet, pipeline.scheduler, logit_mean=0.8, logit_std=0.8)
    objective.noise = Quantiles(epsilon)
    (update,) = objective.training_step({"pixel_values": x})
    expected = 2.963472 * 0.09 if prediction == "sample" else 1.09
    assert update.loss.item() == pytest.approx(expected, rel=5e-3)


def test_the_loss_of_a_diffusion_that_starts_at_0():
    """E ε² is that of the noise."""
    pipeline = small(DDPMPipeline)
    objective = DDPMObjective(pipeline.unet, pipeline.scheduler)
    objective.noise = SeededNoise.from_seeds(range(64))
    (update,) = objective.training_step({"pixel_values": torch.zeros(64, 1, 8, 8)})
    assert update.loss.item() == pytest.approx(1, abs=0.06)


@torch.no_grad()
def test_the_label_after_the_last_is_no_class():
    pipeline = small(FlowMatchingPipeline, 2)
    assert (null_class_of(pipeline.unet), pipeline.num_classes) == (2, 2)
    net = network(num_class_embeds=3)
    images, labels = torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 2])
    found = net(images[:1].expand(3, -1, -1, -1), 500.0, labels).sample
    assert min(float((found[a] - found[b]).abs().max()) for a, b in ((0, 1), (0, 2), (1, 2))) > 1e-3
    with pytest.raises(ValueError, match="class_labels are missing"):
        net(images, 500.0)


def test_tokens_of_the_class_join_halfway():
    """They are seen by what follows, and are no patches."""
    net, seen = network(num_class_embeds=3), []
    for block in net.blocks:
        block.register_forward_hook(lambda module, given, tokens: seen.append(tokens.shape[1]))
    assert net(torch.randn(1, 1, 8, 8), 1.0, torch.tensor([1])).sample.shape == (1, 1, 8, 8)
    assert seen == [16, 18]


def test_without_layers_it_still_learns():
    net, x = JiT(8, **{**NETWORK, "num_layers": 0}), torch.randn(4, 1, 8, 8)
    optimizer, losses = torch.optim.Adam(net.parameters(), 0.02), []
    for _ in range(20):
        losses.append(F.mse_loss(net(x, 3.0, return_dict=False)[0], x))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("predicts", [{}, {"scheduler.variance_type": "learned_range"}])
def test_a_diffusion_has_channels_for_what_it_predicts(predicts):
    net = small(DDPMPipeline, **predicts).unet
    assert net.config.out_channels == 1 + len(predicts)
    assert net(torch.randn(2, 1, 8, 8), torch.tensor([1, 2])).sample.shape == (2, 1 + len(predicts), 8, 8)


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (30, {}, "patch_size is 4, which does not divide 30x30 images.\nPatches of 1, 2, 3, 5, 6"),
        (37, {"unet.patch_size": None}, "No patch divides 37x37 images .*--resolution 32 or 40"),
        (8, {"unet.num_attention_heads": 2}, "num_attention_heads is 2 for a --unet.hidden_size of 16"),
        (8, {"unet.num_class_embeds": 4}, "--unet.num_class_embeds is 4; it follows from the data's classes"),
        (8, {"unet.sample_size": 16}, "--unet.sample_size is 16"),
    ],
)
def test_sizes_that_are_refused(size, options, message):
    given = {name: value for name, value in {**TINY, **options}.items() if value is not None}
    with pytest.raises(UsageError, match=f"(?s){message}"):
        FlowMatchingPipeline.build(size, 1, **given)


def test_flow_matching_has_a_jit_unless_an_option_of_a_unet_is_given():
    assert type(FlowMatchingPipeline.build(8, 1, **{"scheduler.shift": 2.0}).unet) is JiT
    unet = FlowMatchingPipeline.build(8, 1, **{"unet.block_out_channels": [8, 8]}).unet
    assert type(unet) is UNet2DModel
    assert type(DDPMPipeline.build(8, 1, **{"unet.block_out_channels": [8, 8]}).unet) is UNet2DModel


@pytest.mark.parametrize(("prediction", "law"), [("sample", (0.8, 0.8)), ("velocity", (0.0, 1.0))])
def test_the_times_follow_from_what_is_predicted(prediction, law):
    pipeline = small(FlowMatchingPipeline, **{"scheduler.prediction_type": prediction})
    objective = FlowMatchingObjective(pipeline.unet, pipeline.scheduler)
    assert (objective.logit_mean, objective.logit_std) == law
    objective = FlowMatchingObjective(pipeline.unet, pipeline.scheduler, logit_mean=0.0, logit_std=0.5)
    assert (objective.logit_mean, objective.logit_std) == (0.0, 0.5)


def test_the_image_is_predicted_by_default_and_stock_diffusers_is_not_named(tmp_path):
    pipeline = FlowMatchingPipeline.build(8, 1, **TINY)
    assert pipeline.scheduler.config.prediction_type == "sample"
    for prediction in ("sample", "velocity"):
        pipeline = FlowMatchingPipeline.build(8, 1, **TINY, **{"scheduler.prediction_type": prediction})
        assert '"_class_name": "FlowMatchingPipeline"' in pipeline.to_json_string()
