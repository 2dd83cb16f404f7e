"""A tokenizer for the tiny models of `tests.support.families`: tN has id N, from t40 on (t1 is a special token)."""

from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

_CHAT = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


def save_tokenizer(folder: Path) -> None:
    words = Tokenizer(WordLevel({f"t{i}": i for i in range(97)}, unk_token="t3"))
    words.pre_tokenizer = WhitespaceSplit()
    special = {"pad_token": "t0", "bos_token": "t1", "eos_token": "t2", "unk_token": "t3"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, chat_template=_CHAT, **special)
    tokenizer.save_pretrained(folder)
