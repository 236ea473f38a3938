"""What hfgen saves, plain diffusers reads, and the other way round: the same images of the same generators."""

import json
import shutil

import diffusers
import numpy as np
import pytest
import torch
from rounding import images_apart

from hfgen import HFGenPipeline
from hfgen.errors import LoadError, UsageError
from hfgen.settings.resolve import resolve
from hfgen.testing.laws import make_data
from hfgen.training import run
from hfgen_diffusion.ddim import DDIMPipeline
from hfgen_diffusion.ddpm import DDPMPipeline

SEEDS = [0, 7]
UNET = {
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
# In a process of its own, where hfgen cannot be imported: class, keywords of the call -> images.
PLAIN = f"""
import sys
sys.modules.update(dict.fromkeys(["hfgen", "hfgen_diffusion"]))  # an import of either fails
import json, numpy as np, torch, diffusers
folder, out, calls = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
for name, (class_name, options) in calls.items():
    pipeline = getattr(diffusers, class_name).from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in {SEEDS}]
    images = pipeline(batch_size=2, generator=generators, output_type="np", **options).images
    np.save(f"{{out}}/{{name}}.npy", images)
    print(name, type(pipeline).__module__.partition(".")[0], type(pipeline).__name__)
"""


def in_plain_diffusers(process, folder, out, **calls):
    done = process.run(PLAIN, folder, out, json.dumps(calls))
    assert done.returncode == 0, done.stderr
    assert {line.split()[1] for line in done.stdout.splitlines()} == {"diffusers"}
    return {name: np.load(out / f"{name}.npy") for name in calls}


def drawn(pipeline, **options):
    return pipeline(seeds=SEEDS, output_type="np", **options).images


def swapped(pipeline, scheduler_class, **options):
    return type(pipeline)(
        unet=pipeline.unet, scheduler=scheduler_class.from_config(pipeline.scheduler.config, **options)
    )


@pytest.fixture(scope="module", params=["fixed_large", "learned_range"])
def trained(request, tmp_path_factory):
    """The folder of a short run."""
    place = tmp_path_factory.mktemp("trained")
    settings = {"dataset_name": str(make_data(place / "blobs.npz", 8, 3)), "train_batch_size": 8, "max_train_steps": 8}
    settings |= {"learning_rate": 2e-3, "num_validation_images": 1, "unet": {"block_out_channels": [8, 16]}}
    settings["scheduler"] = {"num_train_timesteps": 20, "variance_type": request.param}
    run.train(resolve([("test", settings)], "ddpm", DDPMPipeline), DDPMPipeline, place / "run", say=lambda line: None)
    return place / "run"


def test_plain_diffusers_draws_the_same_images(trained, processes, tmp_path):
    """Without hfgen; through the class that the index names, by either pipeline, in all the steps or in few."""
    pipeline = HFGenPipeline.from_pretrained(trained)
    calls = {"auto": ("DiffusionPipeline", {"num_inference_steps": 20})}
    calls["ddpm"] = ("DDPMPipeline", {"num_inference_steps": 20})
    ours = {"auto": drawn(pipeline), "ddpm": drawn(pipeline)}
    if pipeline.unet.config.out_channels == 3:  # plain DDIM does not take a network that gives a variance too
        ddim = swapped(pipeline, diffusers.DDIMScheduler)
        calls["ddim"] = ("DDIMPipeline", {"num_inference_steps": 20, "eta": 0.0})
        calls["eta"] = ("DDIMPipeline", {"num_inference_steps": 5, "eta": 0.7})
        calls["clipped"] = ("DDIMPipeline", {"num_inference_steps": 10, "use_clipped_model_output": True})
        ours["ddim"] = drawn(ddim, num_inference_steps=20)
        ours["eta"] = drawn(ddim, num_inference_steps=5, eta=0.7)
        ours["clipped"] = drawn(ddim, num_inference_steps=10, clip_sample="x0_and_epsilon")
    for name, images in in_plain_diffusers(processes, trained, tmp_path, **calls).items():
        assert images.std() > 0.1
        class_name, options = calls[name]
        plain = plain_of(pipeline, "DDIMPipeline" if class_name == "DDIMPipeline" else "DDPMPipeline")
        assert np.abs(images - ours[name]).max() < apart(plain, **options), name


def test_a_saved_ddim_is_plain_diffusers_ddim(trained, processes, tmp_path):
    loaded = HFGenPipeline.from_pretrained(trained)
    if loaded.unet.config.out_channels != 3:
        pytest.skip("plain DDIM does not take a network that gives a variance too")
    pipeline = DDIMPipeline(loaded.unet, loaded.scheduler)
    pipeline.save_pretrained(tmp_path / "saved")
    calls = {"auto": ("DiffusionPipeline", {"num_inference_steps": 10})}
    theirs = in_plain_diffusers(processes, tmp_path / "saved", tmp_path, **calls)
    difference = theirs["auto"] - drawn(pipeline, num_inference_steps=10)
    assert np.abs(difference).max() < apart(plain_of(pipeline, "DDIMPipeline"), num_inference_steps=10)


def plain_pipeline(class_name, scheduler_class, **config):
    torch.manual_seed(1)
    scheduler = scheduler_class(num_train_timesteps=20, **{"beta_end": 0.5, **config})
    return plain_of(diffusers.DDPMPipeline(diffusers.UNet2DModel(**UNET).eval(), scheduler), class_name)


def plain_of(pipeline, class_name):
    plain = getattr(diffusers, class_name)(pipeline.unet, pipeline.scheduler)
    plain.set_progress_bar_config(disable=True)
    return plain


def apart(plain, **options):
    return images_apart(plain, lambda pipeline: plainly_drawn(pipeline, **options))


def plainly_drawn(pipeline, **options):
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    return pipeline(batch_size=2, generator=generators, output_type="np", **options).images


@pytest.mark.parametrize(
    ("class_name", "scheduler_class", "config"),
    [
        ("DDPMPipeline", diffusers.DDPMScheduler, {"variance_type": "fixed_large"}),
        ("DDPMPipeline", diffusers.DDPMScheduler, {"prediction_type": "v_prediction", "clip_sample": False}),
        ("DDPMPipeline", diffusers.DDPMScheduler, {"thresholding": True, "sample_max_value": 1.5}),
        ("DDPMPipeline", diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
        ("DDIMPipeline", diffusers.DDIMScheduler, {}),
        ("DDIMPipeline", diffusers.DDIMScheduler, {"set_alpha_to_one": False, "steps_offset": 1}),
    ],
)
@pytest.mark.whole
def test_a_plain_repository_draws_the_same_images_here(tmp_path, class_name, scheduler_class, config):
    plain = plain_pipeline(class_name, scheduler_class, **config)
    plain.save_pretrained(tmp_path)
    loaded = HFGenPipeline.from_pretrained(tmp_path)
    assert type(loaded) is {"DDPMPipeline": DDPMPipeline, "DDIMPipeline": DDIMPipeline}[class_name]
    assert type(loaded.scheduler) is scheduler_class
    count = 10 if scheduler_class is not diffusers.DDPMScheduler else 20
    difference = plainly_drawn(plain, num_inference_steps=count) - drawn(loaded, num_inference_steps=count)
    assert np.abs(difference).max() < apart(plain, num_inference_steps=count)


@pytest.mark.whole
def test_a_repository_without_folders(tmp_path):
    """Diffusers' first repositories, such as google/ddpm-cifar10-32, have everything beside the index."""
    plain = plain_pipeline("DDPMPipeline", diffusers.DDPMScheduler)
    plain.save_pretrained(tmp_path)
    for name in ("unet", "scheduler"):
        for file in (tmp_path / name).iterdir():
            shutil.move(file, tmp_path / file.name)
        (tmp_path / name).rmdir()
    loaded = HFGenPipeline.from_pretrained(tmp_path)
    difference = plainly_drawn(plain, num_inference_steps=20) - drawn(loaded)
    assert np.abs(difference).max() < apart(plain, num_inference_steps=20)
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(LoadError, match="no weights"):
        HFGenPipeline.from_pretrained(tmp_path)


@pytest.mark.whole
def test_a_scheduler_that_scales_its_input(tmp_path):
    """Plain `DDPMPipeline` neither scales its noise nor the network's input: it draws noise, and nothing says so."""
    torch.manual_seed(1)
    scheduler = diffusers.EulerDiscreteScheduler(num_train_timesteps=20, beta_end=0.3)
    pipeline = DDPMPipeline(diffusers.UNet2DModel(**UNET).eval(), scheduler)
    scheduler = diffusers.EulerDiscreteScheduler.from_config(scheduler.config)
    scheduler.set_timesteps(8)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    x = torch.stack([torch.randn(3, 8, 8, generator=g) for g in generators]) * scheduler.init_noise_sigma
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(pipeline.unet(scheduler.scale_model_input(x, t), t).sample, t, x).prev_sample
    expected = (x.clamp(-1, 1) / 2 + 0.5).permute(0, 2, 3, 1).numpy()
    assert ((0 < expected) & (expected < 1)).mean() > 0.05  # not all is clipped
    close = images_apart(pipeline, lambda moved: drawn(moved, num_inference_steps=8))
    assert np.abs(drawn(pipeline, num_inference_steps=8) - expected).max() < close
    with pytest.warns(UserWarning, match="EulerDiscreteScheduler"):
        pipeline.save_pretrained(tmp_path)
    assert np.abs(drawn(HFGenPipeline.from_pretrained(tmp_path), num_inference_steps=8) - expected).max() < close


def test_a_class_conditional_plain_repository(tmp_path):
    """It has learned no class that stands for none: guidance is refused, labels are not."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(**UNET, num_class_embeds=4)
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(num_train_timesteps=4)).save_pretrained(tmp_path)
    loaded = HFGenPipeline.from_pretrained(tmp_path)
    assert loaded.num_classes == 4
    pictures = [drawn(loaded, class_labels=label) for label in (0, 3)]
    assert np.abs(pictures[0] - pictures[1]).max() > 0
    with pytest.raises(UsageError, match="guidance_scale"):
        drawn(loaded, guidance_scale=2.0)
    with pytest.raises(UsageError, match="class_labels must lie in"):
        drawn(loaded, class_labels=4)
