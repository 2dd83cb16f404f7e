import json
import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from scalelab.errors import DataError, UsageError
from scalelab.train.corpus import load_corpus
from scalelab.train.tokens import END_OF_TEXT, copy_to_cache, tokenise

SENTENCES = [f"def f{i}(x):\n    return x + {i}  # the {i}th\n" * 5 for i in range(120)]


def sides(corpus):
    return set(corpus.train), set(corpus.validation)


def test_stdlib_is_the_interpreters_own_source_split_without_overlap():
    corpus = load_corpus()
    train, validation = sides(corpus)
    assert not train & validation
    assert 10e6 < sum(map(len, train)) < 100e6
    assert 0.01 < sum(map(len, validation)) / sum(map(len, train)) < 0.15
    assert any("class JSONDecoder" in text for text in train | validation)
    assert corpus.name == f"stdlib-{sys.version.split()[0]}"


def test_copies_of_a_file_stand_on_one_side(tmp_path):
    for copy in range(4):
        for i, text in enumerate(SENTENCES):
            (tmp_path / f"{copy}-{i}.txt").write_text(text)
    corpus = load_corpus(str(tmp_path))
    train, validation = sides(corpus)
    assert not train & validation
    assert len(train) + len(validation) == len(corpus.train) + len(corpus.validation) == len(SENTENCES)


def test_digest_is_of_the_content_not_of_names(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for i, text in enumerate(SENTENCES):
            (tmp_path / folder / f"{folder}{i}.txt").write_text(text)
    first, second = (load_corpus(str(tmp_path / f)) for f in ("a", "b"))
    assert first.digest == second.digest
    (tmp_path / "b" / "more.txt").write_text("something else")
    assert load_corpus(str(tmp_path / "b")).digest != first.digest


def test_jsonl_parquet_text_and_saved_dataset_hold_the_same_corpus(tmp_path):
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"text": s}) + "\n" for s in SENTENCES))
    pd.DataFrame({"body": SENTENCES}).to_parquet(tmp_path / "c.parquet")
    (tmp_path / "texts").mkdir()
    for i, text in enumerate(SENTENCES):
        (tmp_path / "texts" / f"{i}.txt").write_text(text)
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": SENTENCES}).save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": SENTENCES})}).save_to_disk(tmp_path / "many")
    digests = {
        load_corpus(str(tmp_path / "c.jsonl")).digest,
        load_corpus(str(tmp_path / "c.parquet"), text_column="body").digest,
        load_corpus(str(tmp_path / "texts")).digest,
        load_corpus(f"hf:{tmp_path / 'saved'}").digest,
        load_corpus(f"hf:{tmp_path / 'many'}").digest,
    }
    assert len(digests) == 1


def test_one_long_file_is_cut_into_pieces(tmp_path):
    (tmp_path / "book.txt").write_text("".join(f"line {i} of a long book\n" for i in range(40_000)))
    corpus = load_corpus(str(tmp_path / "book.txt"))
    assert len(corpus.train) > 40
    assert not set(corpus.train) & set(corpus.validation)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "ok"}\n{"other": 1}\n', r"a\.jsonl, line 2: not a JSON object with text in 'text'"),
        ("a.jsonl", b"not json\n", r"a\.jsonl, line 1"),
        ("a.parquet", b"hello", r"a\.parquet: not a readable Parquet file"),
        ("a.txt", b"\xff\xfe\x00", r"a\.txt: not UTF-8 text"),
        ("a.txt", b"too little", r"different documents are too few"),
        ("a.jsonl", b'{"text": "\xff"}\n', r"a\.jsonl, line 1"),
        ("a.JSONL", b'{"other": 1}\n', r"a\.JSONL, line 1: not a JSON object with text in 'text'"),
        ("a.jsonl", b'{"text": ' + b"[" * 100_000 + b"\n", r"a\.jsonl, line 1"),
        ("a.json", b"[" * 100_000, r"a\.json: not JSON"),
        ("a.json", b'["one", 2]', r"a\.json, entry 2: neither text nor an object with text in 'text'"),
        ("a.csv", b"id,body\n1,hello\n", r"a\.csv: no column 'text' \(it has: id, body\); name it with `text_column`"),
        ("a.csv", b"", r"a\.csv: no column 'text'"),
    ],
)
def test_bad_text_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_corpus(str(tmp_path))


