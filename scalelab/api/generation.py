"""Text generation with streams."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scalelab.api.loading import (
    DeviceName,
    check_device,
    check_model,
    choose_device,
    load_tokenizer,
    need_torch,
    quiet_libraries,
)
from scalelab.errors import ScalelabError, UsageError
from scalelab.units import plural

if TYPE_CHECKING:
    from scalelab.train.chat_template import ChatTemplate

__all__ = ["Generation", "generate"]


@dataclass(frozen=True)
class Generation:
    """Generated text, without the prompt, and its speed."""

    text: str
    P: int
    n_tokens: int  # generated
    seconds: float
    notes: tuple[str, ...] = ()  # on sequences longer than the model was trained for

    def __str__(self) -> str:
        return self.text

    @property
    def speed(self) -> str:
        """Tokens, time and tokens per second, as text."""
        rate = self.n_tokens / self.seconds
        return f"P = {self.P}: {plural(self.n_tokens, 'token')} in {self.seconds:.1f} s, {rate:.1f} tokens/s"


def generate(
    model: str | Path,
    prompt: str,
    P: int | None = None,
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    chat: bool = False,
    system: str | None = None,
    dtype: Literal["fp32", "bf16"] = "fp32",
    device: DeviceName = "auto",
    stream: Callable[[Any], Any] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Generation:
    """Continue a prompt with P streams.

    Args:
        model: Folder of a model and its tokenizer.
        prompt: Text to continue.
        P: Number of streams; by default the one that the model was saved with.
        max_new_tokens: Maximum number of tokens to generate.
        temperature: Sampling temperature; 0 is greedy decoding.
        top_p: Probability mass to sample from (nucleus sampling).
        seed: Seed of the sampling.
        chat: Apply the chat template of the tokenizer to the prompt, as one turn of a user.
        system: System message before the prompt, with `chat`.
        dtype: Precision: "fp32" or "bf16".
        device: Device: "auto", "cpu" or "cuda".
        stream: Function that makes a streamer of transformers from the tokenizer, to show text as it is generated.
        on_note: Called with each note before generation starts.

    Returns:
        The text, the number of tokens and the time in seconds.

    Raises:
        UsageError: An argument is wrong, or the model has too few positions for so many tokens.
        DataError: The model or its tokenizer cannot be used.
        MissingPackageError: torch or transformers is not installed.
        ScalelabError: The model's logits are NaN.
    """
    if system is not None and not chat:
        raise UsageError("is only used with `chat`; leave it out", argument="system", value=system)
    if not prompt:
        raise UsageError("`prompt` is empty; give some text")
    writer = Writer(model, P, Sampling(max_new_tokens, temperature, top_p), dtype, device)
    if chat:
        head = [] if system is None else [{"role": "system", "content": system}]
        ids = writer.template.prompt_ids([*head, {"role": "user", "content": prompt}])
    else:
        ids = writer.tokenizer(prompt)["input_ids"]
    return writer.write(ids, seed, stream(writer.tokenizer) if stream else None, on_note)


@dataclass(frozen=True)
class Sampling:
    """Settings of generation; `temperature` 0 is greedy decoding."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature and not 0.01 <= self.temperature <= 100:
            raise UsageError("give 0, or a number from 0.01 to 100", argument="temperature", value=self.temperature)
        if self.max_new_tokens < 1:
            raise UsageError("give a positive number", argument="max_new_tokens", value=self.max_new_tokens)


class Writer:
    """A model with its tokenizer, opened once to generate many times. Raises like `generate`."""

    def __init__(self, model: str | Path, P: int | None, sampling: Sampling, dtype: str, device: str) -> None:
        self.source, self.sampling = Path(model), sampling
        if dtype not in ("fp32", "bf16"):
            raise UsageError("choose fp32 or bf16", argument="dtype", value=dtype)
        check_device(device)
        check_model(self.source)
        need_torch("generate")

        import torch

        from scalelab.train.stage import end_ids, open_model

        quiet_libraries()
        self.device = choose_device(device)
        self.model = open_model(self.source, P, self.device, torch.bfloat16 if dtype == "bf16" else torch.float32)
        self.tokenizer = load_tokenizer(self.source)
        found: set[int | None] = {self.tokenizer.eos_token_id, *end_ids(self.model)}
        self.ends = sorted(end for end in found if end is not None)

    @cached_property
    def template(self) -> ChatTemplate:
        """The chat template. Raises `UsageError` if there is none."""
        from scalelab.train.chat_template import ChatTemplate

        return ChatTemplate(self.tokenizer, self.source, self.ends)

    def write(
        self, prompt: list[int], seed: int, streamer: Any = None, on_note: Callable[[str], None] | None = None
    ) -> Generation:
        """Continue the tokens `prompt`."""
        import torch

        from scalelab.train.evaluate import check_length
        from scalelab.train.stage import length_warning

        model, sampling = self.model, self.sampling
        if not prompt:
            raise UsageError("it has no tokens; give some text", argument="prompt")
        if max(prompt) >= model.config.vocab_size:
            raise UsageError(
                f"{self.source}: the tokenizer has more tokens than the model has embeddings; give it its own"
            )
        length = len(prompt) + sampling.max_new_tokens
        check_length(model, length, "`prompt` and `max_new_tokens`")
        note = length_warning(model, length)
        if note and on_note:
            on_note(note)
        drawn = sampling.temperature > 0
        how = {"temperature": sampling.temperature, "top_p": sampling.top_p} if drawn else {}
        torch.manual_seed(seed)  # type: ignore[reportUnknownMemberType]
        ids = torch.tensor([prompt], device=self.device)
        started = time.perf_counter()
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=sampling.max_new_tokens,
            streamer=streamer,
            eos_token_id=self.ends or None,
            pad_token_id=self.ends[0] if self.ends else 0,
            logits_processor=[_refuse_nan],
            do_sample=drawn,
            **how,
        )
        seconds = time.perf_counter() - started
        made = out[0, len(prompt) :]
        text = self.tokenizer.decode(made, skip_special_tokens=True)
        return Generation(text, model.P, len(made), seconds, (note,) if note else ())


def _refuse_nan(ids: Any, scores: Any) -> Any:
    """Raise `ScalelabError` for NaN logits, which sampling would accept silently."""
    if scores.isnan().any():
        raise ScalelabError("the model's logits are NaN: check its weights")
    return scores
