"""SIGKILLs of single commands: convert, train, fit, import, and results that write a table and a figure.

Half of the kills come at random moments, half in a write. After each, every file of the output must be whole or absent
and nothing else changed; the same command is then repeated and must end with the files of an undisturbed one. Run with
`make faults`; writes a section of docs/faults.md. Commands start in a fork server that has imported the libraries, so
kills do not fall into imports, which write nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.command_files import content, stamps, unfinished
from benchmarks.disturb import LONGEST_S, work_folder, write_corpus
from benchmarks.tally import OUTPUT, CommandTally, describe_commands, replace_commands
from scalelab.cli.main import main as scalelab

PRELOAD = ["torch", "transformers.models.qwen2.modeling_qwen2", "scalelab.model.checkpoint", "scalelab.train.stage"]
PRELOAD += ["scalelab.api.conversion", "scalelab.api.second_stage", "scalelab.api.fitting", "scalelab.api.runs"]
PRELOAD += [
    "scalelab.api.reporting",
    "scalelab.plot.fits",
    "scalelab.importers",
    "scalelab.records.store",
    "scipy.optimize",
    "matplotlib.figure",
]
_TEXT = ["--corpus", "../inputs/corpus", "--seq-len", "32", "--val-tokens", "1024", "--device", "cpu"]


@dataclass(frozen=True)
class Command:
    """Words of a command that runs in a folder next to `inputs`."""

    name: str
    words: Sequence[str]
    new: str | None = None  # folder that appears as a whole
    others: Sequence[str] = ()  # files that are there before, next to or in the output


COMMANDS = (
    Command("convert", ["../inputs/base", "--P", "2", "--prefix-tokens", "4", *_TEXT, "--out", "model"], "model"),
    Command(
        "train", ["../inputs/model", "--tokens", "2k", "--checkpoint-minutes", "0", *_TEXT, "--out", "model"], "model"
    ),
    Command("fit", ["paper", "--starts", "10", "--draws", "100", "--out", "fits"], others=["fits/mine.json"]),
    Command("import", ["../inputs/logs", "--out", "imported"], others=["imported/runs/mine.txt"]),
    Command("results", ["../inputs/sweep", "-o", "runs.csv", "--figure", "runs.png"], others=["runs.json"]),
    Command(
        "report",
        ["paper", "--starts", "10", "--draws", "100", "--no-laws", "--no-plan", "-o", "page.html"],
        others=["page.md"],
    ),
)


def _child(words: list[str], folder: Path, log: Path, cache: Path, before: Callable[[], object] | None) -> None:
    os.setsid()
    os.chdir(folder)
    output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ |= {"SCALELAB_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    if before is not None:
        before()
    raise SystemExit(scalelab(words))


class Kills:
    """Kills of commands in `folder`; `before` runs in each child before its command."""

    def __init__(
        self, folder: Path, seed: int = 0, preload: Sequence[str] = (), before: Callable[[], object] | None = None
    ) -> None:
        self.folder, self.inputs, self.random, self.before = folder, folder / "inputs", random.Random(seed), before
        self.context, self.numbers = get_context("forkserver"), 0
        if preload:
            self.context.set_forkserver_preload(list(preload))
        self.inputs.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, words: Sequence[str], folder: Path) -> Any:
        log = self.folder / f"{folder.name}.log"
        arguments = ([name, *words], folder, log, self.inputs / "cache", self.before)
        process = self.context.Process(target=_child, args=arguments)
        process.start()
        return process

    def finish(self, command: Command, folder: Path) -> tuple[int, str]:
        """Exit code of `command` in `folder`, undisturbed, and what it printed there until now."""
        process = self.start(command.name, command.words, folder)
        process.join(LONGEST_S)
        log = (self.folder / f"{folder.name}.log").read_text(encoding="utf-8", errors="replace")
        assert process.exitcode is not None, "it hangs"
        assert "Traceback" not in log, log
        return process.exitcode, log

    def make_models(self) -> None:
        """A corpus, a sweep of one run, its model, and this model with streams."""
        write_corpus(self.inputs / "corpus", 20)
        words = [
            "--out",
            "sweep",
            "--corpus",
            "corpus",
            "--tokenizer",
            "320",
            "--N",
            "12k",
            "--P",
            "1",
            "--D",
            "20k",
            "--seed",
            "0",
        ]
        words += ["--save-models", "--workers", "1", "--device", "cpu"]
        words += ["--set", "recipe.val_tokens=2048", "recipe.warmup_tokens=5000"]
        code, log = self.finish(Command("sweep", words), self.inputs)
        assert code == 0, log
        (base,) = (self.inputs / "sweep" / "models").iterdir()
        base.rename(self.inputs / "base")
        folder = self.new_folder(COMMANDS[0])
        code, log = self.finish(COMMANDS[0], folder)
        assert code == 0, log
        (folder / "model").rename(self.inputs / "model")

    def make_logs(self) -> None:
        """Runs of another tool."""
        (self.inputs / "logs").mkdir()
        for i in range(4):
            rows = [f"{step * 1000},{4 - i / 10 - step / 50}" for step in range(1, 9)]
            text = "\n".join(["n_params,n_tokens,loss", *(f"{(i + 1) * 10**6},{row}" for row in rows)])
            (self.inputs / "logs" / f"run-{i}.csv").write_text(text + "\n", encoding="utf-8")

    def new_folder(self, command: Command) -> Path:
        self.numbers += 1
        folder = self.folder / f"{command.name}-{self.numbers}"
        for name in ("mine.txt", *command.others):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("not of this command", encoding="utf-8")
        return folder

    def watch(self, command: Command) -> tuple[dict[str, Any], float, int]:
        """Files of an undisturbed command, its seconds, and the number of its unfinished files and folders."""
        began, folder, seen = time.monotonic(), self.new_folder(command), set[str]()
        process = self.start(command.name, command.words, folder)
        while process.exitcode is None:
            seen |= unfinished(folder)
            time.sleep(0.001)
        assert process.exitcode == 0, (self.folder / f"{folder.name}.log").read_text(encoding="utf-8")
        assert not unfinished(folder)
        return content(folder), time.monotonic() - began, max(1, len(seen))

    def kill(self, command: Command, count: int) -> CommandTally:
        """Kill `command` so many times, the first half of them in a write. Raises AssertionError for any fault."""
        began = time.monotonic()
        reference, usual_s, n_writes = self.watch(command)
        assert self.watch(command)[0] == reference, f"{command.name}: two undisturbed commands have different files"
        inputs, tally = stamps(self.inputs), CommandTally(command.name)
        while tally.kills < count:
            folder = self.new_folder(command)
            start, process = time.monotonic(), self.start(command.name, command.words, folder)
            if tally.kills < count // 2:  # the last write is that of the result
                last = command.new and self.random.random() < 0.5
                wanted = n_writes if last else self.random.randint(1, n_writes)
                now: set[str] = set()
                while process.exitcode is None and len(now) < wanted:
                    now |= unfinished(folder)
                    time.sleep(0.0005)
            else:
                process.join(self.random.uniform(0.0, usual_s))
            if process.exitcode is None:
                _kill_group(process.pid)
            process.join(LONGEST_S)
            if process.exitcode != -signal.SIGKILL:  # it was faster
                usual_s = min(usual_s, time.monotonic() - start)
                shutil.rmtree(folder)
                continue
            tally.kills += 1
            tally.in_writes += bool(unfinished(folder))
            self.check(command, folder, reference, tally)
            assert stamps(self.inputs) == inputs, "an input was changed"
            print(f"{tally.kind}: {tally.kills} ({tally.in_writes} in a write)", flush=True)
            shutil.rmtree(folder)
        tally.seconds = time.monotonic() - began
        return tally

    def check(self, command: Command, folder: Path, reference: dict[str, Any], tally: CommandTally) -> None:
        """Check the files after a kill, and the repeated command."""
        after, before = content(folder), {"mine.txt", *command.others}
        wrong = [name for name, value in after.items() if name not in reference or reference[name] != value]
        assert not wrong, f"{folder}: not as in the reference: {wrong}"
        assert before <= after.keys(), f"{folder}: removed: {before - after.keys()}"
        assert command.new is None or len(after) in (len(before), len(reference)), f"{folder}: partial: {[*after]}"
        curves = {name.replace("/runs/", "/curves/") for name in after if name.endswith(".parquet")}
        assert curves <= after.keys(), f"{folder}: records without curves: {curves - after.keys()}"
        tally.whole += after.keys() == reference.keys()
        saved = any(folder.glob("*.checkpoints/*/[0-9]*"))
        code, log = self.finish(command, folder)
        if command.new and len(after) == len(reference):
            assert code == 2, log
            assert "is not empty; give a new folder" in log
            tally.refused += 1
        else:
            assert code == 0, log
            assert saved == ("resuming at step" in log), log
            tally.resumed += saved
        assert content(folder) == reference, f"{folder}: the repeated command has another result"
        assert not unfinished(folder), unfinished(folder)
        tally.leftovers += any(folder.rglob("*.checkpoints"))


def _kill_group(pid: int) -> None:
    """SIGKILL to a process and its children, also before it has a group of its own."""
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, signal.SIGSTOP)
        os.killpg(pid, signal.SIGKILL) if os.getpgid(pid) == pid else os.kill(pid, signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of 8 kills of each command")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of moments")
    parser.add_argument("--commands", nargs="+", default=[c.name for c in COMMANDS], help="only these")
    parser.add_argument("--folder", type=Path, help="for the commands; stays if something is wrong")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # also for the libraries in the fork server
    with work_folder(options.folder) as folder:
        kills = Kills(folder.resolve(), options.seed, PRELOAD)
        kills.make_logs()
        if {"convert", "train", "results"} & {*options.commands}:
            kills.make_models()
        count = max(2, round(8 * options.scale))
        tallies = [kills.kill(command, count) for command in COMMANDS if command.name in options.commands]
    command = f"python -m benchmarks.command_kills --scale {options.scale:g} --seed {options.seed}"
    if len(tallies) < len(COMMANDS):
        command += f" --commands {' '.join(options.commands)}"
    text = describe_commands(tallies, command)
    print(text)
    options.output.write_text(replace_commands(options.output.read_text(encoding="utf-8"), text), encoding="utf-8")


if __name__ == "__main__":
    main()
