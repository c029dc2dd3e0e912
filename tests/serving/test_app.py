"""What the HTTP interface answers, and what it refuses, each in one line."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.bundles import copied
from tests.support.runs import call
from transfer import load_bundle
from transfer.bundle.bundle import Bundle
from transfer.bundle.record import MODEL
from transfer.calibration.guarantees import Guarantees
from transfer.commands import predict
from transfer.commands.serve import choose_guarantees
from transfer.errors import BadValue, MissingData
from transfer.serving.limits import Limits

testclient = pytest.importorskip("fastapi.testclient")
from transfer.serving.app import build_app  # noqa: E402
from transfer.serving.health import Health  # noqa: E402
from transfer.serving.service import Service  # noqa: E402

LIMITS = Limits(max_bytes=1_000_000, max_files=6, max_pixels=1_000_000, max_seconds=60, max_requests=16)
HOSTILE = "<img src=x onerror=alert(1)>.png"


@pytest.fixture(scope="module")
def opened(bundle: Path) -> Bundle:
    return load_bundle(bundle)


def client(
    opened: Bundle,
    limits: Limits = LIMITS,
    hosts: tuple[str, ...] = ("127.0.0.1",),
    guarantees: Guarantees = Guarantees(),  # noqa: B008  # frozen
) -> Any:
    service = Service(opened, limits, guarantees)
    return testclient.TestClient(build_app(service, Health(service.check), hosts), base_url="http://127.0.0.1:8000")


@pytest.fixture(scope="module")
def asked(opened: Bundle) -> Iterator[Any]:
    with client(opened) as found:  # one event loop for all its requests, as a server has
        yield found


def photo(seed: int, width: int = 40, height: int = 30) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def parts(*files: tuple[str, bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("images", file) for file in files]


def line(response: Any) -> str:
    """The message of a refusal."""
    (key, text), *others = response.json().items()
    assert (key, others) == ("error", []) and "\n" not in text
    return text


def test_photos_are_answered_in_order_as_the_bundle_does(asked: Any, opened: Bundle) -> None:
    photos = [photo(seed) for seed in range(3)]
    response = asked.post("/predict", files=parts(*((f"{seed}.png", photos[seed]) for seed in range(3))))
    assert response.status_code == 200
    for index, (entry, expected) in enumerate(zip(response.json(), opened.predict(photos), strict=True)):
        assert (entry["name"], entry["class"]) == (f"{index}.png", expected.class_name)
        assert entry["probability"] == pytest.approx(expected.probability, abs=1e-6)
        assert [row["class"] for row in entry["top"]] == [name for name, _ in expected.top]
        shares = [row["probability"] for row in entry["top"]]
        assert shares == pytest.approx([value for _, value in expected.top], abs=1e-6)
        assert len(shares) == 5 and "labels" not in entry


def test_a_bad_photo_is_an_entry_and_the_others_are_answered(asked: Any) -> None:
    files = parts(("a.png", photo(0)), (HOSTILE, b"no photo"), ("empty.jpg", b""), ("b.png", photo(1)[:300]))
    response = asked.post("/predict?top_k=2", files=[*files, *parts(("c.png", photo(2)))])
    assert response.status_code == 200
    entries = response.json()
    assert [entry["name"] for entry in entries] == ["a.png", HOSTILE, "empty.jpg", "b.png", "c.png"]
    assert [len(entry.get("top", [])) for entry in entries] == [2, 0, 0, 0, 2]
    assert entries[1]["error"].startswith("not an image of a format that is read")
    assert entries[2]["error"] == "empty (0 bytes)"
    assert "truncated" in entries[3]["error"]


def test_labels_are_those_from_the_threshold_on(opened: Bundle) -> None:
    record = replace(opened.folder.record, multilabel=True, threshold=0.5)
    several = replace(opened, folder=replace(opened.folder, record=record))
    (entry,) = client(several).post("/predict?top_k=10", files=parts(("a.png", photo(0)))).json()
    over = [row for row in entry["top"] if row["probability"] >= 0.5]
    assert 0 < len(over) < 10 and entry["labels"] == over
    assert sum(row["probability"] for row in entry["top"]) != pytest.approx(1, abs=0.01)


def test_what_the_calibration_rejects_is_unknown(opened: Bundle) -> None:
    demanded = Guarantees(coverage=0.5)
    photos = [path.read_bytes() for path in sorted((opened.folder.folder / "golden").glob("[0-7].*"))]
    photos = [*photos, *(photo(seed) for seed in range(8))]
    expected = opened.predict(photos, guarantees=demanded)
    limits = replace(LIMITS, max_files=len(photos))
    files = parts(*((f"{index}.png", encoded) for index, encoded in enumerate(photos)))
    entries = client(opened, limits, guarantees=demanded).post("/predict", files=files).json()
    assert [entry["unknown"] for entry in entries] == [prediction.unknown for prediction in expected]
    assert {entry["unknown"] for entry in entries} == {True, False}
    for entry, prediction in zip(entries, expected, strict=True):
        assert entry["class"] == ("unknown" if prediction.unknown else prediction.class_name)
        assert entry["top"][0]["class"] == prediction.class_name


def test_sets_are_those_of_the_bundle(opened: Bundle) -> None:
    found, rule = choose_guarantees(opened, None, None, 0.9)
    assert found == Guarantees(coverage=0.95, sets=0.9) and "; sets of 0.9: of " in rule
    (entry,) = client(opened, guarantees=found).post("/predict", files=parts(("a.png", photo(0)))).json()
    (expected,) = opened.predict([photo(0)], guarantees=found)
    assert expected.class_set and tuple(entry["set"]) == expected.class_set


def test_photos_are_unknown_by_the_rule_asked_for_or_by_the_default(opened: Bundle) -> None:
    assert choose_guarantees(opened, None, None)[0] == Guarantees(coverage=0.95)
    found, rule = choose_guarantees(opened, 0.8, None)
    assert found == Guarantees(coverage=0.8) and rule.startswith("unknown is what ranks below")
    with pytest.raises(BadValue, match=r"`coverage`=1\.5"):
        choose_guarantees(opened, 1.5, None)
    record = replace(opened.folder.record, class_names=("unknown", *opened.class_names[1:]))
    called = replace(opened, folder=replace(opened.folder, record=record))
    assert choose_guarantees(called, None, None)[0] == Guarantees()
    without = replace(opened)
    vars(without)["calibration"] = None
    found, rule = choose_guarantees(without, None, None)
    assert found == Guarantees() and rule.startswith("nothing is called unknown: ")
    with pytest.raises(MissingData):
        choose_guarantees(without, 0.9, None)


def test_names_come_back_escaped(asked: Any) -> None:
    names = [HOSTILE, "f\u00fcr \u65e5\u672c.png", "../../etc/passwd", "a\u2028b.png"]
    response = asked.post("/predict", files=parts(*((name, b"x") for name in names)))
    assert [entry["name"] for entry in response.json()] == names
    assert response.headers["content-type"] == "application/json" and response.content.isascii()
    strange = (
        b'--b\r\nContent-Disposition: form-data; name="images"; filename="\xff\xfe\xed\xa0\x80"\r\n\r\nx\r\n--b--\r\n'
    )
    for charset in ("utf-8", "utf-7", "utf-16", "nothing"):
        kind = f"multipart/form-data; boundary=b; charset={charset}"
        response = asked.post("/predict", content=strange, headers={"content-type": kind})
        assert response.status_code in (200, 400) and response.content.isascii()


def test_a_request_beyond_a_limit_is_413_in_one_line(asked: Any) -> None:
    many = asked.post("/predict", files=parts(*((f"{i}.png", b"x") for i in range(7))))
    assert (many.status_code, line(many)) == (413, "more than 6 photos in one request: send them in several")
    large = asked.post("/predict", files=parts(("a.png", bytes(1_000_001))))
    assert (large.status_code, line(large)) == (413, "more than 1,000,000 bytes in one request")


def test_a_photo_of_too_many_pixels_is_413_and_nothing_is_decoded(
    asked: Any, opened: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transfer.serving.service.decode_image", lambda *_: pytest.fail("decoded"))
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    assert len(bomb.getvalue()) < 100_000
    response = asked.post("/predict", files=parts(("a.png", photo(0)), (HOSTILE, bomb.getvalue())))
    assert response.status_code == 413
    assert line(response) == f"{HOSTILE!a}: 20000 x 20000 pixels are more than the 1,000,000 that are read here"
    monkeypatch.undo()
    exact = parts(("a.png", photo(0, 1000, 1000)))
    found = client(opened, replace(LIMITS, max_bytes=4_000_000)).post("/predict", files=exact)
    assert "class" in found.json()[0]


@pytest.mark.parametrize(
    ("files", "status", "message"),
    [
        ([("image", ("a.png", b"x"))], 400, "a part is named 'image' (allowed: images)"),
        ([("images", (None, b"x"))], 400, "a part without a file name: each part is a photo, with a name"),
        (None, 415, "send multipart/form-data, each photo in a part named images"),
    ],
)
def test_a_request_of_another_form_is_refused(asked: Any, files: Any, status: int, message: str) -> None:
    response = asked.post("/predict", files=files)
    assert (response.status_code, line(response)) == (status, message)


@pytest.mark.parametrize(
    "body", [b"", b"--b--\r\n", b"--b\r\n\r\nx", b"--c\r\n", b"\x00" * 100, b"--b\r\nA: b\r\n\r\nx\r\n--b--"]
)
def test_a_damaged_body_is_400(asked: Any, body: bytes) -> None:
    for kind in ("multipart/form-data; boundary=b", "multipart/form-data", "multipart/form-data; boundary="):
        response = asked.post("/predict", content=body, headers={"content-type": kind})
        assert response.status_code == 400 and line(response)


@pytest.mark.parametrize("top_k", ["0", "11", "-1", "two", "99999999999999999999", "1.5"])
def test_top_k_is_within_the_classes(asked: Any, top_k: str) -> None:
    response = asked.post("/predict", params={"top_k": top_k}, files=parts(("a.png", photo(0))))
    assert response.status_code == 422 and line(response).startswith("top_k")


@pytest.mark.parametrize("format", ["openvino", "onnx"])
def test_parallel_requests_get_the_answers_of_predict_to_the_last_digit(
    bundle: Path, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transfer.inference.packages.num_threads", lambda: 4)
    monkeypatch.setattr("transfer.serving.service.num_threads", lambda: 4)
    engine = {"onnx": "onnxruntime"}.get(format, format)
    pytest.importorskip(engine)
    photos = [photo(seed, 40 + seed, 30) for seed in range(24)]
    for index, encoded in enumerate(photos):
        (tmp_path / f"{index:02}.png").write_bytes(encoded)
    table = tmp_path / "rows.jsonl"
    assert (
        call(predict.main, bundle, tmp_path, "--format", "json", "--top_k", "10", "--engine", engine, "--out", table)
        == 0
    )
    rows = [json.loads(row) for row in table.read_text().splitlines()]
    suffixes = ["", *(f"_{rank}" for rank in range(2, 11))]
    expected = [[(row[f"class{rank}"], row[f"probability{rank}"]) for rank in suffixes] for row in rows]
    assert len(set(map(str, expected))) == 24  # answers that can be told apart
    start = threading.Barrier(8)

    def ask(index: int) -> list[tuple[str, float]]:
        if index < 8:
            start.wait(30)
        files = parts((f"{index}.png", photos[index]))
        (entry,) = asked.post("/predict", params={"top_k": 10}, files=files).json()
        assert entry["name"] == f"{index}.png"
        return [(row["class"], row["probability"]) for row in entry["top"]]

    with client(load_bundle(bundle, format)) as asked, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(24))) == expected


def test_model_says_what_the_bundle_says(asked: Any, bundle: Path, opened: Bundle) -> None:
    facts = asked.get("/model").json()
    written = json.loads((bundle / MODEL).read_text())
    assert all(facts[name] == written[name] for name in written if name != "digest")
    assert facts["format"] == opened.format
    assert facts["limits"] == asdict(LIMITS)


def test_health_is_the_golden_test_run_once(opened: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(opened, LIMITS)
    runs: list[int] = []
    check: Callable[[], Any] = service.check

    def counted() -> Any:
        runs.append(1)
        return check()

    app = build_app(service, Health(counted), ["*"])
    asked = testclient.TestClient(app, base_url="http://127.0.0.1")
    for _ in range(3):
        response = asked.get("/healthz")
        assert response.status_code == 200 and len(runs) == 1
    found = response.json()
    assert (found["status"], found["format"], found["same_class"], found["pixels"]) == ("ok", opened.format, 8, 0)
    assert 0 <= found["largest_difference"] < 1e-4
    assert asked.get("/healthz?now=1").json() == found and len(runs) == 2


def test_health_is_503_when_answers_change_or_a_file_does(bundle: Path, tmp_path: Path) -> None:
    opened = load_bundle(copied(bundle, tmp_path / "mine"))
    model = opened.model

    def doubled(images: Any) -> Any:
        found = model(images)
        return replace(found, logits=found.logits * 1.01)

    other = replace(opened, model=doubled)
    deviating = client(other).get("/healthz")
    assert (deviating.status_code, deviating.json()["status"]) == (503, "deviates")
    assert deviating.json()["largest_difference"] == pytest.approx(0.01, rel=0.01)
    asked = client(opened)
    changed = tmp_path / "mine" / "model.safetensors"
    changed.write_bytes(changed.read_bytes()[:-1] + b"\x01")
    assert asked.get("/healthz").status_code == 200
    assert asked.get("/healthz?now=1").status_code == 503
    failed = asked.get("/healthz")
    assert (failed.status_code, failed.json()["status"]) == (503, "failed")
    assert "model.safetensors" in failed.json()["error"]


def test_requests_under_another_name_are_refused(asked: Any, opened: Bundle) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "", "localhost.evil.example:8000"):
        assert asked.get("/model", headers={"host": host}).status_code == 400, host
    assert asked.get("/model", headers={"host": "127.0.0.1:9"}).status_code == 200
    assert client(opened, hosts=("*",)).get("/model", headers={"host": "any.example"}).status_code == 200


def test_every_answer_forbids_other_scripts_and_sniffing(asked: Any) -> None:
    for response in (asked.get("/"), asked.get("/none"), asked.get("/model"), asked.post("/predict")):
        policy = dict(rule.split(" ", 1) for rule in response.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'" and policy["frame-ancestors"] == "'none'"
        assert re.fullmatch(r"'sha256-[\w+/]{43}='", policy["script-src"])
        assert not any("unsafe" in rule for rule in policy.values())
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in response.headers


def test_unknown_paths_and_methods_are_one_line(asked: Any) -> None:
    assert [asked.get(path).status_code for path in ("/none", "/predict", "/docs", "/../model.json")] == [
        404,
        405,
        404,
        404,
    ]
    assert line(asked.get("/none")) == "Not Found"


def test_the_interface_describes_itself(asked: Any) -> None:
    paths = asked.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/predict", "/model", "/healthz"}
    body = paths["/predict"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert body["properties"]["images"]["items"] == {"type": "string", "format": "binary"}


def test_the_description_of_the_interface_is_that_of_its_answers(asked: Any) -> None:
    found = asked.get("/openapi.json").json()
    operation = found["paths"]["/predict"]["post"]
    assert set(operation["responses"]) == {"200", "400", "408", "413", "415", "422", "503"}
    for status, answer in operation["responses"].items():
        schema = answer["content"]["application/json"]["schema"]
        name = (schema.get("items") or schema)["$ref"].rpartition("/")[2]
        assert name == ("Entry" if status == "200" else "Refusal")
    properties = found["components"]["schemas"]["Entry"]["properties"]
    answers = asked.post("/predict", files=parts(("a.png", photo(0)), ("b.png", b"x"))).json()
    assert set(answers[0]) | set(answers[1]) <= set(properties)
    assert found["components"]["schemas"]["Entry"]["required"] == ["name"]
