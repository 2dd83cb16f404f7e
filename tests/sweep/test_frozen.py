"""Sweeps on a frozen backbone: what is trained, what it costs, and what is refused."""

import hashlib
import inspect
import json
import shutil
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from scalelab import pairs, run_sweep, train_streams
from scalelab.api.sweep_request import spec_of
from scalelab.cli import main
from scalelab.errors import DataError, UsageError
from scalelab.model import add_streams
from scalelab.records import load
from scalelab.sweep.frozen_spec import backbone_shape
from scalelab.sweep.resolve import resolve
from scalelab.sweep.spec import SweepSpec, parse
from scalelab.train import stage
from scalelab.train.build import build_model
from scalelab.train.checkpoint import TrainState
from scalelab.train.convert import convert
from scalelab.train.cost import frozen_flops, lora_params, train_flops, trained_params
from scalelab.train.ensemble import can_train_together
from scalelab.train.estimate import StepShape, StepTime, TimeEstimates
from scalelab.train.frozen import backbone_only, merge_lora
from scalelab.train.run import run_and_record
from scalelab.train.stage_recipe import stage_recipe
from scalelab.train.trainer import Options, train_run
from tests.support.families import make
from tests.support.flops import counted_flops
from tests.support.trained import trained_model

T = 32
SETTINGS = {"recipe": {"seq_len": T, "val_tokens": 2048, "dtype": "fp32"}}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory, text_folder):
    return trained_model(tmp_path_factory.mktemp("trained"), text_folder)


def runs_of(backbone, text_folder, **keys):
    given = {"backbone": str(backbone), "corpus": str(text_folder), "D": "4k", "seeds": 0, **SETTINGS, **keys}
    return resolve(replace(SweepSpec(), **parse(given)))


def run_of(backbone, text_folder, **keys):
    sweep = runs_of(backbone, text_folder, **keys)
    assert len(sweep.runs) == 1
    return sweep.runs[0], sweep.data


@pytest.mark.parametrize("P", [1, 2])
def test_a_run_is_convert_and_then_train(backbone, text_folder, P):
    config, data = run_of(backbone, text_folder, P=P, prefix_tokens=3)
    found = train_run(config, data)
    model = stage.open_model(backbone)
    recipe = stage_recipe("streams", None, T, 4, 2048, "fp32")
    convert(model, {P: 3}, data, recipe, seed=0)
    expected = stage.train_stage(model, data, recipe, 4e3, seed=0)
    assert found.evaluation.loss == expected.after.loss
    assert found.curve == expected.curve
    plain = stage.validate(stage.open_model(backbone), data, recipe, "cpu")
    assert found.base.loss == plain.loss != found.evaluation.loss


@pytest.mark.parametrize(("P", "rank"), [(1, 0), (2, 0), (1, 3), (2, 3)])
def test_only_streams_and_low_rank_matrices_learn(backbone, text_folder, P, rank):
    config, data = run_of(backbone, text_folder, P=P, lora_rank=rank)
    before = {name: value.clone() for name, value in stage.open_model(backbone).named_parameters()}
    model = train_run(config, data).model
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert all("prefix_" in name or "aggregate" in name or "lora_" in name for name in trained)
    assert any("lora_" in name for name in trained) == (rank > 0)
    assert any("prefix_" in name for name in trained) == (P > 1 or rank == 0)
    after = {name.replace(".base_layer", ""): value for name, value in model.named_parameters()}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert sum(model.get_parameter(name).numel() for name in trained) == trained_params(config)
    assert config.architecture.total_params == sum(p.numel() for n, p in model.named_parameters() if "lora_" not in n)


def test_low_rank_matrices_are_merged_into_a_plain_model(backbone, text_folder, tmp_path):
    config, data = run_of(backbone, text_folder, P=1, lora_rank=3, lr=0.01)
    record = run_and_record(config, data, tmp_path, save_models=True)
    assert record["lora_rank"] == 3
    assert record["n_params_trained"] == lora_params(config.architecture, 3)
    saved = stage.open_model(tmp_path / "models" / config.key)
    again = stage.validate(saved, data, config.recipe, "cpu").loss
    assert record["base_loss"] != record["loss"] == pytest.approx(again, abs=1e-5)
    assert saved.P == 1
    assert not saved.banks


