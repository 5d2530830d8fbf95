"""How messages list what they are about."""

import json

from cdm.errors import BadItem, listed, printable


def test_few_entries_are_listed_in_full():
    assert listed(["a", "b"], 2) == "a\n  b"
    assert listed([], 2) == ""


def test_many_entries_are_cut_and_the_rest_is_counted():
    assert listed(range(5), 2, ", ") == "0, 1, ... and 3 more"
    assert listed((name for name in "abc"), 2) == "a\n  b\n  ... and 1 more"


def test_what_a_terminal_would_obey_is_printed_as_its_json_escape():
    assert printable("\x1b[2Jgone\x9b1m\x7f\r\a") == r"\u001b[2Jgone\u009b1m\u007f\u000d\u0007"
    assert printable("a\u202eb\u2028c") == r"a\u202eb\u2028c"
    assert printable(b"caf\xe9.npz".decode("utf-8", "surrogateescape")) == r"caf\udce9.npz"


def test_text_of_any_language_is_printed_as_it_is():
    text = "sit\ton the 椅子\u3000— sít 🪑\nnext line"
    assert printable(text) == text


def test_what_a_stream_cannot_encode_is_escaped_and_json_stays_the_same_value():
    assert printable("█ 椅 a", "ascii") == r"\u2588 \u6905 a"
    value = {"text": "🪑\x1b\u2029é"}
    line = printable(json.dumps(value, ensure_ascii=False), "ascii")
    assert line.isascii() and json.loads(line) == value


def test_an_error_message_is_printable():
    assert str(BadItem("clip \x1b]0;title")) == r"clip \u001b]0;title"
