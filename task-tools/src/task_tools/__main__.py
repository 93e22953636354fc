"""`python -m task_tools`: serve the to-do list's tools until SIGTERM."""

import uvicorn

from shared.faults import configure_faults
from shared.heap import settle_heap
from shared.observability import configure_logging
from shared.settings import settings_or_exit
from task_tools.app import create_app
from task_tools.settings import TaskToolsSettings


def main() -> None:
    settings = settings_or_exit(TaskToolsSettings, "task-tools")
    configure_logging("task-tools", settings)
    configure_faults(settings)
    app = create_app(settings)
    settle_heap()
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        # Longer than any client keeps an idle connection, so that no request meets one that is just being closed.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
    )


if __name__ == "__main__":
    main()
