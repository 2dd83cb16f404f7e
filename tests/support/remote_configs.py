"""Configs of model families whose code is on the hub, with their parameter counts."""

# Keys of published configs, and parameter counts from model cards and safetensors.
REMOTE = {
    "internlm2-7b": (
        {
            "model_type": "internlm2",
            "auto_map": {"AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM"},
            "bias": False,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 92544,
            "tie_word_embeddings": False,
        },
        7_737_708_544,
    ),
    "baichuan2-7b": (
        {
            "model_type": "baichuan",
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "vocab_size": 125696,
            "tie_word_embeddings": False,
        },
        7_505_973_248,
    ),
    "qwen-7b": (
        {
            "model_type": "qwen",
            "hidden_size": 4096,
            "intermediate_size": 22016,
            "kv_channels": 128,
            "no_bias": True,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "vocab_size": 151936,
            "tie_word_embeddings": False,
        },
        7_721_324_544,
    ),
    "chatglm3-6b": (
        {
            "model_type": "chatglm",
            "add_bias_linear": False,
            "add_qkv_bias": True,
            "ffn_hidden_size": 13696,
            "hidden_size": 4096,
            "kv_channels": 128,
            "multi_query_attention": True,
            "multi_query_group_num": 2,
            "num_attention_heads": 32,
            "num_layers": 28,
            "padded_vocab_size": 65024,
            "tie_word_embeddings": False,
        },
        6_243_584_000,
    ),
}
