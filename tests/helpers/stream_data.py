"""Small datasets that are streamed, and batches of them."""

import io
import itertools
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from hfgen.data.decoding import Decoding
from hfgen.data.layout import Layout
from hfgen.data.sources import DataSource
from hfgen.data.stream_batches import StreamBatches
from hfgen.data.streams import stream_images

COUNT = 50
EIGHT = Layout(8)


def png(number, side=16):
    """Of one color but for the first column, so that a pixel tells which image it is and whether it is flipped."""
    pixels = np.full((side, side), number, np.uint8)
    pixels[:, 0] += 100
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_parquet(folder, sizes=(COUNT,), names=("even", "odd"), replaced=()):
    """Files of so many images, of 7 to a row group; `replaced`: bytes instead of an image, by its number."""
    import datasets

    label = datasets.ClassLabel(names=list(names)) if names else datasets.Value("int64")
    schema = datasets.Features({"image": datasets.Image(), "label": label}).arrow_schema
    folder.mkdir(exist_ok=True)
    numbers = itertools.count()
    for shard, size in enumerate(sizes):
        rows = [
            {"image": {"bytes": dict(replaced).get(n, png(n)), "path": f"{n}.png"}, "label": n % 2}
            for n in itertools.islice(numbers, size)
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / f"train-{shard}.parquet", row_group_size=7)
    return str(folder)


def found(data, **options):
    return stream_images(DataSource(data, **options))


def stream(data, layout=EIGHT, seed=0, **options):
    return make(found(data), layout, seed, **options)


def make(images, layout=EIGHT, seed=0, shuffle_buffer_size=12, note=warnings.warn, **options):
    decoding = Decoding(16, **{"num_workers": 0, **options})
    return StreamBatches(images, decoding, layout, seed, shuffle_buffer_size=shuffle_buffer_size, note=note)


def drawn(batches, first=0, last=6):
    """Which images each step holds, micro-batch after micro-batch."""
    return [[numbers(micro) for micro in micros] for micros in batches.steps(first, last)]


def numbers(batch):
    return ((batch["pixel_values"][:, 0, 0, 1] + 1) * 127.5).round().int().tolist()


def flips(batch):
    return (batch["pixel_values"][:, 0, 0, -1] > batch["pixel_values"][:, 0, 0, 1]).tolist()
