"""Answers over https: redirects looked at, a token for its own host alone, faults in words."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from time import time
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from urllib3.exceptions import NameResolutionError

from shared.addresses import TOKENS, check, host, is_loopback, shown
from shared.errors import Code, LoraError

HOPS = 10
PATIENCE = (15, 60)  # seconds to connect, and between two pieces of an answer
_SHA256 = re.compile(r'"?([0-9a-f]{64})"?')


class Passing(LoraError):
    """A fault that may pass by. ``wait``: seconds that the server asks for, if it does."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(Code.UNREACHABLE, message, retryable=True)
        self.wait = wait


class Web:
    """Asks servers. ``token`` is told to ``civitai``'s host and to no other, whoever redirects."""

    def __init__(self, token: str, civitai: str) -> None:
        self._token = token
        self._civitai = civitai
        self.answered = False  # whether anybody has, ever
        self._session = requests.Session()  # takes proxies from the environment

    def get(
        self, url: str, headers: Mapping[str, str] | None = None
    ) -> tuple[requests.Response, str]:
        """An answer whose body is still to be read, and the SHA-256 that a redirect on the way
        told of it, if one did.

        Raises LoraError: BAD_REQUEST for an address that is not taken, NOT_FOUND, UNREACHABLE;
        Passing.
        """
        first, sha256 = url, ""
        for _ in range(HOPS):
            check(url)
            if url.startswith("http:") and not is_loopback(first):
                text = f"{host(first)} sends on to this machine itself, and is not followed."
                raise LoraError(Code.BAD_REQUEST, text)
            response = self._ask(url, headers or {})
            linked = _SHA256.fullmatch(response.headers.get("X-Linked-ETag", ""))
            sha256 = linked[1] if linked else sha256
            if not response.is_redirect:
                self._refuse(response, url)
                return response, sha256
            response.close()
            url = urljoin(url, response.headers["Location"])
            if self._is_civitai(url) and urlsplit(url).path.startswith("/login"):
                raise self._closed(first)
        raise LoraError(Code.UNREACHABLE, f"{shown(first)} sends on and on, and to no file.")

    def read(self, url: str) -> bytes:
        """A short answer, whole. Raises as ``get``."""
        with self.get(url)[0] as response:
            try:
                return response.content
            except requests.RequestException as error:
                raise explained(error, url) from None

    def _ask(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        mine = self._token and self._is_civitai(url)

        def authorize(request: Any) -> Any:  # instead of what a .netrc would add
            if mine:
                request.headers["Authorization"] = f"Bearer {self._token}"
            return request

        try:
            response = self._session.get(
                url, headers={"Accept-Encoding": "identity", **headers}, auth=authorize,
                stream=True, allow_redirects=False, timeout=PATIENCE,
            )  # fmt: skip
        except (requests.RequestException, OSError) as error:
            raise explained(error, url) from None
        self.answered = True
        return response

    def _refuse(self, response: requests.Response, url: str) -> None:
        status, name = response.status_code, host(url)
        if status in (200, 206, 416):
            return
        response.close()
        match status:
            case 401 | 403 if self._is_civitai(url):
                raise self._closed(url)
            case 401 | 403:
                raise LoraError(
                    Code.NOT_FOUND,
                    f"{name} refuses {shown(url)} ({status}): it wants a login, or the address has "
                    "expired. Fetch the file yourself and add it by its path.",
                )
            case 404 | 410:
                raise LoraError(Code.NOT_FOUND, f"{name} has nothing at {shown(url)} ({status}).")
            case 429:
                raise Passing(f"{name} says that it is asked too often (429)", _wait(response))
            case _ if status >= 500 or status == 408:
                raise Passing(f"{name} has a fault of its own ({status})", _wait(response))
        raise LoraError(Code.UNREACHABLE, f"{name} refuses {shown(url)} ({status}).")

    def _is_civitai(self, url: str) -> bool:
        return host(url) == host(self._civitai)

    def _closed(self, url: str) -> LoraError:
        """What Civitai gives to some accounts only."""
        reason = (
            "not with the token given: that is wrong, or the model is not for its account"
            if self._token
            else "only with an account's token: make one there under Account settings, API keys, "
            f"and give it in {TOKENS[0]}"
        )
        return LoraError(Code.NOT_FOUND, f"{host(url)} gives {shown(url)} {reason}.")


def explained(error: Exception, url: str) -> LoraError:
    """What the library says in words of ours: its own tell the whole address, with its secrets."""
    name, causes = host(url), list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return LoraError(
                Code.UNREACHABLE,
                f"The certificate of {name} is not to be trusted ({cause.verify_message}). If a "
                "proxy of yours stands between, name its certificates in REQUESTS_CA_BUNDLE.",
            )
    if any(isinstance(cause, requests.exceptions.ProxyError) for cause in causes):
        return Passing("The proxy that HTTPS_PROXY or HTTP_PROXY names gives no answer that helps")
    if any(isinstance(cause, NameResolutionError | socket.gaierror) for cause in causes):
        return Passing(f"The name {name} is not known here: there is no network, or it is mistyped")
    if isinstance(error, requests.Timeout):
        return Passing(f"{name} does not answer")
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return Passing(f"{name} speaks no TLS that this machine understands")
    return Passing(f"The connection to {name} broke")


def _causes(error: BaseException) -> Any:
    """An error, and what it was raised for; the library keeps that among the arguments."""
    yield error
    for one in (*error.args, getattr(error, "reason", None)):
        if isinstance(one, BaseException):
            yield from _causes(one)


def _wait(response: requests.Response) -> float | None:
    """Seconds until to ask again, of Retry-After: a number, or a date."""
    text = response.headers.get("Retry-After", "")
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time())
    except (TypeError, ValueError):
        return None
