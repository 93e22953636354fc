"""`python -m gateway`: the HTTP server."""

import asyncio
import socket
from types import FrameType

import uvicorn

from gateway.app import create_app
from gateway.settings import GatewaySettings
from shared.observability import configure_logging
from shared.settings import settings_or_exit


class _Server(uvicorn.Server):
    """Tells open streams of a stop as soon as it is asked for; uvicorn waits for them before it says so itself."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        super().handle_exit(sig, frame)


def main() -> None:
    settings = settings_or_exit(GatewaySettings, "gateway")
    configure_logging("gateway", settings)
    stopping = asyncio.Event()
    config = uvicorn.Config(
        create_app(settings, stopping),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )
    _Server(config, stopping).run()


if __name__ == "__main__":
    main()
