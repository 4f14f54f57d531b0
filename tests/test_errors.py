"""Messages: names of files cannot command the terminal that shows them."""

import pytest

from beit_jax.errors import Mistakes, UserError, printable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\rb\tc\nd", r"a\rb\tc\nd"),
        ("\x9b2J", r"\x9b2J"),
        ("gpj.\u202eexe", r"gpj.\u202eexe"),
        ("Käfer 虫 \u00a0.jpg", "Käfer 虫 \u00a0.jpg"),
    ],
)
def test_control_characters_are_shown(name, shown):
    assert printable(name) == shown


def test_mistakes_are_printable_and_keep_their_lines():
    mistakes = Mistakes()
    mistakes.add("no \x1b[2J here")
    mistakes.add("nor \x07 here")
    with pytest.raises(UserError) as error:
        mistakes.raise_all()
    assert str(error.value) == "2 things are wrong:\n  no \\x1b[2J here\n  nor \\x07 here"
    assert str(UserError(f"stage a: {error.value}")).count("\n") == 2