def test_the_backbone_alone_is_the_model_as_it_was(backbone, text_folder):
    config, data = run_of(backbone, text_folder, P=2, lora_rank=2, lr=0.01)
    model = train_run(config, data).model
    ids = torch.randint(0, 200, (2, 9), generator=torch.Generator().manual_seed(0))
    required = [p.requires_grad for p in model.parameters()]
    with torch.no_grad():
        expected, adapted = stage.open_model(backbone)(ids).logits, model(ids, use_cache=False).logits
        with backbone_only(model):
            assert torch.equal(model(ids, use_cache=False).logits, expected)
        assert torch.equal(model(ids, use_cache=False).logits, adapted)
        assert not torch.equal(adapted, expected)
        assert [p.requires_grad for p in model.parameters()] == required
        merge_lora(model)
        torch.testing.assert_close(model(ids, use_cache=False).logits, adapted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("P", "rank"), [(1, 0), (4, 0), (1, 3), (2, 3)])
def test_operations_are_those_that_torch_counts(backbone, text_folder, P, rank):
    config, data = run_of(backbone, text_folder, P=P, lora_rank=rank, prefix_tokens=3)
    model, shape = build_model(config, data), config.architecture
    model.set_attn_implementation("eager")
    batch = torch.from_numpy(data.train()[: 4 * (T + 1)].astype("int64").reshape(4, T + 1))
    with FlopCounterMode(display=False) as counter:
        logits = model(batch[:, :-1], use_cache=False).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).backward()
    seen = T + (3 if shape.has_prefixes else 0)
    expected = frozen_flops(shape, T, rank, visible=seen)
    if not rank:  # eager attention leaves out the gradient of the first layer's queries, fused kernels do not
        expected -= 2 * P * shape.hidden_size * seen
    assert 4 * T * expected == counted_flops(counter)
    assert train_flops(config) == config.n_tokens * frozen_flops(shape, T, rank)
    assert train_flops(config, 2) == (config.n_tokens - 2 * 4 * T) * frozen_flops(shape, T, rank)


def test_an_interrupted_run_resumes_to_the_same_loss(backbone, text_folder, tmp_path):
    config, data = run_of(backbone, text_folder, P=2, lora_rank=2, lr=0.01)
    expected = train_run(config, data).evaluation.loss

    class StoppedError(Exception):
        pass

    def stop(state: TrainState):
        if state.step == 20:
            raise StoppedError

    kept = Options(checkpoints=tmp_path, save_every_s=0.0)
    with pytest.raises(StoppedError):
        train_run(config, data, replace(kept, observer=stop))
    seen = []
    resumed = train_run(config, data, replace(kept, observer=lambda state: seen.append(state.step)))
    assert resumed.evaluation.loss == expected
    assert seen[0] > 15


def test_a_moved_backbone_is_the_same_run_and_another_is_not(backbone, text_folder, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(backbone, moved)
    first, there = (run_of(folder, text_folder, P=2)[0] for folder in (backbone, moved))
    assert (first.key, first.setup) == (there.key, there.setup)
    assert str(tmp_path) not in there.to_json()
    assert json.loads(there.to_json())["backbone"] == "elsewhere"
    weights = moved / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    other, _ = run_of(moved, text_folder, P=2)
    assert other.key != first.key
    assert other.setup != first.setup
    lora, _ = run_of(backbone, text_folder, P=2, lora_rank=2)
    assert lora.key != first.key
    assert lora.setup != first.setup
    prefix, _ = run_of(backbone, text_folder, P=1)
    assert prefix.setup == first.setup
    assert not can_train_together([prefix, prefix])


def test_a_sweep_records_what_pairs_compare(backbone, text_folder, tmp_path):
    before = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in backbone.iterdir()}
    given = dict(backbone=backbone, corpus=str(text_folder), D="4k", out=tmp_path, workers=2)
    found = run_sweep(P=[1, 2], seeds=[0, 1], settings=SETTINGS, **given)
    assert "Loss of the frozen backbone alone: " in found.summary()
    assert before == {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in backbone.iterdir()}
    (step,) = pairs(tmp_path, value="ln(base_loss - loss + 1)").steps
    assert len(step.differences) == 2
    records = load(tmp_path)
    assert records.setup.nunique() == 1
    assert set(records.n_streams[records.n_params_trained < 1000]) == {1}
    assert (records.loss < records.base_loss).all()
    assert records.base_loss.nunique() == 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"N": "50k"}, "N cannot be combined with a backbone, which has its own N; leave it out"),
        ({"tokenizer": 600}, "tokenizer cannot be combined with a backbone, which has its own tokenizer"),
        ({"plain_tokens": "1k"}, "plain_tokens cannot be combined with a backbone, which is trained already"),
        ({"loops": 2}, "loops cannot be combined"),
        ({"points": [{"N": "50k", "D": "1M"}]}, "points cannot be combined with a backbone, which has its own N"),
        ({"single_prefix": True}, "single_prefix cannot be combined with a backbone, which always has a prefix at P"),
        ({"lora_rank": -1}, "lora_rank"),
    ],
)
def test_keys_that_a_backbone_decides_are_refused(keys, message):
    with pytest.raises(UsageError, match=message):
        replace(SweepSpec(), **parse({"backbone": "missing", **keys}))


