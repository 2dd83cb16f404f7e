"""Conversations and preferences from JSONL files and data set folders, checked and split into training and held-out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalelab.errors import DataError, UsageError, first_line
from scalelab.train.corpus import VALIDATION_FRACTION
from scalelab.units import plural

Messages = list[dict[str, str]]
_ROLES = ("system", "user", "assistant")
_HELD_OUT = ("validation", "held_out", "test")  # names of held-out splits, the first that exists
_SAVED = ("dataset_info.json", "dataset_dict.json")  # written by save_to_disk
_FEWEST = 2  # held-out conversations


@dataclass(frozen=True)
class Example:
    """One row of the data.

    Attributes:
        where: File and line, or split and row, for messages.
        conversations: The conversation; of preferences the chosen and the rejected one.
    """

    where: str
    conversations: tuple[Messages, ...]

    @property
    def question(self) -> str:
        """Digest of the messages before the first answer; rows with the same one are never split."""
        messages = self.conversations[0]
        first = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
        return _digest(messages[:first])


@dataclass(frozen=True)
class Conversations:
    """Training and held-out rows. `digest` does not depend on their order; `notes` say what was left out."""

    name: str
    digest: str
    train: list[Example]
    held_out: list[Example]
    notes: tuple[str, ...] = ()


def load_conversations(source: str | Path, argument: str) -> Conversations:
    """Load the data of the argument `chat` or `preference`.

    Args:
        source: A .jsonl file; a folder that `datasets` saved; or a folder with train.jsonl and validation.jsonl.
            Without a split named validation, held_out or test, 5 % of the questions are held out, by their content.
        argument: "chat" for rows with `messages`; "preference" for rows with `prompt`, `chosen` and `rejected`.

    Raises:
        UsageError: `source` does not exist, or datasets is not installed.
        DataError: A row cannot be used. The message names it.
    """
    path = Path(source)
    read = _conversation if argument == "chat" else _preference
    if path.is_file():
        splits = {"train": list(_read_lines(path, read))}
    elif not path.is_dir():
        raise UsageError("no such file or folder; give a .jsonl file or a folder", argument=argument, value=str(source))
    elif any((path / name).is_file() for name in _SAVED):
        splits = _read_dataset(path, read)
    else:
        files = {name: path / f"{name}.jsonl" for name in ("train", *_HELD_OUT)}
        splits = {name: list(_read_lines(file, read)) for name, file in files.items() if file.is_file()}
    if "train" not in splits:
        raise DataError(f"{path}: no train.jsonl and no data set saved by datasets; give a folder with one of them")
    train, seen = _unique(splits["train"])
    notes = [] if seen == 0 else [f"{path}: {plural(seen, 'repeated row')} left out"]
    name = next((name for name in _HELD_OUT if name in splits), None)
    if name is None:
        train, held_out = _split(train)
    else:
        held_out, _ = _unique(splits[name])
        questions = {example.question for example in held_out}
        kept = [example for example in train if example.question not in questions]
        if len(kept) < len(train):
            notes.append(f"{path}: {plural(len(train) - len(kept), 'training row')} left out: the question is held out")
        train = kept
    if not train or len(held_out) < _FEWEST:
        raise DataError(
            f"{path}: {plural(len(train), 'training row')} and {plural(len(held_out), 'held-out row')} are too few; "
            f"give at least 1 and {_FEWEST}"
        )
    digests = sorted(_digest([side, *e.conversations]) for side, rows in ((0, train), (1, held_out)) for e in rows)
    return Conversations(path.name or path.resolve().name, _digest(digests)[:16], train, held_out, tuple(notes))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _unique(examples: list[Example]) -> tuple[list[Example], int]:
    """Return the examples without repetitions, and how many were left out."""
    found = {_digest(example.conversations): example for example in reversed(examples)}
    return list(reversed(found.values())), len(examples) - len(found)


def _split(examples: list[Example]) -> tuple[list[Example], list[Example]]:
    """Split by the content of the question, so that data that grow keep their split."""
    questions = sorted({example.question for example in examples})
    held = {digest for digest in questions if int(digest[:8], 16) < VALIDATION_FRACTION * 2**32}
    held |= set(questions[:_FEWEST])
    return [e for e in examples if e.question not in held], [e for e in examples if e.question in held]


def _read_lines(file: Path, read: Callable[[Any, str], Example]) -> Iterator[Example]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{file}, line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: not JSON ({first_line(error)}); give one JSON object per line") from None
            yield read(row, where)


def _read_dataset(path: Path, read: Callable[[Any, str], Example]) -> dict[str, list[Example]]:
    try:
        import datasets
    except ImportError:
        raise UsageError(f"{path}: needs the datasets library: pip install 'scalelab[datasets]'") from None
    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # the library raises many kinds
        raise DataError(f"{path}: not a readable data set ({first_line(error)})") from None
    parts: dict[str, Any] = {str(k): v for k, v in loaded.items()} if isinstance(loaded, dict) else {"train": loaded}
    return {
        name: [read(row, f"{path}, {name}, row {number}") for number, row in enumerate(part, 1)]
        for name, part in parts.items()
        if name in ("train", *_HELD_OUT)
    }


def _conversation(row: Any, where: str) -> Example:
    messages = _check_messages(_entry(row, "messages", where), f"{where}: messages")
    if not any(message["role"] == "assistant" for message in messages):
        raise DataError(f"{where}: no message of the assistant; add the answer to learn")
    return Example(where, (messages,))


def _preference(row: Any, where: str) -> Example:
    prompt = _check_messages(_entry(row, "prompt", where), f"{where}: prompt")
    if prompt[-1]["role"] != "user":
        raise DataError(f"{where}: prompt: ends with the role {prompt[-1]['role']}; end it with a user message")
    answers: list[Messages] = []
    for key in ("chosen", "rejected"):
        answer = _entry(row, key, where)
        if not isinstance(answer, list) or len(answer) != 1:
            raise DataError(f"{where}: {key}: give a list of one message of the assistant, the answer to `prompt`")
        answers.append(_check_messages([*prompt, *answer], f"{where}: prompt + {key}"))
    if answers[0] == answers[1]:
        raise DataError(f"{where}: chosen and rejected are the same; leave the row out")
    return Example(where, tuple(answers))


def _entry(row: Any, key: str, where: str) -> Any:
    if not isinstance(row, dict) or row.get(key) is None:
        have = ", ".join(map(str, row))[:100] if isinstance(row, dict) else type(row).__name__
        raise DataError(f"{where}: no {key!r} (it has: {have}); give an object with {key!r}, a list of messages")
    return row[key]


def _check_messages(messages: Any, where: str) -> Messages:
    """Return role and content of each message.

    After an optional system message the roles must be user and assistant in turn.
    """
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{where}: not a list of messages; give [{{'role': …, 'content': …}}, …]")
    checked: Messages = []
    for number, message in enumerate(messages, 1):
        here = f"{where}[{number}]"
        if not isinstance(message, dict):
            raise DataError(f"{here}: not an object with role and content")
        role, content = message.get("role"), message.get("content")
        more = [key for key, value in message.items() if key not in ("role", "content") and value is not None]
        if more:
            raise DataError(f"{here}: {more[0]!r} is not supported; give only role and content")
        if role not in _ROLES:
            raise DataError(f"{here}: role {role!r} is not supported; use one of {', '.join(_ROLES)}")
        if not isinstance(content, str) or not content.strip():
            raise DataError(f"{here}: content is not text or is empty; give some text")
        previous = checked[-1]["role"] if checked else None
        if role == "system" and previous is not None:
            raise DataError(f"{here}: a system message must come first; move or remove it")
        if role == "assistant" and previous in (None, "system"):
            raise DataError(f"{here}: the assistant speaks first; start with a user message")
        if role == previous:
            raise DataError(f"{here}: two messages in a row with the role {role}; join them")
        # JSON can contain lone surrogates, which tokenizers refuse.
        checked.append({"role": role, "content": content.encode("utf-8", "replace").decode()})
    if checked[-1]["role"] == "system":
        raise DataError(f"{where}: only a system message; add messages of the user")
    return checked
