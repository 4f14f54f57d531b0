import pytest

from beit_jax.data.decoding.unreadable import UnreadableImages
from beit_jax.errors import UserError


def numbered(count):
    return [b"%d.jpg" % index for index in range(count)], [b"damaged"] * count


def test_counts_and_names_once(caplog):
    account = UnreadableImages(0.5)
    account.add(10, [b"a.jpg", b"b\xff.jpg"], [b"empty", b"damaged"])
    account.add(10, [b"a.jpg"], [b"empty"])
    account.check()
    assert (account.seen, account.count) == (20, 3)
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        "cannot read the image a.jpg: empty (1 unreadable so far)",
        "cannot read the image b\\xff.jpg: damaged (2 unreadable so far)",
    ]
    account.restart()
    assert (account.seen, account.count) == (0, 0)
    account.add(10, [b"a.jpg"], [b"empty"])
    assert len(caplog.records) == 2


def test_too_many(tmp_path):
    account = UnreadableImages(0.01, tmp_path / "log.txt")
    account.add(19, *numbered(7))
    message = (
        r"7 of the 19 images seen cannot be read \(0.jpg, 1.jpg, .*4.jpg, \.\.\.; all in .*/log.txt; the first: dam"
    )
    with pytest.raises(UserError, match=message):
        account.check(is_sample=False)
    with pytest.raises(UserError, match=message):
        account.check()


@pytest.mark.parametrize(
    ("fraction", "seen", "count", "sample", "whole"),
    [
        (0.01, 64, 1, False, True),  # one, early, says nothing about a large set
        (0.01, 64, 3, False, True),
        (0.01, 64, 4, True, True),  # 0.64 expected, standard deviation 0.8
        (0.01, 10_000, 140, False, True),
        (0.01, 10_000, 141, True, True),
        (0.01, 10_000, 100, False, False),
        (0.0, 10_000, 1, True, True),
        (0.0, 10_000, 0, False, False),
        (1.0, 10, 10, False, False),
        (0.5, 0, 0, False, False),
    ],
)
def test_a_sample_is_given_the_benefit_of_chance(fraction, seen, count, sample, whole):
    for complete, expected in ((False, sample), (True, whole)):
        account = UnreadableImages(fraction)
        account.add(seen, *numbered(count))
        if expected:
            with pytest.raises(UserError, match="cannot be read"):
                account.check(is_sample=not complete)
        else:
            account.check(is_sample=not complete)


def test_the_file_holds_each_name_once(tmp_path, caplog):
    file = tmp_path / "run" / "unreadable.txt"
    train, evaluation = UnreadableImages(1.0, file), UnreadableImages(1.0, file)
    train.add(9, [], [])
    assert not file.exists()
    train.add(9, [b"a.jpg", b"b.jpg"], [b"empty", b"damaged"])
    evaluation.add(9, [b"b.jpg", b"c\td.jpg"], [b"damaged", b"not an image file"])
    train.add(9, [b"c\td.jpg", b"a.jpg", b"e\nf.jpg"], [b"not an image file", b"empty", b"damaged"])
    expected = "a.jpg\tempty\nb.jpg\tdamaged\nc\\td.jpg\tnot an image file\ne\\nf.jpg\tdamaged\n"
    assert file.read_text() == expected
    again = UnreadableImages(1.0, file)  # the run is continued
    again.add(9, [b"b.jpg", b"c\td.jpg", b"e\nf.jpg", b"a.jpg"], [b"damaged"] * 4)
    assert file.read_text() == expected
    assert f"(1 unreadable so far, listed in {file})" in caplog.text


def test_a_line_cut_off_by_a_power_failure_spoils_no_other(tmp_path):
    file = tmp_path / "unreadable.txt"
    file.write_text("a.jpg\tempty\nb.jp")
    UnreadableImages(1.0, file).add(9, [b"a.jpg", b"b.jpg"], [b"empty", b"damaged"])
    assert file.read_text() == "a.jpg\tempty\nb.jp\nb.jpg\tdamaged\n"


def test_names_that_cannot_be_written_are_written_later(tmp_path, caplog):
    file = tmp_path / "unreadable.txt"
    file.mkdir()
    images = UnreadableImages(1.0, file)
    images.add(9, [b"a.jpg"], [b"empty"])
    images.add(9, [b"b.jpg"], [b"empty"])
    assert caplog.text.count(f"cannot write {file}") == 1
    file.rmdir()
    images.add(9, [b"c.jpg"], [b"damaged"])
    assert file.read_text() == "a.jpg\tempty\nb.jpg\tempty\nc.jpg\tdamaged\n"
