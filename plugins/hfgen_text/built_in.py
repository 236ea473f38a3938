"""Built-in datasets of texts."""

from pathlib import Path

BUILT_IN_DATASETS = {"shakespeare-mini": "ten plays, 1.1 million characters to train on, two plays held out"}
FOLDERS = {name: Path(__file__).parent / name.replace("-", "_") for name in BUILT_IN_DATASETS}
