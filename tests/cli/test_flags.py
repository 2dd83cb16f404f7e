"""Errors of the library name the flags that the commands have."""

import re
from pathlib import Path

import pytest
import typer

import scalelab
from scalelab.cli.flags import FLAGS, describe
from scalelab.cli.main import app
from scalelab.errors import UsageError

# An argument of another name than the option, and an option that messages name with its command.
OTHERS = {"kind", "list_hardware"}


def test_each_option_named_in_an_error_has_its_flag():
    sources = [path.read_text() for path in Path(scalelab.__file__).parent.rglob("*.py")]
    named = {name for text in sources for name in re.findall(r'argument="(\w+)"', text)}
    opts: dict[str, set[str]] = {}
    for command in typer.main.get_command(app).commands.values():
        for param in command.params:
            if param.param_type_name == "option":
                opts.setdefault(param.name, set()).update(param.opts)
    assert len((named | {*FLAGS}) & {*opts}) > 100
    wrong = {n: FLAGS.get(n) for n in (named | {*FLAGS}) & {*opts} - OTHERS if FLAGS.get(n) not in opts[n]}
    assert not wrong


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UsageError("no such column", argument="value", value="ppl"), "--value ppl: no such column"),
        (UsageError("give FLOPs", argument="budget"), "--budget: give FLOPs"),
        (UsageError("leave out `most`", argument="candidates"), "--candidates: leave out --most"),
        (UsageError("wrong", argument="elsewhere", value=1), "elsewhere=1: wrong"),
    ],
)
def test_arguments_become_flags(error, line):
    assert describe(error) == line
