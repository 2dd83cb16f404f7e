"""Second-stage training: streams, or a whole model with streams, on text, conversations or preferences."""

from __future__ import annotations

import json
import math
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from scalelab.api.loading import (
    DeviceName,
    Dtype,
    check_corpus,
    check_device,
    check_dtype,
    check_model,
    choose_device,
    console_of,
    load_tokenizer,
    need_torch,
    new_folder,
    quiet_libraries,
    training_progress,
)
from scalelab.errors import UsageError
from scalelab.shown import Shown
from scalelab.status import RunStatus
from scalelab.units import format_count, one_count

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from scalelab.train.checkpoint import TrainState
    from scalelab.train.evaluate import Evaluation
    from scalelab.train.parallel import Parallel
    from scalelab.train.stage_resume import ResumableStage

Part = Literal["streams", "all"]
Objective = Literal["text", "chat", "preference"]
PARTS: tuple[Part, ...] = ("streams", "all")
_MEMORY = "try a smaller `batch_size`, `seq_len` or `P`"

__all__ = ["SecondStage", "train_streams"]


@dataclass(frozen=True)
class SecondStage(Shown):
    """A trained model: its validation losses before and after, and its loss curve."""

    out: Path
    P: int
    part: Part
    n_tokens: int
    seconds: float
    before: Evaluation
    after: Evaluation
    curve: tuple[tuple[int, int, float], ...]  # step, tokens, mean training loss since the previous point
    record: str  # file in `out` with all of these
    notes: tuple[str, ...] = ()
    objective: Objective = "text"

    _report: ClassVar[str] = "scalelab.reports.streams:stage_report"
    _figure: ClassVar[str] = "scalelab.plot.curves:plot_stage"
    _json: ClassVar[str] = "scalelab.reports.streams:stage_json"

    def to_frame(self) -> pd.DataFrame:
        """Return the loss curve: step, tokens and training loss, in nats per token or the loss of a preference."""
        import pandas as pd

        return pd.DataFrame(list(self.curve), columns=["step", "n_tokens", "loss"])

    def __repr__(self) -> str:
        return f"<SecondStage {self.out}, P = {self.P}: loss {self.before.loss:.4f} to {self.after.loss:.4f}>"


