"""DCGAN: the laws, its exact networks, its losses' known values, its pitfalls."""

from hfgen.testing import FamilyTests


class TestDCGAN(FamilyTests):
    family = "dcgan"
    overrides = {"generator.base_channels": 8, "generator.latent_dim": 12, "discriminator.base_channels": 8}
    num_classes = 3


class TestColourDCGAN(TestDCGAN):
    in_channels = 3
    num_classes = None
