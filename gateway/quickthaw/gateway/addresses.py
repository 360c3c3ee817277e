"""Which addresses belong to the public internet, and which to somebody's own network or machine."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

_NAT64: Final = IPv6Network("64:ff9b::/96")
_COMPATIBLE: Final = IPv6Network("::/96")
_IPV4_BITS: Final = 0xFFFF_FFFF


def is_public(address: str) -> bool:
    """False for private, loopback, link-local, multicast, unspecified, shared and reserved
    addresses, also where an IPv6 address carries one of IPv4, and for what is no address."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return all(_is_public(each) for each in (parsed, *_carried(parsed)))


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            return True  # As good as the IPv4 address in it, which is judged too.
        if address.is_site_local:
            return False
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_unspecified
    )


def _carried(address: IPv4Address | IPv6Address) -> list[IPv4Address]:
    if isinstance(address, IPv4Address):
        return []
    carried = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64 or address in _COMPATIBLE:
        carried.append(IPv4Address(int(address) & _IPV4_BITS))
    return [each for each in carried if each is not None]
