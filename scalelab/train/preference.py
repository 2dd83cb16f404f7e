"""Direct preference optimisation (DPO, arXiv 2305.18290) with the model before training as reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from scalelab.errors import DataError
from scalelab.train.answers import IGNORED, RowWindows, inputs_and_labels, signed_ids, stack
from scalelab.train.build import extra_loss, training_options
from scalelab.train.chat_template import ChatTemplate
from scalelab.train.conversations import Conversations
from scalelab.train.data import evenly_spaced, window_order
from scalelab.train.evaluate import Evaluation, clustered_mean
from scalelab.train.recipe import Recipe, TextSource
from scalelab.units import plural

Pair = tuple[np.ndarray, np.ndarray]  # signed ids of the conversations with the chosen and the rejected answer


@dataclass(frozen=True)
class PreferenceEvaluation(Evaluation):
    """Mean DPO loss over held-out pairs, and how the pairs are ranked.

    Attributes:
        accuracy: Share of the pairs whose chosen answer has the higher reward; equal rewards count half.
        margin: Mean difference of the rewards, β times the log ratio to the reference.
    """

    accuracy: float = 0.5
    margin: float = 0.0


@dataclass(frozen=True)
class PairBatch:
    """Some pairs: signed ids [b, 2, T] and log probabilities of the answers under the reference [b, 2]."""

    ids: Tensor
    reference: Tensor

    @property
    def device(self) -> torch.device:
        """Device of the ids."""
        return self.ids.device

    def __len__(self) -> int:
        return len(self.ids)

    def split(self, size: int) -> Iterator[PairBatch]:
        """Yield parts of `size` pairs."""
        for ids, reference in zip(self.ids.split(size), self.reference.split(size), strict=True):
            yield PairBatch(ids, reference)


class PairWindows(RowWindows):
    """Batches of pairs."""

    def __init__(self, data: Preferences, batch_size: int, device: str, length: int = 0) -> None:
        self.data = data
        super().__init__([chosen for chosen, _ in data.train], batch_size, device, length)

    def batch(self, numbers: np.ndarray) -> Any:
        """Return the pairs with these numbers. `Preferences.prepare` must have computed their reference."""
        reference = torch.stack([self.data.reference[int(i)] for i in numbers])
        ids = _stack_pairs([self.data.train[i] for i in numbers], self.length)
        return PairBatch(torch.from_numpy(ids).to(self.device), reference.to(self.device))


@dataclass(frozen=True)
class PreferenceObjective:
    """The DPO loss, −ln σ(β·m), of the margins m = ln(π/π_ref)(chosen) − ln(π/π_ref)(rejected)."""

    beta: float

    def __call__(self, forward: Any, model: Any, part: Any, bf16: bool, head: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the loss to train on and the one to report."""
        logps, outputs = answer_logps(forward, model, part.ids, bf16, **training_options(model))
        loss = self.losses(logps, part.reference).mean()
        balance = extra_loss(model, outputs)
        return (loss if balance is None else loss + balance), loss

    def share(self, part: Any, batch: Any) -> float:
        """Return the share of the pairs."""
        return len(part) / len(batch)

    def losses(self, logps: Tensor, reference: Tensor) -> Tensor:
        """Return the loss of each pair [b] from log probabilities [b, 2]."""
        return -F.logsigmoid(self.beta * margins(logps, reference))


def margins(logps: Tensor, reference: Tensor) -> Tensor:
    """Return ln(π/π_ref) of the chosen minus that of the rejected answers [b], from log probabilities [b, 2]."""
    ratios = logps - reference
    return ratios[:, 0] - ratios[:, 1]


def answer_logps(forward: Any, model: Any, ids: Tensor, bf16: bool, **options: Any) -> tuple[Tensor, Any]:
    """Return the log probabilities of the answers [b, 2] in signed ids [b, 2, T], and the model's outputs."""
    inputs, labels = inputs_and_labels(ids.flatten(0, 1))
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=bf16):
        outputs = forward(inputs, use_cache=False, **options)
    counted = labels != IGNORED
    logps = -F.cross_entropy(outputs.logits[counted].float(), labels[counted], reduction="none")
    sums = torch.zeros(len(labels), device=logps.device).index_add(0, counted.nonzero()[:, 0], logps)
    return sums.view(-1, 2), outputs


