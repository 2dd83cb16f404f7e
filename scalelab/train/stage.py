"""The second stage: training of an existing model with P streams on a corpus."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from scalelab.errors import DataError, DivergedError, ScalelabError, UsageError
from scalelab.model.checkpoint import load_model
from scalelab.train.answers import Answers, read_answers
from scalelab.train.chat_template import ChatTemplate
from scalelab.train.checkpoint import Saver, TrainState, checkpoint_path, load_newest
from scalelab.train.conversations import load_conversations
from scalelab.train.corpus import load_corpus
from scalelab.train.data import validation_windows
from scalelab.train.evaluate import Evaluation, UnsoundModelError, check_length, loss_on, sound
from scalelab.train.loop import CURVE_POINTS, LoopOptions, Observer, Phase, optimise
from scalelab.train.optimizer import make_optimizer
from scalelab.train.parallel import SINGLE_PROCESS, Parallel
from scalelab.train.phases import linear_factor
from scalelab.train.preference import Preferences, read_preferences
from scalelab.train.recipe import Recipe, TextSource, whole_steps
from scalelab.train.stage_recipe import sequence_length
from scalelab.train.tokens import TokenData, check_vocabulary, tokenise
from scalelab.train.trainer import DEFAULT, Options

NOTHING_TO_TRAIN = "P = 1 without a prefix has no streams to train; use `part=all` or another `P`"

StageData = TokenData | Answers | Preferences


@dataclass(frozen=True)
class StageResult:
    """Validation losses before and after training, the loss curve of `loop.optimise`, and seconds of training."""

    before: Evaluation
    after: Evaluation
    n_tokens: int
    curve: list[tuple[int, int, float]]
    seconds: float


def default_seq_len(model: Any) -> int:
    """Return 512, or the length that the model was made for if that is less."""
    return sequence_length(getattr(model.config, "max_position_embeddings", None))


def length_warning(model: Any, n_tokens: int) -> str | None:
    """Return a warning if `n_tokens` exceeds the length that the model was made for."""
    most = getattr(model.config, "max_position_embeddings", None)
    if most and n_tokens > most:
        return f"warning: sequences of {n_tokens} tokens are longer than the {most} that this model was made for"
    return None


def read_text(model: Any, folder: Path, corpus: str, text_column: str = "text") -> TokenData:
    """Tokenise `corpus` with the tokenizer in `folder`, the folder of `model`.

    Raises:
        ScalelabError: the corpus or the tokenizer cannot be read, or the tokenizer does not fit the model.
    """
    if not (folder / "tokenizer.json").is_file():
        raise DataError(f"{folder}: no tokenizer.json next to the model; put its tokenizer there")
    data = tokenise(load_corpus(corpus, text_column), str(folder))
    check_vocabulary(data.vocab_size, model.config.vocab_size, folder)
    return data


def read_chat(
    model: Any,
    tokenizer: Any,
    folder: Path,
    source: str | Path,
    seq_len: int,
    preference_beta: float | None = None,
) -> Answers | Preferences:
    """Tokenise conversations, or with `preference_beta` pairs of answers, with the chat template in `folder`.

    Raises:
        ScalelabError: the data or the template cannot be used, or the tokenizer does not fit the model.
    """
    template = ChatTemplate(tokenizer, folder, end_ids(model))
    data = load_conversations(source, "chat" if preference_beta is None else "preference")
    file = folder / "tokenizer.json"
    content = file.read_bytes() if file.is_file() else json.dumps(tokenizer.get_vocab(), sort_keys=True).encode()
    digest = hashlib.sha256(content + template.text.encode()).hexdigest()[:16]
    text = TextSource(data.name, data.digest, folder.resolve().name, digest)
    check_vocabulary(len(tokenizer), model.config.vocab_size, folder)
    if preference_beta is None:
        return read_answers(data, template, text, seq_len)
    return read_preferences(data, template, text, seq_len, preference_beta)


def end_ids(model: Any) -> list[int]:
    """Return the ids that end generation, by the model's generation config."""
    own: Any = model.generation_config.eos_token_id
    return own if isinstance(own, list) else [] if own is None else [own]


def chat_files(model: Any, end: int | None) -> dict[str, str]:
    """Return the generation config, by its file name, with which generation stops at the token `end`.

    It is written as text, since transformers saves a changed config only if its sampling settings are consistent, which
    those of many published models are not.
    """
    if end is None or end in (ends := end_ids(model)):
        return {}
    content = json.loads(model.generation_config.to_json_string())
    return {"generation_config.json": json.dumps(content | {"eos_token_id": [end, *ends]}, indent=2) + "\n"}


def whole_stage_steps(data: StageData, n_tokens: float, recipe: Recipe) -> tuple[int, int]:
    """Return tokens and steps for about `n_tokens`, at least one step."""
    if isinstance(data, TokenData):
        tokens = whole_steps(n_tokens, recipe)
        return tokens, tokens // (recipe.seq_len * recipe.batch_size)
    step = data.row_tokens * recipe.batch_size
    steps = max(1, round(n_tokens / step))
    return round(steps * step), steps


