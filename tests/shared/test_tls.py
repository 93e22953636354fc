"""TLS to each kind of server: the right authority connects, a wrong one or a wrong name does not, nothing goes bare."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx2
import pytest
from pydantic import SecretStr

from chat_worker.agent.model import OpenAIModel
from chat_worker.agent.values import ModelRequest
from chat_worker.settings import ChatWorkerSettings
from deploy.local.ports import LOOPBACK, free_ports
from deploy.local.postgres import PrivatePostgres
from deploy.local.rabbitmq import PrivateRabbit
from shared.db import Database
from shared.db.migrate import ROLES, migrate
from shared.errors import ModelUnavailableError
from shared.messaging import JOBS, Broker, BrokerRefusedError, refusal_of, see_queue
from shared.settings import Profile
from shared.tls import trusting
from tests.support.backends import at
from tests.support.certificates import Authority
from tests.support.services import private_postgres, private_rabbit


@dataclass(frozen=True)
class Authorities:
    ours: Authority
    others: Authority
    folder: Path


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    folder = tmp_path_factory.mktemp("tls")
    folder.chmod(0o755)
    return Authorities(Authority(folder, "ours"), Authority(folder, "others"), folder)


# --- https: the model, tool servers, webhooks


@pytest.fixture
async def https(authorities: Authorities) -> AsyncIterator[str]:
    """A server whose certificate is for 127.0.0.1 alone; what precedes its port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authorities.ours.certify(LOOPBACK).written(authorities.folder, "https"))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if length := re.search(rb"content-length: (\d+)", head.lower()):
            await reader.readexactly(int(length[1]))
        writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, LOOPBACK, 0, ssl=context)
    yield str(server.sockets[0].getsockname()[1])
    server.close()


async def test_https_is_trusted_with_the_right_authority(https: str, authorities: Authorities) -> None:
    async with httpx2.AsyncClient(verify=trusting(str(authorities.ours.file)), trust_env=False) as http:
        assert (await http.get(f"https://{LOOPBACK}:{https}/")).status_code == httpx2.codes.NO_CONTENT


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        pytest.param(None, LOOPBACK, id="the system's authorities"),
        pytest.param("others", LOOPBACK, id="a wrong authority"),
        pytest.param("ours", "localhost", id="a wrong name"),
    ],
)
async def test_https_is_refused_with(https: str, authorities: Authorities, authority: str | None, host: str) -> None:
    ca_file = str(getattr(authorities, authority).file) if authority else None
    async with httpx2.AsyncClient(verify=trusting(ca_file), trust_env=False) as http:
        with pytest.raises(httpx2.ConnectError, match="certificate verify failed"):
            await http.get(f"https://{host}:{https}/")


@pytest.mark.parametrize(
    ("authority", "host", "code"),
    [
        pytest.param("ours", LOOPBACK, "model_cut_stream", id="the right authority, and no answer"),
        pytest.param(None, LOOPBACK, "model_unreachable", id="the system's authorities"),
        pytest.param("others", LOOPBACK, "model_unreachable", id="a wrong authority"),
        pytest.param("ours", "localhost", "model_unreachable", id="a wrong name"),
    ],
)
async def test_the_model_s_own_transport_looks_at_certificates_too(
    https: str, authorities: Authorities, authority: str | None, host: str, code: str
) -> None:
    ca_file = str(getattr(authorities, authority).file) if authority else None
    model = OpenAIModel(f"https://{host}:{https}/v1", "a-key", "a-model", verify=trusting(ca_file))
    try:
        with pytest.raises(ModelUnavailableError) as caught:
            await anext(model.round(ModelRequest([{"role": "user", "content": "hello"}], [])))
    finally:
        await model.close()

    assert caught.value.code == code
    assert ("CERTIFICATE_VERIFY_FAILED" in "".join(caught.value.__notes__)) is (code == "model_unreachable")


