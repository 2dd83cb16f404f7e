"""Shapes of models that cannot be constructed or take long: one line each."""

import json
import time

import pytest

from scalelab.errors import DataError
from scalelab.measure import shapes
from scalelab.measure.shapes import read_shape

TEXT = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 97}
TEXT |= {"intermediate_size": 128}


def save(tmp_path, content):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(content))
    return file


def test_a_multimodal_model_that_cannot_be_constructed_is_priced_by_its_text_part(tmp_path, monkeypatch):
    file, notes = save(tmp_path, {"model_type": "sees", "text_config": TEXT}), []

    def cannot(content, kind, streams, where):
        raise DataError(f"{where}: model_type {kind!r} cannot be priced: pip install timm")

    monkeypatch.setattr("scalelab.measure.meta_shape.served_from_meta_model", cannot)
    served = read_shape(file, notes.append)
    assert (served.hidden_size, served.num_layers) == (64, 2)
    assert notes[-1] == (
        f"only {file}: text_config is priced, without the vision or audio parts of the model: "
        f"{file}: model_type 'sees' cannot be priced: pip install timm"
    )
    with pytest.raises(DataError, match="'sees' cannot be priced: pip install timm"):
        read_shape(save(tmp_path, {"model_type": "sees", "text_config": {"model_type": "unknown"}}))


def test_a_slow_construction_is_announced_once(tmp_path, monkeypatch):
    file, lines = save(tmp_path, {"model_type": "large"}), []
    monkeypatch.setattr(shapes, "_SLOW_S", 0.05)
    monkeypatch.setattr("scalelab.measure.meta_shape.served_from_meta_model", lambda *_: time.sleep(0.2))
    read_shape(file, on_progress=lines.append)
    assert lines == [f"constructing {file} without weights to read its shape …"]
    monkeypatch.setattr("scalelab.measure.meta_shape.served_from_meta_model", lambda *_: None)
    monkeypatch.setattr(shapes, "_SLOW_S", 60.0)
    read_shape(file, on_progress=lines.append)
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            ImportError("T requires the timm library but it was not found in your environment. You can\ninstall it"),
            "transformers needs more packages to construct it: pip install timm",
        ),
        (ModuleNotFoundError("No module named 'x'", name="x"), "needs more packages to construct it: pip install x"),
        (
            RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
            "transformers cannot construct or run it (RuntimeError); ",
        ),
        (ValueError("hidden_size must be\na multiple"), "transformers reports: hidden_size must be; compare it with"),
    ],
)
def test_any_error_of_construction_is_one_line_with_a_remedy(monkeypatch, error, reason):
    from scalelab.cost.config_file import streams_of
    from scalelab.measure import meta_shape

    def fails(*_):
        raise error

    monkeypatch.setattr(meta_shape, "construct_empty_model", fails)
    content = {"model_type": "sees"}
    with pytest.raises(DataError) as caught:
        meta_shape.served_from_meta_model(content, "sees", streams_of(content, "c.json"), "c.json")
    text = str(caught.value)
    assert text.startswith("c.json: model_type 'sees' cannot be priced: ")
    assert reason in text
    assert "\n" not in text
    assert "mat1" not in text


def test_messages_of_torch_are_not_repeated(monkeypatch):
    import torch

    from scalelab.cost.config_file import streams_of
    from scalelab.measure import meta_shape

    raises_in_torch = lambda *_: torch.optim.SGD([], lr=1.0)  # noqa: E731  # a ValueError of torch's own
    monkeypatch.setattr(meta_shape, "construct_empty_model", raises_in_torch)
    content = {"model_type": "odd"}
    with pytest.raises(DataError) as caught:
        meta_shape.served_from_meta_model(content, "odd", streams_of(content, "c.json"), "c.json")
    assert str(caught.value) == (
        "c.json: model_type 'odd' cannot be priced: transformers cannot construct or run it (ValueError); compare it "
        "with a working config of this type, or give the shape with `hidden`, `layers` and so on"
    )
