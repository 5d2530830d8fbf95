"""URLs of data that lies elsewhere: told from paths, checked, and shown without secrets."""

import re
from urllib.parse import unquote, urlsplit

from cdm.errors import ConfigError

HTTP = ("http", "https")


def is_url(path: object) -> bool:
    """Whether this names something on a server, as `s3://bucket/data` does."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", str(path)) is not None


def checked_url(url: str, key: str) -> str:
    """The URL of a folder or file as it is used and recorded; the path itself for `file://`.

    It goes into the plan, the records and the archive. So it must hold nothing secret.

    Args:
        key: what the URL is given for, named in the message.
    Raises:
        ConfigError: it names a user, a password or a query, or no host or bucket.
    """
    shown = redacted(url)
    try:
        parts = urlsplit(url)
        if parts.port == 0 or re.search(r"\s", parts.netloc):
            raise ValueError("no host has such a name or port")
    except ValueError as error:  # brackets that are not closed, a port that is no number
        raise ConfigError(
            f"{key}: found {shown}, which is no URL ({error}); expected one such as "
            "https://host/path or s3://bucket/path"
        ) from None
    if "@" in parts.netloc:
        raise ConfigError(
            f"{key}: found {shown} with a user name or password in it, which would stand in the "
            "archive and in logs. Write the URL without them: ~/.netrc holds those of http "
            "servers, ~/.aws/credentials those of S3 (docs/data.md)"
        )
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        raise ConfigError(
            f"{key}: found {shown}, expected the URL of a folder without '?' and '#': file names "
            "are written behind it, and signed links would stand in the archive (docs/data.md)"
        )
    scheme = parts.scheme.lower()
    if scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise ConfigError(
                f"{key}: found {shown}, expected file:/// and a path on this machine, or the path "
                "alone"
            )
        return unquote(parts.path)
    if scheme in (*HTTP, "s3") and not parts.netloc:
        raise ConfigError(f"{key}: found {shown}, expected the name of a host or bucket behind //")
    return f"{scheme}://{url.split('://', 1)[1].rstrip('/')}"


def redacted(text: object) -> str:
    """The text without users, passwords and queries of the URLs in it.

    Messages of servers and libraries quote URLs, and after a redirection also signed ones.
    """
    text = re.sub(r"(?<=://)[^/\s'\"]*@", "", str(text))
    return re.sub(r"(://[^\s?#'\"<>]*)[?#][^\s'\"<>)]*", r"\1?...", text)
