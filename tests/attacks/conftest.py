"""The gateway of the gateway's own tests."""

from tests.gateway.conftest import gateway, gateway_settings, serve, turns

__all__ = ["gateway", "gateway_settings", "serve", "turns"]
