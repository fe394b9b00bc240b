"""The one exception that means "what the person gave cannot be used".

Every floor may raise it; `vgglab.config.door` shows its message as one line and exits with code 2.
Anything else that escapes is a bug of ours and keeps its traceback.
"""


class InputError(Exception):
    """Bad input: a wrong setting, a missing or broken file. The message is one readable line."""
