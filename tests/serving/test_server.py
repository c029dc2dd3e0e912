"""The command as a user starts it: its address, its limits while bytes stream in, and how it ends."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.serving.conftest import Served, running
from tests.support.runs import ROOT, call, environment, untrained_run
from transfer.commands import serve
from transfer.serving.address import address_of, is_loopback, listen

pytestmark = pytest.mark.slow
Start = Callable[..., Served]


def photo(bundle: Path) -> bytes:
    return next((bundle / "golden").glob("0.*")).read_bytes()


def test_it_answers_and_ends_cleanly_at_sigterm(served: Start, bundle: Path) -> None:
    found = served(bundle, "--port", "0", "--format", "onnx")
    assert found.url.startswith("http://127.0.0.1:") and "onnx" in found.line and str(bundle) in found.line
    with httpx.Client(base_url=found.url, trust_env=False) as client:
        (entry,) = client.post("/predict", files={"images": ("a.png", photo(bundle))}).json()
        assert 0 < entry["probability"] <= 1
        found.process.send_signal(signal.SIGTERM)
        out, err = found.process.communicate(timeout=60)
    assert (found.process.returncode, out, err) == (0, "stopped\n", "")
    with pytest.raises(httpx.ConnectError):
        httpx.get(found.url, trust_env=False)


def test_the_curl_of_the_page_gets_what_the_page_shows(served: Start, bundle: Path, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    section = (ROOT / "docs" / "shipping.md").read_text().split("\n## Serve\n")[1].split("\n## ")[0]
    (command,) = re.findall("^curl .*", section, re.MULTILINE)
    (shown,) = re.findall("```json\n(.*?)```", section, re.DOTALL)
    (tmp_path / "a.jpg").write_bytes(photo(bundle))
    (tmp_path / "b.jpg").touch()
    found = served(bundle, "--port", "0", "--format", "onnx")
    words = [word.replace("http://127.0.0.1:8000/", found.url) for word in shlex.split(command)]
    process = subprocess.run(
        [*words, "--silent", "--noproxy", "*"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    answers, expected = json.loads(process.stdout), json.loads(shown)
    assert [set(answer) for answer in answers] == [set(entry) for entry in expected]
    assert len(answers[0]["top"]) == len(expected[0]["top"]) and answers[1] == expected[1]


def test_ctrl_c_ends_it_as_cleanly(served: Start, bundle: Path) -> None:
    found = served(bundle, "--port", "0", "--format", "onnx")
    assert httpx.get(f"{found.url}healthz", trust_env=False).status_code == 200  # it listens to signals now
    found.process.send_signal(signal.SIGINT)
    out, err = found.process.communicate(timeout=60)
    assert (found.process.returncode, out, err) == (0, "stopped\n", "")


def test_a_stream_without_a_length_is_cut_off_at_the_limit(served: Start, bundle: Path) -> None:
    found = served(bundle, "--port", "0", "--format", "onnx", "--max_bytes", "1MB")
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
        while sent < 400_000_000:
            sent += 1_000_000
            yield bytes(1_000_000)

    before = found.resident_bytes()
    kind = {"content-type": "multipart/form-data; boundary=b"}
    with httpx.Client(base_url=found.url, trust_env=False, timeout=60) as client:
        response = client.post("/predict", content=endless(), headers=kind)
        assert response.status_code == 413
        assert response.json() == {"error": "more than 1,000,000 bytes in one request"}
        assert found.resident_bytes() - before < 50_000_000
        (entry,) = client.post("/predict", files={"images": ("a.png", photo(bundle))}).json()
        assert "class" in entry


def test_a_length_beyond_the_limit_is_refused_before_the_body_comes(served: Start, bundle: Path) -> None:
    found = served(bundle, "--port", "0", "--format", "onnx")
    head = "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 20000001\r\n"
    with socket.create_connection(found.address, timeout=60) as connection:
        connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n".encode())
        answer = ""
        while "}" not in answer and (part := connection.recv(65536)):
            answer += part.decode()
    assert answer.startswith("HTTP/1.1 413") and "more than 20,000,000 bytes in one request" in answer


def test_a_client_that_goes_away_leaves_no_traceback(served: Start, bundle: Path) -> None:
    found = served(bundle, "--port", "0", "--format", "onnx")
    head = "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"
    for rest in ("", "--b\r\n", '--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\nabc'):
        with socket.create_connection(found.address, timeout=60) as connection:
            connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n{rest}".encode())
    assert httpx.get(f"{found.url}healthz", trust_env=False).status_code == 200
    found.process.send_signal(signal.SIGTERM)
    assert found.process.communicate(timeout=60) == ("stopped\n", "")


def test_requests_under_way_are_answered_before_it_ends(served: Start, bundle: Path) -> None:
    found = served(bundle, "--port", "0", "--format", "onnx")
    answers: list[httpx.Response] = []
    files = [("images", (f"{i}.png", photo(bundle))) for i in range(64)]

    def ask() -> None:
        answers.append(httpx.post(f"{found.url}predict", files=files, trust_env=False, timeout=60))

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.2)  # whether it is sooner or later than the answer, the answer must come
    found.process.send_signal(signal.SIGTERM)
    asking.join(60)
    assert found.process.wait(60) == 0
    assert [len(answer.json()) for answer in answers] == [64]


def test_a_request_that_never_ends_is_told_that_the_server_stops(bundle: Path) -> None:
    code = (
        "import transfer.serving.server as server; server._SECONDS_TO_FINISH = 1; from transfer.commands import serve"
    )
    words = [str(bundle), "--port", "0", "--format", "onnx"]
    found = Served(program=["-c", f"{code}; raise SystemExit(serve.main({words}))"])
    with running(found.process), socket.create_connection(found.address, timeout=60) as connection:
        head = "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n"
        connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n".encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")  # it is being read
        found.process.send_signal(signal.SIGTERM)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 503 ") and answer.endswith(b'{"error":"the server stops"}')
        out, err = found.process.communicate(timeout=60)
    assert (found.process.returncode, out) == (0, "stopped\n")
    assert err.count("\n") == 1 and "Traceback" not in err, err


def refused(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    """The one line of a start that must fail."""
    capsys.readouterr()
    assert call(serve.main, *argv) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
    return captured.err


def test_a_start_that_cannot_be_is_one_line(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        said = refused(capsys, bundle, "--format", "onnx", "--port", port)
        assert said == f"error: --host 127.0.0.1, --port {port}: address already in use\n"
    assert "no.such.host.invalid" in refused(capsys, bundle, "--format", "onnx", "--host", "no.such.host.invalid")
    assert "--port 70000 (allowed: 0 to 65535" in refused(capsys, bundle, "--format", "onnx", "--port", "70000")
    assert "--max_bytes '20'" in refused(capsys, bundle, "--format", "onnx", "--max_bytes", "20")
    assert "--max_files 0" in refused(capsys, bundle, "--format", "onnx", "--max_files", "0")
    assert "--max_pixels 0" in refused(capsys, bundle, "--format", "onnx", "--max_pixels", "0")
    assert "--format coreml" in refused(capsys, bundle, "--format", "coreml")
    run = untrained_run(tmp_path / "run", ["cat", "dog"])
    assert f"is a run, no bundle: efficientnet-transfer export {run} --out" in refused(capsys, run)
    assert "is no bundle: it has no model.json" in refused(capsys, tmp_path)
    assert "no such bundle" in refused(capsys, tmp_path / "none")
    assert "--host ''" in refused(capsys, bundle, "--host", "")
    assert "--host 192.0.2.1: not an address of this machine" in refused(capsys, bundle, "--host", "192.0.2.1")
    assert "--max_seconds 0" in refused(capsys, bundle, "--max_seconds", "0")
    assert "--max_requests 0" in refused(capsys, bundle, "--max_requests", "0")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    said = refused(capsys, bundle)
    assert said == "error: serve needs uvicorn; run: pip install 'efficientnet-transfer[serve]'\n"


@pytest.mark.parametrize(
    "words", [["--port", "70000"], ["--port", "-1"], ["--host", ""], ["--max_files", "0"], ["--max_bytes", "20"]]
)
def test_a_refusal_waits_for_no_network_nor_server(bundle: Path, words: list[str]) -> None:
    heavy = {"fastapi", "uvicorn", "onnxruntime", "openvino", "torch", "scipy"}
    code = f"import sys; from transfer.commands.serve import main; print(main({[str(bundle), *words]}), *sys.modules)"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
    status, *modules = found.stdout.split()
    assert status == "2" and not heavy & set(modules)


def test_an_address_beyond_this_machine_is_said(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transfer.serving.server.run_server", lambda *_: None)
    capsys.readouterr()
    assert call(serve.main, bundle, "--format", "onnx", "--host", "0.0.0.0", "--port", "0") == 0
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "--host 0.0.0.0: every machine that reaches" in captured.err
    assert "http://0.0.0.0:" in captured.out
    assert call(serve.main, bundle, "--format", "onnx", "--port", "0") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("localhost", "localhost"), ("::1", "[::1]")])
def test_a_socket_knows_its_address(host: str, shown: str) -> None:
    if ":" in host and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with listen(host, 0) as listening:
        assert is_loopback(listening)
        assert address_of(host, listening) == f"http://{shown}:{listening.getsockname()[1]}/"


def test_a_bundle_that_deviates_is_served_with_a_warning_and_503(bundle: Path, tmp_path: Path, served: Start) -> None:
    from tests.support.bundles import copied, sealed_again
    from transfer.bundle.golden import INDEX

    mine = copied(bundle, tmp_path / "mine")
    index = json.loads((mine / INDEX).read_text())
    index["inputs"][0]["logits"][0] += 1.0
    (mine / INDEX).write_text(json.dumps(index))
    sealed_again(mine)
    found = served(mine, "--port", "0", "--format", "onnx")
    response = httpx.get(f"{found.url}healthz", trust_env=False)
    assert (response.status_code, response.json()["status"]) == (503, "deviates")
    found.process.send_signal(signal.SIGTERM)
    _, err = found.process.communicate(timeout=60)
    assert err.startswith("warning: golden test") and err.count("\n") == 1
