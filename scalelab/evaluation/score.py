"""Scores of a model on tasks, with each number of streams and the same documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalelab.errors import DataError, ScalelabError, UsageError, first_line
from scalelab.evaluation.tasks import documents_digest, quiet
from scalelab.train.evaluate import check_length, clustered_mean

_PREFERRED = ("acc", "acc_mutual_info", "exact_match", "pass@1", "acc_norm", "f1")


@dataclass(frozen=True, eq=False)
class Score:
    """The value of one metric of one task with one number of streams.

    Attributes:
        task: Name of the task.
        metric: Name of the metric; ``acc`` is the share of right answers.
        P: Number of streams.
        plain: The backbone without the prefix of a bank for P = 1.
        value: Mean over the documents, or lm-eval's aggregate.
        stderr: Standard error of a mean over documents, else None.
        values: Value of each document, float [n]; empty if the metric is no mean of numbers.
        clusters: Number of the text that each document is from, int [n]; documents of one text depend on each other.
        n_docs: Number of documents.
        documents: Hash of the documents.
        higher_is_better: Larger values are better.
    """

    task: str
    metric: str
    P: int
    plain: bool
    value: float
    stderr: float | None
    values: np.ndarray
    clusters: np.ndarray
    n_docs: int
    documents: str
    higher_is_better: bool


def score_model(
    model: Any,
    tokenizer: Any,
    tasks: Mapping[str, Any],
    settings: Sequence[tuple[int, bool]],
    *,
    batch_size: int = 8,
    limit: int | None = None,
    bf16: bool = False,
    seed: int = 0,
    done: Callable[[int], None] | None = None,
) -> list[Score]:
    """Return the scores of `model`, which keeps its streams, for each of `settings` in order.

    Args:
        model: A model with streams, on its device.
        tokenizer: Its tokenizer.
        tasks: Task objects of lm-eval by name, from `TaskSet.load`.
        settings: P, and true for the plain backbone.
        batch_size: Sequences of a batch.
        limit: Use only the first documents of each task.
        bf16: Compute in bfloat16.
        seed: Seed of the examples before a question.
        done: Called with the number of settings that are finished.

    Raises:
        UsageError: The tokenizer does not fit the model.
        ScalelabError: The logits are NaN, or a task fails.
    """
    from lm_eval.evaluator import evaluate

    scores: list[Score] = []
    P_before, wrapped, seen = model.P, _wrapper(model, tokenizer, batch_size, bf16), {}
    try:
        for P, plain in settings:
            model.set_streams(P)
            for task in tasks.values():  # sampling of examples starts anew, so that all P get the same ones
                task.set_fewshot_seed(seed)
            with model.plain() if plain else nullcontext(), quiet():
                found: Any = evaluate(wrapped, {"tasks": dict(tasks)}, limit=limit, bootstrap_iters=0)
            for name, task in tasks.items():
                asked = [(row["doc_hash"], row["prompt_hash"]) for row in found["samples"][name]]
                if seen.setdefault(name, asked) != asked:
                    raise DataError(f"task {name}: its questions differ between P; it must not draw them at random")
                scores += _scores(name, task, found, P, plain)
            if done is not None:
                done(len(scores))
    except ScalelabError:
        raise
    except Exception as error:  # metrics and filters of tasks raise whatever they like
        raise ScalelabError(f"lm-eval failed ({type(error).__name__}: {first_line(error)})") from error
    finally:
        model.set_streams(P_before)
    return scores


def main_metric(scores: Sequence[Score]) -> Score | None:
    """Return the score to use as the accuracy among those of one task; None if none is a mean over documents."""
    usable = [score for score in scores if score.stderr is not None and score.higher_is_better]
    for name in _PREFERRED:
        for score in usable:
            if score.metric == name:
                return score
    return usable[0] if usable else None


def _scores(name: str, task: Any, found: Any, P: int, plain: bool) -> list[Score]:
    """Return the scores of one task from lm-eval's results."""
    rows = found["samples"][name]
    better = found.get("higher_is_better", {}).get(name, {})
    clusters = np.array([row["doc"].get("document", i) if _is_own(row) else i for i, row in enumerate(rows)])
    documents = documents_digest([row["doc_hash"] for row in rows])
    made = []
    for key, value in found["results"][name].items():
        metric, comma, way = str(key).partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)):
            continue
        mine = [i for i, row in enumerate(rows) if row["filter"] == way and metric in row]
        each = [rows[i][metric] for i in mine]
        of_docs = np.array(each, dtype=float) if all(isinstance(v, (bool, int, float)) for v in each) else np.array([])
        mean, stderr = clustered_mean(of_docs, clusters[mine]) if len(of_docs) > 1 else (np.nan, np.nan)
        is_mean = len(of_docs) > 1 and abs(mean - value) <= 1e-9 * max(1.0, abs(value))
        made.append(
            Score(
                task=name,
                metric=metric if way == "none" else f"{metric} ({way})",
                P=P,
                plain=plain,
                value=float(value),
                stderr=float(stderr) if is_mean else None,
                values=of_docs if is_mean else np.array([]),
                clusters=clusters[mine] if is_mean else np.array([], dtype=int),
                n_docs=len({rows[i]["doc_id"] for i in mine}),
                documents=documents,
                higher_is_better=bool(better.get(metric, True)),
            )
        )
    return made


def _is_own(row: Mapping[str, Any]) -> bool:
    """Return true for a document of `items`, which knows its text."""
    return {"context", "choices", "answer", "document"} == set(row["doc"])


def _wrapper(model: Any, tokenizer: Any, batch_size: int, bf16: bool) -> Any:
    """Return `model` as lm-eval's, which refuses NaN logits."""
    from lm_eval.models.huggingface import HFLM

    base: Any = HFLM  # its decorator hides its type

    class StreamedHFLM(base):
        def _model_call(self, *args: Any, **options: Any) -> Any:
            logits = super()._model_call(*args, **options)
            if logits.isnan().any():
                raise ScalelabError("the model's logits are NaN: check its weights")
            return logits

        def _loglikelihood_tokens(self, requests: Any, *args: Any, **options: Any) -> Any:
            with self._room_for(max((len(answer) for _, _, answer in requests), default=0)):
                return super()._loglikelihood_tokens(requests, *args, **options)

        def generate_until(self, requests: Any, *args: Any, **options: Any) -> Any:
            asked = [request.args for request in requests]
            needs = (len(self.tok_encode(text)) + how.get("max_gen_toks", self.max_gen_toks) for text, how in asked)
            with self._room_for(max(needs, default=0)):
                return super().generate_until(requests, *args, **options)

        @contextmanager
        def _room_for(self, n_tokens: int) -> Iterator[None]:
            """Allow `n_tokens`: lm-eval cuts contexts to the length that the model was made for, but not answers."""
            before = self._max_length
            if n_tokens > self.max_length:
                check_length(model, n_tokens, "a context with its answer")
                self._max_length = n_tokens
            try:
                yield
            finally:
                self._max_length = before

    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= model.config.vocab_size:
        raise UsageError(
            f"the tokenizer has {largest + 1} tokens, the model only {model.config.vocab_size}; give it its own"
        )
    if tokenizer.pad_token is None:  # padding comes after the text, so that its token does not matter
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    first = None if tokenizer.bos_token or tokenizer.eos_token else 0
    with quiet():
        return StreamedHFLM(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=batch_size,
            prefix_token_id=first,
            mixed_precision_dtype="bfloat16" if bf16 else None,
        )
