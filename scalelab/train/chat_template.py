"""Chat templates: the tokens of a conversation, and which of them the assistant wrote."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from scalelab.errors import DataError, ScalelabError, UsageError, first_line
from scalelab.time_limit import time_limit

_TEMPLATE_S = 10.0  # of a chat template, which is a program
_MARKED = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_ADVICE = "put {% generation %} … {% endgeneration %} around the assistant's text in chat_template.jinja"

Messages = Sequence[dict[str, str]]


class ChatTemplate:
    """The chat template of a tokenizer.

    Args:
        tokenizer: The tokenizer, with a fast implementation.
        source: Its folder, for messages.
        ends: Token ids that end generation, besides the tokenizer's own.

    Raises:
        UsageError: The tokenizer has no chat template.
    """

    def __init__(self, tokenizer: Any, source: Path, ends: Collection[int] = ()) -> None:
        if not tokenizer.chat_template:
            raise UsageError(f"the tokenizer in {source} has no chat template; put a chat_template.jinja there")
        self.tokenizer, self.source = tokenizer, source
        # Tokens that are not text. An answer ends with one of them.
        self.special = {*ends, *tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        with _translated(source, ""):
            self.text: str = tokenizer.get_chat_template()
        self.marked = bool(_MARKED.search(self.text))

    def prompt_ids(self, messages: Messages, where: str = "") -> list[int]:
        """Return the tokens from which the answer to `messages` is generated.

        Raises:
            DataError: The template fails or never ends.
        """
        return self._tokenise(self._render(messages, True, where))

    def encode(self, messages: Messages, where: str, last_only: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens of a conversation [n], and true where the assistant wrote one [n].

        If the template marks the assistant's text with ``{% generation %}``, the marks count. Otherwise an answer is
        what follows the prompt that `prompt_ids` gives for the messages before it, up to its end token. Both are used
        only if they are exact: each boundary must be a boundary of tokens, that is, the text before it has the same
        tokens alone as in the whole conversation.

        Args:
            messages: The conversation.
            where: File and line of the conversation, for messages.
            last_only: Only the last answer counts.

        Raises:
            DataError: The template fails, or a boundary is not exact.
        """
        text, spans = self._marked_spans(messages, where) if self.marked else self._found_spans(messages, where)
        ids = self._tokenise(text)
        mask = np.zeros(len(ids), dtype=bool)
        for start, end in spans[-1:] if last_only else spans:
            first = self._boundary(text, ids, start, where)
            last = self._boundary(text, ids, end, where) if self.marked else self._end(text, ids, first, end, where)
            if last == first:
                raise DataError(f"{self.source}: the chat template leaves out an answer of {where}; {_ADVICE}")
            mask[first:last] = True
        return np.asarray(ids, dtype=np.int64), mask

    def _marked_spans(self, messages: Messages, where: str) -> tuple[str, list[tuple[int, int]]]:
        """Return the rendered text and the characters from, to of each answer, as the template marks them."""
        from transformers.utils import chat_template_utils

        render: Any = chat_template_utils.render_jinja_template  # its stubs take the numbers for text
        with _translated(self.source, where):
            texts, spans = render(
                [list(messages)],
                chat_template=self.text,
                return_assistant_tokens_mask=True,
                **self.tokenizer.special_tokens_map,
            )
        found = [(start, end) for start, end in spans[0] if end > start]
        answers = sum(message["role"] == "assistant" for message in messages)
        if len(found) != answers:
            raise DataError(
                f"{self.source}: the chat template marks {len(found)} of the {answers} answers of {where}; {_ADVICE}"
            )
        return texts[0], found

    def _found_spans(self, messages: Messages, where: str) -> tuple[str, list[tuple[int, int]]]:
        """Return the rendered text and the characters from, to of each answer, from the prompts that lead to it."""
        whole = self._render(messages, False, where)
        spans: list[tuple[int, int]] = []
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._render(messages[:i], True, where)
            after = self._render(messages[: i + 1], False, where)
            if not (whole.startswith(after) and after.startswith(before) and len(after) > len(before)):
                raise DataError(
                    f"{self.source}: with this chat template the prompt of message {i + 1} of {where} is not the "
                    f"beginning of the whole conversation, so its answers cannot be found; {_ADVICE}"
                )
            spans.append((len(before), len(after)))
        return whole, spans

    def _boundary(self, text: str, ids: list[int], position: int, where: str) -> int:
        """Return the number of tokens before the character at `position`."""
        before = self._tokenise(text[:position])
        if ids[: len(before)] != before:
            raise DataError(
                f"{self.source}: in {where} a token crosses the start or end of an answer "
                f"({text[max(0, position - 12) : position + 12]!r}); end the template's text there with a special token"
            )
        return len(before)

    def _end(self, text: str, ids: list[int], first: int, position: int, where: str) -> int:
        """Return the end of the answer from token `first`: after its end token, or else before `position`."""
        alone = self._tokenise(text[:position])
        same = next((i for i, (a, b) in enumerate(zip(ids, alone, strict=False)) if a != b), min(len(ids), len(alone)))
        for i in range(first, same):  # white space that the template writes after it is never generated
            if ids[i] in self.special and not self.tokenizer.decode(ids[i + 1 : same]).strip():
                return i + 1
        return self._boundary(text, ids, position, where)

    def _render(self, messages: Messages, add_generation_prompt: bool, where: str) -> str:
        with _translated(self.source, where):
            return self.tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=add_generation_prompt, tokenize=False
            )

    def _tokenise(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


@contextmanager
def _translated(source: Path, where: str) -> Iterator[None]:
    """Limit the time of a template, and raise `DataError` for its errors."""
    at = f" on {where}" if where else ""
    try:
        with time_limit(_TEMPLATE_S, f"{source}: the chat template takes more than {_TEMPLATE_S:g} s{at}; repair it"):
            yield
    except ScalelabError:
        raise
    except Exception as error:  # templates are programs, and may raise anything
        raise DataError(f"{source}: the chat template fails{at} ({first_line(error)}); repair it") from None
