"""pip's settings, which uv does not read by itself."""

from pathlib import Path

import pytest

from deploy.local import toolchain
from deploy.local.terminal import Failure


def test_the_file_named_by_the_environment_has_the_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".pip").mkdir()
    (tmp_path / ".pip/pip.conf").write_text("[global]\nindex-url = https://first.example/simple\ntimeout = 9\n")
    named = tmp_path / "named.conf"
    named.write_text("[global]\nindex-url = https://second.example/simple\n[install]\nno-deps = yes\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", str(named))

    settings = toolchain.pip_settings()

    assert (settings["index-url"], settings["timeout"]) == ("https://second.example/simple", "9")
    assert "no-deps" not in settings


def test_a_broken_file_is_a_failure_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "pip.conf"
    broken.write_text("index-url = before any section\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(broken))

    with pytest.raises(Failure, match=r"pip's configuration"):
        toolchain.pip_settings()
