"""Reading of config.json: one line for whatever is not a config."""

import json

import pytest

from scalelab.architecture import Architecture
from scalelab.conventions import CONVENTIONS
from scalelab.errors import DataError
from scalelab.model_config import MAX_BYTES, MAX_DEPTH, plain_type, read_config_json


def nested(depth):
    return '{"a": ' * (depth - 1) + "{}" + "}" * (depth - 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[1]", "not a JSON object"),
        (b"[" * 100_000, f"nested more than {MAX_DEPTH} levels deep"),
        (nested(MAX_DEPTH + 1).encode(), f"nested more than {MAX_DEPTH} levels deep"),
        (b"{}" + b" " * MAX_BYTES, "larger than 16 MiB"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, data, message):
    file = tmp_path / "config.json"
    file.write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_config_json(file)
    assert str(caught.value).startswith(f"{file}: not a model's config: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_config_is_read_up_to_the_limits(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(nested(MAX_DEPTH) + " " * (MAX_BYTES - len(nested(MAX_DEPTH))))
    assert read_config_json(file) == json.loads(nested(MAX_DEPTH))


def test_missing_and_unreadable_files_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_config_json(tmp_path / "config.json")
    with pytest.raises(DataError, match="cannot be read"):
        read_config_json(tmp_path)


def test_the_plain_type_has_no_suffix():
    assert plain_type({"model_type": "qwen2_parscale"}) == plain_type({"model_type": "qwen2"}) == "qwen2"


def test_every_convention_counts_an_architecture():
    model = Architecture(64, 128, 2, 4, 2, 97, P=2)
    counts = {name: model.count_params(name) for name in CONVENTIONS}
    assert counts == {"paper": model.n_params, "backbone": model.backbone_params, "total": model.total_params}
    assert counts["backbone"] < counts["paper"] < counts["total"]
