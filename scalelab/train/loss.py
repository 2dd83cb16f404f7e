"""Cross entropy of the next tokens, in chunks if the logits of the whole batch would be large."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from scalelab.train.build import extra_loss, training_options

_CHUNK_LOGITS = 2**27  # 512 MiB in fp32


def training_loss(forward: Any, model: Any, inputs: Tensor, labels: Tensor, bf16: bool, head: Tensor | None) -> Any:
    """Return the loss to train on, with the routers' balancing loss, and the mean cross entropy to report.

    Args:
        forward: Called in place of `model`; may be compiled or data parallel.
        model: The language model.
        inputs: Token ids [b, T].
        labels: The next tokens [b, T].
        bf16: Autocast matrix products.
        head: From `separable_head`, to compute cross entropy in chunks; None to use the model's logits.
    """
    capturing = inputs.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    # The weight copies that autocast caches for a forward pass must not be cached in a captured one.
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=bf16, cache_enabled=not capturing):
        if head is not None:
            hidden = model.get_decoder()(input_ids=inputs, use_cache=False).last_hidden_state
            loss = chunked_cross_entropy(hidden.flatten(0, 1), head, labels.flatten(), bf16)
            return loss, loss
        outputs = forward(inputs, use_cache=False, **training_options(model))
    loss = F.cross_entropy(outputs.logits.float().flatten(0, 1), labels.flatten())
    balance = extra_loss(model, outputs)
    return (loss if balance is None else loss + balance), loss


class Objective(Protocol):
    """Loss of a batch in micro-batches."""

    def __call__(self, forward: Any, model: Any, part: Any, bf16: bool, head: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the loss of a micro-batch to train on, and the one to report; see `training_loss`."""
        ...

    def share(self, part: Any, batch: Any) -> float | Tensor:
        """Return the weight of the micro-batch `part` in the loss of `batch`."""
        ...


class NextToken:
    """Mean cross entropy of all next tokens of windows of text."""

    def __call__(self, forward: Any, model: Any, part: Any, bf16: bool, head: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the loss to train on and the one to report."""
        return training_loss(forward, model, part[:, :-1], part[:, 1:], bf16, head)

    def share(self, part: Any, batch: Any) -> float:
        """Return the share of the rows."""
        return len(part) / len(batch)


NEXT_TOKEN = NextToken()


class Decorrelated(NextToken):
    """Cross entropy plus `weight` times the similarity of the streams, which pushes them apart.

    The reported loss is the cross entropy alone. Models without streams train on it too.
    """

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, forward: Any, model: Any, part: Any, bf16: bool, head: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the loss to train on and the one to report."""
        aggregator = model.get_decoder().aggregator
        if aggregator is None:
            return super().__call__(forward, model, part, bf16, head)
        seen: list[Tensor] = []
        hook = aggregator.register_forward_hook(lambda module, args, output: seen.append(args[0]))
        try:
            objective, loss = super().__call__(forward, model, part, bf16, head)
        finally:
            hook.remove()
        return objective + self.weight * stream_similarity(seen[0]), loss


def stream_similarity(streams: Tensor) -> Tensor:
    """Return the squared cosine of the states [P, b, T, h] of two streams, a mean over pairs and tokens.

    It is 1 for copies and 0 for orthogonal streams.
    """
    unit, P = F.normalize(streams.float(), dim=-1), len(streams)
    cosines = torch.einsum("pbth,qbth->btpq", unit, unit)
    return (cosines.square().sum((-1, -2)) - P).mean() / (P * (P - 1))


def next_token(decorrelation: float = 0.0) -> NextToken:
    """Return the loss of next tokens, with streams pushed apart if `decorrelation` is its weight."""
    return Decorrelated(decorrelation) if decorrelation else NEXT_TOKEN


@torch.no_grad()
def separable_head(model: Any) -> Tensor | None:
    """Return the weight of the output head if logits are a plain matrix product with it, else None.

    This is tested by a forward pass, since some families scale or squash their logits afterwards.
    """
    head, decoder = model.get_output_embeddings(), model.get_decoder()
    if not isinstance(head, nn.Linear) or head.bias is not None or training_options(model):
        return None
    training = model.training
    ids = torch.zeros((1, 2), dtype=torch.long, device=head.weight.device)
    model.eval()
    try:
        logits = model(ids, use_cache=False).logits
        hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state
        same = torch.allclose(F.linear(hidden, head.weight), logits, rtol=1e-4, atol=1e-5)
    finally:
        model.train(training)
    return head.weight if same else None


def chunked_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, bf16: bool, rows: int | None = None
) -> Tensor:
    """Return the mean cross entropy of `hidden` [n, h] times `weight` [V, h] with `labels` [n].

    Only logits of `rows` tokens exist at once. Gradients are computed in the same pass, so nothing is computed twice.
    """
    rows = rows or max(1, _CHUNK_LOGITS // len(weight))
    return _ChunkedCrossEntropy.apply(hidden, weight, labels, torch.bfloat16 if bf16 else hidden.dtype, rows)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, dtype: torch.dtype, rows: int) -> Tensor:
        states, matrix = hidden.to(dtype), weight.to(dtype)
        total = torch.zeros((), device=hidden.device)
        learns = any(ctx.needs_input_grad[:2])
        grad_hidden = torch.empty_like(states if learns else states[:0])
        grad_weight = torch.zeros_like(weight if learns else weight[:0])
        with torch.autocast(hidden.device.type, enabled=False):
            outs = grad_hidden.split(rows) if learns else states.split(rows)
            for part, wanted, out in zip(states.split(rows), labels.split(rows), outs, strict=True):
                logits = F.linear(part, matrix).float()
                wanted = wanted[:, None]
                norms = torch.logsumexp(logits, 1, keepdim=True)
                total += (norms - logits.gather(1, wanted)).sum()
                if learns:
                    slopes = logits.sub_(norms).exp_().scatter_add_(1, wanted, -torch.ones_like(norms))
                    slopes = slopes.div_(len(states)).to(dtype)
                    torch.mm(slopes, matrix, out=out)
                    grad_weight += slopes.t() @ part
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.dtype = hidden.dtype
        return total / len(states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grad_outputs
        grad_hidden, grad_weight = ctx.saved_tensors
        return (grad_hidden * grad).to(ctx.dtype), grad_weight * grad, None, None, None