@pytest.mark.parametrize("name", ["c.JSONL", "c.json", "texts.json", "c.csv", "c.TSV"])
def test_files_are_read_as_what_they_are(tmp_path, name):
    """With a byte order mark, line separators inside a text, and quotes."""
    texts = [f"{s}\u2028 and, 'more' \"of\" it" for s in SENTENCES]
    file = tmp_path / name
    if name.lower().endswith(("csv", "tsv")):
        pd.DataFrame({"text": texts}).to_csv(file, sep="\t" if "TSV" in name else ",", encoding="utf-8-sig")
    elif name == "c.JSONL":
        file.write_text("".join(json.dumps({"text": s}, ensure_ascii=False) + "\n" for s in texts), "utf-8-sig")
    else:
        rows = texts if name == "texts.json" else [{"text": s} for s in texts]
        file.write_text(json.dumps(rows, ensure_ascii=False), "utf-8-sig")
    corpus = load_corpus(str(tmp_path))
    assert sorted(corpus.train + corpus.validation) == sorted(texts)


def test_what_cannot_be_read_and_links_out_of_the_folder_are_errors(tmp_path, monkeypatch):
    folder = tmp_path / "corpus"
    (folder / "below").mkdir(parents=True)
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": s}) + "\n" for s in SENTENCES))
    (folder / "again.jsonl").symlink_to(folder / "a.jsonl")
    assert load_corpus(str(folder)).train
    (folder / "below" / "out.txt").symlink_to(__file__)
    with pytest.raises(DataError, match=r"below/out\.txt: links to a file outside the corpus"):
        load_corpus(str(folder))
    (folder / "below" / "out.txt").unlink()
    real = os.scandir

    def scandir(path):
        if str(path).endswith("below"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"below: Permission denied; make it readable"):
        load_corpus(str(folder))


def test_columns_of_something_else_than_text_are_named(tmp_path):
    pd.DataFrame({"text": [1, 2, 3]}).to_parquet(tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"c\.parquet: column 'text' has int, not text"):
        load_corpus(str(tmp_path / "c.parquet"))


def test_hidden_folders_are_left_out_and_lone_surrogates_survive(tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "object").write_bytes(b"\xff\xfe")
    lines = [json.dumps({"text": s}) for s in [*SENTENCES, "a lone \ud800 surrogate"]]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    corpus = load_corpus(str(tmp_path))
    assert len(corpus.train) + len(corpus.validation) == len(SENTENCES) + 1


def test_missing_text_and_columns_are_named(tmp_path):
    with pytest.raises(UsageError, match="`corpus=nowhere`: no such file"):
        load_corpus("nowhere")
    pd.DataFrame({"body": SENTENCES}).to_parquet(tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"no column 'text' \(it has: body\); name it with `text_column`"):
        load_corpus(str(tmp_path / "c.parquet"))
    pytest.importorskip("datasets")
    with pytest.raises(DataError, match="`corpus=hf:no-such-data-set`"):
        load_corpus("hf:no-such-data-set")


def test_tokens_are_the_text_and_come_from_the_cache_the_second_time(text_folder):
    from tokenizers import Tokenizer

    corpus = load_corpus(str(text_folder))
    data = tokenise(corpus, 300)
    assert data.vocab_size == 300
    tokenizer = Tokenizer.from_file(str(data.folder / "tokenizer.json"))
    validation = data.validation()
    assert isinstance(validation, np.memmap)
    text = tokenizer.decode(validation.tolist(), skip_special_tokens=False)
    assert text == "".join(t + END_OF_TEXT for t in corpus.validation)
    starts = data.validation_starts()
    assert starts[0] == 0
    assert len(starts) == len(corpus.validation)
    ends = np.append(starts[1:], len(validation)) - 1
    assert (validation[ends] == tokenizer.token_to_id(END_OF_TEXT)).all()
    size = sum(len(t.encode()) for t in corpus.validation)
    assert data.bytes_per_token == pytest.approx(size / len(validation))
    stamp = (data.folder / "meta.json").stat().st_mtime_ns
    assert tokenise(corpus, 300) == data
    assert (data.folder / "meta.json").stat().st_mtime_ns == stamp


