"""`python -m gateway`: the HTTP server."""

import asyncio

from gateway.app import create_app
from gateway.http_server import listening_socket, server_of
from gateway.settings import GatewaySettings
from shared.faults import configure_faults
from shared.observability import configure_logging
from shared.settings import settings_or_exit


def main() -> None:
    settings = settings_or_exit(GatewaySettings, "gateway")
    configure_logging("gateway", settings)
    configure_faults(settings)
    stopping = asyncio.Event()
    server = server_of(create_app(settings, stopping), settings, stopping)
    server.run(sockets=[listening_socket(server.config, settings.send_timeout_seconds)])


if __name__ == "__main__":
    main()
