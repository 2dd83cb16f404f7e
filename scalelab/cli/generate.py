"""`scalelab generate`: text from a model with streams, as it comes."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from scalelab.cli.models import choose_device, load_tokenizer, quiet_libraries
from scalelab.errors import DataError, ScalelabError, UsageError


def generate(
    source: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Folder of a model and its tokenizer.")],
    prompt: Annotated[str, typer.Option(help="The text to go on from; - reads it from standard input.")],
    P: Annotated[
        int | None, typer.Option("--P", min=1, help="Streams; by default those the model was saved with.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens at most.")] = 128,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Sample from this share of the probability.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="For temperatures above 0.")] = 0,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt into the model's chat template.")] = False,
    dtype: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Continue a prompt with P streams, streaming the text; speed goes to standard error."""
    if dtype not in ("fp32", "bf16"):
        raise UsageError(f"--dtype {dtype}: choose fp32 or bf16")
    if temperature and not 0.01 <= temperature <= 100:
        raise UsageError(f"--temperature {temperature:g}: give 0, or a number from 0.01 to 100")
    text = _standard_input() if prompt == "-" else prompt
    if not text:
        raise UsageError("--prompt is empty: give it some text")

    import torch
    from transformers import TextStreamer

    from scalelab.train.stage import beyond, check_length, open_model

    quiet_libraries()
    place = choose_device(device)
    model = open_model(source, P, place, torch.bfloat16 if dtype == "bf16" else torch.float32)
    tokenizer = load_tokenizer(source)
    if chat:
        if not tokenizer.chat_template:
            raise UsageError(f"--chat: the tokenizer in {source} has no chat template; leave --chat out")
        messages = [{"role": "user", "content": text}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        ids = ids["input_ids"]
    else:
        ids = tokenizer(text, return_tensors="pt").input_ids
    if not ids.shape[1]:
        raise UsageError("--prompt: the tokenizer makes no token of it")
    if ids.max() >= model.config.vocab_size:
        raise UsageError(f"{source}: its tokenizer has tokens that the model has no embedding for")
    check_length(model, ids.shape[1] + max_new_tokens, "--prompt and --max-new-tokens")
    if told := beyond(model, ids.shape[1] + max_new_tokens):
        typer.echo(told, err=True)
    sampling = (
        {"do_sample": True, "temperature": temperature, "top_p": top_p} if temperature > 0 else {"do_sample": False}
    )
    torch.manual_seed(seed)
    ids = ids.to(place)
    started = time.perf_counter()
    own = model.generation_config.eos_token_id
    ends = sorted({tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None})
    try:
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            streamer=TextStreamer(tokenizer, skip_prompt=not chat and prompt == "-", skip_special_tokens=True),
            eos_token_id=ends or None,
            pad_token_id=ends[0] if ends else 0,
            logits_processor=[_refuse_nan],
            **sampling,
        )
    except BrokenPipeError:  # the reader has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    seconds = time.perf_counter() - started
    made = out.shape[1] - ids.shape[1]
    typer.echo(f"P = {model.P}: {made} tokens in {seconds:.1f} s, {made / seconds:.1f} a second", err=True)


def _standard_input() -> str:
    if sys.stdin is None:
        raise UsageError("--prompt -: standard input is closed")
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"--prompt -: standard input is not UTF-8 text ({error.reason} at byte {error.start})"
        ) from None


def _refuse_nan(ids: Any, scores: Any) -> Any:
    """Stands between the model and the choice of a token: NaN would be chosen from without a word."""
    if scores.isnan().any():
        raise ScalelabError("the model's outputs are not numbers: its weights are not sound")
    return scores
