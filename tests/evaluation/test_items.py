"""Items of the small tasks: from held-out text only, the same each time, and answerable."""

import pytest

from scalelab.errors import DataError
from scalelab.evaluation.items import TASKS, make_items
from scalelab.train.corpus import load_corpus


@pytest.fixture(scope="module")
def corpus(text_folder):
    return load_corpus(str(text_folder))


@pytest.mark.parametrize("task", TASKS)
def test_the_right_answer_continues_held_out_text(task, corpus):
    items = make_items(task, corpus.validation, "text", 40)
    assert len(items) == 40
    trained_on = "\n".join(corpus.train)
    for item in items:
        whole = item.context + item.choices[item.answer]
        squeezed = "".join(whole.split())  # blank lines at the end of a context are left out
        assert squeezed in "".join(corpus.validation[item.document].split())
        assert whole[-200:] not in trained_on
        assert len(set(item.choices)) == len(item.choices)
        assert not item.context[-1].isspace()


@pytest.mark.parametrize("task", TASKS)
def test_the_seed_alone_decides(task, corpus):
    items = make_items(task, corpus.validation, "text", 30, seed=3)
    assert items == make_items(task, corpus.validation, "text", 30, seed=3)
    assert items != make_items(task, corpus.validation, "text", 30, seed=4)
    assert items[:20] == make_items(task, corpus.validation, "text", 20, seed=3)


@pytest.mark.parametrize("task", TASKS)
def test_the_place_of_the_answer_says_nothing(task, corpus):
    items = make_items(task, corpus.validation, "text", 100)
    places = [item.answer for item in items]
    chance = 100 / len(items[0].choices)
    assert all(abs(places.count(place) - chance) < 20 for place in set(places))  # over four standard deviations


def test_wrong_brackets_are_wrong(corpus):
    closers = [item for item in make_items("brackets", corpus.validation, "text", 100) if item.choices[0][0] in ")]}"]
    assert len({item.choices[item.answer] for item in closers}) > 1  # not always the same kind
    opened = {")": "(", "]": "[", "}": "{"}
    for item in closers:
        stack = []
        for mark in item.context:
            if mark in opened.values():
                stack.append(mark)
            elif stack and opened.get(mark) == stack[-1]:
                stack.pop()
        if "'" not in item.context and '"' not in item.context and "#" not in item.context and stack:
            assert opened[item.choices[item.answer][0]] == stack[-1]


def test_a_text_without_places_is_refused():
    with pytest.raises(DataError, match="prose: the held-out text has places for only 0 items of 'brackets'"):
        make_items("brackets", ["no code here " * 40], "prose")
