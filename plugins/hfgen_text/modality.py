"""`TextModality`: texts, which networks take as ids of symbols."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hfgen import Modality
from hfgen_text.built_in import BUILT_IN_DATASETS
from hfgen_text.metrics import METRICS, OF_SAMPLES
from hfgen_text.options import TextOptions


class TextModality(Modality):
    """Texts: stored as int32, (L,); sampled as int64, (L,)."""

    noun = ("text", "texts")
    batch_key = "input_ids"
    output_types = ("text", "seq")
    pipeline_tag = "text-generation"
    tags = ("text-generation",)
    sample_file = "texts.txt"
    item_suffix = ".txt"
    data_options = TextOptions
    built_in = BUILT_IN_DATASETS
    metrics = METRICS
    stored_noun = "blocks"
    protocols = Path(__file__).parent / "protocols"
    protocol_options = ("block_size",)
    train_metrics = OF_SAMPLES

    # --- data ---------------------------------------------------------------------------------------------------

    def find(self, name: str, split: str, options: Mapping[str, Any], streaming: bool = False) -> Any:
        from hfgen_text.documents import Where
        from hfgen_text.texts import find_texts

        given = TextOptions.of(options)
        named = (given.text_column, options.get("label_column"), options.get("dataset_config_name"))
        return find_texts(Where(name, split, *named, options.get("cache_dir"), streaming), given)

    def components(self, facts: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        from hfgen_text.texts import tokenizer_for

        return {"tokenizer": tokenizer_for(facts, TextOptions.of(options))}

    def shape(self, facts: Any, options: Mapping[str, Any], components: Mapping[str, Any]) -> tuple[int, int]:
        return TextOptions.of(options).block_size, len(components["tokenizer"])

    def batches(
        self,
        facts: Any,
        layout: Any,
        options: Mapping[str, Any],
        pipeline: Any,
        device: Any,
        note: Callable[[str], Any],
        progress: Callable[[Any], Any] = iter,
    ) -> Any:
        from hfgen import Batches
        from hfgen_text.texts import TextSource, encoding_of

        encoding, by_class = encoding_of(pipeline.tokenizer), bool(options["class_conditional"])
        source = TextSource(facts, encoding, pipeline.sequence_length, options["seed"], by_class, device)
        return Batches(source, layout, options["seed"], device, by_class)

    def sample_shape(self, pipeline: Any) -> tuple[int, int]:
        return pipeline.sequence_length, pipeline.vocab_size

    def shape_words(self, shape: tuple[int, int]) -> str:
        return f"{shape[0]} symbols of {shape[1]:,} kinds"

    def advice(self, found: tuple[int, int], wanted: tuple[int, int]) -> list[str]:
        options = [f"--block_size {found[0]}"] if found[0] != wanted[0] else []
        return options + (["--tokenizer FOLDER, that of the model"] if found[1] != wanted[1] else [])

    # --- measuring ----------------------------------------------------------------------------------------------

    def possible_metrics(self, pipeline: Any, protocol: Any) -> Sequence[str]:
        return [*(name for name in METRICS if name != "bits_per_byte"), "network_evaluations"]

    def likelihood_metrics(self, pipeline: Any) -> Sequence[str]:
        return ["bits_per_byte", "nats"]

    def reference(self, items: Any, pipeline: Any, protocol: Any, progress: Callable[[Any], Any] = iter) -> Any:
        from hfgen_text.measuring import blocks_of, check_length

        check_length(protocol, pipeline)
        return blocks_of(items, pipeline)

    def prepare(
        self,
        real: Any,
        train: Callable[[], Any],
        pipeline: Any,
        protocol: Any,
        wanted: Sequence[str],
        *,
        extractor: Any = None,
        weights: str | None = None,
        bars: Callable[[str], Callable[[Any], Any]],
    ) -> Any:
        from hfgen_text.measuring import prepare

        return prepare(real, train, pipeline, protocol, wanted)

    def measure(self, pipeline: Any, real: Any, protocol: Any, wanted: Sequence[str], **how: Any) -> Mapping[str, Any]:
        from hfgen_text.measuring import measure

        return measure(pipeline, real, protocol, wanted, **how)

    def draw_stored(self, pipeline: Any, seeds: Sequence[int], options: Mapping[str, Any]) -> Any:
        from hfgen_text.measuring import draw_stored

        return draw_stored(pipeline, seeds, options)

    def to_batch(self, stored: Any, pipeline: Any) -> Any:
        return stored.long().to(pipeline.device)

    # --- samples ------------------------------------------------------------------------------------------------

    def output(self, samples: Any, pipeline: Any, output_type: str) -> Any:
        from hfgen_text.output import TextPipelineOutput
        from hfgen_text.texts import encoding_of

        sequences = samples.cpu()
        texts = encoding_of(pipeline.tokenizer).decode(sequences.tolist()) if output_type == "text" else None
        return TextPipelineOutput(texts, sequences)

    # --- files of `hfgen sample` --------------------------------------------------------------------------------

    def kind_of(self, output: str) -> str | None:
        """Return `texts` for .txt, `lines` for .jsonl.

        >>> TextModality().kind_of("x.TXT"), TextModality().kind_of("x.jsonl"), TextModality().kind_of("x.png")
        ('texts', 'lines', None)
        """
        return {".txt": "texts", ".jsonl": "lines"}.get(Path(output).suffix.lower())

    def save_item(self, item: str, path: Path) -> None:
        from hfgen_text.text_samples import save_text

        save_text(item, path)

    def write_items(
        self,
        batches: Iterator[tuple[Sequence[int], Sequence[str]]],
        kind: str,
        output: Path,
        seeds: Sequence[int],
        labels: Sequence[int] | None,
    ) -> int:
        """Write all texts, each below a line with its seed; or as a line of JSON with its seed."""
        from hfgen_text.text_samples import write_texts

        found = [pair for part, texts in batches for pair in zip(part, texts, strict=True)]
        write_texts([text for _, text in found], [seed for seed, _ in found], output, kind)
        return len(found)

    # --- previews and cards -------------------------------------------------------------------------------------

    def write_preview(self, items: Sequence[str], seeds: Sequence[int], stem: Path) -> None:
        """Write `STEM.txt`, all texts below their seeds, and `STEM.jsonl`, one a line with its seed."""
        from hfgen_text.text_samples import write_texts

        write_texts(items, seeds, Path(f"{stem}.txt"), "texts")
        write_texts(items, seeds, Path(f"{stem}.jsonl"), "lines")

    def previews(self, stem: Path) -> dict[str, Any]:
        path = Path(f"{stem}.txt")
        return {"text": path.read_bytes().decode("utf-8", "replace")} if path.is_file() else {}

    def card_block(self, count: int, data: Mapping[str, Any], folder: Path, stem: str) -> str:
        from hfgen_text.text_samples import card_block, read_texts

        return card_block(read_texts(folder / f"{stem}.jsonl"))

    def card_words(self, count: int, weights: str, options: str) -> str:
        one = min(3, count - 1)
        return (
            f"These are texts of the first seeds{weights}, as they come: a text begins and ends anywhere. "
            f"`seeds=[{one}]{options}` samples\nthat of seed {one} alone."
        )

    def card_shape(self, data: Mapping[str, Any]) -> str:
        return f"{data['block_size']} symbols, tokenizer: {data['tokenizer']}"

    def different(self, items: Sequence[str], seeds: Sequence[int], count: int, stem: Path) -> list[str]:
        """Compare texts with those that were kept; one in eight may differ, where another machine rounds otherwise."""
        from hfgen_text.text_samples import different, read_texts, rounding_explains

        path = Path(f"{stem}.jsonl")
        if not path.is_file():
            return [f"{path.name} is missing"]
        kept = dict(read_texts(path))
        wrong = different([(seed, kept.get(seed, "")) for seed in seeds], [*zip(seeds, items, strict=True)])
        return (
            [] if rounding_explains(len(wrong), len(items)) else [f"seed {seed} gives another text" for seed in wrong]
        )
