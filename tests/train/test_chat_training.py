"""Training on conversations and preferences: losses against a calculation by hand, resume, and what is saved."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoTokenizer, GenerationConfig

from scalelab.api.loading import load_tokenizer
from scalelab.errors import UsageError
from scalelab.train import stage
from scalelab.train.checkpoint import TrainState
from scalelab.train.optimizer import make_optimizer
from scalelab.train.parallel import Parallel
from scalelab.train.stage_recipe import stage_recipe
from scalelab.train.step import TrainingStep
from scalelab.train.trainer import Options
from tests.support.chats import MARKED, PLAIN, colours, save_chat_model, talk, write_chat, write_lines

RECIPE = stage_recipe("streams", 1e-2, 64, 4, 10_000, "fp32")
SYSTEM = talk("red moon", "blue", "one", "two three", system="day")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return save_chat_model(tmp_path_factory.mktemp("chat") / "model", banks=(2, 4))


@pytest.fixture(scope="module")
def chat_file(tmp_path_factory):
    return write_chat(tmp_path_factory.mktemp("data") / "chat.jsonl", [*colours(60), SYSTEM])


@pytest.fixture(scope="module")
def pair_file(tmp_path_factory):
    rows = [
        {
            "prompt": messages[:1],
            "chosen": messages[1:],
            "rejected": [{"role": "assistant", "content": " ".join(reversed(messages[1]["content"].split()))}],
        }
        for messages in colours(60)
    ]
    return write_lines(tmp_path_factory.mktemp("data") / "pairs.jsonl", rows)


def opened(folder, source, P=2, beta=None, seq_len=64):
    model = stage.open_model(folder, P)
    return model, stage.read_chat(model, load_tokenizer(folder), folder, source, seq_len, beta)


def answer_logps(model, tokenizer, messages, last_only=False):
    """Log probability of each token of the answers, one conversation at a time, from the text of ChatML."""
    ids, mask = [], []
    for i, message in enumerate(messages):
        learned = message["role"] == "assistant" and (not last_only or i == len(messages) - 1)
        for text, counts in (
            (f"<|start|>{message['role']}\n", False),
            (message["content"] + "<|end|>", learned),
            ("\n", False),
        ):
            own = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids, mask = ids + own, mask + [counts] * len(own)
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :-1]
    own = logits.log_softmax(-1).gather(1, torch.tensor(ids)[1:, None])[:, 0]
    return own[torch.tensor(mask)[1:]]


def test_the_loss_is_that_of_the_answers_alone(model_folder, chat_file):
    model, data = opened(model_folder, chat_file)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    seen = data.evaluate(model, RECIPE, "cpu")
    from scalelab.train.conversations import load_conversations

    held_out = load_conversations(chat_file, "chat").held_out
    assert len(held_out) == len(data.held_out)
    each = [answer_logps(model, tokenizer, e.conversations[0]) for e in held_out]
    assert seen.n_tokens == sum(map(len, each))
    assert seen.loss == pytest.approx(-torch.cat(each).mean().item(), rel=1e-5)
    sums, counts = np.array([-e.sum().item() for e in each]), np.array([len(e) for e in each])
    m = len(each)
    stderr = math.sqrt(m / (m - 1) * ((sums - seen.loss * counts) ** 2).sum()) / counts.sum()
    assert seen.loss_stderr == pytest.approx(stderr, rel=1e-4)
    assert seen.streams is not None
    assert len(seen.streams.losses) == 2


def test_statistics_of_streams_are_of_the_answers_alone(model_folder, chat_file):
    """Of the tokens that count, one stream at a time as the only one."""
    model, data = opened(model_folder, chat_file)
    streams = data.evaluate(model, RECIPE, "cpu").streams
    decoder, losses, weights, seen = model.get_decoder(), [[], []], [], []
    decoder.aggregator.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    with torch.no_grad():
        for row in data.held_out:
            ids, labels = torch.tensor(np.where(row < 0, ~row, row))[None], torch.tensor(row)[1:]
            keep = labels >= 0
            model(ids[:, :-1], use_cache=False)
            weights.append(decoder.aggregator.weights(seen[-1])[0, keep])
            for p, hidden in enumerate(seen[-1]):
                losses[p].append(F.cross_entropy(model.lm_head(hidden)[0, keep], labels[keep], reduction="none"))
    own = torch.stack([torch.cat(part) for part in losses])
    assert streams.losses == pytest.approx(own.mean(1).tolist(), rel=1e-5)
    assert streams.correlation == pytest.approx(float(np.corrcoef(own.numpy())[0, 1]), rel=1e-4)
    assert streams.mixture_weights == pytest.approx(torch.cat(weights).mean(0).tolist(), rel=1e-5)


@pytest.mark.parametrize("beta", [None, 0.3])
def test_micro_batches_add_up_to_the_batch(beta, model_folder, chat_file, pair_file):
    """Answers of unlike lengths: each token weighs the same, wherever the batch is cut."""
    gradients = []
    for micro_batch in (4, 1, 3):
        model, data = opened(model_folder, chat_file if beta is None else pair_file, beta=beta)
        data.prepare(model, RECIPE, 1, 0, "cpu")
        numbers = np.array(sorted(data.reference)) if beta else np.argsort([len(r) for r in data.train])[[0, 9, -1, 30]]
        step = TrainingStep(
            model, make_optimizer(model, RECIPE, 1e-2), RECIPE, micro_batch=micro_batch, objective=data.objective
        )
        batch = data.windows(RECIPE, "cpu", False).batch(numbers)
        loss = step._gradients(batch)
        gradients.append([loss, *(p.grad for _, p in model.stream_parameters())])
    for other in gradients[1:]:
        for a, b in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_padding_and_length_change_nothing(model_folder, chat_file):
    model, data = opened(model_folder, chat_file)
    numbers = np.argsort([len(r) for r in data.train])[[0, -1]]
    losses = [
        data.objective(model, model, data.windows(RECIPE, "cpu", fixed).batch(numbers), False, None)[1].item()
        for fixed in (False, True)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert data.windows(RECIPE, "cpu", True).batch(numbers).shape == (2, 64)


@pytest.mark.parametrize("part", ["streams", "all"])
def test_the_loss_of_preferences_is_that_of_dpo(part, model_folder, pair_file):
    """−ln σ(β·((π(c) − ref(c)) − (π(r) − ref(r)))), Rafailov et al., equation 7, one answer at a time."""
    beta = 0.3
    model, data = opened(model_folder, pair_file, beta=beta)
    reference = stage.open_model(model_folder, 2)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    recipe = stage_recipe(part, 5e-3, 64, 4, 10_000, "fp32")
    result = stage.train_stage(model, data, recipe, 20 * 4 * data.row_tokens, part)
    assert result.before.loss == pytest.approx(math.log(2), abs=1e-6)
    assert result.before.accuracy == 0.5
    assert result.before.margin == 0

    from scalelab.train.conversations import load_conversations

    margins = []
    for example in load_conversations(pair_file, "preference").held_out:
        chosen, rejected = (
            (answer_logps(model, tokenizer, c, True).sum() - answer_logps(reference, tokenizer, c, True).sum()).item()
            for c in example.conversations
        )
        margins.append(beta * (chosen - rejected))
    margins = np.array(margins)
    assert len(margins) >= 2
    assert result.after.loss == pytest.approx(np.log1p(np.exp(-margins)).mean(), abs=1e-4)
    assert result.after.margin == pytest.approx(margins.mean(), abs=1e-3)
    assert result.after.accuracy == (margins > 0).mean()
    assert result.after.loss < result.before.loss
    backbone = {k: v for k, v in model.state_dict().items() if "bank" not in k}
    same = [torch.equal(v, reference.state_dict()[k]) for k, v in backbone.items()]
    assert all(same) == (part == "streams")


@pytest.mark.parametrize("beta", [None, 0.3])
def test_an_interrupted_training_ends_bit_for_bit_the_same(beta, model_folder, chat_file, pair_file, tmp_path):
    class StopError(Exception):
        pass

    def train(checkpoints=None, stop=None):
        model, data = opened(model_folder, chat_file if beta is None else pair_file, beta=beta)

        def observe(state: TrainState) -> None:
            if stop is not None and state.step == stop:
                raise StopError

        options = Options(checkpoints=checkpoints, save_every_s=0.0, observer=observe)
        return model, stage.train_stage(model, data, RECIPE, 12 * 4 * data.row_tokens, options=options)

    model, whole = train()
    with pytest.raises(StopError):
        train(tmp_path / "states", 7)
    resumed, again = train(tmp_path / "states")
    assert again.curve == whole.curve
    assert len(whole.curve) == 12
    assert again.after == whole.after
    assert again.n_tokens == whole.n_tokens
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize("beta", [None, 0.3])
def test_several_processes_are_refused(beta, model_folder, chat_file, pair_file):
    class Two(Parallel):
        size = 2

    model, data = opened(model_folder, chat_file if beta is None else pair_file, beta=beta)
    with pytest.raises(UsageError, match="`chat` and `preference` train on one device; start the command without a la"):
        stage.train_stage(model, data, RECIPE, 1000, parallel=Two())


def train(scalelab, model, out, *words):
    return scalelab(
        *("train", model, "-o", out, "--batch-size", 4, "--seq-len", 64, "--val-tokens", 500, "--device", "cpu", *words)
    )


@pytest.mark.parametrize("template", [PLAIN, MARKED])
def test_the_command_trains_streams_and_saves_how_to_chat(template, scalelab, chat_file, tmp_path):
    """The tokenizer's end of text is another token: generation must stop at the end of a turn all the same."""
    source = save_chat_model(tmp_path / "model", template, banks=(2, 4))
    settings = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": "<|endoftext|>"}))
    generation = json.loads((source / "generation_config.json").read_text())
    (source / "generation_config.json").write_text(json.dumps(generation | {"eos_token_id": 0, "top_k": 7}))
    code, text, error = train(scalelab, source, "out", "--chat", chat_file, "--tokens", "3k", "--P", 2, "--lr", 3e-2)
    assert code == 0, error
    assert "± (conversations)" in text
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "out"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(".2." in name for name in changed)
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["objective"] == "chat"
    assert record["after"]["loss"] < record["before"]["loss"]
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == template
    saved = GenerationConfig.from_pretrained(tmp_path / "out")
    assert saved.eos_token_id == [2, 0]
    assert saved.top_k == 7


