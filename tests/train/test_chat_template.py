"""Which tokens of a conversation the assistant wrote, against tokens put together by hand."""

from pathlib import Path

import pytest

from scalelab.errors import DataError, UsageError
from scalelab.train.answers import inputs_and_labels, signed_ids, stack
from scalelab.train.chat_template import ChatTemplate
from tests.support.chats import BARE, FORGETFUL, MARKED, PLAIN, make_tokenizer, talk

FOLDER = Path("model")
BARE_MARKED = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% else %}"
    "{% generation %}{{ m['content'] + '<|end|>' }}{% endgeneration %}{% endif %}{% endfor %}"
)
CONVERSATIONS = [
    talk("red", "blue"),
    talk("red moon", "blue sea", "one", "two three", system="day and night"),
    talk("red", "blue<|end|>green", "one"),  # ends with a question, and has an end token as text
    talk("\n red ", " blue \n", "ä€😀", "😀"),
]


def by_hand(tokenizer, messages):
    """The tokens of each piece on its own, and whether the model would generate it."""
    pieces = []
    for message in messages:
        pieces.append((f"<|start|>{message['role']}\n", False))
        pieces.append((message["content"] + "<|end|>", message["role"] == "assistant"))
        pieces.append(("\n", False))
    ids, mask = [], []
    for text, learned in pieces:
        own = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += own
        mask += [learned] * len(own)
    return ids, mask


@pytest.mark.parametrize("template", [PLAIN, MARKED])
@pytest.mark.parametrize("messages", CONVERSATIONS[:3])
def test_the_mask_is_what_the_assistant_wrote_and_its_end_token(template, messages):
    tokenizer = make_tokenizer(template)
    ids, mask = ChatTemplate(tokenizer, FOLDER).encode(messages, "a")
    wanted, learned = by_hand(tokenizer, messages)
    assert tokenizer.decode(ids) == tokenizer.decode(wanted)
    assert ids.tolist() == wanted
    assert mask.tolist() == learned


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_marks_agree_with_transformers_and_with_the_search(messages):
    tokenizer = make_tokenizer(MARKED)
    ids, mask = ChatTemplate(tokenizer, FOLDER).encode(messages, "a")
    theirs = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
    assert ids.tolist() == theirs["input_ids"]
    assert mask.tolist() == [bool(m) for m in theirs["assistant_masks"]]
    found_ids, found = ChatTemplate(make_tokenizer(PLAIN), FOLDER).encode(messages, "a")
    assert found_ids.tolist() == ids.tolist()
    assert found.tolist() == mask.tolist()


@pytest.mark.parametrize("template", [PLAIN, MARKED])
def test_an_answer_follows_the_prompt_that_generation_starts_from(template):
    chat = ChatTemplate(make_tokenizer(template), FOLDER)
    messages = CONVERSATIONS[1]
    ids, mask = chat.encode(messages, "a", last_only=True)
    prompt = chat.prompt_ids(messages[:-1])
    assert ids[: len(prompt)].tolist() == prompt
    assert mask.tolist() == [i >= len(prompt) for i in range(len(ids) - 1)] + [False]  # the last is a line break


@pytest.mark.parametrize(
    ("template", "messages", "message"),
    [
        (FORGETFUL, talk("red", "blue sea", "one", "two"), "the prompt of message 2 of a, line 3 is not the beginning"),
        (FORGETFUL, talk("red", "blue sea", "one", "two"), "put {% generation %}"),
        (BARE, talk("da", "y"), "in a, line 3 a token crosses the start or end of an answer"),
        (MARKED.replace("'assistant'", "'robot'"), talk("red", "blue"), "marks 0 of the 1 answers of a, line 3"),
        (BARE_MARKED, talk("da", "y"), "in a, line 3 a token crosses the start or end of an answer"),
        ("{{ raise_exception('no system') }}{% generation %}", talk("red", "blue"), "template fails on a, line 3"),
        ("{{ raise_exception('no system') }}", talk("red", "blue"), "the chat template fails on a, line 3 (no system)"),
        ("x{% if add_generation_prompt %}y{% endif %}", talk("red", "blue"), "answers cannot be found"),
    ],
)
def test_inexact_templates_are_refused(template, messages, message):
    with pytest.raises(DataError) as caught:
        ChatTemplate(make_tokenizer(template), FOLDER).encode(messages, "a, line 3")
    assert message in str(caught.value)
    assert "model: " in str(caught.value)


def test_a_tokenizer_without_a_template_is_refused():
    with pytest.raises(UsageError, match=r"has no chat template; put a chat_template\.jinja there"):
        ChatTemplate(make_tokenizer(None), FOLDER)


def test_signed_ids_carry_the_mask_through_a_batch():
    import numpy as np
    import torch

    rows = [
        signed_ids(np.array(ids), np.array(mask, bool))
        for ids, mask in (([0, 5, 0, 7, 9], [0, 0, 1, 1, 0]), ([4, 0], [0, 1]))
    ]
    assert [row.tolist() for row in rows] == [[-1, -6, 0, 7], [-5, 0]]
    inputs, labels = inputs_and_labels(torch.from_numpy(stack(rows)))
    assert inputs.tolist() == [[0, 5, 0], [4, 0, 0]]
    assert labels.tolist() == [[-100, 0, 7], [0, -100, -100]]
    assert stack(rows, 6).shape == (2, 6)
