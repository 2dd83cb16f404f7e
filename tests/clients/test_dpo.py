"""Training on preferences against the DPOTrainer of TRL: the same pairs, model and reference."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, TrainerCallback

from scalelab.api.loading import load_tokenizer
from scalelab.train import stage
from scalelab.train.stage_recipe import stage_recipe
from scalelab.train.step import TrainingStep
from tests.support.chats import PLAIN, save_chat_model, write_lines

pytest.importorskip("trl", reason="no TRL: pip install 'scalelab[clients]'")
pytest.importorskip("datasets", reason="no datasets: pip install 'scalelab[datasets]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of the clients

BETA, LR, STEPS = 0.3, 0.5, 3
RECIPE = stage_recipe("all", LR, 64, 3, 10_000, "fp32")
# Nothing follows the token that ends a turn.
TIGHT = PLAIN.replace("<|end|>\\n", "<|end|>")
PAIRS = [
    ([("user", "red moon")], "blue", "one two three"),
    ([("system", "day"), ("user", "one"), ("assistant", "two"), ("user", "sea")], "sky sun", "night"),
    ([("user", "green")], "red red red blue", "sea sky"),
]


def rows():
    def answer(text):
        return [{"role": "assistant", "content": text}]

    return [
        {
            "prompt": [{"role": role, "content": text} for role, text in prompt],
            "chosen": answer(chosen),
            "rejected": answer(rejected),
        }
        for prompt, chosen, rejected in PAIRS
    ]


def own_data(folder, template, P):
    """Return our model and data; the held-out pairs, other than those of training, are not used."""
    source = save_chat_model(folder / "model", template, banks=(P,) if P > 1 else ())
    write_lines(folder / "pairs" / "train.jsonl", rows())
    swapped = [row | {"prompt": [{"role": "user", "content": text}]} for row, text in zip(rows(), "abc", strict=True)]
    write_lines(folder / "pairs" / "validation.jsonl", swapped)
    model = stage.open_model(source, P)
    return source, model, stage.read_chat(model, load_tokenizer(source), source, folder / "pairs", 64, BETA)


class Steps(TrainerCallback):
    """Keeps the parameters after each step."""

    def __init__(self):
        self.parameters = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.parameters.append([p.detach().clone() for p in model.parameters()])


def trl_trainer(folder, source, P, steps):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    model = stage.open_model(source, P)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    options = DPOConfig(
        output_dir=str(folder / "trl"),
        beta=BETA,
        per_device_train_batch_size=len(PAIRS),
        max_steps=STEPS,
        max_grad_norm=RECIPE.grad_clip,
        logging_steps=1,
        save_strategy="no",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    return DPOTrainer(
        model,
        copy.deepcopy(model),
        options,
        train_dataset=Dataset.from_list(rows()),
        processing_class=AutoTokenizer.from_pretrained(source),
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)),
        callbacks=[steps],
    )


@pytest.mark.parametrize("P", [1, 2])
def test_losses_and_steps_are_those_of_trl(P, tmp_path):
    source, model, data = own_data(tmp_path, TIGHT, P)
    start = [p.detach().clone() for p in model.parameters()]
    steps = Steps()
    trainer = trl_trainer(tmp_path, source, P, steps)
    trainer.train()
    expected = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(expected) == len(steps.parameters) == STEPS
    assert expected[-1] < expected[0] - 0.01

    data.prepare(model, RECIPE, STEPS, 0, "cpu")
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    step = TrainingStep(model, optimizer, RECIPE, micro_batch=2, objective=data.objective)
    batch = data.windows(RECIPE, "cpu", False).batch(np.arange(len(PAIRS)))
    for wanted, loss, before in zip(steps.parameters, expected, [start, *steps.parameters], strict=False):
        optimizer.zero_grad()
        assert step.without_retry(batch).item() == pytest.approx(loss, abs=1e-4)
        for own, other, old in zip(model.parameters(), wanted, before, strict=True):
            torch.testing.assert_close(own - old, other - old, rtol=2e-3, atol=1e-6)


def test_trl_also_counts_what_the_template_writes_after_the_end_of_a_turn(tmp_path):
    """ChatML ends turns with a line break, which is never generated: it does not count here."""
    source, _, data = own_data(tmp_path, PLAIN, 1)
    tokenised = trl_trainer(tmp_path, source, 1, Steps()).train_dataset
    (line_break,) = AutoTokenizer.from_pretrained(source)("\n")["input_ids"]
    answers = {tuple(row[row >= 0]) for pair in data.train for row in pair}
    assert {(*answer, line_break) for answer in answers} == {
        tuple(row[name]) for row in tokenised for name in ("chosen_ids", "rejected_ids")
    }
