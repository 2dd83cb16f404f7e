"""Shape of any decoder that transformers can construct, read by running it on the meta device.

Used for families that `scalelab.cost.families` does not have. Imports torch and transformers and takes a few seconds.
The model needs no memory for its weights, and no remote code is run.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.distributions import Distribution

from scalelab.cost.config_file import Streams
from scalelab.cost.shape import Block, Layer, ServedModel
from scalelab.errors import DataError, ScalelabError, first_line
from scalelab.measure.layer_trace import LayerTrace, Matrix, ModelTrace
from scalelab.measure.trace import trace
from scalelab.measure.transformers_models import construct_empty_model, fill_with_zeros, quiet

_NEEDED = re.compile(r"requires the (\S+) library but it was not found")  # wording of transformers
_EXPERTS_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_k", "top_k_experts", "moe_topk")


def served_from_meta_model(content: Mapping[str, Any], kind: str, streams: Streams, where: str) -> ServedModel:
    """Return the decoder of a config, as transformers constructs it on the meta device.

    Args:
        content: The config.
        kind: Its model type without the suffix for streams.
        streams: Streams of the config, which are not constructed.
        where: File, for messages.

    Raises:
        DataError: The model cannot be constructed or its shape cannot be read.
        ModuleNotFoundError: torch or transformers is not installed.
    """
    try:
        with quiet(), _unvalidated():
            model = construct_empty_model(content, kind)
            try:
                traced = trace(model, _head(model))
            except NotImplementedError:  # the weights a token uses depend on values
                model = construct_empty_model(content, kind)
                fill_with_zeros(model)
                traced = trace(model, _head(model))
            return _served(model, traced, kind, streams)
    except ScalelabError as error:
        raise DataError(f"{where}: model_type {kind!r} cannot be priced: {error}") from None
    except Exception as error:  # a family's code may raise anything for an unusual config
        raise DataError(f"{where}: model_type {kind!r} cannot be priced: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """Return why a model cannot be constructed and what to do, without torch's own message."""
    if isinstance(error, ImportError):
        packages = _NEEDED.findall(str(error)) or ([error.name] if error.name else [])
        if packages:
            names = " ".join(dict.fromkeys(packages))
            return f"transformers needs more packages to construct it: pip install {names}"
    # Messages of torch are about tensors inside the model and do not help to correct a config.
    if isinstance(error, RuntimeError | IndexError | AssertionError) or _is_of_torch(error):
        reason = f"transformers cannot construct or run it ({type(error).__name__})"
    else:
        reason = f"transformers reports: {first_line(error)}"
    return (
        f"{reason}; compare it with a working config of this type, or give the shape with `hidden`, `layers` and so on"
    )


def _is_of_torch(error: Exception) -> bool:
    """Return whether torch's own code raised the error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).split(".")[0] == "torch"


@contextmanager
def _unvalidated() -> Iterator[None]:
    """Allow distributions on the meta device, where there are no values to validate."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


def _head(model: Any) -> Tensor:
    head = model.get_output_embeddings()
    if head is None or model.get_input_embeddings() is None:
        raise ScalelabError("its input and output embeddings cannot be found")
    return head.weight


def _served(model: Any, traced: ModelTrace, kind: str, streams: Streams) -> ServedModel:
    head, looked_up = model.get_output_embeddings(), model.get_input_embeddings().weight
    config = model.config.get_text_config()
    vocab, width = head.weight.shape
    hidden = getattr(config, "hidden_size", width)
    if not vocab:
        raise ScalelabError("its output embedding has no rows")
    bias = getattr(head, "bias", None)
    layers = _layers(traced, hidden, config)
    tied = looked_up is head.weight
    tables = sum(n for held, n in traced.tables.items() if held not in (id(head.weight), id(looked_up)))
    served = ServedModel(
        hidden_size=hidden,
        vocab_size=vocab,
        layers=tuple(Counter(layers).items()),
        norm_params=sum(n for held, n in traced.outside.vectors.items() if bias is None or held != id(bias)),
        tied_embeddings=tied,
        head_bias=bias is not None,
        head_width=None if width == hidden else width,
        other_embeddings=tables + (0 if tied else looked_up.numel() - head.weight.numel()),
        P=streams.P,
        prefix_tokens=streams.prefix_tokens,
        aggregation=streams.aggregation,
        banks=streams.banks,
        name=kind,
    )
    return _with_all_params(served, sum(p.numel() for p in model.parameters()))


