"""Text generation with streams."""

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
from scalelab.errors import DataError, ScalelabError, UsageError, first_line
from scalelab.time_limit import time_limit
from scalelab.units import plural

__all__ = ["Generation", "generate"]

_TEMPLATE_S = 10.0  # of a chat template, which is a program


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
        chat: Apply the chat template of the tokenizer to the prompt.
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
    source = Path(model)
    if dtype not in ("fp32", "bf16"):
        raise UsageError("choose fp32 or bf16", argument="dtype", value=dtype)
    if temperature and not 0.01 <= temperature <= 100:
        raise UsageError("give 0, or a number from 0.01 to 100", argument="temperature", value=temperature)
    if not prompt:
        raise UsageError("`prompt` is empty; give some text")
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
        raise UsageError(f"{source}: the tokenizer has more tokens than the model has embeddings; give it its own")
    check_length(opened, ids.shape[1] + max_new_tokens, "`prompt` and `max_new_tokens`")
    note = length_warning(opened, ids.shape[1] + max_new_tokens)
    if note and on_note:
        on_note(note)
    sampling = {"do_sample": temperature > 0, **({"temperature": temperature, "top_p": top_p} if temperature else {})}
    torch.manual_seed(seed)  # type: ignore[reportUnknownMemberType]
    ids = ids.to(chosen)
    own: Any = opened.generation_config.eos_token_id
    found: list[int | None] = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    ends = sorted({end for end in found if end is not None})
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
    return Generation(text, opened.P, len(made), seconds, (note,) if note else ())


def _tokens(tokenizer: Any, source: Path, prompt: str, chat: bool) -> Any:
    if chat:
        if not tokenizer.chat_template:
            raise UsageError(f"the tokenizer in {source} has no chat template; leave `chat` out", argument="chat")
        messages = [{"role": "user", "content": prompt}]
        try:
            with time_limit(_TEMPLATE_S, f"{source}: the chat template takes more than {_TEMPLATE_S:g} s; repair it"):
                found = tokenizer.apply_chat_template(
                    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
                )
        except ScalelabError:
            raise
        except Exception as error:  # templates are programs, and may raise anything
            raise DataError(f"{source}: the chat template fails ({first_line(error)}); repair it") from None
        ids = found["input_ids"]
    else:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
    if not ids.shape[1]:
        raise UsageError("it has no tokens; give some text", argument="prompt")
    return ids


def _refuse_nan(ids: Any, scores: Any) -> Any:
    """Raise `ScalelabError` for NaN logits, which sampling would accept silently."""
    if scores.isnan().any():
        raise ScalelabError("the model's logits are NaN: check its weights")
    return scores
