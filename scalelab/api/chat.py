"""Conversations with a model with streams."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from scalelab.api.generation import Generation, Sampling, Writer
from scalelab.api.loading import DeviceName
from scalelab.errors import UsageError

__all__ = ["Chat", "open_chat"]


class Chat:
    """A conversation with a model, made by `open_chat`.

    Attributes:
        messages: The conversation so far; each message is a dictionary of role and content.
        system: System message at its start, or None.
    """

    def __init__(self, writer: Writer, system: str | None, seed: int) -> None:
        self._writer, self.system, self._seed = writer, system, seed
        _ = writer.template  # a model without one fails now
        self.messages: list[dict[str, str]] = []
        self.reset()

    @property
    def P(self) -> int:
        """Number of streams in use."""
        return self._writer.model.P

    @property
    def available(self) -> list[int]:
        """Numbers of streams that the model has."""
        return sorted({1, *self._writer.model.banks})

    def set_streams(self, P: int) -> None:
        """Use P streams from the next answer on; the conversation goes on.

        Raises:
            UsageError: The model has no bank of P streams.
        """
        if P not in self.available:
            have = ", ".join(map(str, self.available))
            raise UsageError(f"the model has only P = {have}; choose one of them", argument="P", value=P)
        self._writer.model.set_streams(P)

    def reset(self) -> None:
        """Start a new conversation, with the same system message."""
        self.messages = [] if self.system is None else [{"role": "system", "content": self.system}]

    def send(
        self,
        text: str,
        on_text: Callable[[str], None] | None = None,
        on_note: Callable[[str], None] | None = None,
    ) -> Generation:
        """Say `text` as the user and return the answer; both are added to `messages` once it is complete.

        Args:
            text: Message of the user.
            on_text: Called with each piece of the answer as it is generated.
            on_note: Called with each note before generation starts.

        Raises:
            UsageError: The text is empty, or the conversation is longer than the model supports.
            DataError: The chat template fails.
        """
        if not text.strip():
            raise UsageError("is empty; give some text", argument="text")
        messages = [*self.messages, {"role": "user", "content": text}]
        prompt = self._writer.template.prompt_ids(messages)
        streamer = _streamer(self._writer.tokenizer, on_text) if on_text else None
        made = self._writer.write(prompt, self._seed + len(messages), streamer, on_note)
        self.messages = [*messages, {"role": "assistant", "content": made.text}]
        return made

    def __repr__(self) -> str:
        return f"<Chat with {self._writer.source}, P = {self.P}: {len(self.messages)} messages>"


def open_chat(
    model: str | Path,
    P: int | None = None,
    *,
    system: str | None = None,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    dtype: Literal["fp32", "bf16"] = "fp32",
    device: DeviceName = "auto",
) -> Chat:
    """Open a model for a conversation with P streams.

    Args:
        model: Folder of a model and its tokenizer, which must have a chat template.
        P: Number of streams; by default the one that the model was saved with.
        system: System message at the start of the conversation.
        max_new_tokens: Maximum number of tokens in an answer.
        temperature: Sampling temperature; 0 is greedy decoding.
        top_p: Probability mass to sample from (nucleus sampling).
        seed: Seed of the sampling.
        dtype: Precision: "fp32" or "bf16".
        device: Device: "auto", "cpu" or "cuda".

    Returns:
        A conversation: `send` returns an answer, `set_streams` changes P, `reset` starts again.

    Raises:
        UsageError: An argument is wrong, or the model has no chat template or no bank of P streams.
        DataError: The model or its tokenizer cannot be used.
        MissingPackageError: torch or transformers is not installed.
    """
    return Chat(Writer(model, P, Sampling(max_new_tokens, temperature, top_p), dtype, device), system, seed)


def _streamer(tokenizer: Any, on_text: Callable[[str], None]) -> Any:
    """Return a streamer of transformers that calls `on_text` with pieces of whole words."""
    from transformers import TextStreamer

    class Pieces(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            if text:
                on_text(text)

    return Pieces(tokenizer, skip_prompt=True, skip_special_tokens=True)
