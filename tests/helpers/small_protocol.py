"""A small protocol on part of mnist-mini, by which a tiny model is evaluated in a second."""

from pathlib import Path

import pyarrow.parquet as parquet
import yaml

from hfgen import load_images
from hfgen.data.builtin import BUILT_IN_FOLDERS
from hfgen.evaluation.real_images import RealImages
from hfgen.results.protocol import Protocol


def small_protocol(folder: Path, rows: int, **settings: object) -> Path:
    """Write `data/` with this many images a split and `few.yaml`, the protocol, into a folder; return the file."""
    data = folder / "data"
    data.mkdir()
    for split in ("train", "test"):
        table = parquet.read_table(BUILT_IN_FOLDERS["mnist-mini"] / f"{split}.parquet")
        parquet.write_table(table.slice(0, rows), data / f"{split}.parquet")
    sha256 = RealImages.of(load_images(str(data), "test")).sha256
    protocol = Protocol(name="few", dataset=str(data), split="test", reference_sha256=sha256).to_dict()
    protocol |= {"extractor": "digitnet-mnist", "floor_draws": 2, **settings}
    (folder / "few.yaml").write_text(yaml.safe_dump(protocol))
    return folder / "few.yaml"