def validate(model: Any, data: StageData, recipe: Recipe, device: str) -> Evaluation:
    """Return the validation loss with the streams in use. Raises `ScalelabError` if it is not a number."""
    if not isinstance(data, TokenData):
        check_length(model, recipe.seq_len, "`seq_len`")
        return sound(model, data.evaluate(model, recipe, device))
    windows, documents = validation_windows(
        data.validation(), data.validation_starts(), recipe.seq_len, recipe.val_tokens
    )
    return loss_on(model, windows, documents, recipe, device)


def train_stage(
    model: Any,
    data: StageData,
    recipe: Recipe,
    n_tokens: float,
    train: str = "streams",
    seed: int = 0,
    options: Options = DEFAULT,
    parallel: Parallel = SINGLE_PROCESS,
    on_start: Observer | None = None,
) -> StageResult:
    """Train `model` in place with the streams in use.

    The order of the data depends on `seed` alone, so runs with different P are paired. With `options.checkpoints`
    training resumes from the latest checkpoint there. The result is then the same as without interruption: bit for bit
    on a CPU, within rounding on CUDA and on several processes (docs/gpu.md).

    Args:
        model: A model of `open_model`. With FSDP it stays sharded afterwards; see `Parallel.gather_model`.
        data: A corpus, conversations or preferences.
        recipe: From `stage_recipe`.
        n_tokens: Training tokens, rounded to whole steps. The tokens of a conversation include its prompts.
        train: "streams" leaves the backbone unchanged; "all" trains everything except other banks.
        seed: Seed of the order of the data.
        options: Its `checkpoints` folder must belong to exactly these arguments (`stage_resume`); None with FSDP.
        parallel: Processes that train the same model; each returns the same result.
        on_start: Called with the state that training starts from.

    Raises:
        UsageError: there is nothing to train.
        DivergedError: the loss became nan or infinite, or much larger than at the start.
        MemoryShortError: not even one sequence fits into memory.
    """
    own = {id(p) for _, p in model.stream_parameters()}
    if train == "streams" and not own:
        raise UsageError(NOTHING_TO_TRAIN)
    parallel.check(recipe.batch_size, options.compile_model)
    if parallel.sharded and options.checkpoints is not None:
        raise ValueError("checkpoints are not supported with FSDP")
    n_tokens, steps = whole_stage_steps(data, n_tokens, recipe)
    factor = partial(linear_factor, steps=steps, warmup_fraction=recipe.warmup_fraction)
    phase = Phase(recipe, steps, seed, factor, max(1, steps // CURVE_POINTS), f"P = {model.P}")
    if not isinstance(data, TokenData):
        if parallel.size > 1 or parallel.sharded:
            raise UsageError("`chat` and `preference` train on one device; start the command without a launcher")
        phase = replace(phase, objective=data.objective, row_tokens=data.row_tokens)
    try:
        for name, parameter in model.named_parameters():
            other_bank = id(parameter) not in own and any(part in name for part in ("prefix_", "aggregate_"))
            parameter.requires_grad_(id(parameter) in own or (train == "all" and not other_bank))
        parallel.shard(model)
        if not isinstance(data, TokenData):
            data.prepare(model, recipe, steps, seed, options.device)
        before = validate(model, data, recipe, options.device)
        parallel.reshard(model)
        optimizer = make_optimizer(model, recipe, recipe.lr)
        state, save = _resume(model, optimizer, steps, options, parallel)
        if on_start is not None:
            on_start(state)
        loop_options = LoopOptions(
            options.device, options.compile_model, options.progress, options.observer, save, parallel
        )
        optimise(model, optimizer, data, phase, state, loop_options)
    finally:
        model.requires_grad_(True)
    model.eval()
    try:
        after = validate(model, data, recipe, options.device)
    except UnsoundModelError:  # it was a number before training
        raise DivergedError(f"P = {model.P}: the validation loss is not a number; try a lower lr", state) from None
    return StageResult(before, after, n_tokens, state.curve, state.seconds)


def _resume(
    model: Any, optimizer: torch.optim.Optimizer, steps: int, options: Options, parallel: Parallel
) -> tuple[TrainState, Saver | None]:
    """Load the latest checkpoint, if any; return the state to start from and the saver of later ones."""
    folder = options.checkpoints
    if folder is None:
        return TrainState(), None
    state = load_newest(folder, steps, model, optimizer) or TrainState()
    if float(parallel.mean(torch.tensor(state.step, dtype=torch.float64, device=options.device))) != state.step:
        raise ScalelabError(
            f"{folder}: the processes found different checkpoints there; "
            "choose an `out` on a disk that all machines share, or delete that folder"
        )
    last = checkpoint_path(folder, state.step) if state.step else None
    return state, Saver(folder, model, optimizer, options.save_every_s, last=last) if parallel.main else None


def open_model(folder: Path, P: int | None = None, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """Load the model in `folder` with P streams in use, by default those it was saved with.

    Raises:
        ScalelabError: the folder cannot be read, or has no bank of P streams.
    """
    model = load_model(folder, dtype)
    if P is not None:
        try:
            model.set_streams(P)
        except ValueError:
            available = ", ".join(map(str, sorted({1, *model.banks})))
            raise UsageError(f"`P={P}`: {folder} supports only P = {available}; convert adds one") from None
    return model.to(device)
