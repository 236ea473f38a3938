"""Built-in datasets, in a file of their own so that listing them imports no torch."""

from pathlib import Path

BUILT_IN_DATASETS = {
    "mnist-mini": "10,000 training and 2,000 test images of MNIST, class-balanced, 28x28 gray, 10 classes"
}
BUILT_IN_FOLDERS = {name: Path(__file__).parent / name.replace("-", "_") for name in BUILT_IN_DATASETS}
