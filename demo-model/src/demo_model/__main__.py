"""Serve the demo model: `python -m demo_model`."""

import os
import sys

import uvicorn

from demo_model.app import create_app
from demo_model.settings import Settings

GRACE_SECONDS = 2  # for open streams when the process is asked to stop


def main() -> None:
    try:
        settings = Settings.from_environment(os.environ)
    except ValueError as error:
        sys.exit(f"demo-model: {error}")
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        access_log=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


if __name__ == "__main__":
    main()
