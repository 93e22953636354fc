"""`python -m gateway`: the HTTP server."""

from gateway.app import create_app, create_internal_app
from gateway.http_server import listening_socket, server_of
from gateway.settings import GatewaySettings
from gateway.until import Signal
from shared.faults import configure_faults
from shared.heap import settle_heap
from shared.observability import configure_logging
from shared.settings import settings_or_exit


def main() -> None:
    settings = settings_or_exit(GatewaySettings, "gateway")
    configure_logging("gateway", settings)
    configure_faults(settings)
    stopping = Signal()
    app = create_app(settings, stopping)
    server = server_of(app, settings, stopping, internal_app=create_internal_app(app))
    settle_heap()
    server.run(sockets=[listening_socket(server.config, settings.send_timeout_seconds)])


if __name__ == "__main__":
    main()
