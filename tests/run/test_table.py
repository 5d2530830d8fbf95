"""samples.tsv: every caption comes back as it was."""

import io
from dataclasses import replace

import pytest

from cdm.datasets import Sample
from cdm.run.table import COLUMNS, read_rows, row_of, table_header, table_rows

SAMPLE = Sample("HUMANISE", "7", 1, "sit", "scene0001", (0.1, -2.0, 1e-9))
TEXTS = (
    "",
    'say "hello"\tthere',
    "line\nbreak",
    "carriage\rreturn",
    "椅子 🪑",
    " \u2028 \x85 ",
    "'",
)


def test_samples_come_back_from_the_table_as_they_were():
    samples = [replace(SAMPLE, text=text, caption_idx=i) for i, text in enumerate(TEXTS)]
    assert read_rows(io.BytesIO(table_rows(3, samples)), 99) == samples


def test_only_as_many_rows_are_read_as_asked_for():
    table = io.BytesIO(table_rows(0, [SAMPLE] * 5))
    assert read_rows(table, 2) == [SAMPLE] * 2


def test_the_file_stays_open_for_who_opened_it():
    file = io.BytesIO(table_rows(0, [SAMPLE]))
    read_rows(file, 1)
    assert not file.closed


def test_a_row_has_one_value_for_each_column():
    assert table_header().decode().split() == list(COLUMNS)
    assert len(row_of(SAMPLE)) == len(COLUMNS) - 1  # the chunk's number comes first


@pytest.mark.parametrize("line", [b"0\ta\tb\n", b"\xff\n", b"0\ta\tb\tx\ts\t1\t2\t3\ttext\n"])
def test_other_bytes_are_a_value_error(line):
    with pytest.raises(ValueError):
        read_rows(io.BytesIO(line), 1)
