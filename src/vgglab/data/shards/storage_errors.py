"""What the providers' libraries raise: what may pass, what does not, and how to say it."""

from vgglab.errors import InputError
from vgglab.text import duration, one_line

_MAY_PASS = (408, 425, 429)  # of the 4xx answers; the others stay as they are
# Classes, or their bases, of botocore, s3transfer, urllib3, requests and Google's libraries.
_NETWORK = {
    "ConnectionError",
    "HTTPClientError",
    "IncompleteReadError",
    "ProtocolError",
    "RetriesExceededError",
    "RetryError",
    "TimeoutError",
    "TransportError",
}


class MissingFileError(InputError):
    """There is no such file, or nobody may know that there is."""


def ask_until(error: Exception, deadline: float, missing_until: float) -> float:
    """Until when to ask again after an error, by `time.monotonic`; 0: waiting does not mend it.

    Args:
        error: what a provider's library raised.
        deadline: of a server that does not answer.
        missing_until: of one that has no such file.
    """
    status = _status(error)
    if status == 404:
        return min(deadline, missing_until)
    if status is not None:
        return deadline if status in _MAY_PASS or status >= 500 else 0.0
    names = {kind.__name__ for kind in type(error).__mro__}
    return 0.0 if names.isdisjoint(_NETWORK) or _is_untrusted(error) else deadline


def gave_up(address: str, error: Exception, seconds: float) -> InputError:
    """The one line on a file that could not be had in so many seconds."""
    kind = MissingFileError if _status(error) in (403, 404) else InputError
    tried = f"; tried for {duration(seconds)} (data.retry_seconds)" if seconds > 5 else ""
    return kind(f"{address}: {reason_of(error)}{tried}")


def reason_of(error: Exception) -> str:
    """The error in one line."""
    status = _status(error)
    if status == 404:
        return "no such bucket or file (404)"
    if status == 403:
        return "access denied (403)"
    if type(error).__name__ in ("NoCredentialsError", "DefaultCredentialsError"):
        return "no credentials; give them as the provider's own tools take them (AWS_PROFILE, " + (
            "AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS), or data.anonymous=true"
        )
    if _is_untrusted(error):
        return "the server's certificate is not trusted (AWS_CA_BUNDLE names one's own)"
    return one_line(str(error)) or type(error).__name__


def _status(error: Exception) -> int | None:
    """The server's answer, as botocore and google.api_core keep it."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    code = getattr(error, "code", None)
    return code if isinstance(code, int) else None


def _is_untrusted(error: Exception) -> bool:
    return "CERTIFICATE_VERIFY_FAILED" in str(error)
