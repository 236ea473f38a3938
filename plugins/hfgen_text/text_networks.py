"""Sizes of transformers' networks for texts of a length and a vocabulary, and what they must have room for."""

from collections.abc import Mapping
from typing import Any

from hfgen import UsageError, component_config

HIDDEN, LAYERS = 128, 4
HEAD = 32  # of small networks; 64 from a width of 512 on
Config = dict[str, Any]


def network_config(class_name: str, vocab_size: int, length: int, given: Mapping[str, Any]) -> Config:
    """Config of a small network of one of transformers' classes, for two cores; sizes follow from a given width.

    Args:
        vocab_size: symbols that its inputs may hold.
        length: of its inputs.
        given: options of the user.
    """
    if class_name.startswith("GPT2"):
        hidden = given.get("n_embd", HIDDEN)
        sizes = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": _heads(hidden)}
        none = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        return {"vocab_size": vocab_size, "n_positions": length, **sizes, **none, **_no_ids("bos", "eos")}
    hidden = given.get("hidden_size", HIDDEN)
    sizes = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": _heads(hidden)}
    config: Config = {"vocab_size": vocab_size, "max_position_embeddings": length, **sizes}
    if class_name.startswith("Bert"):
        none = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
        return {**config, "intermediate_size": 4 * hidden, **none, **_no_ids("pad")}
    config |= {"intermediate_size": max(16, 8 * hidden // 3 // 16 * 16)}  # of three matrices: as many as 4 of two
    if class_name.startswith("ModernBert"):
        return {**config, "local_attention": 2 * length, **_no_ids("pad", "eos", "bos", "cls", "sep")}
    ids = _no_ids("pad", "bos", "eos")
    return {**config, **ids, **({"mask_token_id": 0} if class_name.startswith("EuroBert") else {})}  # set later


def _heads(hidden: int) -> int:
    width = HEAD if hidden < 512 else 64
    return max(1, hidden // width)


def _no_ids(*names: str) -> Config:
    """Set no special symbols: which ids these are is the tokenizer's."""
    return {f"{name}_token_id": None for name in names}


def check_room(network: Any, vocab_size: int, length: int) -> None:
    """Raise a UsageError if a network has too few symbols or places."""
    config = component_config(network)
    symbols, places = config["vocab_size"], config.get("max_position_embeddings", config.get("n_positions"))
    if symbols < vocab_size:
        raise UsageError(
            f"The network knows {symbols} symbols, and {vocab_size} are needed: those of the tokenizer and classes.\n"
            "Give the tokenizer that it was trained with, or leave out --class_conditional."
        )
    if places is not None and places < length:
        raise UsageError(f"The network has {places} places, and texts need {length}: give a smaller --block_size.")


def attend_both_ways(network: Any, both: bool) -> None:
    """Make a decoder attend to all places, or only to earlier ones; its config keeps that."""
    if hasattr(network.config, "is_causal") or both:
        network.config.is_causal = not both
    for module in network.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = not both
