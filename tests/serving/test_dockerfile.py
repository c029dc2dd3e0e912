"""The Dockerfile's text: no daemon builds it here, so it is held against this environment."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.support.runs import ROOT, environment
from transfer.commands import serve

Instruction = tuple[str, str]


def instructions() -> list[Instruction]:
    """The keyword and the words of each instruction, with continued lines joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in joined.splitlines() if line]


def words(keyword: str) -> list[str]:
    return [text for found, text in instructions() if found == keyword]


def installed() -> list[str]:
    """The packages that the last stage installs by name."""
    command = words("RUN")[-1].split("--constraint ")[1]
    return command.split()[1:]


def closure(names: list[str]) -> set[str]:
    """These packages and all that they need here."""
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            needed = [Requirement(text) for text in requires(name) or []]
        except PackageNotFoundError:
            continue  # for another platform
        waiting += [
            canonicalize_name(row.name) for row in needed if not row.marker or row.marker.evaluate({"extra": ""})
        ]
    return found


def test_two_stages_of_one_base_that_the_package_runs_on() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert SpecifierSet(setup["options"]["python_requires"]).contains("3.11")
    bases = [text.split() for text in words("FROM")]
    assert [base[0] for base in bases] == ["python:3.11-slim-bookworm"] * 2
    assert bases[0][1:] == ["AS", "build"] and len(bases[1]) == 1


def test_the_first_stage_copies_what_a_wheel_is_made_of() -> None:
    copied = {word for text in words("COPY")[:3] for word in text.split()[:-1]}
    assert copied == {"setup.cfg", "pyproject.toml", "README.md", "LICENSE", "transfer", "datamodules"}
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for name in (*copied, "constraints.txt"):
        assert (ROOT / name).exists()
    assert setup["metadata"]["long_description"].removeprefix("file: ") in copied
    assert setup["metadata"]["license_files"] in copied
    assert words("RUN")[0].startswith("pip wheel ") and "--no-deps" in words("RUN")[0]


def test_it_runs_as_nobody_and_asks_for_its_health() -> None:
    keywords = [keyword for keyword, _ in instructions()]
    assert words("USER") == ["10001:10001"] and keywords.index("USER") < keywords.index("ENTRYPOINT")
    assert keywords.index("USER") > max(index for index, keyword in enumerate(keywords) if keyword == "RUN")
    check = json.loads(words("HEALTHCHECK")[0].split("CMD ", 1)[1])
    assert check[:2] == ["python", "-c"] and "/healthz" in check[2]
    compile(check[2], "HEALTHCHECK", "exec")
    (port,) = words("EXPOSE")
    assert f"127.0.0.1:{port}/healthz" in check[2]


def test_its_entry_point_is_a_command_of_ours() -> None:
    program, verb, *argv = json.loads(words("ENTRYPOINT")[0])
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert f"{program} = transfer.__main__:main" in setup["options.entry_points"]["console_scripts"]
    assert verb == "serve"
    parsed = serve.build_parser().parse_args(argv)
    assert (parsed.bundle, parsed.host, str(parsed.port)) == (Path("/bundle"), "0.0.0.0", words("EXPOSE")[0])
    usage = re.search(r"docker run (.*)", (ROOT / "Dockerfile").read_text())
    assert usage is not None and "/bundle:ro" in shlex.split(usage[1])[-2]


def test_what_it_installs_has_a_version_and_no_torch() -> None:
    pinned = {canonicalize_name(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert set(map(canonicalize_name, installed())) <= pinned
    assert not {"torch", "openvino", "datasets", "pytorch-lightning", "albumentations"} & closure(installed())


def test_it_installs_what_the_extras_of_serving_say() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options.extras_require"]["serve"].splitlines()
    wanted = {Requirement(line).name for line in lines if line and not line.startswith("#")}
    assert wanted == {"fastapi", "uvicorn", "python-multipart"} and wanted | {"onnxruntime"} <= set(installed())
    (usage,) = re.findall(r"docker build (.*)", (ROOT / "Dockerfile").read_text())
    assert shlex.split(usage)[-1] == "."  # every COPY is from the repository itself


@pytest.mark.slow
def test_serving_imports_nothing_that_it_does_not_install(bundle: Path) -> None:
    code = f"""
import json, sys, threading
from importlib.metadata import packages_distributions
from pathlib import Path
from urllib.request import Request, urlopen
import transfer.serving.server as server
from transfer.commands import serve

def answer(app, listening, max_seconds, run=server.run_server):
    threading.Thread(target=run, args=(app, listening, max_seconds), daemon=True).start()
    url = f"http://127.0.0.1:{{listening.getsockname()[1]}}"
    photo = next(Path({str(bundle)!r}).glob("golden/0.*")).read_bytes()
    head = b'--b\\r\\nContent-Disposition: form-data; name="images"; filename="a.png"\\r\\n\\r\\n'
    asked = Request(f"{{url}}/predict", head + photo + b"\\r\\n--b--\\r\\n")
    asked.add_header("Content-Type", "multipart/form-data; boundary=b")
    assert "class" in json.load(urlopen(asked, timeout=60))[0]
    assert json.load(urlopen(f"{{url}}/healthz?now=1"))["status"] == "ok" and urlopen(f"{{url}}/model")

server.run_server = answer
assert serve.main([{str(bundle)!r}, "--format", "onnx", "--port", "0"]) == 0
tops = {{name.partition(".")[0] for name, module in sys.modules.items() if module is not None}}
owners = packages_distributions()
print("FOUND", *{{owner for top in tops if len(set(owners.get(top, []))) == 1 for owner in owners[top]}})
"""
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(no_proxy="*"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    found = {canonicalize_name(name) for name in process.stdout.split("FOUND ")[1].split()}
    assert {"fastapi", "onnxruntime", "numpy", "pillow"} <= found
    # Asked for only where they are installed: HEIC's plugin by us, the others by libraries.
    assert found - closure(installed()) <= {"efficientnet-transfer", "pillow-heif", "setuptools", "sniffio"}
