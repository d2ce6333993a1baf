"""Settings and secrets: what is read, and what an error says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ray_executor_worker.settings import Secrets, SettingError, Settings

ARGS: dict[str, Any] = {
    "nats_url": "nats://a:4222, nats://b:4222",
    "pools": {"default": 1000, "gpu": 5},
    "cluster": "c",
    "model_hosts": ["h"],
    "version": "v",
    "replicas": 2,
}


def test_args() -> None:
    assert Settings.read(ARGS, {}) == Settings(
        nats_urls=("nats://a:4222", "nats://b:4222"),
        pools={"default": 1000, "gpu": 5},
        model_hosts=("h",),
        cluster="c",
        version="v",
        replicas=2,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nats_url", ""),
        ("nats_url", 1),
        ("pools", {}),
        ("pools", ["default"]),
        ("pools", {"default": 0}),
        ("pools", {"default": True}),
        ("model_hosts", "h"),
        ("model_hosts", [1]),
        ("replicas", 0),
        ("nats_prefix", "TEAM.A"),
        ("nats_prefix", "x" * 33),
        ("cluster", None),
        ("typo", 1),
    ],
)
def test_an_error_names_its_arg(name: str, value: object) -> None:
    with pytest.raises(SettingError, match=name):
        Settings.read({**ARGS, name: value}, {})


def test_the_environment_stands_for_what_args_leave_out() -> None:
    environ = {
        "NATS_URL": "nats://functions:4222",
        "WORKER_NATS_URL": "nats://user:secret@workers:4222",
        "POOLS": "default, gpu:7",
        "VLLM_URL": "http://vllm:8000/base",
        "WORKER_REPLICAS": "3",
        "NATS_PREFIX": "TEAM-A_",
    }
    read = Settings.read({"cluster": "c"}, environ)
    assert read == Settings(
        nats_urls=("nats://user:secret@workers:4222",),
        pools={"default": 1000, "gpu": 7},
        model_hosts=("vllm:8000",),
        model_url="http://vllm:8000/base",
        cluster="c",
        replicas=3,
        nats_prefix="TEAM-A_",
    )
    args = {**ARGS, "model_url": "", "nats_prefix": ""}
    assert Settings.read(args, environ) == Settings.read(args, {})
    hosts = Settings.read({}, {**environ, "MODEL_HOSTS": "a:1,*.b", "WORKER_NATS_URL": ""})
    assert hosts.model_hosts == ("a:1", "*.b")
    assert hosts.nats_urls == ("nats://functions:4222",)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("NATS_URL", "", "NATS_URL"),
        ("POOLS", "gpu:x", "POOLS: gpu: 'x'"),
        ("WORKER_REPLICAS", "-1", "WORKER_REPLICAS: '-1'"),
    ],
)
def test_an_error_says_what_the_environment_holds(name: str, value: str, says: str) -> None:
    environ = {"NATS_URL": "nats://a", "POOLS": "default", name: value}
    with pytest.raises(SettingError, match=says):
        Settings.read({}, environ)


def test_secrets_are_read_when_they_are_used(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("one\n", encoding="utf-8")
    secrets = Secrets({"NATS_TOKEN_FILE": str(token), "VLLM_API_KEY": "k"})
    options = secrets.nats_options()
    assert options["token"]() == "one"
    token.write_text("two\n", encoding="utf-8")
    assert options["token"]() == "two"
    assert secrets.api_key() == "k"
    assert list(options) == ["token"]
    assert not secrets.nats_options(["nats://me:secret@a"])
    assert "k" not in repr(secrets).replace("Secrets", "")


@pytest.mark.parametrize(
    "name", ["NATS_TOKEN_FILE", "VLLM_API_KEY_FILE", "NATS_CREDS", "NATS_CA", "NATS_CERT"]
)
def test_a_file_that_is_missing_is_named(name: str) -> None:
    secrets = Secrets({name: "/nowhere"})
    with pytest.raises(SettingError, match=name):
        (secrets.api_key if name.startswith("VLLM") else secrets.nats_options)()


def test_creds_without_nkeys_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nkeys", None)
    with pytest.raises(SettingError, match="nkeys"):
        Secrets({"NATS_CREDS": "/some"}).nats_options()


def test_replicas_share_what_a_pool_has_in_flight() -> None:
    settings = Settings.read({**ARGS, "pools": {"default": 1000, "gpu": 1}, "replicas": 3}, {})
    assert settings.slots() == {"default": 333, "gpu": 1}
    assert (settings.parking("default"), settings.parking("gpu")) == (333, 333)
