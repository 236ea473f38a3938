"""Makes this folder's checkpoints with the libraries that test_convert.py has not: run where they are installed.

    pip install --no-deps torchgan==0.1.0 pythae==0.1.2 cloudpickle pydantic pydantic-core imageio scikit-learn
    python tests/converted/make.py

torchgan imports torchvision, which none of what is used here needs: an empty module stands in for it. Weights are
few and rounded, so that the files stay small; what is expected of them is computed by the libraries themselves.
"""

import importlib.machinery
import shutil
import sys
import types
from pathlib import Path

HERE = Path(__file__).parent


class Anything(types.ModuleType):
    """A module in which every name is there, and does nothing."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None


for missing in ("torchvision", "torchvision.utils", "torchvision.transforms", "torchvision.models"):
    sys.modules[missing] = Anything(missing)
    sys.modules[missing].__spec__ = importlib.machinery.ModuleSpec(missing, None)

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402


def randomize(model, seed):
    """Coarse values for weights and for BatchNorm's statistics, so that a swapped one shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                coarse = torch.randint(-3, 4, tensor.shape, generator=generator) / 8
                tensor.copy_(coarse.abs() + 0.5 if name.endswith("running_var") else coarse)


def torchgan():
    from torchgan.models import DCGANDiscriminator, DCGANGenerator

    place = HERE / "torchgan"
    place.mkdir()
    sizes = {"encoding_dims": 3, "out_size": 16, "out_channels": 2, "step_channels": 2}
    z = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    expected = {"latents": z}
    for name, activation in (("leaky", None), ("relu", torch.nn.ReLU())):
        model = DCGANGenerator(**sizes, nonlinearity=activation).eval()
        randomize(model, 1)
        expected[name] = model(z).detach()
    torch.save(model.state_dict(), place / "generator.pt")
    critic = DCGANDiscriminator(in_size=16, in_channels=2, step_channels=2)
    randomize(critic, 2)
    torch.save({"generator": model.state_dict(), "discriminator": critic.state_dict(), "epoch": 3}, place / "both.pt")
    save_file(expected, place / "expected.safetensors")


def pythae():
    from pythae.models import VAE, BetaVAE, BetaVAEConfig, VAEConfig

    latents = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    black_and_white = torch.randint(0, 2, (4, 1, 2, 2), generator=torch.Generator().manual_seed(3)).float()
    gray = torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(4))
    shape = {"input_dim": (1, 2, 2), "latent_dim": 2}
    models = {
        "pythae-mse": (BetaVAE(BetaVAEConfig(**shape, reconstruction_loss="mse", beta=4.0)), gray),
        "pythae-bce": (VAE(VAEConfig(**shape, reconstruction_loss="bce")), black_and_white),
    }
    for name, (model, images) in models.items():
        randomize(model.eval(), 5)
        model.save(str(HERE / name))
        encoded = model.encoder(images)
        expected = {
            "latents": latents,
            "decoded": model.decoder(latents)["reconstruction"],
            "images": images,
            "mean": encoded.embedding,
            "logvar": encoded.log_covariance,
            "reconstructions": model.predict(images).recon_x,
        }
        expected = {key: value.detach().contiguous() for key, value in expected.items()}
        save_file(expected, HERE / name / "expected.safetensors")


if __name__ == "__main__":
    for old in ("torchgan", "pythae-mse", "pythae-bce"):
        shutil.rmtree(HERE / old, ignore_errors=True)
    torchgan()
    pythae()
