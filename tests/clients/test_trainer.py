"""The Trainer of transformers with streams."""

import pytest
import torch
from transformers import Trainer, TrainingArguments

from scalelab.model import add_streams, lora_config
from scalelab.model.trainer import StreamsCallback
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


def test_resuming_needs_the_streams_of_the_state(tmp_path):
    data = [{"input_ids": row, "labels": row} for row in tokens(8, 6)]

    def trainer(P):
        model = warm(add_streams(make("llama", num_hidden_layers=1), [2, 4], prefix_tokens=3))
        model.set_streams(P)
        options = arguments(tmp_path, max_steps=4, save_steps=2, learning_rate=1e-2, seed=0)
        return Trainer(model, options, train_dataset=data, callbacks=[StreamsCallback()])

    whole = trainer(4)
    whole.train()
    with pytest.raises(ValueError, match=r"trained with P = 4, but P = 2 is active; call model.set_streams\(4\)"):
        trainer(2).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    resumed = trainer(4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)