def train_streams(
    model: str | Path,
    out: str | Path,
    P: int | None = None,
    *,
    part: Part = "streams",
    tokens: str | float = 100_000,
    corpus: str = "stdlib",
    text_column: str = "text",
    chat: str | Path | None = None,
    preference: str | Path | None = None,
    beta: float = 0.1,
    seq_len: int | None = None,
    batch_size: int = 4,
    lr: float | None = None,
    val_tokens: int = 32768,
    seed: int = 0,
    dtype: Dtype = "auto",
    device: DeviceName = "auto",
    checkpoint_minutes: float = 5.0,
    compile_model: bool = False,
    progress: bool | Console = False,
) -> SecondStage:
    """Train a model with P streams on text or chat; with ``part="streams"`` its backbone is unchanged, bit for bit.

    With `chat`, only the tokens of the assistant count in the loss. With `preference`, training is direct preference
    optimisation (DPO, arXiv 2305.18290); the reference is the model before training. All P see the same data in the
    same order for the same seed. Checkpoints are in OUT.checkpoints until OUT is written: the same call resumes from
    the latest.

    Args:
        model: Folder of a model, as `convert` writes it.
        out: New folder for the trained model.
        P: Number of streams; by default the one trained last, or the largest.
        part: Parameters to train: "streams" (prefixes and aggregator) or "all".
        tokens: Training tokens, a number or text such as "100k"; of conversations with their prompts.
        corpus: Text: "stdlib", "hf:NAME" or a path.
        text_column: Column with the text, in JSONL and Parquet.
        chat: Conversations instead of a corpus: a JSONL file with `messages`, a folder with train.jsonl and
            validation.jsonl, or a folder saved by `datasets`. Without a validation split 5 % of the questions are it.
        preference: Preferences instead of a corpus, with `prompt`, `chosen` and `rejected`; files as for `chat`.
        beta: Weight of the reference in the loss of preferences.
        seq_len: Sequence length in tokens; by default up to 512. Longer conversations are cut.
        batch_size: Sequences, conversations or pairs per step, over all processes.
        lr: Peak learning rate; by default 3e-2 for streams and 1e-4 for all, with preferences a tenth.
        val_tokens: Validation tokens.
        seed: Seed of the data order.
        dtype: Precision: "fp32", "bf16" or "auto" (bf16 on CUDA, else fp32).
        device: Device: "auto", "cpu" or "cuda".
        checkpoint_minutes: Minutes between checkpoints.
        compile_model: Use torch.compile.
        progress: Show progress on standard error, or on a rich console.

    Returns:
        Validation losses before and after, and the loss curve; in nats per token, of preferences the DPO loss.

    Raises:
        UsageError: An argument is wrong, or `out` is not empty.
        DataError: The model, its tokenizer, its chat template or the data cannot be used.
        DivergedError: The loss grew without bound or became NaN.
        MemoryShortError: Not even one sequence fits into memory.
        MissingPackageError: torch or transformers is not installed.
    """
    source, out = Path(model), Path(out)
    n_tokens: float = one_count(tokens, "tokens")
    if part not in PARTS:
        raise UsageError("choose streams or all", argument="part", value=part)
    if out.name in ("", ".."):  # the current folder or its parent
        out = out.resolve()
    check_dtype(dtype)
    check_device(device)
    check_model(source)
    objective = _check_data(corpus, text_column, chat, preference, beta)
    new_folder(out)
    need_torch("train")

    from scalelab.model.checkpoint import save_model, saved_dtype
    from scalelab.train import stage
    from scalelab.train.devices import resolve_dtype
    from scalelab.train.memory import translate_oom
    from scalelab.train.parallel import exit_process, launched_processes
    from scalelab.train.stage_recipe import DEFAULT_LR, PREFERENCE_LR, stage_recipe
    from scalelab.train.stage_resume import RECORD, ResumableStage, stage_settings
    from scalelab.train.tokens import TokenData
    from scalelab.train.trainer import Options

    quiet_libraries()
    chosen = choose_device(device)
    precision = resolve_dtype(dtype, chosen)
    console = console_of(progress)

    def print_line(line: str | None) -> None:
        if line:
            console.print(line, soft_wrap=True)

    with ExitStack() as until_written:
        until_written.enter_context(translate_oom(str(source), _MEMORY))
        with launched_processes(chosen, precision) as parallel:
            console.quiet = console.quiet or not parallel.main
            opened = stage.open_model(source, P, parallel.load_device)
            seq_len = seq_len or stage.default_seq_len(opened)
            rates = PREFERENCE_LR if preference is not None else DEFAULT_LR
            recipe = stage_recipe(part, lr, seq_len, batch_size, val_tokens, precision, rates)
            rows = chat if preference is None else preference
            if rows is None:
                data = stage.read_text(opened, source, corpus, text_column)
            else:
                own_beta = None if preference is None else beta
                data = stage.read_chat(opened, load_tokenizer(source), source, rows, seq_len, own_beta)
            if part == "streams" and not dict(opened.stream_parameters()):
                raise UsageError(stage.NOTHING_TO_TRAIN)
            n_tokens, steps = stage.whole_stage_steps(data, n_tokens, recipe)
            settings = stage_settings(source, opened.P, data, recipe, n_tokens, part, seed)
            resumable = ResumableStage(out, settings, steps, parallel)
            until_written.enter_context(_stoppable(resumable, parallel))
            until_written.enter_context(resumable.running())
            until_written.enter_context(translate_oom(f"P = {opened.P}", _MEMORY))
            total = sum(p.numel() for p in opened.parameters())
            learning = sum(p.numel() for _, p in opened.stream_parameters()) if part == "streams" else total
            print_line(
                f"{source.resolve().name}, P = {opened.P}: {format_count(learning)} of {format_count(total)} "
                f"parameters train on {format_count(n_tokens)} tokens{parallel.description}"
            )
            print_line(resumable.describe_others())
            if parallel.sharded:
                print_line("FSDP saves no checkpoints: an interrupted training starts over")
            with training_progress(console, resumable.steps) as shown:
                options = Options(
                    device=parallel.device,
                    compile_model=compile_model,
                    checkpoints=None if parallel.sharded else resumable.folder,
                    save_every_s=checkpoint_minutes * 60,
                    progress=shown,
                    observer=resumable.observe,
                )

                def on_start(state: TrainState) -> None:
                    print_line(resumable.start(state))

                result = stage.train_stage(opened, data, recipe, n_tokens, part, seed, options, parallel, on_start)
            opened = parallel.gather_model(opened)
        if not parallel.main:
            exit_process()
        if part == "streams":  # so that the saved backbone equals the source's, bit for bit
            opened = opened.to(saved_dtype(source))
        examples = None if isinstance(data, TokenData) else data
        notes = [] if examples is None else list(examples.notes)
        if note := stage.length_warning(opened, seq_len):
            notes.append(note.removeprefix("warning: "))
        files = {} if examples is None else stage.chat_files(opened, examples.end)
        made = SecondStage(
            out=out,
            P=opened.P,
            part=part,
            n_tokens=result.n_tokens,
            seconds=result.seconds,
            before=result.before,
            after=result.after,
            curve=tuple(result.curve),
            record=RECORD,
            notes=tuple(notes),
            objective=objective,
        )
        content = {
            **{"status": RunStatus.OK, "source": source.name, "P": opened.P, "train": part},
            **{"n_tokens": n_tokens, "seed": seed},
            **{"text": asdict(data.text), "recipe": asdict(recipe), "steps": resumable.steps},
            **({} if examples is None else examples.settings),
            **made.to_dict(),
        }
        save_model(opened, out, source, {RECORD: json.dumps(content, indent=1)} | files)
        resumable.finish()
    return made


