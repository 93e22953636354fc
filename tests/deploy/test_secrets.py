"""The secrets of the system in containers: made once, given by whoever wants to, and shown to whom they are for."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509

from deploy.compose import make_secrets
from deploy.compose.make_secrets import RefusedError, write

_WHOLE = ("postgres", "rabbitmq", "grafana", "migrate", "gateway", "chat-worker", "persistence", "task-tools", "proxy")


def _files(folder: Path) -> dict[str, str]:
    return {f"{file.parent.name}/{file.name}": file.read_text() for file in folder.glob("*/*")}


def test_they_are_made_once(tmp_path: Path) -> None:
    made = write(tmp_path, {})
    first = _files(tmp_path)

    assert "JWT_SECRET" in made
    assert {name.partition("/")[0] for name in first} == {"kept", *_WHOLE}
    assert write(tmp_path, {}) == []
    assert _files(tmp_path) == first


def test_two_systems_have_no_secret_in_common(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write(tmp_path / name, {})

    one, other = (set(_files(tmp_path / name).values()) for name in ("one", "other"))

    assert not one & other


def test_each_service_is_shown_its_own_and_no_other(tmp_path: Path) -> None:
    write(tmp_path, {})

    assert set(_files(tmp_path)) - {name for name in _files(tmp_path) if name.startswith("kept/")} == {
        "gateway/GATEWAY_DATABASE_URL",
        "gateway/GATEWAY_RABBITMQ_URL",
        "gateway/JWT_SECRET",
        "chat-worker/CHAT_WORKER_DATABASE_URL",
        "chat-worker/CHAT_WORKER_RABBITMQ_URL",
        "chat-worker/TOOL_TOKEN_SECRET",
        "persistence/PERSISTENCE_DATABASE_URL",
        "persistence/PERSISTENCE_RABBITMQ_URL",
        "task-tools/TASK_TOOLS_DATABASE_URL",
        "task-tools/TOOL_TOKEN_SECRET",
        "migrate/DATABASE_URL",
        "migrate/GATEWAY_DATABASE_URL",
        "migrate/CHAT_WORKER_DATABASE_URL",
        "migrate/PERSISTENCE_DATABASE_URL",
        "migrate/TASK_TOOLS_DATABASE_URL",
        "postgres/POSTGRES_PASSWORD",
        "rabbitmq/RABBITMQ_PASSWORD",
        "rabbitmq/GATEWAY_RABBITMQ_PASSWORD",
        "rabbitmq/CHAT_WORKER_RABBITMQ_PASSWORD",
        "rabbitmq/PERSISTENCE_RABBITMQ_PASSWORD",
        "grafana/GRAFANA_PASSWORD",
        "proxy/tls.crt",
        "proxy/tls.key",
    }
    for file in (tmp_path / "kept").iterdir():
        assert file.stat().st_mode & 0o077 == 0


def test_both_sides_of_a_connection_have_the_same_password(tmp_path: Path) -> None:
    write(tmp_path, {})
    files = _files(tmp_path)

    assert files["chat-worker/TOOL_TOKEN_SECRET"] == files["task-tools/TOOL_TOKEN_SECRET"]
    assert urlsplit(files["migrate/DATABASE_URL"]).password == files["postgres/POSTGRES_PASSWORD"]
    for service in ("gateway", "chat-worker", "persistence"):
        prefix = service.upper().replace("-", "_")
        assert files[f"{service}/{prefix}_DATABASE_URL"] == files[f"migrate/{prefix}_DATABASE_URL"]
        url = files[f"{service}/{prefix}_RABBITMQ_URL"]
        assert urlsplit(url).password == files[f"rabbitmq/{prefix}_RABBITMQ_PASSWORD"]


def test_what_the_environment_says_counts_and_stays(tmp_path: Path) -> None:
    write(tmp_path, {})

    assert write(tmp_path, {"POSTGRES_PASSWORD": "mine", "SESSION_SECRET": "s" * 32}) == []

    assert _files(tmp_path)["postgres/POSTGRES_PASSWORD"] == "mine"
    assert _files(tmp_path)["gateway/SESSION_SECRET"] == "s" * 32
    write(tmp_path, {})
    assert _files(tmp_path)["postgres/POSTGRES_PASSWORD"] == "mine"
    assert "gateway/SESSION_SECRET" not in _files(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"), [("POSTGRES_PASSWORD", "with/slash"), ("RABBITMQ_PASSWORD", 'x"'), ("JWT_SECRET", "short")]
)
def test_what_would_not_work_is_refused_by_name(name: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=name):
        write(tmp_path, {name: value})


@pytest.mark.parametrize("content", ["", "\n", "too short\n"])
def test_what_is_kept_and_damaged_is_no_secret_and_is_mended_by_naming_it(content: str, tmp_path: Path) -> None:
    write(tmp_path, {})
    before = _files(tmp_path)
    (tmp_path / "kept" / "JWT_SECRET").write_text(content)

    with pytest.raises(RefusedError, match=r"volume `secrets` keeps is damaged: JWT_SECRET .* in .env the JWT_SECRET"):
        write(tmp_path, {})
    assert _files(tmp_path) == {**before, "kept/JWT_SECRET": content}
    assert write(tmp_path, {"JWT_SECRET": before["kept/JWT_SECRET"]}) == []
    assert _files(tmp_path) == before


def test_the_certificate_is_for_this_machine_and_is_renewed_before_it_ends(tmp_path: Path) -> None:
    write(tmp_path, {})
    file = tmp_path / "proxy/tls.crt"
    first = x509.load_pem_x509_certificate(file.read_bytes())
    names = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    assert "localhost" in names.get_values_for_type(x509.DNSName)
    assert not make_secrets.renew_certificate(tmp_path / "proxy", first.not_valid_after_utc - timedelta(days=60))
    assert make_secrets.renew_certificate(tmp_path / "proxy", first.not_valid_after_utc - timedelta(days=10))
    again = x509.load_pem_x509_certificate(file.read_bytes())
    assert again.serial_number != first.serial_number
    assert again.not_valid_after_utc > datetime.now(UTC)