@dataclass(frozen=True)
class Preferences:
    """Tokenised pairs of answers to train on; one of the kinds of data that `stage.train_stage` takes."""

    text: TextSource
    train: list[Pair]
    held_out: list[Pair]
    beta: float
    end: int | None = None
    notes: tuple[str, ...] = ()
    reference: dict[int, Tensor] = field(default_factory=dict)  # log probabilities [2] by number of the pair
    held_out_reference: list[Tensor] = field(default_factory=list)  # of each batch of the evaluation, [b, 2]

    unit = "pairs"

    @property
    def objective(self) -> PreferenceObjective:
        """The loss."""
        return PreferenceObjective(self.beta)

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that determine the result, besides those of every training."""
        return {"objective": "preference", "beta": self.beta}

    @property
    def row_tokens(self) -> float:
        """Mean tokens of a pair, with the prompt twice."""
        return sum(len(chosen) + len(rejected) for chosen, rejected in self.train) / len(self.train)

    def windows(self, recipe: Recipe, device: str, fixed_length: bool) -> PairWindows:
        """Return the batches for training."""
        return PairWindows(self, recipe.batch_size, device, recipe.seq_len if fixed_length else 0)

    @torch.no_grad()
    def prepare(self, model: Any, recipe: Recipe, steps: int, seed: int, device: str) -> None:
        """Compute the log probabilities of the pairs of all steps, and of the held-out pairs, under `model`."""
        batch = min(recipe.batch_size, len(self.train))
        order = window_order(len(self.train), batch, steps, seed)
        needed = sorted({int(i) for numbers in order for i in numbers}, key=lambda i: (_length(self.train[i]), i))
        training, bf16 = model.training, recipe.dtype == "bf16"
        model.eval()
        for first in range(0, len(needed), batch):
            numbers = needed[first : first + batch]
            ids = torch.from_numpy(_stack_pairs([self.train[i] for i in numbers])).to(device)
            self.reference.update(zip(numbers, answer_logps(model, model, ids, bf16)[0].cpu(), strict=True))
        self.held_out_reference[:] = [logps for logps, _ in self._held_out_logps(model, recipe, device)]
        model.train(training)

    @torch.no_grad()
    def evaluate(self, model: Any, recipe: Recipe, device: str) -> PreferenceEvaluation:
        """Return the loss on held-out pairs with about `recipe.val_tokens` tokens, evenly spaced by length."""
        training = model.training
        model.eval()
        found, counts = [], 0
        for (logps, n), reference in zip(
            self._held_out_logps(model, recipe, device), self.held_out_reference, strict=True
        ):
            found.append(margins(logps, reference).double())
            counts += n
        model.train(training)
        all_margins = torch.cat(found)
        losses = -F.logsigmoid(self.beta * all_margins).numpy()
        loss, stderr = clustered_mean(losses, np.arange(len(losses)))
        accuracy = float(((all_margins > 0).double() + 0.5 * (all_margins == 0)).mean())
        return PreferenceEvaluation(loss, stderr, counts, None, accuracy, self.beta * float(all_margins.mean()))

    def _held_out_logps(self, model: Any, recipe: Recipe, device: str) -> Iterator[tuple[Tensor, int]]:
        """Yield log probabilities [b, 2] and the number of answer tokens, of batches that are always the same."""
        mean = sum(map(_length, self.held_out)) / len(self.held_out)
        chosen = evenly_spaced(recipe.val_tokens, max(1, round(mean)), len(self.held_out))
        for first in range(0, len(chosen), recipe.batch_size):
            ids = _stack_pairs([self.held_out[i] for i in chosen[first : first + recipe.batch_size]])
            logps, _ = answer_logps(model, model, torch.from_numpy(ids).to(device), recipe.dtype == "bf16")
            yield logps.cpu(), int((ids >= 0).sum())


def _length(pair: Pair) -> int:
    return len(pair[0]) + len(pair[1])


def _stack_pairs(pairs: Sequence[Pair], length: int = 0) -> np.ndarray:
    """Return the signed ids of pairs, [b, 2, T]."""
    rows = stack([row for pair in pairs for row in pair], length)
    return rows.reshape(len(pairs), 2, -1)


def read_preferences(
    data: Conversations, template: ChatTemplate, text: TextSource, seq_len: int, beta: float
) -> Preferences:
    """Tokenise pairs; those of which one conversation is longer than `seq_len` + 1 tokens are left out.

    Raises:
        DataError: The template is not exact, or all pairs are too long.
    """
    sides, left_out = [], 0
    for examples in (data.train, data.held_out):
        pairs: list[Pair] = []
        for example in examples:
            rows = [signed_ids(*template.encode(c, example.where, last_only=True)) for c in example.conversations]
            if max(map(len, rows)) <= seq_len + 1:  # a part of an answer would be compared with a whole one
                pairs.append((rows[0], rows[1]))
        left_out += len(examples) - len(pairs)
        sides.append(sorted(pairs, key=_length))
    train, held_out = sides
    if not train or len(held_out) < 2:
        raise DataError(f"{data.name}: too few pairs of at most {seq_len} tokens; give a larger `seq_len`")
    notes = [*data.notes]
    if left_out:
        notes.append(f"{plural(left_out, 'pair')} longer than {seq_len} tokens left out; a larger `seq_len` keeps them")
    ends = {int(row[-1]) for pair in train for row in pair}
    end = ends.pop() if len(ends) == 1 else None
    return Preferences(text, train, held_out, beta, end if end in template.special else None, tuple(notes))
