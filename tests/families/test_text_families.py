"""The laws of every family, for masked diffusion and the autoregressive baseline."""

from text_laws import TextLaws

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


class TestMaskedLM(TextLaws):
    family = "masked_lm"
    overrides = {f"transformer.{name}": value for name, value in SMALL.items()}
    num_classes = 3
    in_shards = True


class TestMaskedLMWithBert(TextLaws):
    family = "masked_lm"
    overrides = {**TestMaskedLM.overrides, "transformer.class_name": "BertForMaskedLM"}
    sampling = {"num_inference_steps": 4}
    in_processes = False


class TestCausalLM(TextLaws):
    family = "causal_lm"
    overrides = TestMaskedLM.overrides
    in_shards = True


class TestCausalLMWithGPT2(TextLaws):
    family = "causal_lm"
    overrides = {"transformer.class_name": "GPT2LMHeadModel", "transformer.n_embd": 16, "transformer.n_layer": 1}
    num_classes = 3
    in_processes = False
