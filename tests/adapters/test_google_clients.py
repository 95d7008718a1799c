"""Google's clients: where they go, and what their errors are to us."""

from __future__ import annotations

import asyncio
from typing import NoReturn

import pytest
from google.api_core import exceptions

from shared.adapters.google import clients
from shared.adapters.google.errors import retried
from shared.adapters.system_clock import SystemClock
from shared.errors import ConfigurationError


@pytest.mark.parametrize("elsewhere", [None, "127.0.0.1:9"])
def test_each_firestore_client_has_its_own_emulator(monkeypatch: pytest.MonkeyPatch, elsewhere: str | None) -> None:
    """Two stacks in one process: when one ends, the other's next client must not ask for real credentials."""
    if elsewhere is None:
        monkeypatch.delenv(clients.FIRESTORE_EMULATOR, raising=False)
    else:
        monkeypatch.setenv(clients.FIRESTORE_EMULATOR, elsewhere)
    hosts = ["127.0.0.1:1", "127.0.0.1:2"]
    made = [clients.firestore_client("p", "(default)", {clients.FIRESTORE_EMULATOR: host}) for host in hosts]
    assert [client._target for client in made] == hosts


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (exceptions.FailedPrecondition("The query requires an index. You can create it here: …"), ConfigurationError),
        (exceptions.FailedPrecondition("the stored version is another one"), exceptions.FailedPrecondition),
        (exceptions.PermissionDenied("no"), ConfigurationError),
        (exceptions.AlreadyExists("there"), exceptions.AlreadyExists),
    ],
)
def test_what_is_ours_to_mend_is_a_configuration_error(error: Exception, becomes: type[Exception]) -> None:
    """A missing index is Terraform's to make; a precondition is the caller's business."""
    calls = []

    async def call() -> NoReturn:
        calls.append(1)
        raise error

    with pytest.raises(Exception) as found:
        asyncio.run(retried("sum of tallies", call, SystemClock()))
    assert type(found.value) is becomes
    assert len(calls) == 1, "neither is mended by asking again"
