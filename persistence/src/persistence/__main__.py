"""`python -m persistence`: write back what the workers produce, until SIGTERM."""

import uvicorn

from persistence.app import create_app
from persistence.settings import PersistenceSettings
from shared.faults import configure_faults
from shared.heap import settle_heap
from shared.observability import configure_logging
from shared.settings import settings_or_exit


def main() -> None:
    settings = settings_or_exit(PersistenceSettings, "persistence")
    configure_logging("persistence", settings)
    configure_faults(settings)
    app = create_app(settings)
    settle_heap()
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=2,  # health checks only
    )


if __name__ == "__main__":
    main()
