"""Errors of the model against numbers of the released implementation, which are in tests/data/parscale.

`python -m tests.support.goldens` prints the table.
"""

import numpy as np
import torch
from transformers import AutoModelForCausalLM

import scalelab.model  # noqa: F401  registers qwen2_parscale
from tests.support.paths import DATA

GOLDENS = ("P1", "P2_hot", "P4_t5")


def load(name, implementation="sdpa"):
    folder = DATA / "parscale" / name
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=implementation)
    expected = np.load(folder / "expected.npz", allow_pickle=False)
    return model.eval(), {k: expected[k] for k in expected.files}


def compare(name, implementation):
    """Return the largest errors: absolute for logits and losses, relative for gradient norms, a count for tokens."""
    model, expected = load(name, implementation)
    t = {k: torch.from_numpy(v) for k, v in expected.items() if v.dtype == np.int64}
    ids, padded, mask, positions = (t[k] for k in ("input_ids", "pad_input_ids", "attention_mask", "position_ids"))
    real = expected["attention_mask"].astype(bool)
    errors = {}

    def largest(what, got, key, where=...):
        errors[what] = float(np.abs(np.asarray(got.detach()) - expected[key])[where].max())

    with torch.no_grad():
        plain = model(ids, labels=ids)
        largest("logits", plain.logits, "logits")
        largest("loss", plain.loss, "loss")
        with_positions = model(padded, attention_mask=mask, position_ids=positions, labels=t["labels"])
        largest("logits, left-padded", with_positions.logits, "pad_logits", real)
        largest("loss, left-padded", with_positions.loss, "pad_loss")
        # Without position ids the original counts padding as positions, as transformers does.
        largest(
            "logits, left-padded without positions", model(padded, attention_mask=mask).logits, "pad_nopos_logits", real
        )
        largest("logits of one token", model(ids[:, :1]).logits, "logits_1tok")
        new = {"max_new_tokens": expected["greedy"].shape[1] - ids.shape[1], "do_sample": False, "pad_token_id": 0}
        beams = {"num_beams": 3, "return_dict_in_generate": True, "output_scores": True}
        unpadded = {"attention_mask": torch.ones_like(ids)}
        for what, got in (
            ("greedy", model.generate(ids, **unpadded, **new)),
            ("greedy_pad", model.generate(padded, attention_mask=mask, **new)),
            ("greedy_b1", model.generate(ids[:1], attention_mask=unpadded["attention_mask"][:1], **new)),
        ):
            errors[f"tokens, {what}"] = int((got.numpy() != expected[what]).sum())
        for what, got in (
            ("beam", model.generate(ids, **unpadded, **new, **beams)),
            ("beam_pad", model.generate(padded, attention_mask=mask, **new, **beams)),
        ):
            errors[f"tokens, {what}"] = int((got.sequences.numpy() != expected[what]).sum())
            largest(f"scores, {what}", got.sequences_scores, f"{what}_scores")
    for what, key, inputs in (
        ("gradient norms", "grad_norms", {"input_ids": ids, "labels": ids}),
        (
            "gradient norms, left-padded",
            "pad_grad_norms",
            {
                "input_ids": padded,
                "attention_mask": mask,
                "position_ids": positions,
                "labels": t["labels"],
            },
        ),
    ):
        model.train()
        model.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        norms = {n: p.grad.norm().item() for n, p in model.named_parameters()}
        names = list(map(str, expected["grad_names"]))
        assert set(norms) == set(names)
        got = np.array([norms[n] for n in names])
        errors[what] = float(np.max(np.abs(got - expected[key]) / np.maximum(expected[key], 1e-12)))
        largest(
            f"training loss{what.removeprefix('gradient norms')}",
            loss,
            key.replace("grad_norms", "loss") if "pad" not in key else "train_pad_loss",
        )
    return errors


if __name__ == "__main__":
    columns = [(name, how) for name in GOLDENS for how in ("sdpa", "eager")]
    results = [compare(*column) for column in columns]
    print("| largest error | " + " | ".join(f"{name} {how}" for name, how in columns) + " |")
    print("|---|" + "---|" * len(columns))
    for what in results[0]:
        print(
            f"| {what} | "
            + " | ".join(f"{r[what]:.1e}" if "tokens" not in what else str(r[what]) for r in results)
            + " |"
        )
