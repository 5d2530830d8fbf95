"""Which of HUMANISE's four actions a caption asks for."""

import re

ACTIONS = ("sit", "lie", "stand up", "walk")
_WORDS = {
    "sit": r"sit|sits|sitting|seat|seated",
    "lie": r"lie|lies|lay|lays|lying|laying",
    "stand up": r"(?:stand|stands|standing|get|gets|getting)\s+up|rise|rises|rising",
    "walk": r"walk|walks|walking|go|goes|going",
}
_STATED = re.compile(rf"\baction=({'|'.join(ACTIONS)})\b")
_SPOKEN = re.compile(
    "|".join(f"(?P<{k.replace(' ', '_')}>\\b(?:{w})\\b)" for k, w in _WORDS.items())
)


def action_of(text: str) -> str:
    """One of ACTIONS, or "" where none is named.

    Args:
        text: a caption ("stand up from the red chair"), of which the first word of an action
            counts, or a table's column `others` that states it ("action=stand up;target=chair").
    """
    stated = _STATED.search(text)
    if stated:
        return stated[1]
    spoken = _SPOKEN.search(text.lower())
    return (spoken.lastgroup or "").replace("_", " ") if spoken else ""
