"""Every test runs on one thread, from a fixed seed, offline, and with all of phin's annotations checked."""

import os
import socket
from typing import Any, Protocol, Self

os.environ.setdefault("OMP_NUM_THREADS", "1")  # here, and in the processes that tests start

import pytest
import torch
from beartype import BeartypeConf, FrozenDict, beartype
from hypothesis import settings
from jaxtyping import install_import_hook


def typechecked(function: Any) -> Any:
    """Beartype: an int will do for a float, and `Self` and protocols are left to the static checker."""
    protocols = [kind for kind in Protocol.__subclasses__() if kind.__module__.startswith("phin.")]
    static = FrozenDict(dict.fromkeys([Self, *protocols], Any))
    return beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=static))(function)


install_import_hook("phin", "conftest.typechecked")

torch.set_num_threads(1)  # two workers share two cores, and sums are added up in one order

settings.register_profile(
    "phin",
    deadline=None,  # the machine may be busy
    derandomize="CI" in os.environ,  # a check of other work should not fail for a new-found example
    print_blob=True,
)
settings.load_profile("phin")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test depends on what was fetched, measured or tuned on this machine before."""
    monkeypatch.setenv("PHIN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("PHIN_DATA", raising=False)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on a network: no host but this one is found, nor is there a package index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    find = socket.getaddrinfo

    def find_here(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in (None, "", "localhost", "127.0.0.1", "::1"):
            raise socket.gaierror(socket.EAI_NONAME, f"tests run offline; one looked for {host!r}")
        return find(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", find_here)
