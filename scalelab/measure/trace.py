"""Tracing of a model on the meta device: what each layer reads, computes and caches.

A model on torch's meta device has shapes but no values, so a decoder of any size runs in seconds. If its control flow
depends on values, every weight is a single zero instead, and products with weights are not computed. One sequence is
traced, a prompt and then single tokens: what grows from one token to the next depends on the sequence length.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from scalelab.errors import ScalelabError
from scalelab.measure.cache import cache_layers, count_cached_numbers, report_updates, window_of
from scalelab.measure.layer_trace import LayerTrace, Matrix, ModelTrace, UnevenError
from scalelab.model.attention import AttentionCalls, record_attention_calls

_STEPS = 3  # single tokens that are traced
_PROMPTS = {1: 2, 128: 255}  # distance of traced tokens: prompt length
_aten = torch.ops.aten
# Positions of the two factors of a product among the arguments
_PRODUCTS = {_aten.mm: (0, 1), _aten.bmm: (0, 1), _aten.mv: (0, 1), _aten.addmm: (1, 2), _aten.baddbmm: (1, 2)}
_LOOKUPS = (_aten.embedding, _aten.index, _aten.index_select, _aten.gather)


def trace(model: Any, head: Tensor) -> ModelTrace:
    """Run a model with a cache and record the work of its layers.

    Args:
        model: A model on the meta device, or with every weight a single zero.
        head: Weight of the output embedding, which is not recorded.

    Raises:
        ScalelabError: The model has no cache, or its work does not grow evenly with the sequence length.
    """
    try:
        return _trace(model, head, 1)
    except UnevenError:  # several tokens share one key, or a window is short
        return _trace(model, head, 128)


def _trace(model: Any, head: Tensor, apart: int) -> ModelTrace:
    """Trace with a distance of `apart` tokens between traced tokens."""
    recorder, prompt = _Recorder(model, head), _PROMPTS[apart]
    ids = torch.zeros((1, prompt), dtype=torch.long, device=head.device)
    with (
        torch.no_grad(),
        head.device,
        sdpa_kernel(SDPBackend.MATH),
        record_attention_calls(keep=True) as calls,
        recorder,
    ):
        with _lists_that_run(model) as ran:
            output = model(input_ids=ids, use_cache=True)
        name = "past_key_values" if getattr(output, "past_key_values", None) is not None else "cache_params"
        cache = getattr(output, name, None)
        layers = cache_layers(cache)
        if not layers:
            raise ScalelabError("it has no cache of keys, values or states (is it a decoder?)")
        rates = {rate for layer in layers if (rate := getattr(layer, "compress_rate", 1)) > 1}
        if rates and apart == 1:
            raise UnevenError("several tokens share one key")
        if any(apart % rate for rate in rates):
            raise ScalelabError(f"it stores one key for {max(rates):,} tokens, which is not supported")
        report_updates(layers, lambda i: recorder.current.caches.add(i))
        held, scores, before = [], [], []
        with _hooked(_layers(ran), recorder, calls):
            for step in range(_STEPS):
                if step and apart > 1:
                    model(input_ids=ids[:, : apart - 1], use_cache=True, **{name: cache})
                before = count_cached_numbers(cache)
                recorder.begin()
                model(input_ids=ids[:, :1], use_cache=True, **{name: cache})
                held.append(count_cached_numbers(cache))
                scores.append([layer.scores for layer in recorder.layers])
    first, length = prompt + 1, prompt + 1 + (_STEPS - 1) * apart
    windows = [window_of(layer) for layer in layers]
    if any(window is not None and first <= window and (window <= length or apart > 1) for window in windows):
        raise UnevenError(
            f"its windows of {first:,} keys or more cannot be distinguished from its other cached numbers"
        )
    kept = _growth(held, apart, "the size of its cache")
    traced = ModelTrace(
        length,
        recorder.outside,
        recorder.layers,
        _growth(scores, apart, "the work of its attention"),
        kept,
        # Tokens that wait to be merged into one key: all before this token, none after it; take the mean.
        [(now + was + grown) / 2 for now, was, grown in zip(held[-1], before, kept, strict=True)],
        windows + [None] * (len(held[0]) - len(layers)),
        recorder.tables,
    )
    if len(held[0]) == len(recorder.layers):  # a cache layer that is changed in place belongs to the layer of its index
        for i in set(range(len(held[0]))).difference(*(layer.caches for layer in recorder.layers)):
            recorder.layers[i].caches.add(i)
    traced.separate_growth(first)
    return traced


def _growth(seen: Sequence[Sequence[float]], apart: int, what: str) -> list[float]:
    """Return the growth per token, which must be the same between all traced tokens."""
    steps = [[(b - a) / apart for a, b in zip(*pair, strict=True)] for pair in itertools.pairwise(seen)]
    if any(step != steps[0] for step in steps) or min(steps[0], default=0.0) < 0:
        raise UnevenError(f"{what} does not grow evenly with the sequence length")
    return steps[0]


class _Recorder(TorchDispatchMode):
    """Recorder of operations that read a parameter, by layer."""

    def __init__(self, model: nn.Module, head: Tensor) -> None:
        super().__init__()
        self.weights = {_storage(p): p for p in model.parameters()}
        self.head = _storage(head)
        self.alive: list[Tensor] = []  # kept alive so that their storage is not reused
        self.sources: list[Tensor] = []  # of this step, kept alive likewise
        self.gathered: set[int] = set()  # storages of experts' matrices, one for each token
        self.tables: dict[int, int] = {}
        self.begin()

    def begin(self) -> None:
        self.outside = self.current = LayerTrace()
        self.layers: list[LayerTrace] = []
        self.sources.clear()

    def enter(self, *_: Any) -> None:
        self.current = LayerTrace()
        self.layers.append(self.current)

    def leave(self) -> None:
        self.current = self.outside

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # A value is needed, for example of a mask: take the most general case.
        if func is _aten._local_scalar_dense.default and args[0].is_meta:
            return False if args[0].dtype == torch.bool else 0
        packet, inputs = func.overloadpacket, [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        read = [x for x in inputs if _storage(x) in self.weights]
        heavy = packet in _PRODUCTS or (packet in _LOOKUPS and inputs[0].dim() == 3)
        stored = {_storage(x) for x in inputs if not x.is_meta} if heavy else set()
        if stored & self.gathered or stored & self.weights.keys():
            out = _zeros_for(func, args)
        else:
            out = func(*args, **(kwargs or {}))
        if packet in _PRODUCTS and not out.numel():  # for example an expert without tokens
            return out
        if packet in _PRODUCTS:
            self._product(*(args[i] for i in _PRODUCTS[packet]))
            read = [x for x in read if all(x is not args[i] for i in _PRODUCTS[packet])]
        elif packet in _LOOKUPS and read and read[0] is inputs[0]:
            self._look_up(inputs[0], out)
            read = read[1:]
        if read and isinstance(out, Tensor):
            if _storage(out) in self.weights:  # a view
                return out
            if (
                len(inputs) == 1 and read[0].dim() > 1 and out.numel() == read[0].numel()
            ):  # for example a change of dtype
                self.weights[_storage(out)] = self.weights[_storage(read[0])]
                self.alive.append(out)
                return out
        for x in read:
            self._note_vector(x)
        return out

    def _note_vector(self, weight: Tensor) -> None:
        held = self.weights[_storage(weight)]
        if _storage(held) != self.head:
            self.current.vectors[id(held)] = held.numel()

    def _product(self, left: Tensor, right: Tensor) -> None:
        if {_storage(left), _storage(right)} & self.gathered:  # already counted when they were gathered
            return
        copies = left.shape[0] if left.dim() == 3 else 1
        outputs = right.shape[-1] if right.dim() > 1 else 1
        for weight, other, inputs, outs, rows in (
            (right, left, left.shape[-1], outputs, left.shape[-2]),
            (left, right, left.shape[-1], left.shape[-2], outputs),
        ):
            held = self.weights.get(_storage(weight))
            if held is None:
                continue
            if _storage(held) == self.head:
                return
            if held.dim() == 3 and not held.is_meta and left.dim() == 2 and weight.numel() < held.numel():
                chosen = self.current.experts.get(id(held), (held, 0))[1] + 1  # experts run one by one
                self.current.experts[id(held)] = (held, chosen)
            elif held.dim() == 3 and copies == held.shape[0] and copies > 1:
                self.current.experts[id(held)] = (
                    held,
                    0,
                )  # all experts are computed; the config has the number that count
            else:
                self.current.matrices.append(Matrix(inputs, outs, rows * copies, _storage(other)))
                self.sources.append(other)
            return
        self.current.scores += 2.0 * copies * left.shape[-2] * left.shape[-1] * outputs

    def _look_up(self, weight: Tensor, out: Tensor) -> None:
        held = self.weights[_storage(weight)]
        if held.dim() == 3:  # experts' matrices, gathered for each token
            self.current.experts[id(held)] = (held, out.shape[0])
            self.gathered.add(_storage(out))
            self.alive.append(out)
        elif held.dim() == 2 and any(held.shape[0] == w.shape[0] for w, _ in self.current.experts.values()):
            self.current.vectors[id(held)] = held.numel()  # experts' biases
        elif held.dim() == 2:
            self.tables[id(held)] = held.numel()
        else:
            self._note_vector(weight)


def _zeros_for(func: Any, args: Any) -> Tensor:
    """Return zeros of the right shape instead of computing an operation; gathered matrices share one zero."""
    out = func(*tree_map_only(Tensor, lambda x: x.to("meta"), args))
    zero = torch.zeros((), dtype=out.dtype).expand(out.shape)
    return zero.clone() if func.overloadpacket in _PRODUCTS else zero


def _storage(tensor: Tensor) -> int:
    """Return an identifier of a tensor's storage, which has no address on the meta device."""
    return tensor.untyped_storage()._cdata


