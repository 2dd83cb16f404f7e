"""Loaders of transformers, TRL and others, given only the path of a model with streams."""

import json
import subprocess
import sys

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import scalelab.model
from scalelab.model import FAMILIES, add_streams
from scalelab.model.checkpoint import load_model
from tests.clients.words import save_tokenizer
from tests.support.families import COMMON, make, tokens, warm

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of the clients


@pytest.fixture
def folder(tmp_path):
    warm(add_streams(make("llama", num_hidden_layers=2), [2, 4], prefix_tokens=5)).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    return tmp_path


def test_importing_registers_every_family_by_type_and_name():
    for plain in FAMILIES:
        name = plain.replace("For", "ParScaleFor") if "For" in plain else plain.replace("LM", "ParScaleLM")
        found = getattr(transformers, name)
        assert issubclass(found, getattr(transformers, plain))
        assert MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[found.config_class.model_type] == name
        assert getattr(transformers, found.config_class.__name__) is found.config_class
    before = dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    for plain in FAMILIES:
        scalelab.model.lm_class(getattr(transformers, plain))
    assert before == MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def test_a_type_that_borrows_a_class_has_its_own_name():
    if "internlm3" not in transformers.CONFIG_MAPPING:
        pytest.skip("this version of transformers does not have it")
    own = transformers.LlamaParScaleForCausalLM
    config = transformers.AutoConfig.for_model("internlm3", **COMMON, head_dim=8)
    model = add_streams(AutoModelForCausalLM.from_config(config), 2)
    assert type(model).__name__ == "InternLM3ParScaleForCausalLM"
    assert transformers.LlamaParScaleForCausalLM is own
    assert own.config_class.model_type == "llama_parscale"


@torch.no_grad()
def test_the_pipeline_generates_what_the_model_does(folder):
    model = load_model(folder)
    pipe = transformers.pipeline("text-generation", model=str(folder))
    assert type(pipe.model) is type(model)
    ids = pipe.tokenizer("t5 t6 t7", return_tensors="pt").input_ids
    options = {"max_new_tokens": 5, "do_sample": False}
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    text = pipe.tokenizer.decode(expected[0], skip_special_tokens=True)
    # The pipeline joins the prompt and the answer without the space between them.
    assert pipe("t5 t6 t7", **options)[0]["generated_text"].replace(" ", "") == text.replace(" ", "")


def test_trainers_of_trl_load_a_path(folder):
    pytest.importorskip("trl", reason="no TRL: pip install 'scalelab[clients]'")
    from trl.trainer.utils import create_model_from_path

    model = create_model_from_path(str(folder))
    assert model.P == 4
    assert torch.equal(model(tokens()).logits, load_model(folder)(tokens()).logits)


def test_the_server_of_transformers_loads_a_path(folder):
    pytest.importorskip("fastapi", reason="no FastAPI: pip install 'scalelab[clients]'")
    from transformers.cli.serving.model_manager import ModelManager

    model = ModelManager(device="cpu")._load_model(f"{folder}@main")
    assert model.P == 4
    assert ModelManager.get_model_modality(model).name == "LLM"


@torch.no_grad()
def test_assisted_generation_by_fewer_streams(folder):
    model, assistant, ids = load_model(folder), load_model(folder), tokens(1)
    assistant.set_streams(2)
    options = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(ids), "pad_token_id": 0}
    assert torch.equal(model.generate(ids, assistant_model=assistant, **options), model.generate(ids, **options))


@pytest.mark.parametrize("banks", [4, [2, 4]], ids=str)
def test_the_plain_class_does_not_run_a_checkpoint_with_streams(banks, tmp_path):
    warm(add_streams(make("llama", num_hidden_layers=2), banks, prefix_tokens=5)).save_pretrained(tmp_path)
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"LlamaAttention is of a plain model, .* load it with AutoModelForCausalLM"):
        model(tokens())


def test_without_scalelab_the_plain_class_refuses_and_the_auto_class_too(tmp_path):
    warm(add_streams(make("llama", num_hidden_layers=2), 4, prefix_tokens=5)).save_pretrained(tmp_path)
    for kind, message in (("LlamaForCausalLM", "parscale_sdpa"), ("AutoModelForCausalLM", "llama_parscale")):
        code = f"import transformers; transformers.{kind}.from_pretrained({str(tmp_path)!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
        assert done.returncode
        assert message in done.stderr.strip().splitlines()[-1] or message in done.stderr


def test_the_released_format_is_as_it_was(tmp_path):
    model = warm(add_streams(make("qwen2", num_hidden_layers=2), 4, prefix_tokens=5))
    model.save_pretrained(tmp_path)
    assert "attn_implementation" not in json.loads((tmp_path / "config.json").read_text())
    names = set(model.state_dict()) - set(make("qwen2", num_hidden_layers=2).state_dict())
    own = {f"model.layers.{i}.self_attn.prefix_{kind}" for i in range(2) for kind in "kv"}
    assert names == own | {f"model.aggregate_layer.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")}


def test_sequence_classification_is_refused_by_name(folder):
    with pytest.raises(ValueError, match=r"LlamaParScaleConfig.* for this kind of AutoModel"):
        transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    config = transformers.LlamaConfig(**COMMON)
    with pytest.raises(ValueError, match="LlamaForSequenceClassification: not a causal language model"):
        add_streams(transformers.LlamaForSequenceClassification(config), 2)


def test_the_config_that_models_share_is_not_changed():
    plain = make("llama")
    other = type(plain)(plain.config)
    before = plain.config.to_dict()
    model = add_streams(plain, 4)
    assert type(other.config) is transformers.LlamaConfig
    assert other.config.to_dict() == before
    assert all(part.config is model.config for part in model.modules() if hasattr(part, "config"))
    again = type(model)(model.config)
    add_streams(model, 2)
    assert again.banks == {4: 48}
    assert again.config.parscale_banks is None


def test_a_failed_addition_leaves_the_config():
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.FalconConfig(vocab_size=97, num_hidden_layers=2, num_attention_heads=4, hidden_size=32)
    )
    config = model.config
    with pytest.raises(ValueError, match="Falcon"):
        add_streams(model, 2)
    assert model.config is config
    assert model.transformer.config is config
