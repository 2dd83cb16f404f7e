"""Conversations and preferences on disk: roles, splits and mistakes."""

import json

import pytest

from scalelab.errors import DataError, UsageError
from scalelab.train.conversations import load_conversations
from tests.support.chats import colours, talk, write_chat, write_lines


def prefer(prompt, chosen, rejected):
    return {"prompt": talk(prompt), "chosen": [answer(chosen)], "rejected": [answer(rejected)]}


def answer(text, role="assistant", **more):
    return {"role": role, "content": text} | more


def test_rows_are_split_by_question_and_stay_split_as_the_data_grow(tmp_path):
    rows = colours(120)
    again = [[*row[:1], answer("another")] for row in rows[:40]]
    few = load_conversations(write_chat(tmp_path / "few.jsonl", rows[:80] + again), "chat")
    many = load_conversations(write_chat(tmp_path / "many.jsonl", rows + again), "chat")
    for data in (few, many):
        assert not {e.question for e in data.train} & {e.question for e in data.held_out}
    assert len(few.train) + len(few.held_out) == 120
    assert 2 <= len(many.held_out) < 30
    grown = {e.question for e in many.held_out}
    fixed = {q for q in (e.question for e in few.held_out) if int(q[:8], 16) < 0.05 * 2**32}
    assert fixed <= grown


def test_repeated_and_held_out_questions_do_not_train(tmp_path):
    rows = colours(10)
    write_chat(tmp_path / "train.jsonl", [*rows[:8], rows[0], rows[8]])
    write_chat(tmp_path / "validation.jsonl", rows[8:])
    data = load_conversations(tmp_path, "chat")
    assert [len(data.train), len(data.held_out)] == [8, 2]
    assert [note.split(": ")[1][:30] for note in data.notes] == ["1 repeated row left out", "1 training row left out"]
    same = load_conversations(write_shuffled(tmp_path / "b", rows), "chat")
    assert same.digest == data.digest
    write_chat(tmp_path / "train.jsonl", rows[:7])
    assert load_conversations(tmp_path, "chat").digest != data.digest


def write_shuffled(folder, rows):
    write_chat(folder / "train.jsonl", rows[7::-1])
    write_chat(folder / "validation.jsonl", rows[:7:-1])
    return folder


@pytest.mark.parametrize("split", [True, False])
def test_a_folder_of_datasets_is_the_same_data(split, tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{"messages": row, "id": i} for i, row in enumerate(colours(12))]
    if split:
        parts = {"train": datasets.Dataset.from_list(rows[:9]), "test": datasets.Dataset.from_list(rows[9:])}
        datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
        write_lines(tmp_path / "lines" / "train.jsonl", rows[:9])
        write_lines(tmp_path / "lines" / "test.jsonl", rows[9:])
        lines = tmp_path / "lines"
    else:
        datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
        lines = write_lines(tmp_path / "lines.jsonl", rows)
    saved = load_conversations(tmp_path / "saved", "chat")
    assert saved.digest == load_conversations(lines, "chat").digest
    assert "row 1" in min(e.where for e in (*saved.train, *saved.held_out))


def test_preferences_are_pairs_of_conversations(tmp_path):
    rows = [prefer(f"red {i}", "blue", f"green {i}") for i in range(8)]
    data = load_conversations(write_lines(tmp_path / "p.jsonl", rows), "preference")
    assert len(data.train) + len(data.held_out) == 8
    for example in data.train:
        chosen, rejected = example.conversations
        assert chosen[:-1] == rejected[:-1]
        assert chosen[-1] == answer("blue")
        assert rejected[-1]["content"] == "green " + chosen[0]["content"].split()[1]


MISTAKES = [
    ("{", "not JSON"),
    ("[1]", "no 'messages' (it has: list)"),
    ({"text": "a"}, "no 'messages' (it has: text)"),
    ({"messages": []}, "messages: not a list of messages"),
    ({"messages": ["a"]}, "messages[1]: not an object with role and content"),
    (
        {"messages": [{"role": "human", "content": "a"}]},
        "messages[1]: role 'human' is not supported; use one of system",
    ),
    ({"messages": talk("a", " ")}, "messages[2]: content is not text or is empty"),
    ({"messages": [answer([{"type": "text"}], "user")]}, "messages[1]: content is not text"),
    ({"messages": [answer("a")]}, "messages[1]: the assistant speaks first"),
    ({"messages": talk("a")}, "no message of the assistant"),
    ({"messages": [answer("a", "user"), answer("b", "user")]}, "messages[2]: two messages in a row with the role user"),
    ({"messages": [*talk("a"), answer("s", "system")]}, "messages[2]: a system message must come first"),
    ({"messages": [answer("s", "system")]}, "only a system message"),
    ({"messages": [answer("a", "user", tool_calls=[1])]}, "messages[1]: 'tool_calls' is not supported"),
]
WRONG_PAIRS = [
    ({"prompt": "a", "chosen": [], "rejected": []}, "prompt: not a list of messages"),
    ({"prompt": talk("a", "b"), "chosen": [], "rejected": []}, "prompt: ends with the role assistant"),
    (prefer("a", "b", "c") | {"chosen": talk("b", "c")}, "chosen: give a list of one message of the assistant"),
    (prefer("a", "b", "c") | {"rejected": talk("c")}, "prompt + rejected[2]: two messages in a row"),
    (prefer("a", "b", "b"), "chosen and rejected are the same"),
    ({"prompt": talk("a"), "chosen": talk("b")}, "chosen[2]"),
]


@pytest.mark.parametrize(("row", "message"), MISTAKES)
def test_a_wrong_conversation_is_named_with_its_line(row, message, tmp_path):
    _refused(row, message, "chat", write_chat(tmp_path / "a.jsonl", colours(3)))


@pytest.mark.parametrize(("row", "message"), WRONG_PAIRS)
def test_a_wrong_pair_is_named_with_its_line(row, message, tmp_path):
    file = write_lines(tmp_path / "a.jsonl", [prefer(f"{i}", "b", "c") for i in range(3)])
    _refused(row, message, "preference", file)


def _refused(row, message, argument, file):
    with file.open("a") as lines:
        lines.write(row if isinstance(row, str) else json.dumps(row))
    with pytest.raises(DataError) as caught:
        load_conversations(file, argument)
    assert f"{file}, line 4" in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_data_that_do_not_suffice(tmp_path):
    with pytest.raises(UsageError, match="no such file or folder"):
        load_conversations(tmp_path / "none", "chat")
    with pytest.raises(DataError, match=r"no train\.jsonl and no data set"):
        load_conversations(tmp_path, "chat")
    with pytest.raises(DataError, match="0 training rows and 2 held-out rows are too few"):
        load_conversations(write_chat(tmp_path / "a.jsonl", colours(2)), "chat")
    (tmp_path / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match="not a readable data set"):
        load_conversations(tmp_path, "chat")
