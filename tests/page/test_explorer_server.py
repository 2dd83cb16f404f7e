"""The server of the explorer: who may ask, how much, and whether a dropped table gives the fit of `fit_law`."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from urllib.parse import urlencode

import pytest

import scalelab as sl
from scalelab.records import paper_records
from scalelab.serve.explore import live_page
from scalelab.serve.refit import MAX_BYTES, MAX_ROWS, refit
from scalelab.serve.server import ExplorerServer
from tests.support.tables import fit_table

HOSTILE = "<img src=x onerror=alert(1)> [bold red]\u202etxt"


@pytest.fixture(scope="module")
def table():
    pile = paper_records().query("corpus == 'pile'")
    return pile[["n_params", "n_streams", "loss"]].rename(columns={"n_params": "size", "n_streams": "P"})


@pytest.fixture(scope="module")
def server():
    stack = paper_records().query("corpus == 'stack-v2-python'").assign(corpus=HOSTILE)
    server = ExplorerServer(live_page([fit_table(stack, draws=40, starts=10)]))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def ask(server, method, path, body=b"", **headers):
    """Return status, headers and text of an answer; the path is below the token unless it starts with a slash."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=200)
    target = path if path.startswith("/") else f"/{server.token}/{path}"
    connection.putrequest(method, target, skip_host="Host" in headers)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    for name, value in ({"Content-Length": str(len(body))} | sent if method == "POST" else sent).items():
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(body)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read().decode()
    connection.close()
    return found


def test_only_this_machine_and_its_own_page_are_answered(server):
    assert server.server_address[0] == "127.0.0.1"
    status, headers, page = ask(server, "GET", "")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "explorer.js" in page or "scalelab.explorer" in page
    assert headers["Cache-Control"] == "no-store"
    assert not any(name.lower().startswith("access-control") for name in headers)
    for token in ("wrong", "", server.token[:-1], server.token + "x", "%C3%BC"):
        assert ask(server, "GET", f"/{token}/")[0] == 403
    for host in ("evil.example", f"evil.example:{server.server_port}", "127.0.0.1", f"0.0.0.0:{server.server_port}"):
        assert ask(server, "GET", "", Host=host)[0] == 403
        assert ask(server, "POST", "fit", b"N,loss\n", Host=host)[0] == 403
    assert ask(server, "GET", "", Host=f"localhost:{server.server_port}")[0] == 200
    assert ask(server, "POST", "fit", b"N,loss\n", Origin="https://evil.example")[0] == 403


@pytest.mark.parametrize(
    "path", ["../../etc/passwd", "%2e%2e/etc/passwd", "fit", "assets/law.js", "..", "//etc/passwd"]
)
def test_no_path_leads_to_a_file(server, path):
    status, _, text = ask(server, "GET", path)
    assert status in (403, 404)
    assert len(text.splitlines()) == 1
    assert "root:" not in text


def test_large_or_unsized_requests_are_refused(server):
    status, _, text = ask(server, "POST", "fit", b"1" * (MAX_BYTES + 1))
    assert (status, text) == (413, "the table exceeds 8 MiB\n")
    for length in ("-1", "x", "1e3", ""):
        assert ask(server, "POST", "fit", b"", Content_Length=length)[0] == 411
    assert ask(server, "POST", "elsewhere", b"N,loss\n")[0] == 404
    assert ask(server, "PUT", "fit", b"")[0] == 501
    rows = b"N,loss\n" + b"1e6,2.0\n" * (MAX_ROWS + 1)
    answer = json.loads(ask(server, "POST", "fit?name=long.csv", rows)[2])
    assert answer == {"error": "long.csv: more than 20,000 rows; fit with scalelab fit, then scalelab explore FIT"}


def test_a_dropped_table_gives_the_fit_of_fit_law(server, table, tmp_path):
    file = tmp_path / "my runs.csv"
    table.to_csv(file, index=False)
    query = urlencode({"name": file.name, "law": "parallel", "N": "size"})
    status, _, text = ask(server, "POST", f"fit?{query}", file.read_bytes())
    wanted = sl.fit_law(file, "parallel", columns={"n_params": "size"})
    (found,) = json.loads(text)["fits"]
    assert status == 200
    assert (found["title"], found["name"]) == (wanted.group, "parallel")
    assert found["params"] == list(wanted.params)
    assert found["draws"] == [[float(f"{v:.9g}") for v in draw] for draw in wanted.draws]
    assert found["equation"] == wanted.equation()


