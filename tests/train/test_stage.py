"""A pretrained model gets streams, and they alone learn."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast, pipeline

from scalelab.cli import main
from scalelab.errors import DataError, UsageError
from scalelab.model import add_streams
from scalelab.model.checkpoint import load_model, save_model
from scalelab.model.prefix_init import start_from_text
from scalelab.train import stage
from scalelab.train.convert import convert, default_prefix_tokens, trial_windows
from scalelab.train.stage_recipe import stage_recipe
from scalelab.train.streams import StreamReport, weights_over_tokens
from tests.support.families import FAMILIES, make, warm
from tests.support.trained import trained_model

RECIPE = stage_recipe("streams", None, 32, 4, 2048, "fp32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, text_folder):
    return trained_model(tmp_path_factory.mktemp("trained"), text_folder)


@pytest.fixture(scope="module")
def converted(folder, text_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted") / "model"
    code = main(
        ["convert", str(folder), "--P", "2", "4", "-o", str(out), "--prefix-tokens", "3", "--corpus", str(text_folder)]
    )
    assert code == 0
    return out


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "phi3"])
@torch.no_grad()
def test_a_text_start_is_the_text_in_front(name):
    """A stream that starts from a text sees it as the plain model does where it stands before the sequence."""
    model = make(name, **({"layer_types": ["full_attention"] * 3} if name == "gemma2" else {}))
    generator = torch.Generator().manual_seed(0)
    before, ids = (torch.randint(2, 97, (1, n), generator=generator) for n in (5, 9))
    both_from_0 = torch.cat([torch.arange(5), torch.arange(9)])
    positions = (both_from_0 if name == "gpt2" else torch.arange(14))[None]  # of gpt2 learned
    causal = torch.ones(1, 1, 14, 14).tril() == 0
    mask = torch.zeros(1, 1, 14, 14).masked_fill(causal, torch.finfo(torch.float32).min)
    expected = model(torch.cat([before, ids], 1), position_ids=positions, attention_mask=mask).logits[:, 5:]
    add_streams(model, 1, prefix_tokens=5)
    start_from_text(model, before)
    torch.testing.assert_close(model(ids).logits, expected, atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_moments_are_those_of_the_text():
    from scalelab.model.banks import active_bank, attention_modules

    model = make("llama")
    ids = torch.randint(2, 97, (4, 200), generator=torch.Generator().manual_seed(0))
    add_streams(model, 4, prefix_tokens=200)
    start_from_text(model, ids)
    text = [active_bank(m).prefix_k.clone() for m in attention_modules(model.get_decoder())]
    start_from_text(model, ids, "moments", seed=1)
    for module, own in zip(attention_modules(model.get_decoder()), text, strict=True):
        drawn = active_bank(module).prefix_k
        assert not torch.equal(drawn, own)
        torch.testing.assert_close(drawn.mean((0, 2)), own.mean((0, 2)), atol=0.2, rtol=0)
        torch.testing.assert_close(drawn.std((0, 2)), own.std((0, 2)), atol=0.2, rtol=0.1)
    with pytest.raises(ValueError, match=r"ids must have shape \(4, 200\) for this bank"):
        start_from_text(model, ids[:2])
    with pytest.raises(ValueError, match="choose one of text, moments, normal"):
        start_from_text(model, ids, "zeros")


@pytest.fixture(scope="module")
def text(folder, text_folder):
    return stage.read_text(stage.open_model(folder), folder, str(text_folder))


def _texts(data, seed, draw, P, n):
    """The text of a draw, by its definition: [P, n], and where each row begins."""
    tokens = data.train()
    rng = np.random.default_rng([seed, 0x5EED] + [draw] * (draw > 0))
    starts = rng.choice(len(tokens) // n - 1, P, replace=False) * n
    return torch.tensor(np.array([tokens[s : s + n] for s in starts]).astype(np.int64)), starts


def _over(model, base, windows):
    """Relative difference of losses, by transformers' own loss."""
    with torch.no_grad():
        own, plain = (m(input_ids=windows, labels=windows).loss.item() for m in (model, base))
    return own / plain - 1


