"""Model folders that would run code or read files from elsewhere."""

import json
import shutil

import pytest

from scalelab.cli import main
from scalelab.errors import DataError
from scalelab.model import add_streams
from scalelab.model.checkpoint import load_model, save_model
from tests.support.families import make


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "m"
    save_model(add_streams(make("qwen2"), 2, prefix_tokens=4), folder)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "m")


@pytest.mark.parametrize(
    "keys",
    [
        {"_attn_implementation": "someone/kernel"},
        {"attn_implementation": "someone/kernel:attend"},
        {"_attn_implementation": {"": "someone/kernel@main"}},
        {"_experts_implementation": "someone/experts"},
        {"text_config": {"_attn_implementation_internal": "someone/kernel"}},
    ],
)
def test_kernels_from_elsewhere_are_refused(folder, keys, capsys):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))
    with pytest.raises(DataError, match=r"implementation.* would download and run a kernel; remove the key"):
        load_model(folder)
    assert main(["diagnose", str(folder)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "below/model.safetensors", ".."])
def test_indexes_name_files_of_their_folder(folder, name):
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="which is outside this folder"):
        load_model(folder)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": 1}', "[" * 100_000, '{"weight_map": {"a": 1}}'])
def test_indexes_that_are_none_are_named(folder, content):
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(DataError, match=r"index\.json: not a valid index of weights"):
        load_model(folder)


def test_deep_configs_are_named(folder):
    (folder / "config.json").write_text('{"a": ' * 100_000)
    with pytest.raises(DataError, match=r"config\.json: not a model's config"):
        load_model(folder)
