"""Google's clients go where the given environment says, whatever the process's own says."""

from __future__ import annotations

import pytest

from shared.adapters.google import clients


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
