"""What users name is asked only where it is on the Internet, whatever the name, its spelling or its resolver says."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.egress import EgressPolicy, EgressSettings, GuardedTransport, Resolver, guarded_client, is_public
from shared.errors import InvalidInputError

STRICT = EgressPolicy()

PRIVATE_ADDRESSES = [
    "0.0.0.0",  # noqa: S104
    "10.0.0.1",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "64:ff9b::169.254.169.254",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::8.8.8.8",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2002:c0a8:101::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]
PUBLIC_ADDRESSES = [
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.1",
    "172.15.0.1",
    "172.32.0.1",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2002:808:808::1",
    "2606:4700::1111",
]
REFUSED_URLS = [
    "",
    "/relative",
    "//hooks.example.com/",
    "https:hooks.example.com",
    "https://",
    "https:///path",
    "http://hooks.example.com/",
    "file:///etc/passwd",
    "gopher://hooks.example.com/",
    "ftp://hooks.example.com/",
    "ws://hooks.example.com/",
    "javascript:alert(1)",
    "https://user@hooks.example.com/",
    "https://user:password@hooks.example.com/",
    "https://:@hooks.example.com/",
    "https://hooks.example.com\\@evil.example.com/",
    "https://hooks.example.com:22/",
    "https://hooks.example.com:5432/",
    "https://hooks.example.com:5672/",
    "https://hooks.example.com:15672/",
    "https://hooks.example.com:0/",
    "https://hooks.example.com:99999/",
    "https://hooks.example.com:443x/",
    "https://localhost/",
    "https://LOCALHOST/",
    "https://localhost./",
    "https://a.localhost/",
    "https://postgres/",
    "https://metadata.google.internal/",
    "https://metadata.google.internal./",
    "https://printer.local/",
    "https://nas.home.arpa/",
    "https://127.1/",
    "https://127.0.1/",
    "https://2130706433/",
    "https://0x7f.1/",
    "https://0x7f000001/",
    "https://0X7F.0.0.1/",
    "https://0177.0.0.1/",
    "https://017700000001/",
    "https://1.2.3.4.5/",
    "https://8.8.8.08/",
    "https://0/",
    "https://\uff11\uff12\uff17.0.0.1/",
    "https://127\u30020\u30020\u30021/",
    "https://\u24dbocalhost/",
    "https://l\u043ec\u0430lhost/",
    "https://%6c%6fcalhost/",
    "https://a b.example.com/",
    "https://a..example.com/",
    "https://-a.example.com/",
    f"https://{'a' * 64}.example.com/",
    f"https://{'a.' * 130}com/",
    "https://[::1/",
    "https://[::1%25lo]/",
    "https://hooks.example.com/\r\nx: y",
    "https://hooks.example.com/\0",
    f"https://hooks.example.com/{'a' * 2000}",
    *(f"https://[{text}]/" if ":" in text else f"https://{text}/" for text in PRIVATE_ADDRESSES if "%" not in text),
]


@pytest.mark.parametrize("url", REFUSED_URLS, ids=ascii)
def test_a_url_that_is_not_the_internets_is_refused_without_naming_an_address(url: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        STRICT.checked_url(url, param="url")

    assert (refused.value.code, refused.value.param) == ("address_refused", "url")
    assert not any(address in refused.value.message for address in PRIVATE_ADDRESSES)


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("https://hooks.example.com", "https://hooks.example.com"),
        ("https://HOOKS.example.com:443/a?b=c", "https://hooks.example.com/a?b=c"),
        ("https://hooks.example.com:80/", "https://hooks.example.com:80/"),
        ("https://8.8.8.8/", "https://8.8.8.8/"),
        ("https://[2606:4700::1111]/", "https://[2606:4700::1111]/"),
        ("https://b\u00fccher.example/", "https://xn--bcher-kva.example/"),
        ("https://\u0440\u0430\u0443\u0440\u0430l.example/", "https://xn--l-7sba6dbr.example/"),
    ],
    ids=ascii,
)
def test_a_url_of_the_internet_passes_in_the_form_that_is_asked(url: str, asked: str) -> None:
    assert STRICT.checked_url(url) == asked


@pytest.mark.parametrize("address", PRIVATE_ADDRESSES)
def test_an_address_that_is_not_public_is_not_admitted(address: str) -> None:
    assert not STRICT.admits(address)


@pytest.mark.parametrize("address", PUBLIC_ADDRESSES)
def test_a_public_address_is_admitted(address: str) -> None:
    assert STRICT.admits(address)


@given(st.ip_addresses(v=4))
def test_no_address_is_admitted_that_the_registry_calls_private(address: IPv4Address) -> None:
    if address.is_private or address.is_multicast or address.is_reserved or address.is_link_local:
        assert not is_public(address)


@given(st.ip_addresses(v=4))
def test_an_address_inside_another_is_as_public_as_by_itself(address: IPv4Address) -> None:
    number = int(address)
    mapped = IPv6Address((0xFFFF << 32) | number)
    nat64 = IPv6Address((0x64FF9B << 96) | number)
    six_to_four = IPv6Address((0x2002 << 112) | (number << 80) | 1)

    assert is_public(mapped) == is_public(nat64) == is_public(six_to_four) == is_public(address)


@given(st.text(max_size=40))
def test_whatever_the_text_it_passes_or_is_refused(text: str) -> None:
    for url in (text, f"https://{text}", f"https://hooks.example.com{text}"):
        try:
            STRICT.checked_url(url)
        except InvalidInputError as refused:
            assert refused.code == "address_refused"  # noqa: PT017 - both ways are right


def test_the_operator_may_allow_hosts_networks_ports_and_plain_http() -> None:
    settings = EgressSettings(
        egress_allowed=("Hooks.Intranet", "10.1.2.0/24", "fd00::5", "localhost"),
        egress_ports=(8443,),
        egress_allows_http=True,
    )
    policy = EgressPolicy.of(settings)

    for url in ("http://hooks.intranet:8443/", "https://10.1.2.9:8443/", "https://[fd00::5]:8443/"):
        assert policy.checked_url(url) == url
    for url in (
        "https://hooks.intranet/",
        "https://10.1.3.9:8443/",
        "https://[fd00::6]:8443/",
        "https://a.localhost:8443",
    ):
        with pytest.raises(InvalidInputError):
            policy.checked_url(url)


@pytest.mark.parametrize("entry", ["10.0.0.0/33", "10.1.2.3/24", "127.1", "a b", "", "*.intranet"])
def test_an_entry_that_allows_nothing_is_refused_at_the_start(entry: str) -> None:
    with pytest.raises(ValidationError):
        EgressSettings(egress_allowed=(entry,))


async def test_a_name_with_one_address_that_is_not_public_is_refused_and_nobody_is_asked() -> None:
    async with _listening() as server:
        for found in (["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["127.0.0.1", "8.8.8.8"], ["::ffff:127.0.0.1"], []):
            policy = EgressPolicy(ports=frozenset({server.port}), allows_http=True)

            with pytest.raises(InvalidInputError) as refused:
                await _get(policy, f"http://hooks.example.com:{server.port}/", _answering(found))

            assert refused.value.code == "address_refused"
            assert "127.0.0.1" not in str(refused.value)
        assert server.connection_count == 0


async def test_a_name_without_an_address_is_refused_in_the_same_words() -> None:
    async def failing(_host: str, _port: int) -> Sequence[str]:
        raise OSError("no such name")

    messages = set()
    for resolver in (failing, _answering(["10.0.0.1"])):
        with pytest.raises(InvalidInputError) as refused:
            await _get(STRICT, "https://hooks.example.com/", resolver)
        messages.add(refused.value.message)

    assert len(messages) == 1


async def test_a_name_that_resolves_differently_a_moment_later_gains_nothing() -> None:
    asked = 0

    async def rebinding(_host: str, _port: int) -> Sequence[str]:
        nonlocal asked
        asked += 1
        return ["127.0.0.1"] if asked == 1 else ["10.0.0.1"]

    async with _listening() as server:
        policy = EgressPolicy(networks=_loopback(), ports=frozenset({server.port}), allows_http=True)

        # Asked once, and connected to what was said then: a second look would be refused.
        answer = await _get(policy, f"http://hooks.example.com:{server.port}/", rebinding)

        assert (answer.status_code, asked) == (200, 1)
        with pytest.raises(InvalidInputError):
            await _get(policy, f"http://hooks.example.com:{server.port}/", rebinding)
        assert server.connection_count == 1


async def test_the_system_resolver_reads_odd_spellings_too_and_is_checked_all_the_same() -> None:
    async with _listening() as server:
        policy = EgressPolicy(hosts=frozenset(), ports=frozenset({server.port}), allows_http=True)
        transport = GuardedTransport(policy)

        for host in ("localhost", "127.1", "2130706433", "0x7f.1"):
            with pytest.raises(InvalidInputError):
                await transport._addresses(host, server.port)  # noqa: SLF001 - behind the check of the spelling
        await transport.aclose()
        assert server.connection_count == 0


async def test_the_next_address_is_tried_where_one_does_not_answer() -> None:
    async with _listening() as server:
        policy = EgressPolicy(networks=_loopback(), ports=frozenset({server.port}), allows_http=True)

        answer = await _get(policy, f"http://hooks.example.com:{server.port}/", _answering(["127.0.0.9", "127.0.0.1"]))

        assert answer.status_code == 200


async def test_host_and_certificate_are_those_of_the_name_and_not_of_the_address(tmp_path: Path) -> None:
    server_context, client_context = _certified("hooks.example.com", tmp_path)
    async with _listening(server_context) as server:
        policy = EgressPolicy(networks=_loopback(), ports=frozenset({server.port}))
        resolver = _answering(["127.0.0.1"])

        answer = await _get(policy, f"https://hooks.example.com:{server.port}/", resolver, client_context)
        with pytest.raises(httpx2.ConnectError):
            await _get(policy, f"https://other.example.com:{server.port}/", resolver, client_context)

    assert answer.status_code == 200
    assert server.hosts == [f"hooks.example.com:{server.port}"]


async def test_a_redirect_is_an_answer_and_no_cookie_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    async with _listening(head="HTTP/1.1 302 Found\r\nlocation: /inside\r\nset-cookie: a=b") as server:
        policy = EgressPolicy(hosts=frozenset({"localhost"}), ports=frozenset({server.port}), allows_http=True)
        async with guarded_client(policy, timeout_seconds=10, user_agent="test") as client:
            answer = await client.get(f"http://localhost:{server.port}/")
            await client.get(f"http://localhost:{server.port}/")

    assert answer.status_code == 302
    assert server.connection_count == 2
    assert not any("cookie" in head for head in server.heads)


class _Listening:
    """A server that answers every request alike and remembers who came."""

    def __init__(self, head: str) -> None:
        self.port = 0
        self.connection_count = 0
        self.heads: list[str] = []
        self._answer = f"{head}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()

    @property
    def hosts(self) -> list[str]:
        lines = [line for head in self.heads for line in head.split("\r\n")]
        return [line.partition(": ")[2] for line in lines if line.lower().startswith("host: ")]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connection_count += 1
        self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(self._answer)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def _listening(context: ssl.SSLContext | None = None, head: str = "HTTP/1.1 200 OK") -> AsyncIterator[_Listening]:
    listening = _Listening(head)
    server = await asyncio.start_server(listening.serve, "127.0.0.1", 0, ssl=context)
    listening.port = server.sockets[0].getsockname()[1]
    async with server:
        yield listening


async def _get(
    policy: EgressPolicy, url: str, resolver: Resolver, context: ssl.SSLContext | None = None
) -> httpx2.Response:
    transport = GuardedTransport(policy, resolver=resolver, verify=context or True)
    async with httpx2.AsyncClient(transport=transport, timeout=10) as client:
        return await client.get(url)


def _answering(addresses: Sequence[str]) -> Resolver:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return addresses

    return resolve


def _loopback() -> tuple[IPv4Network, ...]:
    return (IPv4Network("127.0.0.0/8"),)


def _certified(name: str, folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate for `name`, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "certificate.pem", folder / "key.pem"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate_file, key_file)
    return server, ssl.create_default_context(cafile=certificate_file)
