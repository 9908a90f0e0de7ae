"""Whether the model and data hub can be reached, asked once and briefly."""

from __future__ import annotations

import functools
import os
import socket
from urllib.parse import urlsplit

_SECONDS = 3.0


@functools.cache
def hub_reachable() -> bool:
    """True where a connection to the hub opens within seconds (or a proxy stands between and cannot be asked)."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    url = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    port = url.port or (80 if url.scheme == "http" else 443)
    try:
        with socket.create_connection((url.hostname or "", port), timeout=_SECONDS):
            return True
    except OSError:
        return False


def settle_offline() -> None:
    """Put the hub's libraries into offline mode where the hub cannot be reached.

    Cached files go on working and a missing one is an error at once, where the libraries would retry for half a
    minute. They read the setting when first imported, so this comes before.
    """
    if not hub_reachable():
        os.environ["HF_HUB_OFFLINE"] = "1"