def _with_all_params(served: ServedModel, total: int) -> ServedModel:
    """Return the model with `other_params` set so that its total is right when layers share or ignore parameters."""
    counted = served.total_params - served.stream_params
    return replace(served, other_params=total - counted)


def _layers(traced: ModelTrace, hidden: int, config: Any) -> list[Layer]:
    if not traced.layers:
        raise ScalelabError("none of its layers ran")
    layers: list[Layer] = []
    for i, (layer, growth) in enumerate(zip(traced.layers, traced.scores_growth, strict=True)):
        matrices = layer.matrices + (traced.outside.matrices if i == 0 else [])
        routed, matrices = _experts(layer, matrices, hidden, config)
        kv_expansion = [m for m in matrices if m.times == traced.length]
        kept = sum(traced.kept[c] for c in layer.caches)
        # A layer that reads another layer's cache has no window in the cache itself.
        windows = {traced.windows[c] for c in layer.caches} if kept else {layer.window}
        seen = None if layer.kv_width is None else float(layer.kv_width)
        slow = layer.query_width is not None
        width = 0.0 if not growth else kept if seen is None or slow else seen
        if bool(growth) != bool(width) or (seen and not growth):
            raise ScalelabError(f"the keys and values of layer {i} cannot be found")
        blocks = _blocks([m for m in matrices if m not in kv_expansion], hidden)
        widest = max((block[-1][0] for block in blocks[1 if growth else 0 :]), default=0.0)
        layers.append(
            Layer(
                heads=growth / 4,  # 4 FLOPs for each number of a query, with one key and its value
                kv_heads=width / 2,
                head_dim=1.0,
                vectors=sum(layer.vectors.values()),
                window=windows.pop() if len(windows) == 1 else None,
                explicit_blocks=blocks,
                kv_expansion=tuple((m.inputs, m.outputs) for m in kv_expansion),
                cached_numbers=None if kept == width else kept,
                prefix_width=seen if slow else None,
                query_width=layer.query_width,
                state=sum(traced.states[c] for c in layer.caches),
                mixing_flops=layer.scores - growth * traced.length,
                **{"mlp_width": widest, **routed},
            )
        )
    return layers


def _experts(
    layer: LayerTrace, matrices: list[Matrix], hidden: int, config: Any
) -> tuple[dict[str, Any], list[Matrix]]:
    """Return the fields of a `Layer` about experts, and the remaining matrices without the router."""
    weights = [weight for weight, _ in layer.experts.values()]
    rows = [weight.shape[0] for weight in weights] or [0]
    count = min(rows)  # if matrices differ in it, the others are identity experts
    router = next((i for i, m in enumerate(matrices) if m[:2] == (hidden, count)), None)
    chosen = max((chosen for _, chosen in layer.experts.values()), default=0) or _experts_per_token(config)
    chosen = round(chosen * count / max(rows)) if weights else chosen
    if router is None and not 0 < chosen <= count:  # a block-diagonal matrix that looks like experts
        return {}, matrices + [Matrix(w.shape[1], w.shape[2], w.shape[0]) for w in weights]
    if not 0 < chosen <= count:
        raise ScalelabError(f"the number of experts per token, out of {count:,}, is not in its config")
    one = sum(weight.numel() / weight.shape[0] for weight in weights)
    narrow = min(min(weight.shape[1:]) for weight in weights)
    gated = 2 if one < 2.5 * hidden * narrow else 3
    routed = {
        "mlp_width": one / gated / hidden,
        "mlp_matrices": gated,
        "num_experts": count,
        "experts_per_token": chosen,
    }
    return routed, [matrix for i, matrix in enumerate(matrices) if i != router]


def _blocks(matrices: Iterable[Matrix], hidden: int) -> tuple[Block, ...]:
    """Group matrices into blocks that each end with an output of the model's width.

    Successive matrices with the same input count as one wider matrix.
    """
    blocks: list[list[tuple[float, float]]] = [[]]
    first = last = None  # inputs of the block's first and latest matrix
    for matrix in matrices:
        block, width = blocks[-1], matrix.outputs * matrix.times
        if block and matrix.source == last:
            block[-1] = (matrix.inputs, block[-1][1] + width)
        else:
            block.append((matrix.inputs, width))
        first, last = first or matrix.source, matrix.source
        if matrix.outputs == hidden and matrix.source != first:
            blocks.append([])
            first = last = None
    return tuple(tuple(block) for block in blocks if block)


def _experts_per_token(config: Any) -> int:
    """Return the experts per token from the config; 0 if it has no such key."""
    return next((n for name in _EXPERTS_PER_TOKEN if isinstance(n := getattr(config, name, None), int)), 0)