def test_low_rank_matrices_need_a_backbone():
    with pytest.raises(UsageError, match="lora_rank needs a backbone"):
        replace(SweepSpec(), **parse({"lora_rank": 4}))


def save(model, folder):
    """Save a model with something in the place of its tokenizer."""
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("qwen3", "do not support a head_dim of 16"),
        ("gpt2", "do not support an MLP without a gate"),
        ("olmo2", "do not support the biases or norms"),
    ],
)
def test_models_of_another_kind_are_refused(tmp_path, name, message):
    with pytest.raises(UsageError, match=message):
        backbone_shape(save(make(name), tmp_path / name))


@pytest.mark.parametrize("name", ["qwen2", "llama", "mixtral"])
def test_shapes_are_those_of_the_model(tmp_path, name):
    model = make(name)
    assert backbone_shape(save(model, tmp_path / name)).total_params == sum(p.numel() for p in model.parameters())


def test_a_model_with_streams_or_without_files_is_refused(tmp_path, capsys):
    folder = save(add_streams(make("llama"), 2, prefix_tokens=3), tmp_path / "streams")
    with pytest.raises(UsageError, match="has streams already"):
        backbone_shape(folder)
    assert main(["sweep", "--backbone", str(tmp_path / "none")]) == 2
    assert f"--backbone {tmp_path / 'none'}: no such folder" in capsys.readouterr().err
    whole = save(make("llama"), tmp_path / "whole")
    with pytest.raises(UsageError, match=r"config\.json': is a file; give the folder"):
        backbone_shape(whole / "config.json")
    for file, message in (("tokenizer.json", "no tokenizer.json"), ("model.safetensors", "no safetensors")):
        (whole / file).unlink()
        with pytest.raises(DataError, match=message):
            backbone_shape(whole)
    (whole / "config.json").write_text("{}")
    with pytest.raises(DataError, match="model_type"):
        backbone_shape(whole)


def test_low_rank_matrices_are_counted_or_refused(backbone, text_folder, tmp_path, capsys):
    """Phi-3 has fused layers, and the experts of Mixtral are no linear layers for PEFT."""
    experts = save(make("mixtral"), tmp_path / "experts")
    assert main(["sweep", "--backbone", str(experts), "--set", "lora_rank=2"]) == 2
    assert "lora_rank needs a dense model" in capsys.readouterr().err
    make("phi3", vocab_size=300).save_pretrained(tmp_path / "fused")
    shutil.copyfile(backbone / "tokenizer.json", tmp_path / "fused" / "tokenizer.json")
    config, data = run_of(tmp_path / "fused", text_folder, P=1, lora_rank=2)
    with pytest.raises(UsageError, match="its linear layers are not those of Llama"):
        build_model(config, data)
    config, data = run_of(tmp_path / "fused", text_folder, P=2)
    assert build_model(config, data).P == 2


def test_another_backbone_keeps_the_keys_of_a_spec(backbone, text_folder, tmp_path):
    shutil.copytree(backbone, tmp_path / "other")
    (tmp_path / "a.yaml").write_text(
        f"backbone: {backbone}\nP: 2\nD: 8k\nprefix_tokens: 5\ncorpus: {text_folder}\nrecipe: {{seq_len: 16}}\n"
    )

    spec = spec_of(tmp_path / "a.yaml", {"backbone": tmp_path / "other"}, {})
    assert spec.backbone == str(tmp_path / "other")
    assert (spec.D, spec.prefix_tokens, spec.recipe.seq_len) == ((8e3,), (5,), 16)


