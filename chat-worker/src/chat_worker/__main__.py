"""`python -m chat_worker`: run jobs until SIGTERM; a second one ends the process at once."""

import os
from types import FrameType

import uvicorn

from chat_worker.app import create_app
from chat_worker.settings import ChatWorkerSettings
from shared.faults import configure_faults
from shared.heap import settle_heap
from shared.observability import configure_logging
from shared.settings import settings_or_exit


class _Server(uvicorn.Server):
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            os._exit(128 + sig)
        super().handle_exit(sig, frame)


def main() -> None:
    settings = settings_or_exit(ChatWorkerSettings, "chat-worker")
    configure_logging("chat-worker", settings)
    configure_faults(settings)
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,  # of health requests; the jobs' own grace follows
    )
    settle_heap()
    _Server(config).run()


if __name__ == "__main__":
    main()
