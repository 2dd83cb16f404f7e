"""Survey of the causal language models of transformers: support for streams, their behaviour, and prices.

Builds a tiny random model of every architecture of transformers, adds streams to it and checks their guarantees; writes
docs/architectures.md. Run with `make architectures`, or for some architectures by name:

    python -m benchmarks.architectures llama gpt2
"""

from __future__ import annotations

import inspect
import json
import multiprocessing
import re
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

from scalelab.cost.family_table import FAMILIES
from scalelab.errors import DataError
from scalelab.measure.shapes import read_shape
from scalelab.model import add_streams
from scalelab.model.checkpoint import load_model
from scalelab.model_config import STREAMS_SUFFIX, plain_type
from scalelab.train.evaluate import evaluate

OUTPUT = Path(__file__).parent.parent / "docs" / "architectures.md"
SECONDS = 60  # per architecture
LARGEST = 30e6  # parameters of the largest tiny model

# Settings for every config that has these fields. Initial weights are large, so that small numbers hide no errors.
GENERIC: dict[str, Any] = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 128}
GENERIC |= {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1}
GENERIC |= {"eos_token_id": None, "num_hidden_layers": 4, "head_dim": 8, "sliding_window": 6, "initializer_range": 0.3}
GENERIC |= {"num_layers": 4, "num_heads": 4, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}
GENERIC |= {"encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48, "ffn_dim": 48, "init_std": 0.3}
GENERIC |= {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
GENERIC |= {"n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
GENERIC |= {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12}
GENERIC |= {"d_model": 32, "is_decoder": True, "decoder_start_token_id": 1}

_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8}
_GEMMA = {"layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2}
_GEMMA |= {"vocab_size_per_layer_input": 97, "hidden_size_per_layer_input": 8}

# Extra settings by model type of the config or of a part of it
OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": {**_MAMBA, "attn_layer_indices": [1, 2]},
    "blt": {"encoder_hash_byte_group_vocab": 97},
    "blt_global_transformer": {"hidden_size": 64},
    "blt_local_decoder": {"hidden_size_global": 64},
    "blt_local_encoder": {"hidden_size_global": 64},
    "codegen": {"rotary_dim": 4},
    "cohere_compass_text": {
        "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}, "full_attention": None}
    },
    "dbrx": {"attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "dots3_note_text": {"swa_num_attention_heads": 4, "swa_num_key_value_heads": 4, "swa_q_lora_rank": 16}
    | {"swa_kv_lora_rank": 16, "swa_head_dim": 16, "swa_qk_nope_head_dim": 8, "swa_v_head_dim": 12},
    "falcon_h1": {**_MAMBA, "mamba_d_ssm": 64, "mamba_chunk_size": 8},
    "gemma3n_text": {**_GEMMA, "laurel_rank": 4, "activation_sparsity_pattern": [0.0] * 4},
    "gemma4_text": {**_GEMMA, "global_head_dim": 16},
    "gemma4_unified_text": {**_GEMMA, "global_head_dim": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": {**_MAMBA, "layer_types": ["attention"] * 4},
    "bailing_hybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "kimi_linear": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8},
    "moshi": {"sliding_window": 64},  # the library's own mask ignores the window, its cache does not
    "qwen4_exp_text": {"indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 8}
    | {"indexer_budget": 8, "indexer_compress_ratio": 4},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "lsh"] * 2},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"attn_layer_period": 2, "attn_layer_offset": 0, "attention_head_dim": 16},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zaya": {"num_experts_per_tok": 1},
}

_DRAFTS = "drafts from another model's keys and values, not from tokens"
_SOUND = "reads several codes of sound at each position, not tokens"
NOT_OF_TOKENS = {"gemma4_assistant": _DRAFTS, "gemma4_unified_assistant": _DRAFTS}
NOT_OF_TOKENS |= {"musicgen": _SOUND, "musicgen_melody": _SOUND}

# Limits that the tiny model does not show
REMARKS = {"granitemoehybrid": "with attention layers only; with Mamba layers it is refused"}

OUTCOMES = {"FAILS": "accepted but failing", "works": "work", "refused": "refused", "not built": "not built"}
INTRODUCTION = """# Architectures

Of the {total} causal language models that transformers {version} knows: {summary}.

Made by `make architectures`: for each a tiny random model, with 2 streams of 5 prefix tokens on it. *Works* means
that at P = 1 the logits are the plain model's bit for bit; with streams, decoding with a cache equals the full
forward pass, a later token never changes an earlier logit, left-padded rows equal unpadded ones at the same
positions, gradients reach every stream of every prefix, beam search is the same with and without a cache, a saved
model has the same logits when loaded, and validation runs; where the plain model does not hold to one of these
either, the notes say so. *Refused* means that `add_streams` raises an error with the reason and leaves type, config
and logits as they were. *Not built* means that no tiny model could be made, or that it failed without streams. Models
that can be encoders are made with `is_decoder`; of those that see or hear, the part for text is made where
transformers has a causal language model of it.

`scalelab cost --model` prices {table} by its table of families and {built} as it sees transformers build and run them
without memory (*built*), with all the parameters that the tiny model has; the others say why not.

| model type | class | streams | priced | notes |
|---|---|---|---|---|
"""

IDS = torch.randint(2, 97, (2, 11), generator=torch.Generator().manual_seed(0))


def make_streams_differ(model):
    """Draw prefixes and aggregator so that streams differ and their weights depend on the token."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in model.stream_parameters():
            scale = 1.0 if parameter.ndim == 4 else 1.5 / parameter.shape[-1] ** 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)


def build(model_type: str) -> Any:
    """A tiny random model in eval mode, the same at every call."""
    if model_type in NOT_OF_TOKENS:
        raise ValueError(NOT_OF_TOKENS[model_type])
    kind = getattr(transformers, CLASSES[model_type])
    config_class = CONFIG_MAPPING[model_type]
    if kind.config_class in config_class.sub_configs.values():  # the text part of a multimodal model
        config_class = kind.config_class
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in kind(configure(config_class)).parameters())
    if size > LARGEST:
        raise ValueError(f"still {size / 1e6:.0f}M parameters")
    torch.manual_seed(0)
    return kind(configure(config_class)).eval()


def configure(kind: type) -> Any:
    """A config with the generic settings in all its parts."""
    fields, names = kind.__dataclass_fields__, kind.attribute_map
    settings = {names[k] if names.get(k) in fields else k: v for k, v in GENERIC.items()}
    if "kv_lora_rank" in fields:  # keys and values are compressed, so each head has its own
        settings["num_key_value_heads"] = 4
    parts = {name: type(part) for name in kind.sub_configs if (part := getattr(kind(), name, None)) is not None}
    settings |= {name: configure(part) for name, part in parts.items()}
    return kind(**{k: v for k, v in settings.items() if k in fields} | OVERRIDES.get(kind.model_type, {}))


def logits(model: Any, ids: Tensor = IDS, **kwargs: Any) -> Tensor:
    with torch.no_grad():
        return model(ids, **{"use_cache": False} | kwargs).logits


def same(a: Tensor, b: Tensor, tolerance: float = 1e-3) -> str:
    """Empty where they are; NaN differs from all."""
    difference = (a - b).abs().max().item()
    return "" if difference <= tolerance else f"differ by {difference:.1e}"


def causal(model: Any) -> str:
    changed = IDS.clone()
    changed[:, 6] = changed[:, 6] % 95 + 2
    return same(logits(model, changed)[:, :6], logits(model)[:, :6])


def cached(model: Any) -> str:
    with torch.no_grad():
        outputs = [model(IDS[:, :6], use_cache=True)]
        if getattr(outputs[0], "past_key_values", None) is None:
            return "no cache"
        for t in range(6, IDS.shape[1]):
            cache = outputs[-1].past_key_values
            outputs.append(model(IDS[:, t : t + 1], past_key_values=cache, use_cache=True))
    return same(torch.cat([output.logits for output in outputs], dim=1), logits(model))


def padded(model: Any) -> str:
    takes_positions = "position_ids" in inspect.signature(type(model).forward).parameters

    def run(pad: int) -> Tensor:
        ids = torch.cat([torch.zeros(2, pad, dtype=torch.long), IDS], dim=1)
        positions = (torch.arange(ids.shape[1]) - pad).expand_as(ids)
        kwargs = {"position_ids": positions.clamp(min=0)} if takes_positions else {}
        return logits(model, ids, attention_mask=(positions >= 0).long(), **kwargs)[:, pad:]

    return same(run(3), run(0))


def beams(model: Any) -> str:
    options = {"attention_mask": torch.ones_like(IDS), "max_new_tokens": 4, "num_beams": 3, "do_sample": False}
    with_cache, without = (model.generate(IDS, **options, use_cache=use) for use in (True, False))
    return "" if torch.equal(with_cache, without) else "differ"


def gradients(model: Any) -> str:
    model(IDS, labels=IDS, use_cache=False).loss.backward()
    prefixes = [p for name, p in model.stream_parameters() if name.endswith(("prefix_k", "prefix_v"))]
    reached = [p.grad is not None and bool((p.grad.flatten(1).norm(dim=1) > 1e-9).all()) for p in prefixes]
    return "" if prefixes and all(reached) else f"reach {sum(reached)} of {len(reached)} prefixes"


def saved(model: Any) -> str:
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return same(logits(load_model(folder)), logits(model), 1e-4)


def evaluated(model: Any) -> str:
    windows = np.random.default_rng(0).integers(2, 97, (4, 12))
    result = evaluate(model, windows, np.arange(4), "cpu", bf16=False)
    return "" if np.isfinite(result.loss) and result.streams is not None else f"loss {result.loss}"


# For any model, and for models with streams
PLAIN_CHECKS = {"causality": causal, "cached decoding": cached, "left padding": padded, "beam search": beams}
CHECKS = PLAIN_CHECKS | {"gradients": gradients, "save and load": saved, "evaluation": evaluated}


def outcome_of(check: Any, model: Any) -> str:
    try:
        return check(model)
    except Exception as error:
        return reason(error)


def reason(error: Exception) -> str:
    """One short line of a table."""
    text = re.sub(r"^/\S+: ", "", " ".join(str(error).split()).replace("|", "/"))  # without a path
    text = text if isinstance(error, ValueError | DataError) else f"{type(error).__name__}: {text}"
    text = text.split(". ")[0]
    return text if len(text) <= 200 else text[:200].rsplit(" ", 1)[0] + " …"


def state(model: Any) -> tuple:
    return type(model), type(model.config), model.config.to_dict(), model.config._attn_implementation, model.training


def priced(model_type: str) -> str:
    """Return how `scalelab cost --model` reads the tiny model's config, or the reason why it cannot."""
    try:
        model = build(model_type)
        content = json.loads(model.config.to_json_string())
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(content), encoding="utf-8")
            served = read_shape(folder)
    except Exception as error:
        return "no: " + reason(error).split(" cannot be priced: ")[-1]
    expected = sum(parameter.numel() for parameter in model.parameters())
    if served.total_params != expected:
        return f"no: {served.total_params:,.0f} parameters, and the model has {expected:,}"
    return "table" if plain_type(content) in FAMILIES else "built"


def examine(model_type: str) -> tuple[str, str, str]:
    """Outcome, how it is priced, and notes."""
    outcome, notes = streamed(model_type)
    return outcome, priced(model_type), notes


def streamed(model_type: str) -> tuple[str, str]:
    """Outcome and notes of streams."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        model = build(model_type)
        base, before = logits(model), state(model)
    except Exception as error:
        return "not built", reason(error)
    try:
        add_streams(model, 2, prefix_tokens=5)
    except ValueError as error:
        kept = torch.equal(logits(model), base) and state(model) == before
        return ("refused", reason(error)) if kept else ("FAILS", f"refused, but changed ({reason(error)})")
    make_streams_differ(model)
    failed, notes = [], [REMARKS[model_type]] if model_type in REMARKS else []
    for name, check in CHECKS.items():
        trouble = outcome_of(check, model)
        if not trouble:
            continue
        if trouble == "no cache" or (name in PLAIN_CHECKS and outcome_of(check, build(model_type))):
            notes.append(trouble if trouble == "no cache" else f"{name}: not in the plain model either ({trouble})")
        else:
            failed.append(f"{name} ({trouble})")
    model.set_streams(1)
    if not torch.equal(logits(model), base):
        failed.append("P = 1 is not the base")
    return ("FAILS", "; ".join(failed + notes)) if failed else ("works", "; ".join(notes))


def survey(model_types: list[str]) -> dict[str, tuple[str, str, str]]:
    """Each in another process, so that one that crashes or hangs stops no other."""
    results, pool = {}, None
    for model_type in model_types:
        pool = pool or multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=40)
        try:
            results[model_type] = pool.apply_async(examine, (model_type,)).get(SECONDS)
        except multiprocessing.TimeoutError:  # after a crash too, which the pool does not report
            results[model_type] = "FAILS", "no", f"no answer in {SECONDS} s"
            pool.terminate()
            pool = None
        except Exception as error:
            results[model_type] = "FAILS", "no", reason(error)
        print(model_type, *results[model_type], sep="\t", flush=True)
    if pool:
        pool.terminate()
    return results


def write(results: dict[str, tuple[str, str, str]]) -> None:
    counts = {outcome: sum(mine == outcome for mine, _, _ in results.values()) for outcome in OUTCOMES}
    ways = {way: sum(mine == way for _, mine, _ in results.values()) for way in ("table", "built")}
    rows = sorted(results.items(), key=lambda row: (list(OUTCOMES).index(row[1][0]), row[0]))
    table = [
        f"| {name} | {CLASSES[name]} | {outcome} | {how} | {'FAILS: ' if outcome == 'FAILS' else ''}{notes} |"
        for name, (outcome, how, notes) in rows
    ]
    summary = ", ".join(f"{count} {OUTCOMES[outcome]}" for outcome, count in counts.items() if count)
    text = INTRODUCTION.format(total=len(results), summary=summary, version=transformers.__version__, **ways)
    OUTPUT.write_text(text + "\n".join(table) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if names := sys.argv[1:]:
        survey(names)
    else:
        write(survey([name for name in CLASSES if not name.endswith(STREAMS_SUFFIX)]))