def test_what_the_system_trusts_is_still_trusted(authorities: Authorities) -> None:
    ours, systems = trusting(str(authorities.ours.file)), httpx2.create_ssl_context()

    assert isinstance(ours, ssl.SSLContext)
    assert ours.verify_mode is ssl.CERT_REQUIRED
    assert ours.check_hostname
    assert ours.cert_store_stats()["x509_ca"] == systems.cert_store_stats()["x509_ca"] + 1


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_a_file_without_certificates_is_named_at_the_start(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_bytes(content)

    with pytest.raises(ValueError, match="TLS_CA_FILE"):
        ChatWorkerSettings(
            profile=Profile.LOCAL,
            rabbitmq_url=SecretStr("amqps://x"),
            database_url=SecretStr("x"),
            tool_token_secret=SecretStr("x" * 32),
            tls_ca_file=str(tmp_path / "ca.pem"),
        )


# --- RabbitMQ


@pytest.fixture(scope="module")
def amqps(authorities: Authorities) -> Iterator[str]:
    """The URL of a RabbitMQ with TLS, which asks for a client's certificate, takes none, and refuses a wrong one."""
    port = free_ports(1)[0]
    certificate, key = authorities.ours.certify(LOOPBACK).written(authorities.folder, "rabbitmq")

    def prepare(server: PrivateRabbit) -> None:
        server.settings = {
            "listeners.ssl.1": f"{LOOPBACK}:{port}",
            "ssl_options.cacertfile": str(authorities.ours.file),
            "ssl_options.certfile": str(certificate),
            "ssl_options.keyfile": str(key),
            "ssl_options.verify": "verify_peer",
            "ssl_options.fail_if_no_peer_cert": "false",
        }

    with private_rabbit(prepare) as server:
        yield server.url.replace("amqp://", "amqps://").replace(f":{server.ports.amqp}/", f":{port}/")


async def _refusal(broker: Broker) -> BrokerRefusedError | None:
    """None where the connection was made: the queue is not there, and that is said over it."""
    with pytest.raises(Exception) as failed:  # noqa: PT011 - whatever the client library raises
        await see_queue(broker, JOBS)
    if type(failed.value).__name__ == "ChannelNotFoundEntity":
        return None
    refusal = refusal_of(failed.value)
    assert refusal, failed.value
    return refusal


async def test_rabbitmq_is_trusted_with_the_right_authority_and_no_other(amqps: str, authorities: Authorities) -> None:
    ours, others = str(authorities.ours.file), str(authorities.others.file)

    assert await _refusal(Broker(amqps, "test", ca_file=ours)) is None
    assert await _refusal(Broker(f"{amqps}?cafile={ours}", "test", ca_file=others)) is None
    for wrong in (
        Broker(amqps, "test"),
        Broker(amqps, "test", ca_file=others),
        Broker(amqps.replace(LOOPBACK, "localhost"), "test", ca_file=ours),
    ):
        assert "certificate is not trusted" in str(await _refusal(wrong))


async def test_rabbitmq_knows_a_client_by_its_certificate(amqps: str, authorities: Authorities) -> None:
    right = authorities.ours.certify("gateway").written(authorities.folder, "right")
    wrong = authorities.others.certify("gateway").written(authorities.folder, "wrong")

    def broker(certificate: Path, key: Path) -> Broker:
        return Broker(f"{amqps}?certfile={certificate}&keyfile={key}", "test", ca_file=str(authorities.ours.file))

    assert await _refusal(broker(*right)) is None
    with pytest.raises((OSError, ConnectionError)):
        await see_queue(broker(*wrong), JOBS)


async def test_rabbitmq_is_never_asked_in_the_clear_instead(authorities: Authorities) -> None:
    """What speaks no TLS behind an amqps:// address gets no password."""
    heard = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend(await reader.read(4096))
        writer.write(b"AMQP\0\0\x09\x01")
        writer.close()

    server = await asyncio.start_server(listen, LOOPBACK, 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(OSError, match=r"(?i)ssl|connection"):
        await see_queue(
            Broker(f"amqps://user:planted@{LOOPBACK}:{port}/", "test", ca_file=str(authorities.ours.file)), JOBS
        )
    server.close()

    assert heard
    assert b"AMQP" not in heard
    assert b"planted" not in heard


# --- Postgres


@pytest.fixture(scope="module")
def postgres(authorities: Authorities) -> Iterator[str]:
    def prepare(server: PrivatePostgres) -> None:
        certificate = authorities.ours.certify(LOOPBACK)
        server.settings = {
            "ssl": "on",
            "ssl_cert_file": str(server.keep("server.pem", certificate.certificate)),
            "ssl_key_file": str(server.keep("server.key", certificate.key)),
        }

    with private_postgres(prepare) as server:
        yield server.url


async def test_postgres_is_trusted_with_the_right_authority_and_no_other(
    postgres: str, authorities: Authorities
) -> None:
    ours, others = str(authorities.ours.file), str(authorities.others.file)

    connection = await asyncpg.connect(f"{postgres}?sslmode=verify-full&sslrootcert={ours}")
    assert await connection.fetchval("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
    await connection.close()

    for url in (
        f"{postgres}?sslmode=verify-full&sslrootcert={others}",
        f"{postgres.replace(LOOPBACK, 'localhost')}?sslmode=verify-full&sslrootcert={ours}",
    ):
        with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
            await Database.connect(url, application_name="test", pool_size=1, wait_seconds=0)


async def test_the_migration_trusts_postgres_as_the_services_do(postgres: str, authorities: Authorities) -> None:
    database = urlsplit(postgres).path.removeprefix("/")
    service_urls = [at(postgres, database, role) for role in ROLES]

    with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
        await migrate(f"{postgres}?sslmode=verify-full&sslrootcert={authorities.others.file}", service_urls)
    await migrate(f"{postgres}?sslmode=verify-full&sslrootcert={authorities.ours.file}", service_urls)

    gateway = await Database.connect(
        f"{service_urls[0]}?sslmode=verify-full&sslrootcert={authorities.ours.file}",
        application_name="test",
        pool_size=1,
    )
    await gateway.ping()
    await gateway.close()


async def test_postgres_without_tls_is_not_used_where_tls_is_asked_for(
    database_urls: dict[str, str], authorities: Authorities
) -> None:
    url = f"{database_urls['parley_gateway']}?sslmode=verify-full&sslrootcert={authorities.ours.file}"

    with pytest.raises(Exception, match=r"(?i)ssl|database"):
        await Database.connect(url, application_name="test", pool_size=1, wait_seconds=0)
