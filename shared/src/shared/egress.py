"""The way out for requests to addresses that users name: never into our own networks.

A user who may name a URL must not reach through us what only we can reach: loopback, private networks, the metadata
service of a cloud. So the name is resolved here, every address that it has is checked, and the connection goes to a
checked address itself: a name that resolves differently a moment later changes nothing. Certificate and `Host` are
still those of the name. No connection is kept, no proxy of the environment is used, and no client made here follows a
redirect; a client that did would find each hop checked as well.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, Self, TypeAlias

import httpx2
from pydantic import AfterValidator, Field

from shared.errors import InvalidInputError
from shared.settings import ServiceSettings, well_known

_Address: TypeAlias = IPv4Address | IPv6Address
_Network: TypeAlias = IPv4Network | IPv6Network
# The addresses of a host for a port, as text. Raises OSError where it has none.
Resolver: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]

URL_CHARS_MAX = 2_000
_HOST_CHARS_MAX = 253
_ADDRESSES_TRIED_MAX = 4
_DEFAULT_PORTS = {"http": 80, "https": 443}

_HOST = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
# Resolvers read a name that ends so as an address, in spellings from `127.1` to `0x7f000001`.
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")
# Names that mean something else on each network (RFC 6761, 6762, 8375, 9476); `internal` is ICANN's, for private use.
_LOCAL_NAMES = frozenset({"localhost", "local", "internal", "home.arpa", "alt"})

_NOT_PUBLIC_V4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this host
            "10.0.0.0/8",
            "100.64.0.0/10",  # behind a carrier's NAT
            "127.0.0.0/8",
            "169.254.0.0/16",  # link-local: metadata services
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, broadcast
        ),
    )
)
_PUBLIC_V6 = IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "3fff::/20")))
# Where an IPv4 address is carried inside an IPv6 address, and how many bits follow it.
_CARRIERS = (
    (IPv6Network("::ffff:0:0/96"), 0),  # mapped
    (IPv6Network("64:ff9b::/96"), 0),  # NAT64
    (IPv6Network("2002::/16"), 80),  # 6to4
)


def _is_well_formed(entry: str) -> str:
    _parsed(entry)
    return entry


class EgressSettings(ServiceSettings):
    """What services share that send requests to addresses which users name."""

    # Hosts and networks that are not refused for being private: `hooks.intranet`, `10.1.2.0/24`. Ports still count.
    egress_allowed: tuple[Annotated[str, AfterValidator(_is_well_formed)], ...] = well_known(
        "EGRESS_ALLOWED", default=()
    )
    egress_ports: tuple[Annotated[int, Field(ge=1, le=65_535)], ...] = well_known("EGRESS_PORTS", default=(80, 443))
    egress_allows_http: bool = well_known("EGRESS_ALLOWS_HTTP", default=False)


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """Which addresses may be asked."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[_Network, ...] = ()
    ports: frozenset[int] = frozenset(_DEFAULT_PORTS.values())
    allows_http: bool = False

    @classmethod
    def of(cls, settings: EgressSettings) -> Self:
        allowed = [_parsed(entry) for entry in settings.egress_allowed]
        return cls(
            hosts=frozenset(entry for entry in allowed if isinstance(entry, str)),
            networks=tuple(entry for entry in allowed if not isinstance(entry, str)),
            ports=frozenset(settings.egress_ports),
            allows_http=settings.egress_allows_http,
        )

    def checked_url(self, text: str, *, param: str | None = None) -> str:
        """`text` as it will be asked: its host in ASCII, look-alikes of other alphabets thereby as `xn--…`.

        Raises InvalidInputError (`address_refused`) for what can be refused without resolving the name.
        """
        if len(text) > URL_CHARS_MAX:
            raise _refused(f"The URL is too long: at most {URL_CHARS_MAX} characters are allowed.", param)
        try:
            url = httpx2.URL(text)
        except httpx2.InvalidURL as error:
            raise _refused("This is not a URL that can be asked.", param) from error
        self.check(url, param=param)
        return str(url)

    def check(self, url: httpx2.URL, *, param: str | None = None) -> str:
        """The host of `url`, without a dot at its end. Raises as `checked_url` does."""
        if url.scheme not in _DEFAULT_PORTS or (url.scheme == "http" and not self.allows_http):
            wanted = "'http:' or 'https:'" if self.allows_http else "'https:'"
            raise _refused(f"The URL must begin with {wanted}.", param)
        if url.userinfo:
            raise _refused("The URL must not hold a user or a password.", param)
        if _port_of(url) not in self.ports:
            allowed = ", ".join(map(str, sorted(self.ports)))
            raise _refused(f"The URL must use one of these ports: {allowed}.", param)
        host = url.raw_host.decode("ascii").removesuffix(".")
        self._check_host(host, param)
        return host

    def admits(self, address: str) -> bool:
        """Whether a connection to `address` is allowed, whatever name led to it."""
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return is_public(parsed) or self._is_listed(parsed)

    def trusts(self, host: str) -> bool:
        """Whether the operator allows `host` by its name, whatever its addresses are."""
        return host in self.hosts

    def _check_host(self, host: str, param: str | None) -> None:
        if self.trusts(host):
            return
        try:
            address = ip_address(host)
        except ValueError:
            _check_name(host, param)
            return
        if not is_public(address) and not self._is_listed(address):
            raise _not_public(param)

    def _is_listed(self, address: _Address) -> bool:
        return any(address in network for network in self.networks if network.version == address.version)


