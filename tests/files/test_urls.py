"""URLs: told from paths, refused with secrets in them, shown without."""

import pytest

from cdm.errors import ConfigError
from cdm.files import checked_url, is_url, redacted


@pytest.mark.parametrize("text", ["s3://bucket/data", "https://host", "HTTP://x/y", "memory://a"])
def test_a_url_is_told_from_a_path(text):
    assert is_url(text)
    assert not is_url(f"./{text}") and not is_url(text.replace("://", ":/"))


@pytest.mark.parametrize(
    ("url", "used"),
    [
        ("s3://bucket/data/", "s3://bucket/data"),
        ("HTTPS://Host/Data", "https://Host/Data"),
        ("https://host:8080", "https://host:8080"),
        ("file:///data/my%20set", "/data/my set"),
    ],
)
def test_a_url_is_recorded_in_one_form(url, used):
    assert checked_url(url, "data_dir") == used


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://me:geheim@host/data", "user name or password"),
        ("s3://AKIA:geheim@bucket/data", "user name or password"),
        ("https://host/data?token=geheim", "without '\\?' and '#'"),
        ("https://host/data#geheim", "without '\\?' and '#'"),
        ("https:///data", "name of a host or bucket"),
        ("s3://", "name of a host or bucket"),
        ("http://[::1/data", "is no URL .Invalid IPv6"),
        ("http://host:99999/data", "is no URL .Port out of range"),
        ("http://host:abc/data", "is no URL .Port could not"),
        ("s3://my bucket/data", "is no URL"),
        ("file://host/data", "expected file:/// and a path"),
        ("file://", "expected file:/// and a path"),
    ],
)
def test_a_url_with_a_secret_or_without_a_host_is_refused_and_the_secret_is_not_shown(url, words):
    with pytest.raises(ConfigError, match=words) as caught:
        checked_url(url, "data_dir")
    assert "geheim" not in str(caught.value) and "AKIA" not in str(caught.value)
    assert str(caught.value).startswith("data_dir: found ")


def test_secrets_in_the_words_of_a_library_are_left_out():
    said = "GET 'https://me:geheim@host/a?X-Amz-Signature=geheim&b=geheim' and (s3://k:geheim@b/c)"
    assert redacted(said) == "GET 'https://host/a?...' and (s3://b/c)"
    assert redacted("mail me@host about a?b") == "mail me@host about a?b"
