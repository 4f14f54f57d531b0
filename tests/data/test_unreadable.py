import pytest

from beit_jax.data.unreadable import Unreadable
from beit_jax.errors import UserError


def test_counts_and_names_once(caplog):
    account = Unreadable(0.5)
    account.add(10, [b"a.jpg", b"b\xff.jpg"])
    account.add(10, [b"a.jpg"])
    account.check()
    assert (account.seen, account.count) == (20, 3)
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        "cannot read the image a.jpg (1 unreadable so far)",
        "cannot read the image b\ufffd.jpg (2 unreadable so far)",
    ]


def test_too_many():
    account = Unreadable(0.01)
    account.add(19, [b"%d.jpg" % index for index in range(7)])
    account.check()  # too early to say
    with pytest.raises(UserError, match=r"7 of the 19 images seen cannot be read \(0.jpg, 1.jpg, .*4.jpg, \.\.\.\)"):
        account.check(at_least=1)