class GuardedTransport(httpx2.AsyncBaseTransport):
    """Sends requests to addresses that the policy admits, and to no other.

    Raises InvalidInputError (`address_refused`) before anything is sent; the address itself is never told. A name
    without addresses is refused in the same words, as the difference would tell strangers what names our network has.
    """

    def __init__(
        self, policy: EgressPolicy, *, resolver: Resolver | None = None, verify: ssl.SSLContext | bool = True
    ) -> None:
        self._policy = policy
        self._resolver = resolver or _resolved
        # A kept connection is known by its address: the next request on it might be meant for another name there.
        no_connection_kept = httpx2.Limits(max_keepalive_connections=0)
        self._transport = httpx2.AsyncHTTPTransport(verify=verify, trust_env=False, limits=no_connection_kept)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        host = self._policy.check(request.url)
        addresses = await self._addresses(host, _port_of(request.url))
        for address in addresses[:-1]:
            try:
                return await self._transport.handle_async_request(_pinned(request, host, address))
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
        return await self._transport.handle_async_request(_pinned(request, host, addresses[-1]))

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def _addresses(self, host: str, port: int) -> list[str]:
        """The addresses to try, at least one. One that is refused spoils the others: the name is not to be trusted."""
        try:
            found = list(dict.fromkeys(await self._resolver(host, port)))
        except (OSError, UnicodeError) as error:
            raise _not_public(None) from error
        if not found or not (self._policy.trusts(host) or all(map(self._policy.admits, found))):
            raise _not_public(None)
        return found[:_ADDRESSES_TRIED_MAX]


def guarded_client(
    policy: EgressPolicy, *, timeout_seconds: float, user_agent: str, verify: ssl.SSLContext | bool = True
) -> httpx2.AsyncClient:
    """A client for such requests; `timeout_seconds` is for each step of one, so bound the whole as well."""
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))  # one user's would go with another's requests
    return httpx2.AsyncClient(
        transport=GuardedTransport(policy, verify=verify),
        cookies=no_cookies,
        timeout=timeout_seconds,
        headers={"user-agent": user_agent, "accept-encoding": "identity"},
        follow_redirects=False,
        trust_env=False,
    )


def is_public(address: _Address) -> bool:
    """Whether `address` is one of the Internet's; one that carries another is as public as that."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    for network, bits_behind in _CARRIERS:
        if address in network:
            return is_public(IPv4Address((int(address) >> bits_behind) & 0xFFFFFFFF))
    return address in _PUBLIC_V6 and not any(address in network for network in _NOT_PUBLIC_V6)


def _check_name(host: str, param: str | None) -> None:
    if len(host) > _HOST_CHARS_MAX or not _HOST.fullmatch(host):
        raise _refused("The URL must name a host.", param)
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        raise _refused("An IPv4 address must be written as four decimal numbers.", param)
    suffixes = {".".join(labels[place:]) for place in range(len(labels))}
    if len(labels) == 1 or suffixes & _LOCAL_NAMES:
        raise _not_public(param)


def _pinned(request: httpx2.Request, host: str, address: str) -> httpx2.Request:
    """`request`, on its way to `address` and to no other; it stays one to `host`, also for the certificate."""
    return httpx2.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": host},
    )


async def _resolved(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(socket_address[0]) for *_, socket_address in found]


def _port_of(url: httpx2.URL) -> int:
    return _DEFAULT_PORTS[url.scheme] if url.port is None else url.port


def _parsed(entry: str) -> str | _Network:
    """A host or a network of the operator's. Raises ValueError where it is neither."""
    if "/" in entry:
        return ip_network(entry)
    try:
        return ip_network(ip_address(entry))
    except ValueError:
        host = entry.lower().removesuffix(".")
        if not _HOST.fullmatch(host) or _NUMBER.fullmatch(host.rpartition(".")[2]):
            raise ValueError(f"{entry!r} is neither a host nor a network such as 10.1.2.0/24") from None
        return host


def _not_public(param: str | None) -> InvalidInputError:
    return _refused("The URL must name a host on the Internet: its address is not public, or not known.", param)


def _refused(message: str, param: str | None) -> InvalidInputError:
    return InvalidInputError("address_refused", message, param=param)