@pytest.mark.parametrize(
    ("name", "content", "law", "said"),
    [
        (
            "bad.csv",
            b"size,loss\n1e6,2.0\n2e6,1.9\n",
            "parallel",
            r"bad: the law 'parallel' needs P, and .*; choose its column above, or choose another law",
        ),
        ("few.csv", b"N,loss\n1e6,2.0\n", "parallel", r"few: the law .*"),
        ("words.csv", b"N,loss\nbig,low\n", "params", r"words\.csv: column '\w+', row 1: .*"),
        ("empty.csv", b"", "parallel", r"empty\.csv: .*"),
        ("nul.csv", b"\x00\xff\xfe\x00" * 40, "parallel", r"nul\.csv: .*"),
        (
            "../../x.csv",
            b"a,b\n1,2\n",
            "parallel",
            r"x\.csv: no column 'loss' \(it has: a, b\); choose its column above",
        ),
        ("runs.parquet", b"PAR1", "parallel", r"runs\.parquet: not a table; its name must end in \.csv or \.tsv"),
        ("law.csv", b"N,loss\n1,2\n", "evil.py:LAW", r"law='evil\.py:LAW': choose one of parallel, .*"),
    ],
)
def test_bad_tables_give_one_line(name, content, law, said):
    answer = refit(content, name, law, {})
    assert set(answer) == {"error"}
    assert re.fullmatch(said, answer["error"]), answer
    assert "/tmp" not in answer["error"]
    assert "Traceback" not in answer["error"]


def test_a_fit_ends_at_its_time_limit():
    answer = refit(b"N,loss\n1e6,2.0\n", "slow.csv", "params", {}, limit_s=0.05)
    assert answer["error"].startswith("the fit took longer than 0.05 s; ")


def test_ctrl_c_ends_the_command_quietly(tmp_path):
    saved = fit_table(paper_records().query("corpus == 'pile'"), draws=20, starts=5).save(tmp_path / "fit.json")
    command = [sys.executable, "-m", "scalelab", "explore", str(saved), "--no-browser"]
    code = f"import sys; sys.argv = {command[2:]!r}; from scalelab.cli import main; c = main(); "
    code += "assert 'torch' not in sys.modules; sys.exit(c)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    line = process.stdout.readline()
    assert re.fullmatch(r"explorer: http://127\.0\.0\.1:\d+/[\w-]{32}/ \(Ctrl-C ends it\)\n", line)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (0, "", "")


def test_a_port_in_use_is_one_line(server, tmp_path, capsys):
    from scalelab.cli import main

    saved = fit_table(paper_records().query("corpus == 'pile'"), draws=20, starts=5).save(tmp_path / "fit.json")
    assert main(["explore", str(saved), "--no-browser", "--port", str(server.server_port)]) == 1
    errors = capsys.readouterr().err
    assert re.fullmatch(r"scalelab: 127\.0\.0\.1 port \d+: .*; choose another --port, or 0 for any free one\n", errors)


def test_the_page_can_be_written_to_a_file(tmp_path, capsys):
    from scalelab.cli import main

    saved = fit_table(paper_records().query("corpus == 'pile'"), draws=20, starts=5).save(tmp_path / "fit.json")
    page = tmp_path / "law.html"
    assert main(["explore", str(saved), "-o", str(page)]) == 0
    assert capsys.readouterr().err == f"saved {page}\n"
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert page.stat().st_size < 3e6
    assert main(["explore", str(saved), "-o", str(tmp_path / "law.json")]) == 2
    assert main(["explore", str(tmp_path / "missing.json")]) == 2
    assert "no such file" in capsys.readouterr().err


@pytest.mark.browser
def test_a_table_is_fitted_in_the_page(server, table, tmp_path, open_page):
    file = tmp_path / "dropped.csv"
    table.to_csv(file, index=False)
    page = open_page(server.url, allowed=server.url)
    assert HOSTILE[:28] in page.locator("#explorer-fit option").first.inner_text()
    page.set_input_files("#refit-file", file)
    page.select_option("#refit-law", "additive")
    page.select_option("#refit-N", "size")
    page.get_by_role("button", name="Fit", exact=True).click()
    page.get_by_text("Fitted one group of dropped.csv.").wait_for(timeout=120_000)
    wanted = sl.fit_law(file, "additive", columns={"n_params": "size"})
    assert page.locator("#explorer-fit option").first.inner_text() == "dropped, additive law"
    assert page.locator(".explorer-equation").inner_text() == wanted.equation()
    bad = tmp_path / "bad.csv"
    bad.write_text("size,loss\nbig,1\n")
    page.set_input_files("#refit-file", bad)
    page.get_by_role("button", name="Fit", exact=True).click()
    page.locator(".refit-line.wrong").wait_for(timeout=120_000)
    assert "bad.csv: " in page.locator(".refit-line").inner_text()
