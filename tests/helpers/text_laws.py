"""The laws of families, for families of texts: their data, their batches, and samples that are ids."""

import json
from functools import partial
from typing import Any, ClassVar

import pytest
import torch

from hfgen import HFGenPipeline, SeededNoise, UsageError, component_config
from hfgen.registry import modality_of
from hfgen.settings.resolve import resolve
from hfgen.testing import FamilyTests
from hfgen.testing.laws import BATCH
from hfgen.training.trainer import Trainer
from hfgen_text.vocabularies import byte_tokenizer

LETTERS = b"abcdefgh \n"


class TextLaws(FamilyTests):
    """Texts of 16 bytes; a sample is equal or it is not."""

    sample_size = 16
    data_options: ClassVar[dict[str, Any]] = {"data": {"block_size": 16}}

    @pytest.fixture
    def data(self, tmp_path):
        """Write 40 documents of letters, with labels; return the file's name."""
        generator = torch.Generator().manual_seed(0)
        documents = [torch.randint(len(LETTERS), (40,), generator=generator).tolist() for _ in range(40)]
        rows = [{"text": bytes(LETTERS[i] for i in d).decode(), "label": n % 3} for n, d in enumerate(documents)]
        path = tmp_path / "documents.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    def build(self, num_classes=None):
        torch.manual_seed(0)
        brought = {"tokenizer": byte_tokenizer()}
        options = {"components": brought, **self.overrides}
        pipeline = self.pipeline_class().build(self.sample_size, len(brought["tokenizer"]), num_classes, **options)
        for parameter in (p for model in pipeline.models().values() for p in model.parameters()):
            parameter.data.add_(torch.randn_like(parameter) * 0.02)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def trainer(self, data, folder=None, **arguments):
        settings = {"train_batch_size": BATCH, "max_train_steps": 4, "checkpointing_steps": 2, **self.training}
        settings |= {"num_validation_images": 4, "class_conditional": self.num_classes is not None, **arguments}
        settings |= self.data_options
        config = resolve([("law", settings)], self.family, self.pipeline_class(), modality_of(self.pipeline_class()))
        found = modality_of(self.pipeline_class()).find(data, "train", config.arguments.options)
        return Trainer(self.build(self.num_classes), found, config.arguments, folder, self.objective)

    def _images(self, count):
        generator = torch.Generator().manual_seed(count)
        return torch.randint(256, (count, self.sample_size), generator=generator), torch.arange(count) % 3

    def _call(self, num_classes=None):
        return partial(self.build(num_classes), output_type="seq", **self.sampling)

    # --- laws whose samples are pictures elsewhere -----------------------------------------------------------------

    def test_config_round_trip(self):
        """A tokenizer is not built from options."""
        pipeline = self.build(self.num_classes)
        assert pipeline.scheduler.config.start_token_id in (256, 257)
        saved = json.loads(json.dumps(component_config(pipeline.scheduler)))
        assert component_config(type(pipeline.scheduler)(**saved)) == saved

    def test_unknown_options_are_refused(self):
        for option in ("transformer.no_such", "no_such.x"):
            with pytest.raises(Exception, match="no_such"):
                self.pipeline_class().build(16, 258, components={"tokenizer": byte_tokenizer()}, **{option: 1})

    def test_buffers_are_persistent(self, tmp_path):
        """Or come back equal, as those of rotary embeddings do."""
        pipeline = self.build(self.num_classes)
        pipeline.save_pretrained(tmp_path)
        loaded = HFGenPipeline.from_pretrained(tmp_path)
        for name, buffer in pipeline.transformer.named_buffers():
            assert torch.equal(loaded.transformer.get_buffer(name), buffer), name

    def test_call_contract(self):
        pipeline = self.build(self.num_classes)
        found = pipeline(batch_size=3, generator=torch.Generator().manual_seed(0), **self.sampling)
        assert [type(text) for text in found.texts] == [str] * 3
        assert found.sequences.shape == (3, 16)
        assert found.sequences.dtype == torch.int64
        alone = pipeline(seeds=[1, 2], output_type="seq", return_dict=False, **self.sampling)
        again = pipeline(seeds=[1, 2], output_type="seq", **self.sampling)
        assert again.texts is None
        assert torch.equal(again.sequences, pipeline(seeds=[1, 2], **self.sampling).sequences)
        assert len(alone) == 1

    def test_a_seed_is_a_picture(self):
        call, seeds = self._call(self.num_classes), [5, 1, 7, 3]
        together = call(seeds=seeds).sequences
        assert torch.equal(together, torch.cat([call(seeds=[seed]).sequences for seed in seeds]))
        assert not torch.equal(together[0], together[1])

    def test_image_i_of_a_generator_is_a_picture(self):
        call = self._call(self.num_classes)
        few = call(batch_size=2, generator=torch.Generator().manual_seed(3)).sequences
        more = call(batch_size=5, generator=torch.Generator().manual_seed(3)).sequences
        assert torch.equal(few, more[:2])

    def test_class_labels_matter(self):
        if self.num_classes is None:
            pytest.skip("not class-conditional")
        call = self._call(self.num_classes)
        drawn = int(SeededNoise.from_seeds([4]).integers(self.num_classes))
        given, other = [call(seeds=[4], class_labels=[label]).sequences for label in (drawn, (drawn + 1) % 3)]
        assert torch.equal(call(seeds=[4]).sequences, given)
        assert not torch.equal(given, other)

    def test_save_and_load_in_a_fresh_process(self, tmp_path):
        """In this process: whole, as a variant, from shards."""
        pipeline = self.build(self.num_classes)
        pipeline.save_pretrained(tmp_path / "whole")
        pipeline.save_pretrained(tmp_path / "variant", variant="other")
        pipeline.save_pretrained(tmp_path / "shards", max_shard_size=4096)
        expected = pipeline(seeds=[0, 1], **self.sampling).sequences
        for name, options in {"whole": {}, "variant": {"variant": "other"}, "shards": {}}.items():
            loaded = HFGenPipeline.from_pretrained(tmp_path / name, **options)
            assert type(loaded) is type(pipeline)
            assert torch.equal(loaded(seeds=[0, 1], **self.sampling).sequences, expected), name

    def test_a_run_leaves_what_it_promises(self, data, tmp_path):
        """The folder loads, and the seeds of its last samples give the same texts again."""
        self._need_processes()
        from hfgen.training import run

        settings = {"dataset_name": data, "train_batch_size": BATCH, "max_train_steps": 2, "num_validation_images": 4}
        settings |= {**self.training, **self.data_options, **self._components()}
        settings |= {"class_conditional": self.num_classes is not None}
        config = resolve([("law", settings)], self.family, self.pipeline_class(), modality_of(self.pipeline_class()))
        folder = tmp_path / "run"
        run.train(config, self.pipeline_class(), folder, say=lambda line: None)
        for name in ("model_index.json", "config.yaml", "metrics.jsonl", "env.json", "plots/loss.png", "README.md"):
            assert (folder / name).is_file(), f"{name} is missing in the run folder"
        kept = [json.loads(line) for line in (folder / "samples" / "step_000002.jsonl").read_text().splitlines()]
        loaded = HFGenPipeline.from_pretrained(folder)
        loaded.set_progress_bar_config(disable=True)
        again = loaded(seeds=[row["seed"] for row in kept], **loaded.validation_options).texts
        assert again == [row["text"] for row in kept]

    def test_bundled_code_draws_the_same(self, tmp_path):
        """Code is not written beside the weights of texts."""
        with pytest.raises(UsageError, match="code"):
            self.build().save_pretrained(tmp_path, bundle_code=True)

    def test_wrong_images_are_refused(self):
        pipeline = self.build()
        for wrong in (torch.zeros(2, 15, dtype=torch.int64), torch.full((2, 16), 256), torch.full((2, 16), -1)):
            with pytest.raises(UsageError, match=r"expected ids|holds the symbol"):
                pipeline.log_likelihood(wrong)

    def _options(self):
        return [*super()._options(), "--block_size", "16"]
