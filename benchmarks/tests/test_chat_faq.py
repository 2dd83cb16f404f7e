"""Questions and answers from pages as Sphinx writes them, and their split into whole sources."""

import csv
import json

from benchmarks import make_chat
from benchmarks.chat_faq import Question, faq_version, first_sentences, questions

PAGE = """<html><body><h3>Table of Contents</h3><p>Not an answer of this page.</p>
<section id="a-faq"><h1>A FAQ<a class="headerlink" href="#a-faq">¶</a></h1><nav><p>Contents</p></nav>
<section id="basics"><h2>Basics<a class="headerlink" href="#basics">¶</a></h2>
<section id="what"><h3><a class="toc-backref" href="#id1">What’s <code>x</code>?</a>
<a class="headerlink" href="#what">¶</a></h3>
<p>A <em>name</em> that stands for
a value. Another sentence, which is longer.</p><blockquote><p>Cited.</p></blockquote><p>After the block.</p></section>
<section id="how"><h3>How do I set it?</h3><div class="highlight"><pre>x = 1
</pre></div><p>Like this, with an equals sign.</p></section>
</section>
<section id="more"><h2>More</h2>
<section id="why"><h3>Why?</h3><p>Because it is so, e.g. Monday is a day. As follows:</p></section>
</section></section></body></html>"""


def write(folder):
    folder.mkdir()
    (folder / "a.html").write_text(PAGE, encoding="utf-8")
    (folder / "index.html").write_text("<a>3.11.2 Documentation</a>", encoding="utf-8")
    return folder


def test_an_answer_is_the_sentences_before_the_first_block(tmp_path):
    folder = write(tmp_path / "faq")
    assert faq_version(folder) == "3.11.2"
    first = "A name that stands for a value."
    second = Question("faq/a/more", "Why?", "Because it is so, e.g. Monday is a day.")
    assert list(questions(folder, 40)) == [Question("faq/a/basics", "What's x?", first), second]
    longer = Question("faq/a/basics", "What's x?", f"{first} Another sentence, which is longer.")
    assert list(questions(folder, 100)) == [longer, second]


def test_text_that_does_not_answer_by_itself_is_left_out():
    assert first_sentences(["See the next question about this."], 100) is None
    assert first_sentences(["Short."], 100) is None
    assert first_sentences(["There is a list of them below:"], 100) is None
    assert first_sentences(["A sentence that is too long."], 20) is None


def test_all_rows_of_a_source_are_on_one_side_with_its_licence(tmp_path):
    make_chat.main(tmp_path / "data", write(tmp_path / "faq"))
    sides = {}
    for side in ("train", "validation"):
        for line in (tmp_path / "data" / f"{side}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            sides.setdefault(row["source"], {side})
            assert sides[row["source"]] == {side}
            assert row["licence"] in ("PSF-2.0", "BSD-3-Clause")
    with (tmp_path / "data" / "sources.csv").open(encoding="utf-8", newline="") as file:
        table = {row["source"]: row for row in csv.DictReader(file)}
    assert {name: {row["split"]} for name, row in table.items()} == sides
    assert table["faq/a/basics"]["package"] == "Python FAQ"
    assert table["json"]["licence"] == "PSF-2.0"
