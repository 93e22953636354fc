"""Whom a client of https:// believes: what the system trusts, and an operator's own authorities beside it."""

import ssl

import httpx2


def trusting(ca_file: str | None) -> ssl.SSLContext | bool:
    """For the `verify` of an HTTP client. Never less than a whole check: of certificate, authority and host name.

    Raises OSError or ssl.SSLError for a file that holds no certificates; settings find that at the start.
    """
    if ca_file is None:
        return True
    context = httpx2.create_ssl_context()
    context.load_verify_locations(ca_file)
    return context
