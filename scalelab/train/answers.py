"""Training on conversations: cross entropy of the tokens that the assistant wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scalelab.errors import DataError
from scalelab.train.chat_template import ChatTemplate
from scalelab.train.conversations import Conversations
from scalelab.train.data import evenly_spaced
from scalelab.train.evaluate import Evaluation, evaluate, rows_at_once
from scalelab.train.loss import training_loss
from scalelab.train.recipe import Recipe, TextSource
from scalelab.units import plural

IGNORED = -100  # label of a token that does not count, as in torch


def signed_ids(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return token ids up to the last that counts; ids that only give context are complemented, so negative."""
    return np.where(mask, ids, ~ids)[: int(np.flatnonzero(mask)[-1]) + 1]


def stack(rows: Sequence[np.ndarray], length: int = 0) -> np.ndarray:
    """Return signed ids of rows [b, T]; shorter rows end with context, which a causal model ignores."""
    out = np.full((len(rows), max(length, *map(len, rows))), ~0, dtype=np.int64)
    for row, ids in zip(out, rows, strict=True):
        row[: len(ids)] = ids
    return out


def inputs_and_labels(batch: Tensor) -> tuple[Tensor, Tensor]:
    """Return token ids [b, T] and the next tokens [b, T], `IGNORED` where they do not count, of signed ids [b, T + 1].

    The ids of plain text are all positive, so that all of its tokens count.
    """
    inputs = torch.where(batch < 0, ~batch, batch)[:, :-1]
    return inputs, torch.where(batch < 0, IGNORED, batch)[:, 1:]


class RowWindows:
    """Batches of rows of signed ids; the interface is that of `data.TokenWindows`.

    Raises:
        DataError: There are fewer rows than a batch has.
    """

    device_tokens = None  # each batch has another length, so that its step cannot be captured

    def __init__(self, rows: Sequence[np.ndarray], batch_size: int, device: str, length: int = 0) -> None:
        if len(rows) < batch_size:
            raise DataError(
                f"the training data have {plural(len(rows), 'conversation')}, less than one batch of {batch_size}; "
                "give more, or a smaller `batch_size`"
            )
        self.rows, self.device, self.length, self.count = rows, device, length, len(rows)

    def batch(self, numbers: np.ndarray) -> Tensor:
        """Return the signed ids [len(numbers), T] of these rows."""
        return torch.from_numpy(stack([self.rows[i] for i in numbers], self.length)).to(self.device)


class AnswerObjective:
    """Mean cross entropy over the tokens of the batch that count."""

    def __call__(self, forward: Any, model: Any, part: Tensor, bf16: bool, head: Tensor | None) -> Any:
        """Return the loss to train on and the one to report."""
        return training_loss(forward, model, *inputs_and_labels(part), bf16, None)

    def share(self, part: Tensor, batch: Tensor) -> Tensor:
        """Return the weight of the micro-batch `part` in the loss of `batch`."""
        return (part[:, 1:] >= 0).sum() / (batch[:, 1:] >= 0).sum()


@dataclass(frozen=True)
class Answers:
    """Tokenised conversations to train on; one of the kinds of data that `stage.train_stage` takes."""

    text: TextSource
    train: list[np.ndarray]  # signed ids
    held_out: list[np.ndarray]  # by length
    end: int | None  # token that ends every answer
    notes: tuple[str, ...] = ()

    unit = "conversations"
    objective = AnswerObjective()
    settings = {"objective": "chat"}  # noqa: RUF012  # never changed

    @property
    def row_tokens(self) -> float:
        """Mean tokens of a training conversation, prompts included."""
        return sum(map(len, self.train)) / len(self.train)

    def windows(self, recipe: Recipe, device: str, fixed_length: bool) -> RowWindows:
        """Return the batches for training."""
        return RowWindows(self.train, recipe.batch_size, device, recipe.seq_len if fixed_length else 0)

    def prepare(self, model: Any, recipe: Recipe, steps: int, seed: int, device: str) -> None:
        """Do nothing: only preferences need something of the model before training."""

    def evaluate(self, model: Any, recipe: Recipe, device: str) -> Evaluation:
        """Return the loss on `recipe.val_tokens` of the held-out conversations, evenly spaced by length."""
        mean = sum(map(len, self.held_out)) / len(self.held_out)
        chosen = evenly_spaced(recipe.val_tokens, max(1, round(mean)), len(self.held_out))
        windows = stack([self.held_out[i] for i in chosen])
        rows = rows_at_once(device, model.P, windows.shape[1])
        return evaluate(model, windows, np.arange(len(windows)), device, recipe.dtype == "bf16", rows)


def read_answers(data: Conversations, template: ChatTemplate, text: TextSource, seq_len: int) -> Answers:
    """Tokenise conversations; those longer than `seq_len` + 1 tokens are cut.

    Raises:
        DataError: The template is not exact, or no answer begins within `seq_len` tokens.
    """
    sides, left_out, cut = [], 0, 0
    for examples in (data.train, data.held_out):
        encoded = [template.encode(e.conversations[0], e.where) for e in examples]
        short = [(ids[: seq_len + 1], mask[: seq_len + 1]) for ids, mask in encoded]
        rows = [signed_ids(ids, mask) for ids, mask in short if mask.any()]
        left_out += len(examples) - len(rows)
        cut += sum(len(ids) > seq_len + 1 for ids, _ in encoded)
        sides.append(rows)
    train, held_out = sides
    if not train or len(held_out) < 2:
        raise DataError(f"{data.name}: too few answers begin within {seq_len} tokens; give a larger `seq_len`")
    notes = [*data.notes]
    if cut:
        lost = f", {left_out} without any answer left out" if left_out else ""
        notes.append(f"{plural(cut, 'conversation')} cut after {seq_len} tokens{lost}; a larger `seq_len` keeps more")
    ends = {int(row[-1]) for row in train if len(row) <= seq_len}
    end = ends.pop() if len(ends) == 1 else None
    if end not in template.special:
        end = None
        notes.append("the chat template ends answers without an end token, so the model does not learn to stop")
    held_out.sort(key=len)
    return Answers(text, train, held_out, end, tuple(notes))
