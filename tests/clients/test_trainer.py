"""The Trainer of transformers with streams."""

import importlib
import json
import sys

import pytest
import torch
import transformers
from transformers import AutoTokenizer, Trainer, TrainingArguments
from transformers.trainer_callback import DefaultFlowCallback

from scalelab.model import add_streams, lora_config
from scalelab.model.trainer import StreamsCallback
from scalelab.model.trainer_hook import add_to_trainers
from tests.clients.words import save_tokenizer
from tests.support.families import make, tokens, warm

pytest.importorskip("accelerate", reason="no Accelerate: pip install 'scalelab[distributed]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of the clients


def arguments(folder, **options):
    return TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=2, use_cpu=True, report_to=[], disable_tqdm=True, **options
    )


def smoothed(logits, ids, smoothing):
    """Return the smoothed cross-entropy of the next token (Szegedy et al., arXiv 1512.00567, section 7)."""
    scores = torch.log_softmax(logits[:, :-1].double(), -1)
    own = -scores.gather(-1, ids[:, 1:, None]).mean()
    return ((1 - smoothing) * own - smoothing * scores.mean(-1).mean()).item()


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("adapter", [False, True])
def test_label_smoothing_predicts_the_next_token(name, adapter, tmp_path):
    ids = tokens()
    model = warm(add_streams(make(name, num_hidden_layers=2), 4, prefix_tokens=5))
    expected = smoothed(model(ids).logits, ids, 0.1)
    if adapter:
        peft = pytest.importorskip("peft", reason="no PEFT: pip install 'scalelab[clients]'")
        model = peft.get_peft_model(model, lora_config(model, r=4))
    trainer = Trainer(model.eval(), arguments(tmp_path, label_smoothing_factor=0.1))
    loss = trainer.compute_loss(model, {"input_ids": ids, "labels": ids.clone()})
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def trainer(folder, P, model=None, only_streams=False, **options):
    """A trainer as a user makes it, who knows nothing of callbacks."""
    data = [{"input_ids": row, "labels": row} for row in tokens(8, 6)]
    if model is None:
        model = warm(add_streams(make("llama", num_hidden_layers=1), [2, 4], prefix_tokens=3))
        model.set_streams(P)
    if only_streams:
        model.requires_grad_(False)
        for _, parameter in model.stream_parameters():
            parameter.requires_grad_(True)
    steps = {"max_steps": 4, "save_steps": 2, "logging_steps": 1, "learning_rate": 1e-2, "seed": 0}
    return Trainer(model, arguments(folder, **(steps | options)), train_dataset=data)


def saved_state(folder, step=2):
    return json.loads((folder / f"checkpoint-{step}" / "trainer_state.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("only_streams", [False, True])
@pytest.mark.parametrize("options", [{}, {"restore_callback_states_from_checkpoint": True}])
def test_resuming_needs_the_streams_of_the_state(only_streams, options, tmp_path):
    whole = trainer(tmp_path, 4, only_streams=only_streams, **options)
    whole.train()
    checkpoint = str(tmp_path / "checkpoint-2")
    with pytest.raises(ValueError, match=r"trained with P = 4, but P = 2 is active; call model.set_streams\(4\)"):
        trainer(tmp_path, 2, only_streams=only_streams, **options).train(resume_from_checkpoint=checkpoint)
    resumed = trainer(tmp_path, 4, only_streams=only_streams, **options)
    resumed.train(resume_from_checkpoint=checkpoint)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    losses = [[row["loss"] for row in each.state.log_history if "loss" in row] for each in (whole, resumed)]
    assert len(losses[0]) == 4
    assert losses[0] == losses[1]


def test_the_plain_backbone_counts_as_other_streams(tmp_path):
    trainer(tmp_path, 1).train()
    with pytest.raises(ValueError, match="trained with P = 1, but P = 4 is active"):
        trainer(tmp_path, 4).train(resume_from_checkpoint=True)


def test_other_numbers_of_trained_parameters_are_refused_by_torch(tmp_path):
    """A bank for P = 1 has no aggregator. The optimizer's state is loaded before any callback is called."""

    def streams(P):
        model = warm(add_streams(make("llama", num_hidden_layers=1), [1, 4], prefix_tokens=3))
        model.set_streams(P)
        return trainer(tmp_path, P, model, only_streams=True)

    streams(4).train()
    with pytest.raises(ValueError, match="doesn't match the size of optimizer's group"):
        streams(1).train(resume_from_checkpoint=True)


def test_an_adapter_resumes_only_with_its_streams(tmp_path):
    peft = pytest.importorskip("peft", reason="no PEFT: pip install 'scalelab[clients]'")

    def adapted(P):
        model = warm(add_streams(make("llama", num_hidden_layers=1), [2, 4], prefix_tokens=3))
        model.set_streams(P)
        return trainer(tmp_path, P, peft.get_peft_model(model, lora_config(model, r=2)))

    adapted(2).train()
    with pytest.raises(ValueError, match="trained with P = 2, but P = 4 is active"):
        adapted(4).train(resume_from_checkpoint=True)


def test_trl_resumes_only_with_the_streams_of_the_state(tmp_path):
    trl = pytest.importorskip("trl", reason="no TRL: pip install 'scalelab[clients]'")
    datasets = pytest.importorskip("datasets", reason="no datasets: pip install 'scalelab[datasets]'")
    save_tokenizer(tmp_path)
    rows = datasets.Dataset.from_list([{"text": f"t{i} t{i + 1} t{i + 2}"} for i in range(40, 48)])
    steps = {"max_steps": 2, "save_steps": 1, "learning_rate": 1e-2, "seed": 0}
    options = trl.SFTConfig(**(arguments(tmp_path, **steps).to_dict() | {"max_length": 8, "bf16": False}))

    def sft(P):
        model = warm(add_streams(make("llama", num_hidden_layers=1), [2, 4], prefix_tokens=3))
        model.set_streams(P)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        return trl.SFTTrainer(model, args=options, train_dataset=rows, processing_class=tokenizer)

    sft(4).train()
    with pytest.raises(ValueError, match="trained with P = 4, but P = 2 is active"):
        sft(2).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_models_without_streams_are_trained_as_before(tmp_path):
    trainer(tmp_path, None, make("llama", num_hidden_layers=1)).train()
    assert set(saved_state(tmp_path)["stateful_callbacks"]) == {"TrainerControl"}
    trainer(tmp_path, None, make("llama", num_hidden_layers=1)).train(resume_from_checkpoint=True)


def test_the_callback_is_added_once_whenever_the_trainer_is_imported(monkeypatch):
    module = sys.modules["transformers.trainer"]
    monkeypatch.setattr(module, "DEFAULT_CALLBACKS", [DefaultFlowCallback])
    for _ in range(2):
        add_to_trainers()
    assert [DefaultFlowCallback, StreamsCallback] == module.DEFAULT_CALLBACKS
    monkeypatch.delitem(sys.modules, "transformers.trainer")
    monkeypatch.setattr(transformers, "trainer", module, raising=False)
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if "scalelab" not in type(f).__module__])
    for _ in range(2):
        add_to_trainers()
    later = importlib.import_module("transformers.trainer")
    assert later is not module
    assert [DefaultFlowCallback, StreamsCallback] == later.DEFAULT_CALLBACKS
