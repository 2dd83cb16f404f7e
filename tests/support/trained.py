"""A small model trained in the project for a moment, saved with its tokenizer."""

from scalelab.sweep.resolve import resolve
from scalelab.sweep.spec import SweepSpec
from scalelab.train.recipe import Recipe
from scalelab.train.run import run_and_record


def trained_model(out, text_folder):
    """Return the model's folder, below `out`."""
    spec = SweepSpec(
        N=(20e3,), P=(1,), D=(40e3,), corpus=str(text_folder), tokenizer=300, recipe=Recipe(val_tokens=2048)
    )
    sweep = resolve(spec)
    config = sweep.runs[0]
    run_and_record(config, sweep.data, out, save_models=True)
    return out / "models" / config.key
