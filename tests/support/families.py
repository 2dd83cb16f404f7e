"""Tiny random models of each architecture that streams are tested on."""

import torch
import transformers

COMMON = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
_WINDOW = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
_EXPERTS = {"num_experts_per_tok": 2, "router_aux_loss_coef": 0.1}

# name: (config class, changes to the common settings)
FAMILIES = {
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 16}),
    "llama": ("LlamaConfig", {}),
    "mistral": ("MistralConfig", {"sliding_window": 6}),
    "gemma": ("GemmaConfig", {"head_dim": 16, "num_key_value_heads": 1}),
    "gemma2": ("Gemma2Config", {"head_dim": 8, "query_pre_attn_scalar": 8, **_WINDOW}),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 8, "query_pre_attn_scalar": 8, **_WINDOW}),
    "gpt2": ("GPT2Config", {"n_inner": 48, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
    "gpt_neox": ("GPTNeoXConfig", {}),
    "olmo2": ("Olmo2Config", {}),
    "phi3": ("Phi3Config", {}),
    "smollm3": ("SmolLM3Config", {}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {"head_dim": 8, "num_experts": 4, "moe_intermediate_size": 16, **_EXPERTS},
    ),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, **_EXPERTS}),
}


def make(name, seed=0, attn_implementation=None, **changes):
    """Return a model in eval mode, with weights large enough that small numbers hide no errors."""
    kind, own = FAMILIES[name]
    config = getattr(transformers, kind)(**(COMMON | own | changes))
    torch.manual_seed(seed)
    options = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    model = transformers.AutoModelForCausalLM.from_config(config, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape) * 2.0 / parameter.shape[-1] ** 0.5)
    return model.eval()


def warm(model, seed=1):
    """Draw prefixes and aggregators so that streams differ and weights depend on the token."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in model.stream_parameters():
            scale = 1.0 if parameter.ndim == 4 else 1.5 / parameter.shape[-1] ** 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model


def tokens(rows=2, length=11, seed=0):
    return torch.randint(2, 97, (rows, length), generator=torch.Generator().manual_seed(seed))


def step_by_step(model, ids):
    """Return logits of seven tokens at once and then, from the cache, of one token at a time."""
    out = model(ids[:, :7], use_cache=True)
    parts = [out.logits]
    for t in range(7, ids.shape[1]):
        out = model(ids[:, t : t + 1], past_key_values=out.past_key_values, use_cache=True)
        parts.append(out.logits)
    return torch.cat(parts, 1)