@pytest.mark.parametrize("how", ["text", "moments"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_best_draw_of_those_tried_is_kept(how, seed, folder, text):
    """Every draw measured anew, each on a model of its own."""
    base, sizes = stage.open_model(folder), {2: 3, 4: 6}
    taken = [(s, n) for P, n in sizes.items() for d in range(4) for s in _texts(text, seed, d, P, n)[1]]
    windows = torch.from_numpy(trial_windows(text.train(), 32, taken))
    assert windows.shape == (2048 // 32, 33)
    model = stage.open_model(folder)
    tried = convert(model, sizes, text, RECIPE, how, seed, draws=4)
    for P, n in sizes.items():
        own, states = [], []
        for draw in range(len(tried[P])):
            alone = add_streams(stage.open_model(folder), P, n, seed=seed)
            start_from_text(alone, _texts(text, seed, draw, P, n)[0], how, seed + draw)
            own.append(_over(alone, base, windows))
            states.append([p.detach() for name, p in alone.stream_parameters() if "prefix" in name])
        assert tried[P] == pytest.approx(own, abs=1e-5)
        assert all(x > 0 for x in tried[P][:-1])
        assert tried[P][-1] <= 0 or len(tried[P]) == 4
        model.set_streams(P)
        kept = [p for name, p in model.stream_parameters() if "prefix" in name]
        assert all(torch.equal(a, b) for a, b in zip(kept, states[int(np.argmin(own))], strict=True))
    assert list(model.banks) == [2, 4]


def test_a_bad_first_draw_is_replaced_and_a_good_one_ends_the_search(folder, text):
    tried = {}

    def replaced():
        return any(t[0] > 0 and min(t) < t[0] for t in tried.values())

    def ended():
        return any(t[0] <= 0 and len(t) == 1 for t in tried.values())

    def scrambled(seed):
        """A model with random weights, in which a text raises the loss about as often as it lowers it."""
        model, generator = stage.open_model(folder), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        return model

    for seed in range(60):  # how often either happens depends on the generator's numbers
        if replaced() and ended() and seed >= 8:
            break
        model, single, by_hand = (scrambled(seed) for _ in range(3))
        tried[seed] = convert(model, {2: 3}, text, RECIPE, seed=seed)[2]
        assert convert(single, {2: 3}, text, RECIPE, seed=seed, draws=1) == {2: []}
        start_from_text(add_streams(by_hand, 2, 3, seed=seed), _texts(text, seed, 0, 2, 3)[0])
        _assert_same(single, by_hand)
        (k, ours), (_, first) = (next(p for p in m.stream_parameters() if "prefix" in p[0]) for m in (model, single))
        assert torch.equal(ours, first) == (np.argmin(tried[seed]) == 0), k
    assert replaced()
    assert ended()


def test_validation_text_and_normal_starts_choose_nothing(folder, text, tmp_path):
    other = shutil.copytree(text.folder, tmp_path / "tokens")
    np.save(other / "validation.npy", text.validation()[::-1])
    models = [stage.open_model(folder) for _ in range(2)]
    for model, data in zip(models, (text, replace(text, folder=other)), strict=True):
        convert(model, {2: 3, 4: 3}, data, RECIPE, seed=2)
    _assert_same(*models)
    normal = stage.open_model(folder)
    assert convert(normal, {2: 3}, text, RECIPE, "normal", seed=2) == {2: []}
    _assert_same(normal, add_streams(stage.open_model(folder), 2, 3, seed=2))


def _assert_same(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_trials_keep_clear_of_the_texts_tried():
    rng = np.random.default_rng(0)
    tokens = np.arange(9_000)  # each token says where it is
    for _ in range(20):
        seq_len, n = (int(x) for x in rng.integers(2, 60, 2))
        taken = [(int(first), n) for first in rng.integers(0, len(tokens) - n, 20)]
        windows = trial_windows(tokens, seq_len, taken)
        assert not set(windows.ravel()) & {first + i for first, n in taken for i in range(n)}
        assert (np.diff(windows) == 1).all()
        assert len(windows) == len(set(windows[:, 0])) <= 2048 // seq_len
        assert windows[-1, -1] - windows[0, 0] > 0.7 * len(tokens)
    some = trial_windows(tokens, 50, [(0, 10), (4_000, 10)])  # what is taken moves no window but those upon it
    assert len(set(some[:, 0]) & set(trial_windows(tokens, 50, [])[:, 0])) >= len(some) - 2
    assert len(trial_windows(tokens[:100], 10, [(0, 100)])) == 9  # all is taken, so nothing is spared
    assert len(trial_windows(tokens, 4000, [])) == 2
    with pytest.raises(DataError, match="the training text has 100 tokens, too few to try starts on two sequences of"):
        trial_windows(tokens[:100], 50, [])


@pytest.mark.parametrize(("most", "n_tokens"), [(64, 8), (2, 1), (512, 48), (8192, 48), (None, 48)])
def test_prefixes_are_short_for_models_of_short_sequences(most, n_tokens):
    config = SimpleNamespace(**({} if most is None else {"max_position_embeddings": most}))
    assert default_prefix_tokens(SimpleNamespace(config=config)) == n_tokens


def test_conversion_keeps_the_loss_and_separates_streams(converted, folder, text_folder, capsys):
    data = stage.read_text(stage.open_model(folder), folder, str(text_folder))
    base = stage.validate(stage.open_model(folder), data, RECIPE, "cpu").loss
    for P in (2, 4):
        seen = stage.validate(stage.open_model(converted, P), data, RECIPE, "cpu")
        assert seen.loss < 1.01 * base
        assert seen.streams.correlation < 0.9999
        assert len(set(np.round(seen.streams.losses, 6))) == P
    assert stage.validate(stage.open_model(converted, 1), data, RECIPE, "cpu").loss == base


def test_a_costly_start_is_told(folder, text_folder, tmp_path, capsys):
    """Prefixes drawn as wide as this drown the text."""
    wide = _edited(folder, tmp_path / "wide", initializer_range=5.0)
    options = ["--P", "2", "--prefix-tokens", "3", "--val-tokens", "512", "--corpus", str(text_folder)]
    for start, warned in (("normal", True), ("text", False)):
        assert main(["convert", str(wide), "-o", str(tmp_path / start), "--start", start, *options]) == 0
        said = capsys.readouterr().err
        assert ("the loss is more than 1 % above the base loss; try --start text" in said) == warned


@pytest.mark.parametrize("P", [2, 4])
def test_frozen_backbone_stays_bit_for_bit(P, converted, folder, text_folder, tmp_path):
    out = tmp_path / "trained"
    options = ["--tokens", "6k", "--batch-size", "4", "--val-tokens", "2048", "--corpus", str(text_folder)]
    assert main(["train", str(converted), "--P", str(P), "-o", str(out), *options]) == 0
    base, before, after = (load_file(f / "model.safetensors") for f in (folder, converted, out))
    for name, tensor in base.items():
        assert torch.equal(after[name], tensor), name
    own = {k for k in after if f"_banks.{P}." in k}
    assert own
    for name in after.keys() - base.keys():
        assert torch.equal(after[name], before[name]) == (name not in own), name
    content = json.loads((out / "training.json").read_text())
    assert content["after"]["loss"] < content["before"]["loss"]
    assert content["P"] == P
    assert (out / "tokenizer.json").is_file()


def test_training_all_moves_the_backbone_and_not_the_other_bank(converted, text_folder):
    model = stage.open_model(converted, 4)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    data = stage.read_text(stage.open_model(converted), converted, str(text_folder))
    result = stage.train_stage(model, data, stage_recipe("all", 1e-3, 32, 4, 2048, "fp32"), 4e3, "all")
    assert result.after.loss < result.before.loss
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert not any("_banks.2." in k for k in moved)
    assert any("mlp" in k for k in moved)
    assert any("_banks.4.prefix_k" in k for k in moved)


def test_prefix_tuning_trains_one_stream(folder, text_folder):
    model = stage.open_model(folder)
    data = stage.read_text(stage.open_model(folder), folder, str(text_folder))
    with pytest.raises(UsageError, match="no streams to train"):
        stage.train_stage(model, data, RECIPE, 4e3)
    convert(model, {1: 8}, data, RECIPE)
    result = stage.train_stage(model, data, RECIPE, 6e3)
    assert result.after.loss < result.before.loss
    assert result.after.streams is None


def test_diagnose_says_what_evaluation_found(converted, text_folder, tmp_path, capsys):
    picture = tmp_path / "figures" / "weights.png"
    picture.parent.mkdir()
    options = ["--corpus", str(text_folder), "--val-tokens", "2048", "--figure", str(picture)]
    assert main(["diagnose", str(converted), "--P", "2", "--json", *options]) == 0
    said = json.loads(capsys.readouterr().out)
    data = stage.read_text(stage.open_model(converted), converted, str(text_folder))
    recipe = stage_recipe("streams", None, 64, 1, 2048, "fp32")
    seen = stage.validate(stage.open_model(converted, 2), data, recipe, "cpu")
    assert said["loss"] == pytest.approx(seen.loss)
    assert said["correlation"] == pytest.approx(seen.streams.correlation)
    assert said["mixture_weights"] == pytest.approx(seen.streams.mixture_weights)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["diagnose", str(converted), *options]) == 0
    assert "P = 4" in capsys.readouterr().out


def test_reports_agree_with_numbers_from_the_definitions():
    """One model, its streams taken apart by hand."""
    from torch.nn import functional as F

    from scalelab.train.evaluate import evaluate

    model = warm(add_streams(make("llama"), 3, prefix_tokens=4))
    windows = np.random.default_rng(0).integers(2, 97, (6, 12))
    seen = evaluate(model, windows, np.arange(6), "cpu", bf16=False)
    inputs, labels = (torch.from_numpy(w) for w in (windows[:, :-1], windows[:, 1:]))
    with torch.no_grad():
        hidden = model(inputs, output_hidden_states=True).hidden_states[-1].view(3, 6, 11, 32)
        losses = F.cross_entropy(model.lm_head(hidden).permute(0, 3, 1, 2), labels.expand(3, -1, -1), reduction="none")
        weights = model.model.aggregate_layer.weights(hidden)
    losses = losses.reshape(3, -1).numpy()
    pairs = [(0, 1), (0, 2), (1, 2)]
    assert seen.streams.losses == pytest.approx(losses.mean(1), rel=1e-5)
    rho = np.mean([np.corrcoef(losses[i], losses[j])[0, 1] for i, j in pairs])
    assert seen.streams.correlation == pytest.approx(rho, rel=1e-5)
    cosine = np.mean([F.cosine_similarity(hidden[i], hidden[j], dim=-1).mean() for i, j in pairs])
    assert seen.streams.cosine == pytest.approx(cosine, rel=1e-5)
    assert seen.streams.mixture_weights == pytest.approx(weights.mean((0, 1)).tolist(), rel=1e-5)
    entropy = -(weights * weights.log()).sum(-1).mean().item()
    assert seen.streams.mixture_entropy == pytest.approx(entropy, rel=1e-5)
    assert weights_over_tokens(model, inputs[0]) == pytest.approx(weights[0].numpy(), rel=1e-4)


@pytest.mark.parametrize(
    ("weights", "correlation", "expected"),
    [
        ([0.25] * 4, 0.9, []),
        ([0.9, 0.1], 0.9, ["weight_monoculture"]),
        ([0.003, 0.003, 0.002, 0.992], 0.9, ["weight_monoculture"]),
        ([0.28, 0.22, 0.2, 0.3], 0.9985, ["stream_collapse"]),
        ([0.95, 0.05], 0.9985, ["stream_collapse", "weight_monoculture"]),
    ],
)
def test_warnings_name_collapse_and_monoculture(weights, correlation, expected):
    report = StreamReport(weights, 0.1, 0.9, correlation, [3.0] * len(weights))
    assert report.warnings == expected
    assert all(report.explain(name) for name in expected)


def test_copies_are_told(folder, text_folder):
    """Streams with one and the same prefix are collapsed, whatever else."""
    model = stage.open_model(folder)
    add_streams(model, 2, prefix_tokens=4)
    with torch.no_grad():
        for name, parameter in model.stream_parameters():
            if "prefix" in name:
                parameter[1] = parameter[0]
    seen = stage.validate(model, stage.read_text(stage.open_model(folder), folder, str(text_folder)), RECIPE, "cpu")
    assert seen.streams.warnings == ["stream_collapse"]
    assert seen.streams.correlation == pytest.approx(1)
    assert seen.streams.cosine == pytest.approx(1)


def test_generate_streams_the_text_that_generate_returns(converted, capsys):
    assert main(["generate", str(converted), "--prompt", "def f(", "--P", "2", "--max-new-tokens", "12"]) == 0
    out, err = capsys.readouterr()
    model = stage.open_model(converted, 2)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(converted)
    ids = tokenizer("def f(", return_tensors="pt").input_ids
    made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    assert out.strip() == tokenizer.decode(made[0], skip_special_tokens=True).strip()
    assert "P = 2: " in err
    assert main(["generate", str(converted), "--prompt", "x", "--temperature", "1", "--max-new-tokens", "3"]) == 0


@pytest.mark.parametrize(("given", "code", "message"), [(b"\xff\xfe", 1, "not UTF-8 text"), (b"def f(", 0, "P = 4: ")])
def test_prompts_come_from_standard_input(given, code, message, converted):
    command = [sys.executable, "-m", "scalelab", "generate", str(converted), "--prompt", "-", "--max-new-tokens", "3"]
    done = subprocess.run(command, input=given, capture_output=True, check=False)
    assert done.returncode == code
    assert message in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_models_asked_for_later_are_trained_again(text_folder, tmp_path, capsys):
    options = ["--N", "20k", "--P", "2", "--D", "5k", "--seed", "0", "--corpus", str(text_folder), "--tokenizer", "300"]
    command = ["sweep", *options, "--batch-size", "4", "--out", str(tmp_path / "r")]
    assert main(command) == 0
    assert not (tmp_path / "r" / "models").exists()
    assert main([*command, "--save-models"]) == 0
    (kept,) = (tmp_path / "r" / "models").iterdir()
    assert str(kept) in capsys.readouterr().out
    assert load_model(kept).P == 2
    assert len(list((tmp_path / "r" / "runs").iterdir())) == 1


def test_a_pipeline_takes_the_checkpoint(converted):
    import scalelab.model  # noqa: F401  registers the model types

    made = pipeline("text-generation", model=str(converted))("def f(", max_new_tokens=5, do_sample=False)
    assert made[0]["generated_text"].startswith("def f(")


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_architecture_can_be_evaluated(name):
    from scalelab.train.evaluate import evaluate

    model = warm(add_streams(make(name), 2, prefix_tokens=4))
    windows = np.random.default_rng(0).integers(2, 97, (5, 10))
    seen = evaluate(model, windows, np.arange(5), "cpu", bf16=False)
    with torch.no_grad():
        ids = torch.from_numpy(windows)
        own = torch.nn.functional.cross_entropy(model(ids[:, :-1]).logits.transpose(1, 2), ids[:, 1:])
    assert seen.loss == pytest.approx(own.item(), rel=1e-5)
    assert seen.streams.losses[0] != seen.streams.losses[1]
    assert model.get_decoder().replayed is None
    assert model.get_decoder().last_outputs is None


def test_constant_losses_are_copies():
    from scalelab.train.evaluate import evaluate

    model = add_streams(make("qwen2", tie_word_embeddings=False), 2, prefix_tokens=4)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    seen = evaluate(model, np.random.default_rng(0).integers(2, 97, (4, 10)), np.arange(4), "cpu", bf16=False)
    assert seen.streams.warnings == ["stream_collapse"]


def test_generation_stops_at_the_tokenizers_end(converted, tmp_path, capsys):
    """Also where only the tokenizer knows it: a model that answers everything with the end makes one token."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(converted)

    def always_the_end(tensors):
        states = tensors["model.norm.weight"]
        states.zero_()
        return tensors

    config = json.loads((converted / "config.json").read_text())
    assert config.get("eos_token_id") is None
    folder = _edited(converted, tmp_path / "ends", always_the_end)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    # With all logits the same the first token is the likeliest: let that be the end of text.
    first = tokenizer.convert_ids_to_tokens(0)
    assert content["added_tokens"][0]["content"] == first == tokenizer.eos_token
    assert main(["generate", str(folder), "--prompt", "a b", "--max-new-tokens", "9"]) == 0
    assert "P = 4: 1 token in" in capsys.readouterr().err


def test_a_precision_is_kept(converted, text_folder, tmp_path):
    """A bf16 backbone comes out in bf16, to the last bit, and its rotations stay in fp32."""
    half = tmp_path / "half"
    save_model(load_model(converted).to(torch.bfloat16), half, converted)
    out = tmp_path / "out"
    options = ["--tokens", "1k", "--batch-size", "4", "--val-tokens", "512", "--corpus", str(text_folder)]
    assert main(["train", str(half), "--P", "2", "-o", str(out), *options]) == 0
    before, after = (load_file(f / "model.safetensors") for f in (half, out))
    assert {t.dtype for t in after.values()} == {torch.bfloat16}
    assert all(torch.equal(after[k], before[k]) for k in before if "_banks.2" not in k)
    assert stage.open_model(half, dtype=torch.bfloat16).model.rotary_emb.inv_freq.dtype == torch.float32


def test_a_loss_that_is_no_number_is_never_saved(converted, text_folder, tmp_path, capsys):
    options = ["--tokens", "2k", "--batch-size", "4", "--val-tokens", "512", "--corpus", str(text_folder)]
    out = tmp_path / "x"
    assert main(["train", str(converted), "--P", "2", "-o", str(out), "--lr", "1e39", *options]) == 1
    assert "a number" in capsys.readouterr().err
    assert not out.exists()


def test_a_full_disk_leaves_nothing_half_written(converted, text_folder, tmp_path):
    """With files limited to 20 kB, as on a full disk: one line, and no folder."""
    options = ["--P", "8", "--prefix-tokens", "3", "--corpus", str(text_folder)]
    script = f"""
import resource, signal, sys
from scalelab.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
sys.exit(main(["convert", {str(converted)!r}, "-o", "copy", *{options!r}]))
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1
    assert "could not be written" in done.stderr
    assert list(tmp_path.iterdir()) == []


def _edited(folder, into, weights=lambda tensors: tensors, **config):
    """A copy of a checkpoint with changed weights or config."""
    shutil.copytree(folder, into)
    file = into / "model.safetensors"
    save_file(weights(load_file(file)), file, metadata={"format": "pt"})
    content = json.loads((into / "config.json").read_text())
    (into / "config.json").write_text(json.dumps(content | config))
    return into


@pytest.mark.parametrize(
    ("weights", "config", "message"),
    [
        (
            lambda t: {k: v for k, v in t.items() if "layers.1.mlp.up" not in k},
            {},
            r"the safetensors lack model\.layers\.1\.mlp\.up",
        ),
        (lambda t: {k: v for k, v in t.items() if "0.self_attn.prefix" not in k}, {}, "prefix_k and . more"),
        (lambda t: t, {"parscale_banks": None}, "aggregate_banks|aggregate_layer"),
        (lambda t: t, {"parscale_banks": None, "parscale_n": 1}, "the safetensors have"),
        (lambda t: t, {"parscale_aggregation": "mean"}, "the safetensors have model.aggregate_banks"),
        (lambda t: t, {"num_hidden_layers": 1}, r"the safetensors have model\.layers\.1"),
        (lambda t: t, {"parscale_banks": {"2": 5, "4": 3}}, "cannot be loaded with streams|a different shape"),
        (lambda t: t, {"parscale_active": 7}, "no bank of 7 streams"),
        (lambda t: t, {"parscale_attn_smooth": None}, "parscale_attn_smooth must lie in"),
        (lambda t: t, {"parscale_banks": [2]}, "parscale_banks must be a mapping"),
        (lambda t: t, {"parscale_n": "4"}, "cannot be loaded with streams"),
        (lambda t: t, {"num_attention_heads": 0}, "cannot be loaded with streams"),
    ],
)
def test_weights_and_config_must_belong_together(weights, config, message, converted, tmp_path):
    """Or random weights would stand in for the missing without a word."""
    with pytest.raises(DataError, match=message):
        load_model(_edited(converted, tmp_path / "edited", weights, **config))


WRONG = [
    (["convert", "nowhere", "-o", "x"], 2, "nowhere: no such folder"),
    (["convert", "{folder}", "-o", "{folder}"], 2, "exists and is not empty; give a new folder"),
    (["convert", "{folder}", "-o", "x", "--P", "0"], 2, "--P: '0' is not a whole number"),
    (["convert", "{folder}", "-o", "x", "--start", "zeros"], 2, "--start zeros: choose text, moments or normal"),
    (["convert", "{folder}", "-o", "x", "--start", "normal", "--draws", "3"], 2, "--draws: --start normal uses no"),
    (["convert", "{folder}", "-o", "x", "--aggregation", "sum"], 2, "--aggregation sum: choose one of dynamic, mean"),
    (["convert", "{converted}", "-o", "x", "--P", "4", "--corpus", "{text}"], 2, "already has this bank;"),
    (["train", "{converted}", "-o", "x", "--P", "3"], 2, "supports only P = 1, 2, 4; convert adds one"),
    (["train", "{folder}", "-o", "x", "--corpus", "{text}"], 2, "has no streams to train"),
    (["train", "{converted}", "-o", "x", "--train", "head"], 2, "--train head: choose streams or all"),
    (["train", "{converted}", "-o", "x", "--tokens", "many"], 2, "--tokens: 'many' is not a positive count"),
    (["train", "{converted}", "-o", "x", "--corpus", "nothing"], 2, "--corpus nothing: no such file"),
    (["train", "{converted}", "-o", "{file}/x", "--P", "2"], 1, "config.json"),
    (["convert", "{converted}", "-o", "x", "--P", "8", "--aggregation", "mean"], 2, "use dynamic; leave it out"),
    (["convert", "{folder}", "-o", "x", "--P", "9999999999999", "--corpus", "{text}"], 2, "too few for"),
    (["convert", "{gpt2}", "-o", "x", "--corpus", "{text}", "--seq-len", "64"], 2, "the model has positions for 48"),
    (["convert", "{gpt2}", "-o", "x", "--corpus", "{text}", "--prefix-tokens", "49"], 2, "--prefix-tokens: 49 tokens"),
    (["generate", "{gpt2}", "--prompt", "a", "--max-new-tokens", "48"], 2, "the model has positions for 48"),
    (["convert", "{small}", "-o", "x", "--corpus", "{text}"], 2, "the tokenizer has 300 tokens, the model only 97"),
    (["diagnose", "{converted}", "--figure", "f.xyz"], 2, "--figure f.xyz: must end in one of"),
    (["diagnose", "{folder}"], 2, "one stream cannot be compared"),
    (["generate", "{converted}", "--prompt", "a", "--temperature", "1e-320"], 2, "give 0, or a number from 0.01"),
    (["generate", "{nan}", "--prompt", "a", "--max-new-tokens", "9"], 1, "the model's logits are NaN"),
    (["diagnose", "{nan}", "--corpus", "{text}"], 1, "P = 4: the loss is not a number"),
    (["convert", "{file}", "-o", "x"], 2, "is a file; give the folder"),
    (["diagnose", "{empty}"], 1, "no config.json; give a model's folder"),
    (["generate", "{converted}", "--prompt", ""], 2, "--prompt is empty"),
    (["generate", "{converted}", "--prompt", "a", "--P", "7"], 2, "supports only P = 1, 2, 4"),
    (["generate", "{converted}", "--prompt", "a", "--chat"], 2, "has no chat template"),
    (["generate", "{broken}", "--prompt", "a"], 1, "broken: "),
    (["generate", "{bloom}", "--prompt", "a"], 1, "BloomForCausalLM"),
]


@pytest.mark.parametrize(("words", "code", "message"), WRONG)
def test_mistakes_get_one_line(words, code, message, folder, converted, text_folder, tmp_path, monkeypatch, capsys):
    from transformers import BloomConfig, BloomForCausalLM

    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    if "{broken}" in words:
        save_model(load_model(folder), tmp_path / "broken")
        file = tmp_path / "broken" / "model.safetensors"
        file.write_bytes(file.read_bytes()[:200])
    if "{bloom}" in words:
        BloomForCausalLM(BloomConfig(vocab_size=97, n_layer=2, n_head=4, hidden_size=32)).save_pretrained("bloom")
    for name, family, size in (("gpt2", "gpt2", 300), ("small", "llama", 97)):
        if f"{{{name}}}" in words:
            model = add_streams(make(family, vocab_size=size, max_position_embeddings=48), 1)
            save_model(model, tmp_path / name, folder)
    if "{nan}" in words:
        model = load_model(converted)
        model.model.norm.weight.data[0] = float("nan")
        save_model(model, tmp_path / "nan", converted)
    places = {"file": folder / "config.json", "folder": folder, "converted": converted, "text": text_folder}
    places |= {name: tmp_path / name for name in ("empty", "broken", "bloom", "gpt2", "small", "nan")}
    assert main([word.format(**places) for word in words]) == code
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("scalelab: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_a_model_type_made_up_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "nonsense_parscale"}')
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(DataError, match="'nonsense_parscale' is not a causal language model"):
        load_model(tmp_path)