def test_a_backbone_changes_defaults_and_not_what_a_spec_gives(backbone, tmp_path):
    spec = spec_of(None, {"backbone": backbone, "P": 2}, {"batch_size": 2}, {"recipe": {"beta2": 0.9}})
    assert (spec.N, spec.D, spec.recipe.seq_len, spec.recipe.beta2) == ((), (100e3,), 64, 0.9)
    assert (spec.recipe.batch_size, spec.recipe.lr, spec.prefix_tokens) == (2, 0.03, (8,))
    assert spec.name == backbone.name
    content = {"D": "8k", "prefix_tokens": 3, "lr": [0.01, 0.02], "recipe": {"batch_size": 16, "beta2": 0.9}}
    (tmp_path / "a.yaml").write_text(json.dumps(content))
    for source in (tmp_path / "a.yaml", content):
        spec = spec_of(source, {"backbone": backbone}, {})
        assert (spec.D, spec.prefix_tokens, spec.lr) == ((8e3,), (3,), (0.01, 0.02))
        assert (spec.recipe.batch_size, spec.recipe.beta2, spec.recipe.weight_decay) == (16, 0.9, 0.0)
    longer = tmp_path / "longer"
    shutil.copytree(backbone, longer)
    config = json.loads((longer / "config.json").read_text())
    (longer / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    (tmp_path / "b.yaml").write_text(f"backbone: {backbone}\n")
    spec = spec_of(tmp_path / "b.yaml", {"backbone": longer}, {})
    assert (spec.recipe.seq_len, spec.prefix_tokens) == (512, (48,))
    with pytest.raises(UsageError, match="is given twice"):
        spec_of(None, {"backbone": backbone}, {}, {"backbone": str(longer)})


def test_the_defaults_are_those_of_train_streams(backbone):
    spec = spec_of(None, {"backbone": backbone}, {})
    usual = {name: p.default for name, p in inspect.signature(train_streams).parameters.items()}
    assert (spec.D[0], spec.recipe.batch_size, spec.recipe.val_tokens) == (
        usual["tokens"],
        usual["batch_size"],
        usual["val_tokens"],
    )


def test_frozen_runs_pair_beside_others_and_after_the_folder_was_renamed(backbone, text_folder, tmp_path):
    shutil.copytree(backbone, tmp_path / "renamed")
    out = tmp_path / "out"
    for folder, P in ((backbone, 1), (tmp_path / "renamed", 2)):
        config, data = run_of(folder, text_folder, P=P, prefix_tokens=3)
        run_and_record(config, data, out)
    spec = {"N": "12k", "P": 1, "D": "4k", "seeds": 0, "corpus": str(text_folder), "tokenizer": 300, **SETTINGS}
    plain = resolve(replace(SweepSpec(), **parse(spec)))
    run_and_record(plain.runs[0], plain.data, out)
    found = pairs(out)
    assert [(step.level, step.against, len(step.differences)) for step in found.steps] == [(2, 1, 1)]


def test_a_cluster_is_refused_before_it_is_started(backbone, capsys):
    assert main(["sweep", "--backbone", str(backbone), "--executor", "ray"]) == 2
    assert "--executor: ray does not copy a backbone to other machines" in capsys.readouterr().err


def test_the_command_names_the_next_one_and_the_backbones_loss(backbone, text_folder, tmp_path, capsys):
    words = ["sweep", "--backbone", str(backbone), "--corpus", str(text_folder), "--P", "1", "--D", "2k", "--seed", "0"]
    assert main([*words, "--seq-len", "32", "--set", "recipe.val_tokens=2048", "-o", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert f"next: scalelab results {tmp_path}" in shown.err  # one P has no pairs
    assert f"Loss of the frozen backbone alone: {load(tmp_path).base_loss[0]:.4f} nats per token." in shown.out


@pytest.mark.parametrize(("P", "rank"), [(1, 0), (4, 0), (1, 2)])
def test_the_estimate_holds_the_trials_and_the_backbones_own_validation(backbone, text_folder, P, rank):
    config, _ = run_of(backbone, text_folder, P=P, lora_rank=rank)
    shape = config.architecture if config.architecture.has_prefixes else replace(config.architecture, prefix_tokens=0)
    step = StepShape(shape, T, 4, "fp32", config.backbone_digest, rank)
    times = TimeEstimates({step: StepTime(0.25, 0.125, timed=True)})
    trials = 0 if rank else 8 * 2048
    assert times.train_s(config) == 0.25 * config.steps
    assert times.validation_s(config) == 0.125 * (2048 + 2048 / P + trials)
