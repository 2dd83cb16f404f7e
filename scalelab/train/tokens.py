"""Tokenised corpora on disk: tokenizers, and a memory-mapped cache with keys of the content."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from scalelab import __version__
from scalelab.atomic import atomic_folder, remove_unfinished
from scalelab.errors import DataError, UsageError
from scalelab.train.corpus import Corpus
from scalelab.train.recipe import TextSource

END_OF_TEXT = "<|endoftext|>"
_FORMAT = 1  # of the cache; caches of another format are not used
_ARRAYS = ("train", "validation", "validation_starts")
_META = "meta.json"  # written last, so its cache is complete
_TOKENIZER = "tokenizer.json"
_MAX_VOCABULARY = 10_000_000
_STALE_S = 86_400.0  # encoding a large text writes nothing for hours


@dataclass(frozen=True)
class TokenData:
    """A tokenised corpus on disk, with arrays that are memory-mapped on access."""

    folder: Path
    text: TextSource
    vocab_size: int
    train_tokens: int
    validation_tokens: int
    bytes_per_token: float  # over the whole validation split

    def train(self) -> np.ndarray:
        """Return the token ids of the training split, [train_tokens]."""
        return np.load(self.folder / "train.npy", mmap_mode="r")

    def validation(self) -> np.ndarray:
        """Return the token ids of the validation split, [validation_tokens]."""
        return np.load(self.folder / "validation.npy", mmap_mode="r")

    def validation_starts(self) -> np.ndarray:
        """Return the first token of each validation document, [documents], ascending from 0."""
        return np.load(self.folder / "validation_starts.npy", mmap_mode="r")


def cache_folder() -> Path:
    """Return the environment's SCALELAB_CACHE, or else the user's cache folder."""
    return Path(os.environ.get("SCALELAB_CACHE") or platformdirs.user_cache_dir("scalelab"))


def tokenise(corpus: Corpus, tokenizer: str | int) -> TokenData:
    """Tokenise `corpus`, or load the result from the cache.

    Args:
        corpus: The corpus.
        tokenizer: Vocabulary size of a byte-level BPE to train on the training split, or the path of a Hugging Face
            tokenizer (its folder or tokenizer.json).

    Raises:
        UsageError: `tokenizer` is neither.
        DataError: the tokenizer or the cache cannot be read.
    """
    name, tokenizer_digest = _identify(tokenizer, corpus)
    text = TextSource(corpus.name, corpus.digest, name, tokenizer_digest)
    key = hashlib.sha256(f"{_FORMAT} {corpus.digest} {tokenizer_digest}".encode()).hexdigest()[:16]
    folder = cache_folder() / "tokens" / key
    if not (folder / _META).exists():
        _build(folder, corpus, tokenizer, text)
    try:
        meta = json.loads((folder / _META).read_text())
        for name in _ARRAYS:
            np.load(folder / f"{name}.npy", mmap_mode="r")
        changed = [name for name, digest in meta.get("digests", {}).items() if _file_digest(folder / name) != digest]
        if changed:
            raise ValueError(f"{changed[0]} has changed since it was written")
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{folder}: damaged token cache ({error}); delete it and run the command again") from None
    return TokenData(folder, text, **{k: meta[k] for k in TokenData.__dataclass_fields__ if k in meta and k != "text"})


def check_vocabulary(n_tokens: int, vocab_size: int, folder: Path) -> None:
    """Raise `UsageError` if the tokenizer of the model in `folder` has more tokens than the model has embeddings."""
    if n_tokens > vocab_size:
        raise UsageError(
            f"{folder}: the tokenizer has {n_tokens} tokens, the model only {vocab_size}; "
            "put the model's own tokenizer there"
        )


def copy_to_cache(data: TokenData, fetch: Callable[[Path], None]) -> TokenData:
    """Return `data`, which is from another machine, with its files in the cache of this machine.

    `fetch` fills a folder with the files; it is called only if neither `data.folder` nor the cache has them.
    """
    if (data.folder / _META).exists():
        return data
    folder = cache_folder() / "tokens" / data.folder.name
    if not (folder / _META).exists():
        with _cache_entry(folder) as unfinished:
            fetch(unfinished)
    return replace(data, folder=folder)


def _cache_entry(folder: Path) -> AbstractContextManager[Path]:
    """Return a context with an empty folder that becomes `folder` at the end, unless another process was first."""

    def put(unfinished: Path, target: Path) -> None:
        try:
            unfinished.rename(target)
        except OSError:
            if not (target / _META).exists():
                raise

    remove_unfinished(folder.parent, _STALE_S)
    return atomic_folder(folder, put)


def _identify(tokenizer: str | int, corpus: Corpus) -> tuple[str, str]:
    """Return name and digest of a tokenizer, which need not be trained yet."""
    if isinstance(tokenizer, int):
        if not 257 <= tokenizer <= 1_000_000:
            raise UsageError(f"`tokenizer={tokenizer}`: a vocabulary needs 257 (256 bytes and one) to 1,000,000 tokens")
        name = f"bpe-{tokenizer}"
        return name, hashlib.sha256(f"{name} {corpus.digest}".encode()).hexdigest()[:16]
    file = _tokenizer_file(tokenizer)
    name = file.resolve().parent.name if file.name == "tokenizer.json" else file.stem
    return name, hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _tokenizer_file(tokenizer: str) -> Path:
    path = Path(tokenizer)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"`tokenizer={tokenizer}`: neither a vocabulary size nor a path to a tokenizer.json")
    return file


def _load_or_train(tokenizer: str | int, corpus: Corpus) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if isinstance(tokenizer, str):
        file = _tokenizer_file(tokenizer)
        try:
            loaded = Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises a plain Exception
            raise DataError(f"{file}: not a tokenizer ({error})") from None
        loaded.no_truncation()
        loaded.no_padding()
        return loaded
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=tokenizer,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus.train, trainer)
    return bpe


def _build(folder: Path, corpus: Corpus, tokenizer: str | int, text: TextSource) -> None:
    """Tokenise `corpus` and write the cache entry atomically."""
    model = _load_or_train(tokenizer, corpus)
    vocab_size = _vocab_size(model, text)
    dtype = np.uint16 if vocab_size <= 2**16 else np.uint32
    with _cache_entry(folder) as unfinished:
        counts = {}
        for side in ("train", "validation"):
            ids, starts = _encode(model, getattr(corpus, side), dtype)
            np.save(unfinished / f"{side}.npy", ids)
            counts[side] = len(ids)
            if side == "validation":
                np.save(unfinished / "validation_starts.npy", starts)
        validation_bytes = sum(len(document.encode()) for document in corpus.validation)
        model.save(str(unfinished / _TOKENIZER))
        meta = {
            "vocab_size": vocab_size,
            "train_tokens": counts["train"],
            "validation_tokens": counts["validation"],
            "bytes_per_token": validation_bytes / counts["validation"],
            "text": asdict(text),
            "scalelab_version": __version__,
            "digests": {name: _file_digest(unfinished / name) for name in (*(f"{a}.npy" for a in _ARRAYS), _TOKENIZER)},
        }
        (unfinished / _META).write_text(json.dumps(meta, indent=1))


def _vocab_size(model: Any, text: TextSource) -> int:
    """Return the number of embeddings that the ids of a tokenizer need; some leave ids out."""
    size = max(model.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    if not 1 <= size <= _MAX_VOCABULARY:
        raise DataError(
            f"tokenizer {text.tokenizer}: its largest id is {size - 1:,}; it must be from 0 to {_MAX_VOCABULARY:,}"
        )
    return size


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def _encode(model: Any, documents: list[str], dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of all documents, joined, and the start of each.

    Each document ends with the first of the usual end tokens that the vocabulary has, if any.
    """
    ends = [model.token_to_id(token) for token in (END_OF_TEXT, "</s>", "<eos>", "<|end_of_text|>")]
    tail = [end for end in ends if end is not None][:1]
    pieces, starts, position = [], [], 0
    for first in range(0, len(documents), 256):
        for encoding in model.encode_batch(documents[first : first + 256], add_special_tokens=False):
            piece = np.asarray(encoding.ids + tail, dtype=dtype)
            pieces.append(piece)
            starts.append(position)
            position += len(piece)
    return np.concatenate(pieces), np.asarray(starts, dtype=np.int64)
