"""`ImageModality`: pictures, which networks take as floats in [-1, 1]."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hfgen.data.builtin import BUILT_IN_DATASETS
from hfgen.data.sources import DataSource
from hfgen.errors import counted
from hfgen.modality import Batches, Modality, Options
from hfgen.results.protocol import PARTICULAR as PROTOCOL_OPTIONS
from hfgen.settings.arguments import TrainingArguments
from hfgen.settings.data_arguments import PARTICULAR
from hfgen_image.metrics import METRICS

ANIMATIONS, ARRAY = (".webp", ".gif", ".apng"), ".npz"
LEVELS = 8  # a pixel that is sampled again may be off by this much: other machines round otherwise
FRACTION = 0.01  # of the pixels may be off by more


class ImageModality(Modality):
    """Images: stored as uint8, (C, H, W); sampled as floats in [-1, 1], (C, H, W)."""

    noun = ("image", "images")
    batch_key = "pixel_values"
    output_types = ("pil", "np", "pt")
    item_suffix = ".png"
    pipeline_tag = "unconditional-image-generation"
    tags = ("image-generation",)
    sample_file = "grid.png"
    arguments = PARTICULAR
    built_in = BUILT_IN_DATASETS
    bundled = {
        "to_output": "hfgen.modalities.image:to_output",
        "check_output_type": "hfgen.modalities.image:check_output_type",
    }
    metrics = METRICS
    stored_noun = "pixels"
    protocol_options = PROTOCOL_OPTIONS
    train_metrics = ("authenticity",)

    # --- data ---------------------------------------------------------------------------------------------------

    def find(self, name: str, split: str, options: Options, streaming: bool = False) -> Any:
        from hfgen.data.load import images_from
        from hfgen.data.streams import stream_images

        source = source_of(name, split, options)
        return stream_images(source) if streaming else images_from(source)

    def shape(self, facts: Any, options: Options, components: Mapping[str, Any]) -> tuple[int, int]:
        return options.get("resolution") or facts.resolution(), facts.channels

    def batches(
        self,
        facts: Any,
        layout: Any,
        options: Options,
        pipeline: Any,
        device: Any,
        note: Callable[[str], Any],
        progress: Callable[[Any], Any] = iter,
    ) -> Batches:
        from hfgen.data.training_batches import make_batches

        return make_batches(facts, layout, TrainingArguments(**options), device, note, progress)

    def sample_shape(self, pipeline: Any) -> tuple[int, int]:
        """Return side and channels of what a pipeline samples, by sampling one image."""
        found = pipeline(seeds=[0], num_inference_steps=1, output_type="pt").images.shape
        return found[2], found[1]

    def shape_words(self, shape: tuple[int, int]) -> str:
        side, channels = shape
        return f"{counted(channels, 'channel')} and {side} pixels a side"

    def advice(self, found: tuple[int, int], wanted: tuple[int, int]) -> list[str]:
        from hfgen.data.pixels import CHANNELS

        options = []
        if found[1] != wanted[1]:
            mode = next((mode for mode, channels in CHANNELS.items() if channels == found[1]), None)
            options += [f"--image_mode {mode}"] if mode else []
        return options + ([f"--resolution {found[0]}"] if found[0] != wanted[0] else [])

    # --- samples ------------------------------------------------------------------------------------------------

    def output(self, samples: Any, pipeline: Any, output_type: str) -> Any:
        from hfgen.modalities.image import to_output

        return to_output(samples, output_type)

    # --- files of `hfgen sample` --------------------------------------------------------------------------------

    def kind_of(self, output: str) -> str | None:
        """Return `walk`, `array` or `grid`, in capitals or not.

        >>> [ImageModality().kind_of(name) for name in ("walk.GIF", "out.npz", "grid.jpg", "x.txt")]
        ['walk', 'array', 'grid', None]
        """
        from PIL import Image

        suffix = Path(output).suffix.lower()
        if suffix in (*ANIMATIONS, ARRAY):
            return "array" if suffix == ARRAY else "walk"
        return "grid" if Image.registered_extensions().get(suffix) in Image.SAVE else None

    def save_item(self, item: Any, path: Path) -> None:
        from hfgen.modalities.image import save_image

        save_image(item, path)

    def write_items(
        self,
        batches: Iterator[tuple[Sequence[int], Sequence[Any]]],
        kind: str,
        output: Path,
        seeds: Sequence[int],
        labels: Sequence[int] | None,
    ) -> int:
        """Write a grid; or an array, `images`, uint8, (N, H, W) or (N, H, W, C), with `seeds` and `labels`."""
        from hfgen_image.files import write_array, write_grid

        return write_array(batches, output, seeds, labels) if kind == "array" else write_grid(batches, output)

    def write_walk(self, frames: Sequence[Any], output: Path) -> None:
        from hfgen_image.files import write_walk

        write_walk(frames, output)

    # --- previews and cards -------------------------------------------------------------------------------------

    def write_preview(self, items: Sequence[Any], seeds: Sequence[int], stem: Path) -> None:
        """Write a grid, `STEM.png`: row by row, as square as may be."""
        from hfgen.modalities.image import image_grid, save_image

        save_image(image_grid(items), Path(f"{stem}.png"))

    def previews(self, stem: Path) -> dict[str, Any]:
        from hfgen.modalities.image import read_image

        path = Path(f"{stem}.png")
        return {"image": read_image(path)} if path.is_file() else {}

    def write_reconstructions(self, originals: Any, reconstructed: Any, pipeline: Any, stem: Path) -> None:
        """Write rows of images, each above the row of their reconstructions, as `STEM.png`."""
        from hfgen.modalities.image import pairs_grid, save_image

        save_image(pairs_grid(originals, reconstructed), Path(f"{stem}.png"))

    def card_block(self, count: int, data: Mapping[str, Any], folder: Path, stem: str) -> str:
        """Return the grid in Markdown; in HTML, enlarged to at most 512 pixels a side, where it would be a stamp.

        >>> ImageModality().card_block(16, {"resolution": 28}, Path(), "x")
        '<img src="x.png" alt="16 samples, seeds 0 to 15, row by row" width="448">'
        >>> ImageModality().card_block(64, {"resolution": 64}, Path(), "x")
        '![64 samples, seeds 0 to 63, row by row](x.png)'
        """
        words = f"{counted(count, 'sample')}, seeds 0 to {count - 1}, row by row"
        width = math.ceil(math.sqrt(count)) * data["resolution"]
        times = 512 // width
        path = f"{stem}.png"
        return f'<img src="{path}" alt="{words}" width="{times * width}">' if times > 1 else f"![{words}]({path})"

    def card_words(self, count: int, weights: str, options: str) -> str:
        tile = min(37, count - 1)
        return (
            f"The picture shows seeds 0 to {count - 1}, row by row{weights}. `seeds=[{tile}]{options}`\n"
            f"samples one of them, tile {tile}, alone."
        )

    def card_shape(self, data: Mapping[str, Any]) -> str:
        return "{channels} x {resolution} x {resolution}".format(**data)

    def different(self, items: Sequence[Any], seeds: Sequence[int], count: int, stem: Path) -> list[str]:
        """Compare images with the tiles of a grid; a hundredth of the pixels may be off by more than 8 of 255."""
        import numpy as np

        from hfgen.modalities.image import read_image

        path = Path(f"{stem}.png")
        if not path.is_file():
            return [f"{path.name} is missing"]
        whole, wrong = np.asarray(read_image(path)).astype(int), []
        columns = whole.shape[1] // items[0].width
        for seed, image in zip(seeds, items, strict=True):
            row, column = divmod(seed, columns)
            tile = whole[row * image.height :, column * image.width :][: image.height, : image.width]
            if tile.shape != np.asarray(image).shape:
                return [f"{path.name} is not a grid of {count} images of {image.width}x{image.height} pixels"]
            off = np.abs(tile - np.asarray(image).astype(int)) > LEVELS
            if off.mean() > FRACTION:
                wrong.append(f"seed {seed} gives another image: {off.mean():.0%} of its pixels differ")
        return wrong

    # --- measuring ----------------------------------------------------------------------------------------------

    def possible_metrics(self, pipeline: Any, protocol: Any) -> Sequence[str]:
        from hfgen_image.measuring import possible_metrics

        return possible_metrics(pipeline, protocol)

    def reference(self, items: Any, pipeline: Any, protocol: Any, progress: Callable[[Any], Any] = iter) -> Any:
        from hfgen.evaluation.real import Real
        from hfgen.evaluation.real_images import RealImages

        found = RealImages.of(items, protocol.resolution, protocol.center_crop, progress)
        return Real(items, found.pixels, found.sha256)

    def check_wanted(self, protocol: Any, wanted: Sequence[str], items: Any = None) -> None:
        from hfgen.evaluation.extractors import extractor_class, refuse_shape
        from hfgen_image.measuring import refuse_few

        if items is not None and protocol.extractor is not None:
            side = protocol.resolution or items.resolution()
            refuse_shape(extractor_class(protocol.extractor), items.channels, (side, side))
        refuse_few(protocol, wanted)

    def prepare(
        self, real: Any, train: Callable[[], Any], pipeline: Any, protocol: Any, wanted: Sequence[str], **given: Any
    ) -> Any:
        from hfgen_image.measuring import prepare

        return prepare(real, train, protocol, wanted, device=pipeline.device, **given)

    def measure(
        self, pipeline: Any, real: Any, protocol: Any, wanted: Sequence[str], **given: Any
    ) -> Mapping[str, Any]:
        from hfgen_image.measuring import measure

        return measure(pipeline, real, protocol, wanted, **given)

    def draw_stored(self, pipeline: Any, seeds: Sequence[int], options: Options) -> Any:
        from hfgen_image.drawn_bytes import draw_bytes

        return draw_bytes(pipeline, seeds, options)

    def to_batch(self, stored: Any, pipeline: Any) -> Any:
        return stored.float() / 127.5 - 1

    def warnings(self, real: Any, protocol: Any, values: Mapping[str, Any]) -> list[str]:
        from hfgen_image.measuring import warnings

        return warnings(real, protocol, values)

    def declaration(self, real: Any) -> Mapping[str, Any] | None:
        """Return the extractor's own facts, and how images of other channels came to those that it takes."""
        from hfgen.evaluation.extractors import rule_of

        if real.extractor is None:
            return None
        rule = rule_of(real.stored.shape[1], real.extractor.in_channels)
        return {**real.extractor.declaration(), **({"channels": rule} if rule else {})}


def source_of(name: str, split: str, options: Options) -> DataSource:
    """Return the place of a dataset's images, by the options of a training; None means an option's default."""
    names = ("image_column", "label_column", "cache_dir", "on_error", "all_frames", "image_mode")
    given: dict[str, Any] = {n: options[n] for n in names if options.get(n) is not None}
    limits = TrainingArguments(value_range=options.get("value_range")).value_limits
    return DataSource(name, split, options.get("dataset_config_name"), **given, value_range=limits)