def test_answers_are_learned(scalelab, chat_file, model_folder, tmp_path):
    """With all weights trained, greedy generation repeats the question of a training conversation."""
    words = ("--chat", chat_file, "--train", "all", "--tokens", "25k", "--P", 2, "--lr", 4e-3)
    code, _, error = train(scalelab, model_folder, "out", *words)
    assert code == 0, error
    code, text, error = scalelab("generate", "out", "--chat", "--prompt", "red blue", "--max-new-tokens", 12)
    assert code == 0, error
    assert text.splitlines()[0] == "red blue"
    assert "P = 2: " in text


def test_preferences_by_the_command(scalelab, pair_file, model_folder, tmp_path):
    words = ("--preference", pair_file, "--beta", 0.3, "--tokens", "3k", "--P", 4)
    code, text, error = train(scalelab, model_folder, "out", *words)
    assert code == 0, error
    assert "0.6931" in text
    assert "chosen preferred" in text
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert (record["objective"], record["beta"]) == ("preference", 0.3)
    assert record["after"]["margin"] > 0
    code, text, _ = train(scalelab, model_folder, "again", *words, "--json")
    assert json.loads(text)["after"] == record["after"]


def test_long_conversations_are_cut_and_long_pairs_left_out(model_folder, chat_file, pair_file, tmp_path):
    long = talk("red", "blue " * 60)
    chat = write_chat(tmp_path / "c.jsonl", [*colours(20), long, talk("red " * 60, "blue")])
    _, data = opened(model_folder, chat)
    assert max(map(len, [*data.train, *data.held_out])) == 65
    assert "2 conversations cut after 64 tokens, 1 without any answer left out" in data.notes[0]
    rows = [json.loads(line) for line in pair_file.read_text().splitlines()[:20]]
    rows.append({"prompt": long[:1], "chosen": long[1:], "rejected": [{"role": "assistant", "content": "blue"}]})
    _, pairs = opened(model_folder, write_lines(tmp_path / "p.jsonl", rows), beta=0.1)
    assert len(pairs.train) + len(pairs.held_out) == 20
    assert pairs.notes == ("1 pair longer than 64 tokens left out; a larger `seq_len` keeps them",)


