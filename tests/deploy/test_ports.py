"""Ports: free, and the same at the next start."""

import socket
from pathlib import Path

import pytest

from deploy.local import ports
from deploy.local.terminal import Failure


def listening_on_any_port() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_the_same_names_get_the_same_ports_again(tmp_path: Path) -> None:
    record = tmp_path / "ports.json"

    first = ports.stable_ports(["postgres", "rabbitmq"], record, "a checkout")

    assert ports.stable_ports(["rabbitmq", "postgres"], record, "a checkout") == first
    assert len(set(first.values())) == len(first)


def test_a_port_that_somebody_else_took_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    record = tmp_path / "ports.json"
    first = ports.stable_ports(["postgres", "rabbitmq"], record, "a checkout")

    with socket.create_server(("127.0.0.1", first["postgres"])):
        second = ports.stable_ports(["postgres", "rabbitmq"], record, "a checkout")

    assert second["rabbitmq"] == first["rabbitmq"]
    assert second["postgres"] not in first.values()


def test_a_port_on_every_address_counts_as_taken() -> None:
    with socket.create_server(("", 0)) as listener:
        assert not ports.is_free(listener.getsockname()[1])


def test_a_gateway_port_that_was_asked_for_must_be_free() -> None:
    with listening_on_any_port() as listener, pytest.raises(Failure, match="--port"):
        ports.gateway_port(listener.getsockname()[1])


def test_without_a_wish_the_gateway_gets_the_first_free_port_from_8080_on() -> None:
    port = ports.gateway_port(None)

    assert port >= 8080
    assert not any(ports.is_free(lower) for lower in range(8080, port))
