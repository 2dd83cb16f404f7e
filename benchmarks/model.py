"""Speed of streams against the original implementation, as ratios within one run; writes 'Model' in docs/benchmarks.md.

The baseline in `original.py` has the same weights as our model and must give the same logits. Run with
`make benchmark-model`; `--quick` is a quick check that writes nothing.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from masks import N_PREFIX, masks
from original import Baseline
from timing import DEVICE, QUICK, bandwidth, in_turn
from torch import Tensor, nn
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

from scalelab.model import add_streams

OUTPUT = Path(__file__).parent.parent / "docs" / "benchmarks.md"
HEADING = "## Model\n"  # end of the part that benchmarks/fit.py writes
STREAMS = (1, 8) if QUICK else (1, 2, 4, 8)
LENGTHS = (128, 1024) if QUICK else (128, 512, 1024, 2048)
COMPILED = ((64, 8),) if QUICK else ((64, 1), (64, 8), (512, 4), (512, 8))  # length, P
DECODED = 8  # tokens per round

SMALL = {"hidden_size": 512, "intermediate_size": 1408, "num_attention_heads": 8, "num_key_value_heads": 2}
SMALL |= {"vocab_size": 8192, "max_position_embeddings": 4096, "tie_word_embeddings": False}
# Decoding reads 107 MB of weights with 8 layers, three times the last-level cache. All layers are equal,
# so three give the ratios of training and prefill in less time.
DEEP, SHALLOW = 8, 3
# As small as the models of sweeps
TINY = {"hidden_size": 52, "intermediate_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1}
TINY |= {"vocab_size": 512, "max_position_embeddings": 64}


def make(settings: dict[str, Any], P: int, layers: int) -> tuple[Any, Baseline]:
    """A model of ours with P streams that differ, and the baseline on its weights."""
    torch.manual_seed(0)
    settings = settings | {"num_hidden_layers": layers}
    n_prefix = 4 if settings["hidden_size"] < 100 else N_PREFIX
    model = add_streams(Qwen2ForCausalLM(Qwen2Config(**settings)), P, prefix_tokens=n_prefix if P > 1 else None)
    with torch.no_grad():
        for name, parameter in model.stream_parameters():
            parameter.normal_(std=1.0 if "prefix" in name else 0.05)
    model = model.to(DEVICE).eval()
    baseline = Baseline(model, settings)
    ids = tokens(settings, 2, 33)
    with torch.no_grad():
        difference = (model(ids, use_cache=False).logits - baseline(ids)).abs().max().item()
    assert difference < 1e-4, f"P = {P}: logits differ by {difference}"
    return model, baseline


def tokens(settings: dict[str, Any], rows: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(settings["vocab_size"], (rows, length), generator=generator).to(DEVICE)


def step(loss: Callable[[Tensor], Tensor], model: nn.Module, ids: Tensor) -> Callable[[], None]:
    """A training step without the optimiser, which is the same for all."""

    def work() -> None:
        loss(ids).backward()
        for parameter in model.parameters():
            parameter.grad = None

    return work


def losses(model: Any, baseline: Baseline) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Return losses of the baseline and of our model, as functions of ids."""
    return (lambda ids: baseline(ids, labels=ids)), (lambda ids: model(ids, labels=ids, use_cache=False).loss)


def shared_ms(model: Any, ids: Tensor) -> float:
    """Embedding, head and loss, forward and backward: what all streams share."""

    decoder = model.get_decoder()

    def work() -> None:
        with decoder.replay(model.get_input_embeddings()(ids)):
            model(ids, labels=ids).loss.backward()

    with decoder.kept_outputs():
        with torch.no_grad():
            model(ids, use_cache=False)
        return in_turn(work, budget_s=2)[0]


def training() -> list[str]:
    lines = [
        "| hidden, length × batch | P | baseline, ms | ours, ms | ratio | ours over P = 1 | floor of that |",
        "|---|---|---|---|---|---|---|",
    ]
    for settings, layers, length, batch in [(TINY, 2, 64, 8), *((SMALL, SHALLOW, length, 1) for length in LENGTHS)]:
        ids, plain, shared = tokens(settings, batch, length), 0.0, 0.0
        for P in STREAMS:
            model, baseline = make(settings, P, layers)
            theirs, ours = losses(model, baseline)
            a, b = in_turn(step(theirs, baseline, ids), step(ours, model, ids), budget_s=6)
            if P == 1:
                plain, shared = b, shared_ms(model, ids)
            floor = ((plain - shared) * P + shared) / plain
            title = f"{settings['hidden_size']}, {length} × {batch}"
            lines.append(f"| {title} | {P} | {a:.1f} | {b:.1f} | {a / b:.2f} | {b / plain:.2f} | {floor:.2f} |")
            print(lines[-1], flush=True)
    return lines


