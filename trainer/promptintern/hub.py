"""The errors of a model hub's client, as messages for users."""

import contextlib
from collections.abc import Iterator

from promptintern.advice import set_hub_token
from promptintern.errors import InfrastructureFailed, UserError
from promptintern.storage.retry import is_transient_status


@contextlib.contextmanager
def hub_errors(field: str, what: str, *, name: str) -> Iterator[None]:
    """Inside this block, turn the errors of the hub's client into those of this program.

    Args:
        field: The field of the job that names the repository.
        what: The repository in words, such as "the model ORG/NAME@main".
        name: The name of the repository, ORG/NAME.

    Raises:
        UserError: at ``field``, if the repository does not exist or may not be read.
        InfrastructureFailed: if the hub does not respond.
    """
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.errors import HTTPError as HubError  # type: ignore[attr-defined]  # its HTTP client's error

    try:
        yield
    except GatedRepoError:
        raise UserError.at(field, f"{name} is gated: accept its terms, and {set_hub_token()}") from None
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise UserError.at(field, f"{what} does not exist, or the token has no access to it") from None
    except (HubError, OSError) as error:
        message = f"{name} could not be fetched from its hub: {error}"
        raise (
            InfrastructureFailed(f"{field}: {message}") if _is_transient(error) else UserError.at(field, message)
        ) from None
    except ValueError as error:  # the hub's client found the repository's name invalid
        raise UserError.at(field, str(error)) from None


def _is_transient(error: Exception) -> bool:
    """Return whether ``error``, or the cause that the hub's client wrapped, means that the hub may soon respond."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, LocalEntryNotFoundError):
        return isinstance(error.__cause__, Exception) and _is_transient(error.__cause__)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return is_transient_status(status)
    if isinstance(error, OfflineModeIsEnabled):
        return False
    return not isinstance(error, OSError) or isinstance(error, ConnectionError | TimeoutError)
