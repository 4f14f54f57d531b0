"""Lengths as text, "10 epochs", "200 steps" or "5%" of the run, and schedules, "cosine" or "linear, 90 epochs"."""

import re

from beit_jax.errors import UserError

SCHEDULES = ("cosine", "linear", "cosine_by_epoch")
PATTERN = re.compile(r"(\d{1,12}(?:\.\d{1,12})?) *(epochs?|steps?|%)")


def in_steps(text: str, steps_per_epoch: int, total: int) -> int:
    """The number of steps, at least 1 unless the text is empty or says 0.

    Args:
      text: a duration.
      steps_per_epoch: length of an epoch.
      total: length of the run in steps, of which a percentage is taken.

    Raises:
      UserError: the text is no duration.
    """
    if problem := check_duration(text):
        raise UserError(f"found {text!r}, expected {problem}")
    if not text:
        return 0
    number, unit = PATTERN.fullmatch(text).groups()
    steps = {"e": steps_per_epoch, "s": 1, "%": total / 100}[unit[0]]
    return max(round(float(number) * steps), int(float(number) > 0))


def check_duration(text: str) -> str:
    """The check of a key that holds a duration."""
    if not text:
        return ""
    match = PATTERN.fullmatch(text)
    if match is None or (match.group(2).startswith("step") and "." in match.group(1)):
        return "a duration such as '10 epochs', '200 steps' or '5%' of the run, or nothing"
    return ""


def parse_schedule(text: str, steps_per_epoch: int, total: int) -> tuple[str, int]:
    """The kind of a schedule, and its length in steps; 0 for that of the run. See `in_steps` for the arguments.

    Raises:
      UserError: the text is no schedule.
    """
    if problem := check_schedule(text):
        raise UserError(f"found {text!r}, expected {problem}")
    kind, _, length = text.partition(",")
    return kind.strip(), in_steps(length.strip(), steps_per_epoch, total)


def check_schedule(text: str) -> str:
    """The check of a key that holds a schedule."""
    kind, comma, length = text.partition(",")
    length = length.strip()
    right = kind.strip() in SCHEDULES and not check_duration(length) and bool(comma) == bool(length)
    right = right and not re.match(r"0+(\.0+)? *[a-z%]", length)
    return "" if right else f"one of {', '.join(SCHEDULES)}, or with a length, such as 'cosine, 90 epochs'"
