"""Protocols: the rules of a measurement as data, versioned, the same for every family, and part of each result.

Two values compare only where their protocols are equal, field by field.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfgen.errors import UsageError, did_you_mean
from hfgen.files import read_yaml
from hfgen.registry import IMAGE, get_modality, list_modalities

FOLDER = Path(__file__).parent / "protocols"
GENERAL = "general-v1"
QUANTIZATION = "clamp to [-1, 1], (x + 1) * 127.5, round"
PARTICULAR = (  # fields that only the modalities have which name them in `protocol_options`
    *("extractor", "extractor_sha256", "resolution", "center_crop", "quantization", "nearest_k", "manifold_images"),
    *("kid_subset_size", "bootstraps", "floor_draws"),
)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The rules of a measurement.

    Attributes:
        name: with its version: a changed rule is another name.
        dataset, split: the reference images, all of them, at their native size.
        reference_sha256: of their pixels (`hfgen.evaluation.real_images`), from whatever copy they are read.
        train_split: the images that the model may have memorized; the floor is taken from them, too.
        extractor, extractor_sha256: the network whose features are compared, and its weights.
        resolution: side to which reference images are resized, as in training; None leaves them as they are.
        center_crop: whether their center is cropped for that; otherwise the whole image is squeezed.
        num_images: sampled from the model; image i has seed `seed` + i.
        batch_size: images sampled together: to rounding it does not matter, to the last bit it does.
        quantization: how a sampled image in [-1, 1] becomes bytes, of every family alike.
        nearest_k, manifold_images: of precision, recall, density and coverage: neighbors, and images of either set.
        kid_subset_size: size of the blocks that give KID's standard error.
        bootstraps: resamples of the sampled images, with replacement, that give FID's standard error.
        floor_draws: random sets of training images in place of the model's that give FID's floor.
        likelihood_images: evenly spaced reference images whose likelihood is measured.
        modality: what is sampled; of others, "images" above are items such as texts.
        options: rules that only the modality has, by name, such as a `block_size`; in a file they stand beside the
            others.
    """

    name: str
    dataset: str | None = None
    split: str | None = None
    train_split: str = "train"
    reference_sha256: str | None = None
    extractor: str | None = None
    extractor_sha256: str | None = None
    resolution: int | None = None
    center_crop: bool = True
    num_images: int = 10_000
    seed: int = 0
    batch_size: int = 100
    quantization: str = QUANTIZATION
    nearest_k: int = 5
    manifold_images: int = 5_000
    kid_subset_size: int = 1_000
    bootstraps: int = 100
    floor_draws: int = 10
    likelihood_images: int = 1_000
    modality: str = IMAGE
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("num_images", "batch_size", "nearest_k", "bootstraps", "floor_draws", "likelihood_images"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"protocol {self.name}: {name} is {value!r}; it must be a number of at least 1.")

        if self.quantization != QUANTIZATION:
            raise UsageError(f"protocol {self.name}: the only quantization is {QUANTIZATION!r}.")

    @classmethod
    def of(cls, **settings: Any) -> "Protocol":
        """Return a protocol of all its rules by name, those that only the modality has among them.

        Raises:
            UsageError: a rule that such a protocol does not have.
        """
        names = [f.name for f in dataclasses.fields(cls) if f.name != "options"]
        name = settings.get("modality", IMAGE)
        own = names if name == IMAGE else get_modality(name).protocol_options
        known = [n for n in (*names, *own) if n not in PARTICULAR or n in own]
        for key in settings:
            if key not in known:
                raise UsageError(f"unknown key {key!r}.{did_you_mean(str(key), known)}")
        options = {key: value for key, value in settings.items() if key not in names}
        return cls(**{key: value for key, value in settings.items() if key in names}, options=options)

    def to_dict(self) -> dict[str, Any]:
        """Return all rules by name; of another modality than images, without those that it does not have."""
        rules = dataclasses.asdict(self)
        options = rules.pop("options")
        if self.modality == IMAGE:
            del rules["modality"]
            return rules
        own = get_modality(self.modality).protocol_options
        return {name: value for name, value in rules.items() if name not in PARTICULAR or name in own} | options


def modality_in(rules: Mapping[str, Any]) -> Any:
    """Return the modality that the rules of a protocol are about."""
    return get_modality(rules.get("modality", IMAGE))


def list_protocols() -> dict[str, Path]:
    """Name -> file, of the protocols that come with hfgen and with its modalities."""
    folders = [FOLDER, *(m.protocols for m in list_modalities() if m.protocols is not None)]
    return {file.stem: file for file in sorted(file for folder in folders for file in folder.glob("*.yaml"))}


def read_protocol(name: str) -> Protocol:
    """A protocol by its name, or from a file of the user's own.

    Raises:
        UsageError: there is none, or it holds an unknown key.
    """
    path = list_protocols().get(name, Path(name))
    if not path.is_file():
        raise UsageError(f"There is no protocol {name!r}.{did_you_mean(name, list_protocols())}")
    try:
        settings = read_yaml(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(settings, dict) or "name" not in settings:
        raise UsageError(f"{path} is not a protocol: a YAML dictionary with a name is expected.")
    try:
        return Protocol.of(**settings)
    except UsageError as error:
        raise UsageError(str(error) if str(error).startswith("protocol ") else f"{path}: {error}") from error


def general(modality: str = IMAGE) -> Protocol:
    """The protocol of items that none is about."""
    return dataclasses.replace(read_protocol(GENERAL), modality=modality)


def protocol_of(reference_sha256: str, modality: str = IMAGE) -> Protocol:
    """The protocol that is about these very reference items; the general one where none is."""
    named = (read_protocol(name) for name in list_protocols())
    return next((p for p in named if p.reference_sha256 == reference_sha256), general(modality))


def differing_fields(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The fields in which two protocols, as results hold them, are not the same; one that an older result does not
    hold has its default value.

    >>> differing_fields({"name": "a", "seed": 0}, {"name": "a", "seed": 1})
    ['seed']
    """
    defaults = {field.name: field.default for field in dataclasses.fields(Protocol) if field.name != "options"}
    one, other = {**defaults, **one}, {**defaults, **other}
    return [key for key in {**one, **other} if one.get(key) != other.get(key)]