def compiled() -> list[str]:
    lines = [
        "| hidden, length × batch | P | baseline, ms | ours | baseline compiled | ours compiled "
        "| baseline / ours compiled | both compiled |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for length, P in COMPILED:
        settings, batch = (TINY, 8) if length == 64 else (SMALL, 1)
        ids = tokens(settings, batch, length)
        torch.compiler.reset()
        model, baseline = make(settings, P, 2)
        theirs, ours = losses(model, baseline)
        works = [step(theirs, baseline, ids), step(ours, model, ids)]
        works += [step(torch.compile(theirs), baseline, ids), step(torch.compile(ours, fullgraph=True), model, ids)]
        for work in works:  # compile
            work()
        a, b, c, d = in_turn(*works, budget_s=10)
        title = f"{settings['hidden_size']}, {length} × {batch}"
        lines.append(f"| {title} | {P} | {a:.1f} | {b:.1f} | {c:.1f} | {d:.1f} | {a / d:.2f} | {c / d:.2f} |")
        print(lines[-1], flush=True)
    return lines


@torch.no_grad()
def prefill() -> list[str]:
    lines = [
        "| length | P | baseline, ms | ours, ms | ratio | ratio to a baseline that gives one logit | ours over P = 1 |",
        "|---|---|---|---|---|---|---|",
    ]
    for length in LENGTHS:
        ids, plain = tokens(SMALL, 1, length), 0.0
        for P in STREAMS:
            model, baseline = make(SMALL, P, SHALLOW)
            a, b, c = in_turn(
                lambda m=baseline, ids=ids: m(ids, m.make_cache(m.P)),
                lambda m=baseline, ids=ids: m(ids, m.make_cache(m.P), keep=1),
                lambda m=model, ids=ids: m(ids, use_cache=True, logits_to_keep=1),
                budget_s=4,
            )
            plain = c if P == 1 else plain
            lines.append(f"| {length} | {P} | {a:.1f} | {c:.1f} | {a / c:.2f} | {b / c:.2f} | {c / plain:.2f} |")
            print(lines[-1], flush=True)
    return lines


@torch.no_grad()
def decode() -> list[str]:
    speed = bandwidth()
    lines = [
        "| context | P | baseline, ms/token | ours | ratio | ratio to a baseline that repeats heads "
        f"| ours over P = 1 | weights and cache read once at {speed / 1e9:.0f} GB/s, ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for length in LENGTHS:
        ids, plain = tokens(SMALL, 1, length), 0.0
        for P in STREAMS:
            model, baseline = make(SMALL, P, DEEP)
            theirs, cache = baseline.make_cache(P), DynamicCache()

            def ours(ids: Tensor, cache: DynamicCache, model: Any = model) -> None:
                model(ids, past_key_values=cache, use_cache=True)

            for run, held in ((baseline, theirs), (ours, cache)):
                run(ids, held)
                run(ids[:, :1], held)  # the first token after the prompt enlarges the cache
            config = baseline.plain.config
            works = [decoding(baseline, ids[:, :1], theirs, config, repeats) for repeats in (False, True)]
            works.append(decoding(ours, ids[:, :1], cache, config, False))
            a, b, c = (ms / DECODED for ms in in_turn(*works, budget_s=4))
            plain = c if P == 1 else plain
            read = sum(p.nbytes for name, p in model.named_parameters() if "embed" not in name)
            read += sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
            lines.append(
                f"| {length} | {P} | {a:.1f} | {c:.1f} | {a / c:.2f} | {b / c:.2f} | {c / plain:.2f} "
                f"| {read / speed * 1e3:.1f} |"
            )
            print(lines[-1], flush=True)
    return lines


def decoding(run: Callable, one: Tensor, cache: DynamicCache, config: Any, repeats: bool) -> Callable[[], None]:
    """`DECODED` tokens from the same context each time."""
    start = [(layer.keys, layer.values) for layer in cache.layers]

    def work() -> None:
        config.repeats_heads = repeats
        for layer, (keys, values) in zip(cache.layers, start, strict=True):
            layer.keys, layer.values = keys, values
        for _ in range(DECODED):
            run(one, cache)

    return work


TEXT = """
Made by `make benchmark-model` in one run on {machine}, one thread, PyTorch {torch}, transformers {transformers}. A
Qwen2 with hidden {hidden}, feed-forward {ffn}, 8 heads, 2 key heads of 64, {vocab} tokens and {n} prefix tokens, in
float32. The baseline is a plain Qwen2 in the original's manner (`benchmarks/original.py`) on the same
weights, with the same logits to 1e-4, and with today's library underneath. Least times of rounds in turn; a ratio
above 1 says that ours is faster.

### A training step

Forward, loss and backward, {shallow} layers; the first rows are as small as the sweeps, with 2 layers and 4 prefix
tokens. The floor is what P costs if embedding, head and loss are shared and each stream costs what P = 1 does.

{training}

### A compiled training step

`torch.compile`, 2 layers; ours as one graph.

{compiled}

### Prefill

{shallow} layers, batch 1. The baseline gives the logits of all tokens, ours those of the last, as `generate` asks.

{prefill}

### Decoding

{deep} layers, batch 1. When the original was written, the library repeated the key heads for all query heads at each
token; today it need not.

{decode}

### How causality is told

One attention layer with prefixes, no padding. "Mask" tells the kernel all that each query sees, "zero queries" adds
a row for each prefix token so that plain causality holds. `_ZERO_QUERY_LENGTH` in `scalelab/model/attention.py` is
read from these.

{masks}
"""


def main() -> None:
    torch.set_num_threads(1)
    began = time.perf_counter()
    tables = {work.__name__: "\n".join(work()) for work in (training, compiled, prefill, decode, masks)}
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes")
    if QUICK:
        return
    text = TEXT.format(
        machine=f"{os.cpu_count()} shared CPU cores" if DEVICE.type == "cpu" else torch.cuda.get_device_name(),
        torch=torch.__version__.partition("+")[0],
        transformers=transformers.__version__,
        hidden=SMALL["hidden_size"],
        ffn=SMALL["intermediate_size"],
        vocab=SMALL["vocab_size"],
        n=N_PREFIX,
        shallow=SHALLOW,
        deep=DEEP,
        **tables,
    )
    OUTPUT.write_text(OUTPUT.read_text().partition(HEADING)[0].rstrip() + "\n\n" + HEADING + text)


if __name__ == "__main__":
    main()
