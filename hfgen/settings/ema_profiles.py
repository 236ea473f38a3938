"""Profiles of EMA: by its decay, its half-life in images, or its relative width (`--ema_profiles`)."""

import math
from typing import Literal, NamedTuple, get_args

from hfgen.errors import UsageError, did_you_mean

Kind = Literal["decay", "half_life", "sigma_rel"]
WIDEST = 1 / math.sqrt(12)  # relative width of the plain mean of all steps, gamma = 0


class EMAProfile(NamedTuple):
    """The past that an average keeps, by one of three measures.

    Attributes:
        kind: `decay`, the factor of each step; `half_life`, the images after which a weight counts half; `sigma_rel`,
            the width of the average relative to the length of the training so far (Karras et al. 2024, section 3.1).
        value: of that kind.
    """

    kind: Kind
    value: float

    @property
    def name(self) -> str:
        """Return the name of the profile's folder and files: `half_life-500000`."""
        return f"{self.kind}-{self.value:g}"

    def decay(self, global_batch_size: int) -> float:
        """Return the factor of each step, for images in batches of this size."""
        if self.kind == "decay":
            return self.value
        return 0.5 ** (global_batch_size / self.value) if self.value > 0 else 0.0

    @property
    def gamma(self) -> float | None:
        """Return the exponent of the power function of this relative width; None for other kinds.

        sigma_rel = (gamma + 1)^(1/2) (gamma + 2)^-1 (gamma + 3)^(-1/2), Karras et al. (2024), equation 5, solved by
        bisection: it falls from `WIDEST` at gamma = 0.
        """
        if self.kind != "sigma_rel":
            return None
        low, high = 0.0, 1 / self.value**2  # where the width is below 1 / gamma
        for _ in range(200):
            middle = (low + high) / 2
            wide = math.sqrt((middle + 1) / (middle + 3)) / (middle + 2) > self.value
            low, high = (middle, high) if wide else (low, middle)
        return (low + high) / 2


def parse_profiles(text: str) -> list[EMAProfile]:
    """Parse `--ema_profiles`.

    >>> [profile.name for profile in parse_profiles("half_life=500000, sigma_rel=0.1")]
    ['half_life-500000', 'sigma_rel-0.1']

    Raises:
        UsageError: a profile cannot be read, is out of its range, or is given twice.
    """
    found = [_parse(part.strip()) for part in text.split(",")]
    names = [profile.name for profile in found]
    if len({*names}) < len(names):
        raise UsageError(f"--ema_profiles {text!r} names one profile twice.")
    return found


def _parse(part: str) -> EMAProfile:
    kind, _, number = part.partition("=")
    kinds = get_args(Kind)
    if kind not in kinds:
        raise UsageError(f"--ema_profiles: {part!r} is not a profile.{did_you_mean(kind, kinds)}")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    low, high = {"decay": (0.0, 1.0), "half_life": (0.0, math.inf), "sigma_rel": (0.0, WIDEST)}[kind]
    if not low < value < high:
        upper = "" if high == math.inf else f" and below {high:.4g}"
        raise UsageError(f"--ema_profiles: {part!r}; expected {kind}=NUMBER, a number above {low:g}{upper}.")
    return EMAProfile(kind, value)  # type: ignore[arg-type]