WRONG = [
    (["--chat", "none.jsonl"], 2, "--chat none.jsonl: no such file or folder"),
    (["--chat", "{chat}", "--preference", "{pairs}"], 2, "give either --chat or --preference"),
    (["--chat", "{chat}", "--corpus", "{chat}"], 2, "leave --corpus and --text-column out"),
    (["--chat", "{chat}", "--beta", "0.2"], 2, "--beta 0.2: is only used with --preference"),
    (["--preference", "{pairs}", "--beta", "-1"], 2, "--beta -1: give a positive number"),
    (["--preference", "{chat}"], 1, "line 1: no 'prompt' (it has: messages)"),
    (["--chat", "{pairs}"], 1, "line 1: no 'messages' (it has: prompt, chosen, rejected)"),
    (["--chat", "{chat}", "--seq-len", "3"], 1, "too few answers begin within 3 tokens; give a larger --seq-len"),
    (["--preference", "{pairs}", "--seq-len", "3"], 1, "too few pairs of at most 3 tokens; give a larger --seq-len"),
    (
        ["--chat", "{chat}", "--batch-size", "500"],
        1,
        "less than one batch of 500; give more, or a smaller --batch-size",
    ),
    (["--chat", "{chat}", "--P", "1"], 2, "has no streams to train"),
]


@pytest.mark.parametrize(("words", "code", "message"), WRONG)
def test_mistakes_get_one_line(words, code, message, scalelab, model_folder, chat_file, pair_file, tmp_path):
    given = [word.format(chat=chat_file, pairs=pair_file) for word in words]
    got, _, error = scalelab("train", model_folder, "-o", "x", "--device", "cpu", *given)
    assert message in error
    assert got == code
    assert not (tmp_path / "x").exists()
    shutil.rmtree(tmp_path / "x.checkpoints", ignore_errors=True)