@contextmanager
def _lists_that_run(model: nn.Module) -> Iterator[list[nn.ModuleList]]:
    """Collect the outermost module lists of which a module ran."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)]
    inner = {id(m) for outer in lists for child in outer for m in child.modules()}
    ran: list[nn.ModuleList] = []

    def note(group: nn.ModuleList) -> Any:
        return lambda *_: None if group in ran else ran.append(group)

    hooks = [m.register_forward_pre_hook(note(group)) for group in lists if id(group) not in inner for m in group]
    try:
        yield ran
    finally:
        for hook in hooks:
            hook.remove()


def _layers(lists: list[nn.ModuleList]) -> list[nn.Module]:
    """Return the modules of the largest list, and modules of the same classes in the other lists."""
    if not lists:
        raise ScalelabError("it has no list of layers")
    largest = max(lists, key=lambda m: sum(p.numel() for p in m.parameters()))
    kinds = {type(child) for child in largest}
    return list(dict.fromkeys(child for m in lists for child in m if type(child) in kinds))


@contextmanager
def _hooked(layers: list[nn.Module], recorder: _Recorder, calls: AttentionCalls) -> Iterator[None]:
    """Record the start and end of each layer, and the keys and values that it attended to."""

    def leave(*_: Any) -> None:
        widths = [x.shape[1] * x.shape[3] for x in (*calls.keys, *calls.values)]
        recorder.current.kv_width = sum(widths) if widths else None
        windows = {getattr(module, "sliding_window", None) for module in calls.modules}
        recorder.current.window = windows.pop() if len(windows) == 1 else None
        clear()
        recorder.leave()

    def clear() -> None:
        for seen in (calls.modules, calls.keys, calls.values):
            seen.clear()

    clear()
    hooks = [layer.register_forward_pre_hook(recorder.enter) for layer in layers]
    hooks += [layer.register_forward_hook(leave) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
