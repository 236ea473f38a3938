"""Datasets are found by name, and their images' headers inspected."""

import functools
from typing import Any

from PIL import Image

from hfgen.data.arrays import images_from_arrays
from hfgen.data.folders import found_in, images_from_folder
from hfgen.data.headers import inspect_headers
from hfgen.data.images import Images
from hfgen.data.labels import labels_of
from hfgen.data.pixels import open_record
from hfgen.data.sources import DataSource, image_column_of, load_dataset


def load_images(
    name: str,
    split: str = "train",
    config_name: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    cache_dir: str | None = None,
) -> Images:
    """Find a dataset and inspect its images' headers.

    Args:
        name: `mnist-mini`, a folder of images (with or without class sub-folders), a folder or file of parquet, an
            `.npz` or `.npy` file, or an id on the Hub.
        config_name: the configuration of a dataset on the Hub.
        image_column, label_column: None takes the only one of its kind.
        cache_dir: where datasets of the Hub are cached.

    Raises:
        UsageError: there is no such dataset, split or column, or it holds no images.
        HFGenError: an image cannot be read.
    """
    return images_from(DataSource(name, split, config_name, image_column, label_column, cache_dir))


def images_from(source: DataSource) -> Images:
    """Find a dataset and inspect its images' headers; the errors are those of `load_images`."""
    if source.is_array:
        return images_from_arrays(source)
    if (found := found_in(source)) is not None:
        return images_from_folder(source, found)
    dataset = load_dataset(source)
    column = image_column_of(source, dataset)
    labels, label_names = labels_of(source, dataset)
    records = dataset.select_columns([column]).cast_column(column, _undecoded())
    open_image = functools.partial(_open_row, records, column)
    mode, sizes, notes = inspect_headers(source.name, len(records), open_image)
    return Images(
        name=source.name,
        open_image=open_image,
        count=len(records),
        mode=mode,
        sizes=sizes,
        notes=notes,
        labels=labels,
        label_names=label_names,
        dataset_id=source.dataset_id,
    )


def _undecoded() -> Any:
    import datasets

    return datasets.Image(decode=False)


def _open_row(records: Any, column: str, index: int) -> Image.Image:
    """Open the image of a row of `datasets`; PIL reads only the header until the pixels are needed."""
    return open_record(records[index][column])