def _check_data(
    corpus: str, text_column: str, chat: str | Path | None, preference: str | Path | None, beta: float
) -> Objective:
    """Return the objective of the data. Raises `UsageError` for data that do not exist, or of two kinds."""
    if chat is None and preference is None:
        check_corpus(corpus)
        return "text"
    objective: Objective = "chat" if preference is None else "preference"
    if chat is not None and preference is not None:
        raise UsageError("give either `chat` or `preference`; train twice to use both")
    if (corpus, text_column) != ("stdlib", "text"):
        raise UsageError(f"give either a corpus or `{objective}`; leave `corpus` and `text_column` out")
    if not (math.isfinite(beta) and beta > 0):
        raise UsageError("give a positive number", argument="beta", value=beta)
    if beta != 0.1 and preference is None:
        raise UsageError("is only used with `preference`; leave it out", argument="beta", value=beta)
    source = chat if preference is None else preference
    if not Path(source or "").exists():
        raise UsageError("no such file or folder; give a path", argument=objective, value=str(source))
    return objective


@contextmanager
def _stoppable(resumable: ResumableStage, parallel: Parallel) -> Generator[None]:
    """Report SIGTERM and Ctrl-C in one line that says how to resume."""
    from scalelab.sweep.stopping import interruption_error, sigterm_as_interrupt
    from scalelab.train.parallel import exit_process

    # A launcher sends SIGTERM to processes that wait for one another and would never handle it.
    with sigterm_as_interrupt() if parallel.size == 1 else nullcontext():
        try:
            yield
        except KeyboardInterrupt as stop:
            if not parallel.main:
                exit_process(130)
            where = f" at step {resumable.state.step} of {resumable.steps}"
            raise interruption_error(stop, f"{where}; {resumable.describe_rerun()}") from None
