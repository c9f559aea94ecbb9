"""Who else is attached, as the status line says it."""

from __future__ import annotations

from lora_tui.core.summary import others
from shared.wire import ClientInfo


def _client(session: str, name: str, host: str = "box") -> ClientInfo:
    return ClientInfo(session=session, name=name, host=host, terminal="", since=0.0)


def test_a_name_that_says_where_from_is_not_given_a_host_as_well() -> None:
    clients = [_client("a", "me"), _client("b", "ana@192.0.2.7"), _client("c", "Bob"),
               _client("d", "script", "")]  # fmt: skip
    assert others(clients, "a") == "ana@192.0.2.7, Bob@box, script"
