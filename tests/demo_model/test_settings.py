"""The environment, read; and the process as it is started."""

import os
import socket
import subprocess
import sys

import httpx2
import pytest

from demo_model.settings import Settings


def test_the_defaults_are_those_of_the_local_stack() -> None:
    assert Settings.from_environment({}) == Settings("127.0.0.1", 8091, 15, directives=False)


def test_every_setting_is_read() -> None:
    environment = {
        "DEMO_MODEL_HOST": "0.0.0.0",  # noqa: S104 - nothing listens there
        "DEMO_MODEL_PORT": "9000",
        "DEMO_MODEL_DELAY_MS": "0",
        "DEMO_MODEL_DIRECTIVES": "1",
    }

    assert Settings.from_environment(environment) == Settings("0.0.0.0", 9000, 0, directives=True)  # noqa: S104


@pytest.mark.parametrize("value", ["many", "-1", "99999999"])
def test_a_number_out_of_range_is_refused_with_its_name(value: str) -> None:
    with pytest.raises(ValueError, match="DEMO_MODEL_PORT"):
        Settings.from_environment({"DEMO_MODEL_PORT": value})


def test_the_process_serves_and_stops_when_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "DEMO_MODEL_PORT": str(port), "DEMO_MODEL_DELAY_MS": "0"}

    with subprocess.Popen(
        [sys.executable, "-m", "demo_model"], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        started = next(line for line in process.stderr if "running on" in line)
        answer = httpx2.get(f"http://127.0.0.1:{port}/health/ready")
        process.terminate()
        process.stderr.read()

    assert str(port) in started
    assert answer.status_code == 200


def test_a_wrong_setting_ends_the_process_with_one_line() -> None:
    environment = {**os.environ, "DEMO_MODEL_PORT": "many"}

    ended = subprocess.run(
        [sys.executable, "-m", "demo_model"], env=environment, capture_output=True, text=True, check=False
    )

    assert ended.returncode == 1
    assert ended.stderr == "demo-model: DEMO_MODEL_PORT must be a number from 0 to 65535, not 'many'\n"
