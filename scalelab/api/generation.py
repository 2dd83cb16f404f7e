"""Generate text with a model that has streams."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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

__all__ = ["Generation", "generate"]


@dataclass(frozen=True)
class Generation:
    """Text that was generated, without the prompt, and how fast. `notes` say what the model was not made for."""

    text: str
    P: int
    n_tokens: int
    seconds: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text

    @property
    def speed(self) -> str:
        """Tokens, time and tokens a second in words."""
        rate = self.n_tokens / self.seconds
        return f"P = {self.P}: {plural(self.n_tokens, 'token')} in {self.seconds:.1f} s, {rate:.1f} a second"


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
    dtype: Literal["fp32", "bf16"] = "fp32",
    device: DeviceName = "auto",
    stream: Callable[[Any], Any] | None = None,
    tell: Callable[[str], None] | None = None,
) -> Generation:
    """Continue a prompt with P streams.

    Args:
        model: Folder of a model and its tokenizer.
        prompt: The text to go on from.
        P: Streams; by default those the model was saved with.
        max_new_tokens: Tokens at most.
        temperature: 0 takes the likeliest token each time.
        top_p: Sample from this share of the probability.
        seed: Seed for temperatures above 0.
        chat: Put the prompt into the model's chat template.
        dtype: Precision to compute in.
        device: Where to compute.
        stream: Makes, from the tokenizer, a streamer of transformers that shows the text as it comes.
        tell: Called with a line for each note, before the text begins.

    Raises:
        UsageError: An argument is wrong, or the model has no positions for that many tokens.
        ScalelabError: The model's outputs are not numbers.
    """
    source = Path(model)
    if dtype not in ("fp32", "bf16"):
        raise UsageError("choose fp32 or bf16", argument="dtype", value=dtype)
    if temperature and not 0.01 <= temperature <= 100:
        raise UsageError("give 0, or a number from 0.01 to 100", argument="temperature", value=temperature)
    if not prompt:
        raise UsageError("`prompt` is empty: give it some text")
    check_device(device)
    check_model(source)
    need_torch("generate")

    import torch

    from scalelab.train.stage import check_length, length_warning, open_model

    quiet_libraries()
    chosen = choose_device(device)
    opened = open_model(source, P, chosen, torch.bfloat16 if dtype == "bf16" else torch.float32)
    tokenizer = load_tokenizer(source)
    ids = _tokens(tokenizer, source, prompt, chat)
    if ids.max() >= opened.config.vocab_size:
        raise UsageError(f"{source}: its tokenizer has tokens that the model has no embedding for")
    check_length(opened, ids.shape[1] + max_new_tokens, "`prompt` and `max_new_tokens`")
    told = length_warning(opened, ids.shape[1] + max_new_tokens)
    if told and tell:
        tell(told)
    sampling = {"do_sample": temperature > 0, **({"temperature": temperature, "top_p": top_p} if temperature else {})}
    torch.manual_seed(seed)
    ids = ids.to(chosen)
    own = opened.generation_config.eos_token_id
    ends = sorted({tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None})
    started = time.perf_counter()
    out = opened.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        streamer=stream(tokenizer) if stream else None,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
        logits_processor=[_refuse_nan],
        **sampling,
    )
    seconds = time.perf_counter() - started
    made = out[0, ids.shape[1] :]
    text = tokenizer.decode(made, skip_special_tokens=True)
    return Generation(text, opened.P, len(made), seconds, (told,) if told else ())


def _tokens(tokenizer: Any, source: Path, prompt: str, chat: bool) -> Any:
    if chat:
        if not tokenizer.chat_template:
            raise UsageError(f"the tokenizer in {source} has no chat template; leave `chat` out", argument="chat")
        messages = [{"role": "user", "content": prompt}]
        found = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        ids = found["input_ids"]
    else:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
    if not ids.shape[1]:
        raise UsageError("the tokenizer makes no token of it", argument="prompt")
    return ids


def _refuse_nan(ids: Any, scores: Any) -> Any:
    """Stand between the model and the choice of a token: NaN would be chosen from without a word."""
    if scores.isnan().any():
        raise ScalelabError("the model's outputs are not numbers: its weights are not sound")
    return scores
