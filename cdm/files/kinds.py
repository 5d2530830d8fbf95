"""What a file is that is not what was expected, in words, with what to do."""

import re
from pathlib import Path

HEAD = 512  # bytes that are looked at
BEFORE_TORCH_1_6 = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")  # in the first pickle of a file
_PAGE = re.compile(rb"\s*<(!doctype html|html|head|\?xml)", re.IGNORECASE)


def odd_kind(head: bytes) -> str:
    """What downloads and copies leave in the place of a binary file, by its first bytes.

    Args:
        head: the first HEAD bytes of the file, or all it has.
    Returns:
        What it is, such as "is empty"; "" where these bytes do not tell.
    """
    if not head:
        return "is empty"
    if head.startswith(b"version https://git-lfs"):
        return "is a git-LFS pointer (type git lfs pull in its folder)"
    if is_web_page(head):
        return "is a web page, which a server sent in place of the file"
    if head.startswith((b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"\xfd7zXZ")):
        return "is packed by gzip, 7z, rar or xz (unpack it first)"
    if not head.strip(b"\0"):
        return "begins with zeros, as a download that was cut off does"
    return ""


def is_web_page(head: bytes) -> bool:
    """Whether a file begins as HTML or XML does: no file of a dataset does."""
    return _PAGE.match(head.removeprefix(b"\xef\xbb\xbf")) is not None


def kind_of_weights(head: bytes, path: str | Path) -> str:
    """What stands in the place of an archive of torch.save, such as weights in another format.

    Args:
        head: as in `odd_kind`.
        path: of the file, for what to type.
    Returns:
        What it is; "" where these bytes do not tell.
    """
    name = repr(str(path))
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40:
        return (
            'is a safetensors file. Make one of torch of it: python -c "import torch; from '
            f"safetensors.torch import load; w = load(open({name}, 'rb').read()); "
            f'torch.save(w, {name})"'
        )
    if BEFORE_TORCH_1_6 in head[:32]:
        return (
            'is of torch before 1.6. Write it anew: python -c "import torch; torch.save('
            f'torch.load({name}, weights_only=True), {name})"'
        )
    return odd_kind(head)


def utf8_text(data: bytes) -> str:
    """The text in the bytes of a file, without a byte order mark.

    Raises:
        ValueError: not UTF-8; says what was found and what to type. It ends without a full stop.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        other = "UTF-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "GB18030"
        guess = "it begins as UTF-16 does" if other == "UTF-16" else "for a file in GBK"
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"cannot be read as UTF-8 text (line {line} has the byte {data[error.start]:#04x}); "
            f"save it again as UTF-8, such as ({guess}) by: iconv -f {other} -t UTF-8 OLD > NEW"
        ) from None
