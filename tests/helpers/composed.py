"""The families of `toy/toy_composed.py` as a distribution: `codec`, `one_step`, `distilled` and `latent`."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from plugin_site import install, on_path

SOURCE = (Path(__file__).parent / "toy" / "toy_composed.py").read_text(encoding="utf-8")
FAMILIES = {
    "codec": "CodecPipeline",
    "distilled": "DistilledPipeline",
    "one_step": "OneStepPipeline",
    "latent": "LatentToyPipeline",
}


@contextlib.contextmanager
def install_composed(site: Path) -> Iterator[Path]:
    """Install the families inside the context; yield the folder that they are in."""
    targets = {name: f"toy_composed:{class_name}" for name, class_name in FAMILIES.items()}
    install(site, "toy-composed", targets, {"toy_composed": SOURCE})
    with on_path(site):
        import toy_composed

        assert toy_composed
        yield site
