"""What may be told of an error of a service: one line without secrets."""

import os
import re

# In names of environment variables. Addresses may have passwords in them.
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|_UR[IL]$", re.IGNORECASE)
SHOWN = 300  # characters


def describe(error: BaseException) -> str:
    """An error in one line, without values of such variables, and without users, passwords and queries of addresses."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    secrets = [(value, name) for name, value in os.environ.items() if SECRET.search(name) and len(value) > 3]
    for value, name in sorted(secrets, key=lambda pair: -len(pair[0])):  # one may be a part of another
        text = text.replace(value, f"${name}")
    text = re.sub(r"(?<=://)\S*@", "", text)  # up to the last @: a password may hold / and @
    return re.sub(r"\?[^\s?'\")]*=[^\s'\")]*", "?...", text)[:SHOWN]
