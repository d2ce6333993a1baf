"""The vectors in tests/vectors: Go is held to the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from harness import MODULE
from yarl import URL

from ray_executor_worker import values
from ray_executor_worker.endpoint import ErrorType
from ray_executor_worker.hosts import AllowedHosts, model_base
from ray_executor_worker.prompt import Text
from ray_executor_worker.settings import Secrets, SettingError, Settings


def vectors(name: str) -> list[Any]:
    path = MODULE / "tests" / "vectors" / f"{name}.json"
    read: list[Any] = json.loads(path.read_text(encoding="utf-8"))
    assert read
    return read


@pytest.mark.parametrize("vector", vectors("hosts"), ids=lambda v: repr(v["pattern"]))
def test_hosts(vector: dict[str, Any]) -> None:
    if vector.get("error"):
        with pytest.raises(ValueError, match="is not host"):
            AllowedHosts([vector["pattern"]])
        return
    hosts = AllowedHosts([vector["pattern"]])
    assert [url for url in vector["covers"] if not hosts.covers(URL(url))] == []
    assert [url for url in vector["leaves"] if hosts.covers(URL(url))] == []


def test_error_types() -> None:
    """Every one in the worker is of this type."""
    assert list(get_args(ErrorType)) == vectors("error_types")


@pytest.mark.parametrize("vector", vectors("pools"), ids=lambda v: repr(v["input"]))
def test_pools(vector: dict[str, Any]) -> None:
    if vector.get("error"):
        with pytest.raises(SettingError, match="POOLS"):
            values.pools("POOLS", vector["input"])
        return
    assert values.pools("POOLS", vector["input"]) == vector["expected"]


@pytest.mark.parametrize("vector", vectors("natsurls"), ids=lambda v: repr(v["input"]))
def test_nats_urls(vector: dict[str, Any]) -> None:
    if vector.get("error"):
        with pytest.raises(SettingError, match="NATS_URL"):
            Settings.read({}, {"NATS_URL": vector["input"]})
        return
    read = Settings.read({}, {"NATS_URL": vector["input"]})
    assert list(read.nats_urls) == vector["expected"]


@pytest.mark.parametrize("vector", vectors("settings"), ids=lambda v: repr(v["environment"]))
def test_settings(vector: dict[str, Any]) -> None:
    if "error" in vector:
        with pytest.raises(SettingError, match=f"^{vector['error']}"):
            Settings.read({}, vector["environment"])
        return
    read = Settings.read({}, vector["environment"])
    assert vector["expected"] == {
        "nats_url": ",".join(read.nats_urls),
        "pools": dict(read.pools),
        "model_hosts": list(read.model_hosts),
        "model_url": read.model_url,
        "replicas": read.replicas,
        "nats_prefix": read.nats_prefix,
    }


@pytest.mark.parametrize("vector", vectors("logins"), ids=lambda v: repr(v["environment"]))
def test_logins(vector: dict[str, Any], tmp_path: Path) -> None:
    for name, text in vector["files"].items():
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    environ = {}
    for name, text in vector["environment"].items():
        names_a_file = name.endswith(("_FILE", "_CA", "_CERT", "_KEY", "_CREDS"))
        environ[name] = f" {tmp_path / text.strip()} " if names_a_file and text.strip() else text
    environ.update({k: v for k, v in vector["environment"].items() if k == "VLLM_API_KEY"})
    secrets = Secrets(environ)
    if "error" in vector:
        with pytest.raises(SettingError, match=vector["error"]):
            secrets.nats_options()
        return
    options = secrets.nats_options()
    read = {name: options[name]() if name in options else "" for name in _LOGIN}
    assert vector["expected"] == {**read, "api_key": secrets.api_key()}


_LOGIN = ("user", "password", "token")


def accepted_templates() -> list[dict[str, Any]]:
    """Without those that submit refuses: no worker ever fills them."""
    return [vector for vector in vectors("templates") if not vector.get("error")]


@pytest.mark.parametrize("vector", accepted_templates(), ids=lambda v: repr(v["template"]))
def test_templates(vector: dict[str, Any]) -> None:
    named = {
        "key": "v",
        "nested": "{role}",
        "task_description": "build {it}",
        "role": "DEV",
        "agent_id": "a1",
    }
    assert "".join(Text(vector["template"], named).pieces()) == vector["filled"]


@pytest.mark.parametrize("vector", vectors("modelurls"), ids=lambda v: repr(v["url"]))
def test_model_urls(vector: dict[str, str]) -> None:
    if "base" in vector:  # submit refuses the others
        assert model_base(vector["url"]) == vector["base"]
