"""Datasets are found by name, and their images' headers inspected."""

from typing import Any

from hfgen.data.arrays import images_from_arrays
from hfgen.data.columns import labels_of
from hfgen.data.folders import found_in, images_from_folder
from hfgen.data.frames import every_frame
from hfgen.data.headers import inspect_headers
from hfgen.data.image_column import with_images
from hfgen.data.images import Images
from hfgen.data.readable import readable
from hfgen.data.records import Home, Records
from hfgen.data.sources import DataSource, load_table


def load_images(
    name: str,
    split: str = "train",
    config_name: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    cache_dir: str | None = None,
    on_error: str = "fail",
    all_frames: bool = False,
    image_mode: str | None = None,
    value_range: tuple[float, float] | None = None,
) -> Images:
    """Find a dataset and inspect its images' headers.

    Args:
        name: `mnist-mini`, a folder of images (with or without class sub-folders), a folder or file of parquet, an
            `.npz` or `.npy` file, or an id on the Hub.
        config_name: the configuration of a dataset on the Hub.
        image_column, label_column: None takes the only one of its kind.
        cache_dir: where datasets of the Hub are cached.
        on_error: "skip" leaves out images that cannot be read: each is decoded once to find them.
        all_frames: take every picture of an animation or a stack of TIFF as an image.
        image_mode: L, RGB or RGBA; None chooses by the images.
        value_range: the values of images of more than 8 bits that stand for black and white; None looks at them.

    Raises:
        UsageError: there is no such dataset, split or column, or it holds no images; or an image lies outside of it.
        HFGenError: an image cannot be read.
    """
    return images_from(
        DataSource(
            name,
            split,
            config_name,
            image_column,
            label_column,
            cache_dir,
            on_error,
            all_frames,
            image_mode,
            value_range,
        )
    )


def images_from(source: DataSource) -> Images:
    """Find a dataset and inspect its images' headers; the errors are those of `load_images`."""
    images = _found(source)
    images = every_frame(images) if source.all_frames else images
    return readable(images) if source.on_error == "skip" else images


def _found(source: DataSource) -> Images:
    if source.is_array:
        return images_from_arrays(source)
    if (folder := found_in(source)) is not None:
        return images_from_folder(source, folder)
    table = load_table(source)
    dataset, column, column_notes = with_images(source, table.rows)
    records = _undecoded(dataset.select_columns([column]), column)
    found = Records(records, column, Home.of(source, dataset))
    seen = inspect_headers(source, len(found), found.open, found.name)
    classes, label_notes, problem = labels_of(source, dataset, found.name, column)
    return Images(
        name=source.name,
        open_image=found.open,
        name_image=found.name,
        count=len(found),
        mode=seen.mode,
        sizes=seen.sizes,
        value_range=seen.value_range,
        notes=[*table.notes, *column_notes, *seen.notes, *label_notes],
        labels=None if classes is None else classes.labels,
        label_names=None if classes is None else classes.names,
        label_problem=problem,
        splits=table.splits,
        dataset_id=source.dataset_id,
    )


def _undecoded(dataset: Any, column: str) -> Any:
    """Return a dataset that gives the images of a column as their bytes or paths."""
    import datasets

    is_image = isinstance(dataset.features[column], datasets.Image)
    return dataset.cast_column(column, datasets.Image(decode=False)) if is_image else dataset
