import pytest

from vgglab.errors import InputError
from vgglab.extras import require


def test_what_is_missing_is_named_with_what_installs_it() -> None:
    require("torch", extra="none", what="this")
    with pytest.raises(InputError, match=r"^data\.x=y needs: uv sync --extra z$"):
        require("no_such_package", extra="z", what="data.x=y")
