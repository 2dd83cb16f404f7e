"""A tiny tokenizer with chat templates, and a tiny model that uses it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from scalelab.model import add_streams
from scalelab.model.checkpoint import save_model
from tests.support.families import make, warm

SPECIAL = ["<|endoftext|>", "<|start|>", "<|end|>"]

# Each ends a turn with <|end|> and a line break, as ChatML does.
PLAIN = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\\n' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ m['content'] + '<|end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% endif %}"
)
# Only the last answer keeps its second word, as templates that remove earlier reasoning do.
FORGETFUL = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\\n' + (m['content'] if loop.last else "
    "m['content'].split(' ')[0]) + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% endif %}"
)
# No special token between a question and its answer: tokens may cross the line.
BARE = (
    "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
)

WORDS = ("red", "blue", "green", "one", "two", "three", "day", "night", "sun", "moon", "sea", "sky")


def make_tokenizer(template: str | None = PLAIN, text: str = "") -> PreTrainedTokenizerFast:
    """Return a byte-level BPE trained on a few words, whose end of a turn is its end of text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([text or " ".join(("system user assistant", *WORDS) * 3)], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = template
    return tokenizer


def save_chat_model(folder: Path, template: str | None = PLAIN, banks: tuple[int, ...] = (2,), seed: int = 0) -> Path:
    """Save a random model with streams and the tokenizer, and return the folder."""
    tokenizer = make_tokenizer(template)
    model = make("llama", seed, vocab_size=300, hidden_size=32, num_hidden_layers=2, max_position_embeddings=256)
    for P in banks:
        warm(add_streams(model, P, prefix_tokens=3))
    with torch.no_grad():
        for parameter in model.model.embed_tokens.parameters():
            parameter.mul_(0.5)
    source = folder.with_name(folder.name + "-tokenizer")
    tokenizer.save_pretrained(source)
    save_model(model if banks else add_streams(model, 1), folder, source)
    return folder


def talk(*words: str, system: str | None = None) -> list[dict[str, str]]:
    """Return messages of user and assistant in turn."""
    head = [] if system is None else [{"role": "system", "content": system}]
    return head + [{"role": ("user", "assistant")[i % 2], "content": word} for i, word in enumerate(words)]


def colours(n: int) -> list[list[dict[str, str]]]:
    """Return conversations in which the answer repeats the question, so that little training lowers the loss."""
    pairs = [(a, b) for a in WORDS for b in WORDS if a != b]
    return [talk(f"{a} {b}", f"{a} {b}") for a, b in pairs[:n]]


def write_lines(file: Path, rows: list[object]) -> Path:
    """Write rows as JSONL."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def write_chat(file: Path, conversations: list[list[dict[str, str]]]) -> Path:
    """Write conversations as JSONL."""
    return write_lines(file, [{"messages": messages} for messages in conversations])
