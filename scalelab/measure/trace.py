"""What each layer of a model without memory reads, computes and keeps, seen while it runs.

A model on torch's meta device has shapes and no numbers, so that any decoder that transformers can build runs
in seconds, however large. One whose path hangs on numbers has the same one for all of a weight, and its products with
weights are not computed. One sequence is watched, a prompt and then single tokens: what grows from one of them to the
next hangs on the length, and what does not is there for each token.
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

_STEPS = 3  # single tokens that are watched
_PROMPTS = {1: 2, 128: 255}  # tokens from one of them to the next: tokens before the first
_aten = torch.ops.aten
# Where the two factors of a product stand among the arguments
_PRODUCTS = {_aten.mm: (0, 1), _aten.bmm: (0, 1), _aten.mv: (0, 1), _aten.addmm: (1, 2), _aten.baddbmm: (1, 2)}
_LOOKUPS = (_aten.embedding, _aten.index, _aten.index_select, _aten.gather)


def trace(model: Any, head: Tensor) -> ModelTrace:
    """Runs `model`, on the meta device or with empty weights, with a cache. `head`, the output embedding, is left out.

    Raises `ScalelabError` where it keeps nothing that can be seen, or what does not grow evenly.
    """
    try:
        return _trace(model, head, 1)
    except UnevenError:  # several tokens are kept as one, or a window is short
        return _trace(model, head, 128)


def _trace(model: Any, head: Tensor, apart: int) -> ModelTrace:
    """With the tokens that are watched `apart` from each other."""
    watch, prompt = _Watch(model, head), _PROMPTS[apart]
    ids = torch.zeros((1, prompt), dtype=torch.long, device=head.device)
    with torch.no_grad(), head.device, sdpa_kernel(SDPBackend.MATH), record_attention_calls(keep=True) as calls, watch:
        with _ran(model) as ran:
            output = model(input_ids=ids, use_cache=True)
        name = "past_key_values" if getattr(output, "past_key_values", None) is not None else "cache_params"
        cache = getattr(output, name, None)
        layers = cache_layers(cache)
        if not layers:
            raise ScalelabError("it keeps no keys, values or states of the tokens before (is it a decoder?)")
        rates = {rate for layer in layers if (rate := getattr(layer, "compress_rate", 1)) > 1}
        if rates and apart == 1:
            raise UnevenError("several tokens are kept as one")
        if any(apart % rate for rate in rates):
            raise ScalelabError(f"it keeps one key for {max(rates):,} tokens, which are too many to be seen")
        report_updates(layers, lambda i: watch.current.caches.add(i))
        held, scores, before = [], [], []
        with _hooked(_layers(ran), watch, calls):
            for step in range(_STEPS):
                if step and apart > 1:
                    model(input_ids=ids[:, : apart - 1], use_cache=True, **{name: cache})
                before = count_cached_numbers(cache)
                watch.begin()
                model(input_ids=ids[:, :1], use_cache=True, **{name: cache})
                held.append(count_cached_numbers(cache))
                scores.append([layer.scores for layer in watch.layers])
    first, length = prompt + 1, prompt + 1 + (_STEPS - 1) * apart
    windows = [window_of(layer) for layer in layers]
    if any(window is not None and first <= window and (window <= length or apart > 1) for window in windows):
        raise UnevenError(f"windows of {first:,} keys and more cannot be told from what is kept beside them")
    kept = _growth(held, apart, "what its cache holds")
    traced = ModelTrace(
        length,
        watch.outside,
        watch.layers,
        _growth(scores, apart, "what its attention computes"),
        kept,
        # Where tokens wait to be kept as one, as many as waited before this last one, and none after: half of them.
        [(now + was + grown) / 2 for now, was, grown in zip(held[-1], before, kept, strict=True)],
        windows + [None] * (len(held[0]) - len(layers)),
        watch.tables,
    )
    if len(held[0]) == len(watch.layers):  # what is changed in place is its own layer's
        for i in set(range(len(held[0]))).difference(*(layer.caches for layer in watch.layers)):
            watch.layers[i].caches.add(i)
    traced.separate_growth(first)
    return traced


def _growth(seen: Sequence[Sequence[float]], apart: int, what: str) -> list[float]:
    """For each token, from each that is watched to the next, the same each time."""
    steps = [[(b - a) / apart for a, b in zip(*pair, strict=True)] for pair in itertools.pairwise(seen)]
    if any(step != steps[0] for step in steps) or min(steps[0], default=0.0) < 0:
        raise UnevenError(f"{what} does not grow evenly from token to token")
    return steps[0]


class _Watch(TorchDispatchMode):
    """Sorts every operation that reads a parameter into the layer that is going on."""

    def __init__(self, model: nn.Module, head: Tensor) -> None:
        super().__init__()
        self.weights = {_storage(p): p for p in model.parameters()}
        self.head = _storage(head)
        self.alive: list[Tensor] = []  # so that nothing else takes their storage
        self.sources: list[Tensor] = []  # in this step, likewise
        self.gathered: set[int] = set()  # experts' matrices, one for each token that goes to them
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
        # Of masks and such: without numbers, the most general case
        if func is _aten._local_scalar_dense.default and args[0].is_meta:
            return False if args[0].dtype == torch.bool else 0
        packet, inputs = func.overloadpacket, [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        read = [x for x in inputs if _storage(x) in self.weights]
        heavy = packet in _PRODUCTS or (packet in _LOOKUPS and inputs[0].dim() == 3)
        stored = {_storage(x) for x in inputs if not x.is_meta} if heavy else set()
        if stored & self.gathered or stored & self.weights.keys():
            out = _uncomputed(func, args)
        else:
            out = func(*args, **(kwargs or {}))
        if packet in _PRODUCTS and not out.numel():  # with experts, say, to which no token goes
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
            if len(inputs) == 1 and read[0].dim() > 1 and out.numel() == read[0].numel():  # as another type, say
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
        if {_storage(left), _storage(right)} & self.gathered:  # counted when they were gathered
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
                chosen = self.current.experts.get(id(held), (held, 0))[1] + 1  # experts, one by one
                self.current.experts[id(held)] = (held, chosen)
            elif held.dim() == 3 and copies == held.shape[0] and copies > 1:
                self.current.experts[id(held)] = (held, 0)  # all are computed; how many count, the config says
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


def _uncomputed(func: Any, args: Any) -> Tensor:
    """Zeros in place of a product, and one for all of the matrices that are gathered."""
    out = func(*tree_map_only(Tensor, lambda x: x.to("meta"), args))
    zero = torch.zeros((), dtype=out.dtype).expand(out.shape)
    return zero.clone() if func.overloadpacket in _PRODUCTS else zero


def _storage(tensor: Tensor) -> int:
    """Tells storages apart, which have no address on the meta device."""
    return tensor.untyped_storage()._cdata


@contextmanager
def _ran(model: nn.Module) -> Iterator[list[nn.ModuleList]]:
    """Lists of modules that stand in no other list and of which one was seen to run."""
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
    """Modules of the largest list, and of those beside it that are of the same kinds."""
    if not lists:
        raise ScalelabError("no list of layers is found in it")
    largest = max(lists, key=lambda m: sum(p.numel() for p in m.parameters()))
    kinds = {type(child) for child in largest}
    return list(dict.fromkeys(child for m in lists for child in m if type(child) in kinds))


@contextmanager
def _hooked(layers: list[nn.Module], watch: _Watch, calls: AttentionCalls) -> Iterator[None]:
    """Layers tell when they begin and end, and what keys and values they attended to."""

    def leave(*_: Any) -> None:
        widths = [x.shape[1] * x.shape[3] for x in (*calls.keys, *calls.values)]
        watch.current.kv_width = sum(widths) if widths else None
        windows = {getattr(module, "sliding_window", None) for module in calls.modules}
        watch.current.window = windows.pop() if len(windows) == 1 else None
        clear()
        watch.leave()

    def clear() -> None:
        for seen in (calls.modules, calls.keys, calls.values):
            seen.clear()

    clear()
    hooks = [layer.register_forward_pre_hook(watch.enter) for layer in layers]
    hooks += [layer.register_forward_hook(leave) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
