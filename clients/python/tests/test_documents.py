"""The examples of README.md and docs/python.md, run as they are printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rig import Rig

CLIENT = Path(__file__).resolve().parents[1]
README = CLIENT / "README.md"
PAGE = CLIENT.parents[1] / "docs" / "python.md"


def examples(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def started(code: str, rig: Rig) -> subprocess.Popen[str]:
    environ = {
        **os.environ,
        "PYTHONPATH": str(CLIENT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "RAY_EXECUTOR_SERVER": rig.url,
        "NATS_URL": rig.nats_url,
    }
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environ, stdout=-1, stderr=-1, text=True
    )


@pytest.mark.parametrize(
    ("place", "prints"),
    [
        (0, ["completed proposal of architect", "proposal of architect", "proposal of tester"]),
        (1, [" queued requested", " completed completed", "proposal of a"]),
    ],
)
def test_readme(rig: Rig, place: int, prints: list[str]) -> None:
    """The address alone is another: the port may be in use here."""
    code = examples(README)[place].replace("http://localhost:8080", rig.url)
    assert rig.url in code
    with started(code, rig) as process:
        printed, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    for text in prints:
        assert text in printed


def test_the_orchestrators_use(rig: Rig) -> None:
    (code,) = examples(PAGE)
    assert len([line for line in code.splitlines() if line]) <= 20
    with started(code, rig) as process:
        assert process.stdout
        limit = threading.Timer(60, process.kill)
        limit.start()
        printed = iter(process.stdout.readline, "")  # until the process ends
        assert any(line == "TASK-1 completed proposal of architect\n" for line in printed)
        process.kill()
        limit.cancel()
