"""The `secrets` service of docker-compose.yml: makes what is missing, once, and shows each service what it needs.

A secret is what the environment (`.env`) says; else what was made before, which is kept in `kept/`; else a new one.
Each service has a folder of its own, which is mounted there at /run/secrets; see `deploy/image/launch.py`.
"""

import os
import re
import secrets
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_MADE = (
    "JWT_SECRET",
    "TOOL_TOKEN_SECRET",
    "POSTGRES_PASSWORD",
    "GATEWAY_DATABASE_PASSWORD",
    "CHAT_WORKER_DATABASE_PASSWORD",
    "PERSISTENCE_DATABASE_PASSWORD",
    "TASK_TOOLS_DATABASE_PASSWORD",
    "RABBITMQ_PASSWORD",
    "GATEWAY_RABBITMQ_PASSWORD",
    "CHAT_WORKER_RABBITMQ_PASSWORD",
    "PERSISTENCE_RABBITMQ_PASSWORD",
    "GRAFANA_PASSWORD",
)
# Passed on where they are given; nothing is made up for them.
_OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "gateway": ("JWT_PREVIOUS_SECRETS", "SESSION_SECRET"),
    "task-tools": ("TOOL_TOKEN_PREVIOUS_SECRETS",),
}
_DATABASE_ROLES = {
    "GATEWAY": "parley_gateway",
    "CHAT_WORKER": "parley_worker",
    "PERSISTENCE": "parley_persistence",
    "TASK_TOOLS": "parley_tools",
}
_BROKER_USERS = {
    "GATEWAY": "parley_gateway",
    "CHAT_WORKER": "parley_worker",
    "PERSISTENCE": "parley_persistence",
}
_BYTES = 32
_SAFE = re.compile(r"[A-Za-z0-9._~-]+")  # others would have to be quoted, differently in each place
_CERTIFICATE_DAYS = 825  # browsers take none that lasts longer
_RENEWED_DAYS = 30


class RefusedError(Exception):
    """A secret that is given or kept is of no use; the message says which, and why."""


def main() -> None:
    folder = Path(sys.argv[1])
    try:
        made = write(folder, os.environ)
    except RefusedError as error:
        sys.exit(f"secrets: {error}")
    print(f"secrets: made {', '.join(made)}" if made else "secrets: all are there")  # noqa: T201 - the container's log


def write(folder: Path, environment: Mapping[str, str]) -> list[str]:
    """Put every service's secrets into its folder below `folder`; returns the names of those that were made anew.

    Doing it again changes nothing. Raises RefusedError.
    """
    kept = folder / "kept"
    kept.mkdir(parents=True, exist_ok=True)
    made = []
    values: dict[str, str] = {}
    for name in _MADE:
        if given := environment.get(name):
            values[name] = _checked(name, given)
        elif (kept / name).exists():
            values[name] = _kept(kept / name)
            continue
        else:
            values[name] = secrets.token_urlsafe(_BYTES)
            made.append(name)
        _put(kept / name, values[name], mode=0o600)
    for service, files in _by_service(values, environment).items():
        _show(folder / service, files)
    if renew_certificate(folder / "proxy"):
        made.append("the certificate")
    return made


def _checked(name: str, value: str) -> str:
    if _SAFE.fullmatch(value) is None:
        raise RefusedError(f"{name} may hold letters, digits and . _ ~ - only")
    if name.endswith("_SECRET") and len(value) < _BYTES:
        raise RefusedError(f"{name} must have at least {_BYTES} characters; make one with: openssl rand -hex 32")
    return value


def _kept(file: Path) -> str:
    """A new one in its place would help nobody: what was made with the lost one, such as an account, stays as it is."""
    try:
        return _checked(file.name, file.read_text())
    except RefusedError as error:
        raise RefusedError(
            f"what the volume `secrets` keeps is damaged: {error}. Name in .env the {file.name} that this system was "
            "made with, or any new one if nothing was made yet"
        ) from None


def _by_service(values: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, dict[str, str]]:
    databases = {
        prefix: f"postgresql://{role}:{values[f'{prefix}_DATABASE_PASSWORD']}@postgres:5432/parley"
        for prefix, role in _DATABASE_ROLES.items()
    }
    brokers = {
        prefix: f"amqp://{user}:{values[f'{prefix}_RABBITMQ_PASSWORD']}@rabbitmq:5672/"
        for prefix, user in _BROKER_USERS.items()
    }
    shown: dict[str, dict[str, str]] = {
        "migrate": {"DATABASE_URL": f"postgresql://parley:{values['POSTGRES_PASSWORD']}@postgres:5432/parley"},
        "postgres": {"POSTGRES_PASSWORD": values["POSTGRES_PASSWORD"]},
        "rabbitmq": {name: value for name, value in values.items() if name.endswith("RABBITMQ_PASSWORD")},
        "grafana": {"GRAFANA_PASSWORD": values["GRAFANA_PASSWORD"]},
    }
    for prefix, url in databases.items():
        shown[prefix.lower().replace("_", "-")] = {f"{prefix}_DATABASE_URL": url}
        shown["migrate"][f"{prefix}_DATABASE_URL"] = url
    for prefix, url in brokers.items():
        shown[prefix.lower().replace("_", "-")][f"{prefix}_RABBITMQ_URL"] = url
    shown["gateway"]["JWT_SECRET"] = values["JWT_SECRET"]
    for service in ("chat-worker", "task-tools"):
        shown[service]["TOOL_TOKEN_SECRET"] = values["TOOL_TOKEN_SECRET"]
    for service, names in _OPTIONAL.items():
        shown[service] |= {name: environment[name] for name in names if environment.get(name)}
    return shown


def _show(folder: Path, files: Mapping[str, str]) -> None:
    """Have in `folder` these files and no others. The service, who is somebody else, may read them."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if old.name not in files:
            old.unlink()
    for name, value in files.items():
        _put(folder / name, value, mode=0o444)


def _put(file: Path, value: str, mode: int) -> None:
    """All of it or nothing, also where this process ends in the middle."""
    draft = file.with_name(f".{file.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as out:
        out.write(value)
    draft.replace(file)


def renew_certificate(folder: Path, now: datetime | None = None) -> bool:
    """See that there is a key, and a certificate signed by itself for this machine's own names; whether it was made."""
    folder.mkdir(parents=True, exist_ok=True)
    now = now or datetime.now(UTC)
    certificate, key = folder / "tls.crt", folder / "tls.key"
    if certificate.exists() and key.exists():
        ends = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
        if ends - now > timedelta(days=_RENEWED_DAYS):
            return False
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Parley on this machine")])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=_CERTIFICATE_DAYS))
        .add_extension(x509.SubjectAlternativeName(list(_names())), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private_pem = private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _put(key, private_pem.decode(), mode=0o444)
    _put(certificate, built.public_bytes(pem).decode(), mode=0o444)
    return True


def _names() -> Iterator[x509.GeneralName]:
    yield from (x509.DNSName(name) for name in ("localhost", "*.localhost"))
    yield from (x509.IPAddress(ip_address(address)) for address in ("127.0.0.1", "::1"))


if __name__ == "__main__":
    main()
