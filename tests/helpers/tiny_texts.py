"""Tiny pipelines of texts, with real networks of transformers."""

import torch

from hfgen.settings.model_configs import construct
from hfgen_text.vocabularies import character_tokenizer

LETTERS = "abcde \n"
LENGTH = 12
WIDTH = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2}


def tiny(family, class_name=None, num_classes=None, length=LENGTH, letters=LETTERS, seed=0):
    """Build a pipeline whose weights are far from their initial values, in eval mode."""
    torch.manual_seed(seed)
    tokenizer = character_tokenizer(letters)
    own = GPT2 if (class_name or "").startswith("GPT2") else WIDTH
    options = {"transformer": {**own, **({"class_name": class_name} if class_name else {})}}
    configs = family.default_configs(length, len(tokenizer), num_classes, options)
    classes = family.component_classes(options)
    network = construct(classes["transformer"], {**configs["transformer"], **own})
    pipeline = family(network, tokenizer, construct(classes["scheduler"], configs["scheduler"]))
    for parameter in network.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    network.eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def texts(pipeline, count=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    symbols = pipeline.vocab_size - len(pipeline.scheduler.config.never_drawn)
    return torch.randint(symbols, (count, pipeline.sequence_length), generator=generator)