def test_bpe_is_trained_on_the_training_split_alone(text_folder):
    from tokenizers import Tokenizer

    corpus = load_corpus(str(text_folder))
    other = replace(corpus, validation=["zzqq " * 10_000], digest="0" * 16)
    vocabularies = [
        Tokenizer.from_file(str(tokenise(c, 320).folder / "tokenizer.json")).get_vocab() for c in (corpus, other)
    ]
    assert vocabularies[0] == vocabularies[1]


def test_any_saved_tokenizer_by_path(text_folder, tmp_path):
    from transformers import PreTrainedTokenizerFast

    corpus = load_corpus(str(text_folder))
    trained = tokenise(corpus, 300)
    PreTrainedTokenizerFast(tokenizer_file=str(trained.folder / "tokenizer.json")).save_pretrained(tmp_path / "mine")
    data = tokenise(corpus, str(tmp_path / "mine"))
    assert (np.asarray(data.train()) == np.asarray(trained.train())).all()
    assert data.text.tokenizer == "mine"
    with pytest.raises(UsageError, match="`tokenizer=12`: a vocabulary needs 257"):
        tokenise(corpus, 12)
    with pytest.raises(UsageError, match="`tokenizer=nowhere`"):
        tokenise(corpus, "nowhere")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="not a tokenizer"):
        tokenise(corpus, str(tmp_path))


@pytest.mark.parametrize("name", ["meta.json", "train.npy", "validation_starts.npy"])
def test_a_damaged_cache_is_named(text_folder, name):
    corpus = load_corpus(str(text_folder))
    file = tokenise(corpus, 310).folder / name
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"damaged token cache .*; delete it"):
        tokenise(corpus, 310)
    if name != "meta.json":
        file.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        with pytest.raises(DataError, match=f"damaged token cache .{name} has changed since it was written.; delete"):
            tokenise(corpus, 310)
    file.write_bytes(whole)
    tokenise(corpus, 310)


def test_what_killed_processes_had_begun_to_build_goes_and_what_others_build_stays(text_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SCALELAB_CACHE", str(tmp_path))
    two_days_ago = time.time() - 2 * 86_400
    for name, written in (("killed", two_days_ago), ("at-work", time.time())):
        folder = tmp_path / "tokens" / f".building-{name}"
        folder.mkdir(parents=True)
        (folder / "train.npy").write_bytes(b"begun")
        os.utime(folder / "train.npy", (written, written))
        os.utime(folder, (two_days_ago, two_days_ago))
    data = tokenise(load_corpus(str(text_folder)), 300)
    assert {path.name for path in (tmp_path / "tokens").iterdir()} == {".building-at-work", data.folder.name}


def test_two_processes_that_build_the_same_cache_end_with_one(text_folder, tmp_path, monkeypatch):
    corpus = load_corpus(str(text_folder))
    expected = np.array(tokenise(corpus, 300).train())
    monkeypatch.setenv("SCALELAB_CACHE", str(tmp_path))
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: tokenise(corpus, 300), range(2)))
    assert both[0] == both[1]
    assert np.array_equal(both[0].train(), expected)
    assert list((tmp_path / "tokens").iterdir()) == [both[0].folder]


def test_a_cache_that_could_not_be_brought_here_leaves_nothing(text_folder, tmp_path, monkeypatch):
    data = tokenise(load_corpus(str(text_folder)), 300)
    monkeypatch.setenv("SCALELAB_CACHE", str(tmp_path / "cache"))
    assert copy_to_cache(data, pytest.fail) is data  # it is here already
    elsewhere = replace(data, folder=tmp_path / "elsewhere" / data.folder.name)
    with pytest.raises(FileNotFoundError):
        copy_to_cache(elsewhere, lambda folder: shutil.copy(tmp_path / "nothing", folder))
    assert not list((tmp_path / "cache" / "tokens").iterdir())
    here = copy_to_cache(elsewhere, lambda folder: shutil.copytree(data.folder, folder, dirs_exist_ok=True))
    assert here.folder.parent == tmp_path / "cache" / "tokens"
    assert np.array_equal(here.train(), data.train())
    assert copy_to_cache(elsewhere, pytest.fail) == here


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems have no such names")
def test_a_name_that_is_no_text_is_made_text(tmp_path):
    file = tmp_path / os.fsdecode(b"caf\xe9.jsonl")
    file.write_text("".join(json.dumps({"text": f"line {i} " * 50}) + "\n" for i in range(300)))
    assert load_corpus(str(file)).name == "caf\N{REPLACEMENT CHARACTER}.jsonl"
