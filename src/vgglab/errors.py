"""The exceptions that mean "what the person gave cannot be used".

Every floor may raise it; `vgglab.config.door` shows its message as one line and exits with code 2.
Anything else that escapes is a bug of ours and keeps its traceback.
"""


class InputError(Exception):
    """Bad input: a wrong setting, a missing or broken file. The message is one readable line."""


class BrokenImageError(InputError):
    """One image is at fault, and others may be fine: what `on_error=skip` passes over.

    Storage that does not answer, or a damaged set as a whole, is no broken image.
    """
