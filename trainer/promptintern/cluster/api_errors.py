"""Translation of the API server's errors, and of failed connections, into messages for the user."""

import json
import re
from collections.abc import Callable
from typing import Any

import urllib3.exceptions
from kubernetes.client.exceptions import ApiException
from promptintern_api.kind import GROUP, PLURAL

from promptintern.api_status import parse_status
from promptintern.errors import Problem, RunFailed, UserError

INSTALL = (
    "PromptIntern is not installed in this cluster; an administrator can install it with: helm install promptintern "
    "charts/promptintern --namespace promptintern-system --create-namespace"
)


class Forbidden(UserError):  # noqa: N818 -- the server's own word
    """The user lacks the right to make the request."""


class NotFound(UserError):  # noqa: N818 -- the server's own word
    """The object that the request names does not exist."""


class AlreadyExists(UserError):  # noqa: N818 -- the server's own word
    """An object with the same name already exists."""


class Conflict(UserError):  # noqa: N818 -- the server's own word
    """The object has changed since the client read it, so the write was refused."""


class Expired(RunFailed):
    """The resourceVersion from which a watch should start is too old; the caller has to read the object again."""


class Unreachable(RunFailed):
    """The API server did not answer, or reported an error that a retry may resolve."""


_FORBIDDEN = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)" in API group "(?P<group>[^"]*)"'
    r'(?: in the namespace "(?P<namespace>[^"]*)")?'
)
_POLICY = re.compile(r"ValidatingAdmissionPolicy .* denied request: (?P<message>.*)", re.DOTALL)
_HANDSHAKE = re.compile(r"Handshake status (?P<status>\d+)")
_Body = dict[str, Any]


def translate_error(error: Exception, *, server: str, where: str) -> UserError | RunFailed:
    """Return the exception to raise in place of ``error``, with a message for the user.

    Args:
        error: The exception that the Kubernetes client or a connection raised.
        server: The name of the API server, for the message.
        where: The object that the request concerns; it becomes the ``where`` of the problem.
    """
    status, body, message = _response(error) if isinstance(error, ApiException) else (0, {}, "")
    translate = _TRANSLATIONS.get(status, _invalid)
    if translate is not _unreachable:
        return translate(body, message, where, server)
    return _unreachable(body, _connection_problem(error), where, server)


def _response(error: ApiException) -> tuple[int, dict[str, Any], str]:
    """Return the HTTP status, body and message of ``error``, which for a refused WebSocket are only in its text."""
    status, text = error.status or 0, error.body
    handshake = _HANDSHAKE.search(str(error.reason)) if status == 0 else None
    if handshake:
        status = int(handshake["status"])
        text = _embedded_status(str(error.reason))
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    body = parse_status(text)
    message = body.get("message") or (text or "").strip() or str(error.reason or f"status {status}")
    return status, body, message


def _embedded_status(text: str) -> str:
    """Return the JSON of the Status object in a WebSocket error's ``text``, or an empty string if there is none."""
    start = text.find('{"kind":"Status"')
    if start < 0:
        return ""
    for json_text in (text[start:], text[start:].replace("\\\\", "\\")):  # unescaped, or escaped by the repr of bytes
        try:
            return json.dumps(json.JSONDecoder().raw_decode(json_text)[0])
        except ValueError:
            continue
    return ""


def _connection_problem(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    is_timeout = isinstance(reason, urllib3.exceptions.TimeoutError)
    if is_timeout and not isinstance(reason, urllib3.exceptions.NewConnectionError):
        return "no answer in time"
    text = str(reason).strip() or type(reason).__name__
    errno = re.search(r"\[Errno -?\d+\] ([^'\")\]]+)", text)
    if errno:
        return errno[1].strip()
    certificate = re.search(r"certificate verify failed[^()]*", text)
    return certificate[0].strip() if certificate else text.splitlines()[0][:200]


def _forbidden_message(message: str) -> str:
    match = _FORBIDDEN.search(message)
    if not match:
        policy = _POLICY.search(message)
        return policy["message"].strip() if policy else f"is forbidden: {message}"
    group = f".{match['group']}" if match["group"] else ""
    scope = f"in namespace {match['namespace']}" if match["namespace"] else "in the whole cluster"
    return (
        f"{match['user']} may not {match['verb']} {match['resource']}{group} {scope}; ask an administrator for a Role "
        f"that allows the verb {match['verb']} on {match['resource']}{group}"
    )


def _unreachable(_body: _Body, message: str, _where: str, server: str) -> RunFailed:
    return Unreachable(
        f"{server} cannot be reached ({message}); check that the cluster is up and that your network (VPN) reaches it"
    )


def _busy(_body: _Body, message: str, _where: str, server: str) -> RunFailed:
    return Unreachable(f"{server} could not answer ({message.splitlines()[0]}); try again in a moment")


def _unauthorized(_body: _Body, _message: str, _where: str, server: str) -> UserError:
    return UserError.at(server, "does not accept your credentials; log in again, or choose another --context")


def _forbidden_error(_body: _Body, message: str, where: str, _server: str) -> UserError:
    return Forbidden([Problem(where=where, message=_forbidden_message(message))])


def _conflict(body: _Body, message: str, where: str, _server: str) -> UserError:
    kind = AlreadyExists if body.get("reason") == "AlreadyExists" else Conflict
    return kind([Problem(where=where, message=message)])


def _expired(_body: _Body, message: str, _where: str, _server: str) -> RunFailed:
    return Expired(message)


def _not_found(body: _Body, _message: str, where: str, _server: str) -> UserError:
    details = body.get("details") or {}
    if details.get("kind") == "namespaces":
        return NotFound([Problem(where=f"namespace {details.get('name')}", message="does not exist")])
    if details.get("name"):
        return NotFound([Problem(where=where, message="does not exist")])
    return UserError.at(f"{PLURAL}.{GROUP}", INSTALL)


def _invalid(body: _Body, message: str, where: str, _server: str) -> UserError:
    policy = _POLICY.search(message)
    if policy:
        return UserError.at(where, policy["message"].strip())
    causes = [cause for cause in (body.get("details") or {}).get("causes") or [] if cause.get("message")]
    problems = [
        Problem(where=cause.get("field") or where, message=_without_object_value(cause["message"])) for cause in causes
    ]
    if problems:
        return UserError(problems)
    unknown = re.findall(r'unknown field "([^"]+)"', message)
    if unknown:
        unknown_message = "is unknown to this cluster's version of PromptIntern"
        return UserError([Problem(where=field, message=unknown_message) for field in unknown])
    return UserError.at(where, message)


_TRANSLATIONS: dict[int, Callable[[_Body, str, str, str], UserError | RunFailed]] = {
    0: _unreachable,
    401: _unauthorized,
    403: _forbidden_error,
    404: _not_found,
    409: _conflict,
    410: _expired,
    **dict.fromkeys((429, 500, 502, 503, 504), _busy),
}


def _without_object_value(message: str) -> str:
    """Return ``message`` without a leading ``Invalid value: "object": ``, which does not help the user."""
    return re.sub(r'^Invalid value: (?:"object"|"string"|"array"|null|\{.*?\}): ', "", message)
