"""Which servers of the web are asked at all: none at link-local addresses, and no cloud's metadata service.

A corpus may be a list that others wrote. What it names is fetched from this machine, which may reach what they cannot:
at these addresses clouds hand out credentials. Ordinary private networks are asked, for people keep photographs there.
The address itself is looked at, just before it is connected to, so that neither a name, a redirect nor another way of
writing it goes by.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any, Final

import aiohttp

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_METADATA: Final = frozenset(
    ipaddress.ip_address(each)
    for each in (
        "168.63.129.16",  # Azure
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle
        "fd00:ec2::254",  # AWS
        "fd20:ce::254",  # Google
    )
)
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052


class ForbiddenAddressError(OSError):
    """A server's address is one that is not asked."""


def is_forbidden(address: str) -> bool:
    """Tell whether an address is link-local (RFC 3927, RFC 4291) or of a cloud's metadata service, however written.

    Args:
        address: of IPv4 or IPv6, in numbers; a zone behind ``%`` is allowed.
    """
    found = ipaddress.ip_address(address.split("%", 1)[0])
    return any(each.is_link_local or each in _METADATA for each in (found, *_within(found)))


def find_forbidden(error: BaseException) -> ForbiddenAddressError | None:
    """Return what :func:`get_client`'s client raised, if that is at the bottom of an error; libraries wrap it."""
    at: BaseException | None = error
    while at is not None and not isinstance(at, ForbiddenAddressError):
        at = getattr(at, "os_error", None) or at.__cause__ or at.__context__
    return at


async def get_client(**options: Any) -> aiohttp.ClientSession:
    """Make the client by which fsspec asks servers of the web."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=_open_socket), **options)


def _open_socket(info: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, address = info
    if is_forbidden(address[0]):
        raise ForbiddenAddressError(f"its address {address[0]} is link-local or of a cloud's metadata service")
    return socket.socket(family, kind, protocol)


def _within(address: _Address) -> list[_Address]:
    """Return the IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    translated = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None
    return [each for each in (address.ipv4_mapped, address.sixtofour, translated) if each is not None]
