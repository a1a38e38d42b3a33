"""The weight exchange: moves named arrays in rounds, independently of networks and scans.

It never imports TensorFlow. The public names below are loaded on first use, so that a site does not
load server code, nor a server site code.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from federated.errors import FederationError
    from federated.security.provisioning import provision
    from federated.server.config import ServerConfig
    from federated.server.serve import serve
    from federated.site.grpc_transport import connect
    from federated.site.loop import run as run_site
    from federated.site.trainer import SiteTrainer

_PUBLIC = {
    "FederationError": ("errors", "FederationError"),
    "ServerConfig": ("server.config", "ServerConfig"),
    "SiteTrainer": ("site.trainer", "SiteTrainer"),
    "connect": ("site.grpc_transport", "connect"),
    "provision": ("security.provisioning", "provision"),
    "run_site": ("site.loop", "run"),
    "serve": ("server.serve", "serve"),
}
__all__ = [
    "FederationError",
    "ServerConfig",
    "SiteTrainer",
    "connect",
    "provision",
    "run_site",
    "serve",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'federated' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(importlib.import_module(f"federated.{module}"), attribute)
