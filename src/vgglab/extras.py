"""What is not installed with the project itself but by `uv sync --extra`."""

from importlib.util import find_spec

from vgglab.errors import InputError


def require(package: str, *, extra: str, what: str) -> None:
    """Look for a package, without importing it.

    Args:
        package: as it is imported.
        extra: the project's extra that installs it.
        what: the setting or script that needs it.

    Raises:
        InputError: it is not installed.
    """
    if find_spec(package) is None:
        raise InputError(f"{what} needs: uv sync --extra {extra}")
