"""Index files are read strictly: a wrong row would move all others."""

import os

import pytest
from example_datasets import make, make_h3d

from cdm.datasets.tables import read_index, read_lines, read_row_numbers, read_table
from cdm.errors import DataError


def test_missing_folder_and_index_files_say_what_was_looked_for(data_dir):
    with pytest.raises(DataError, match=r"nowhere: no such folder.*PROX/contact_motion/anno.csv"):
        make(data_dir / "nowhere").samples()
    with pytest.raises(DataError, match=r"PROX/val.txt: no such file.*all.txt.*train.txt.*phase"):
        make(data_dir, phase="val").samples()
    with pytest.raises(DataError, match=r"H3D/val.txt: no such file"):
        make_h3d(data_dir, phase="val").samples()


def test_missing_csv_columns_are_named(data_dir):
    table = data_dir / "PROX/contact_motion/anno.csv"
    table.write_text(table.read_text().replace("scene_trans_y", "y", 1).replace("utterance", "u"))
    with pytest.raises(DataError, match=r"columns scene_trans_y, utterance are missing, found sc"):
        make(data_dir).samples()


def test_broken_csv_row_is_named(data_dir):
    table = data_dir / "PROX/contact_motion/anno.csv"
    table.write_text(table.read_text() + "scene6,0.0,nan,0.0,walk,\n")
    with pytest.raises(DataError, match=r"anno.csv: row 6 .line 8. is .*finite numbers"):
        make(data_dir).samples()


HEADER = "scene_id,scene_trans_x,scene_trans_y,scene_trans_z,utterance,others,frame\n"


@pytest.fixture
def table(tmp_path):
    """Writes the rows of a table, and reads it."""

    def read(*rows: str, header: str = HEADER, encoding: str = "utf-8", newline: str = "\n"):
        text = header + "".join(f"{row}\n" for row in rows)
        (tmp_path / "anno.csv").write_bytes(text.replace("\n", newline).encode(encoding))
        return read_table(tmp_path, "anno.csv")

    return read


@pytest.mark.parametrize(
    "row, found",
    [
        ("room,0,0,0,sit on the chair, then stand up,a/NOUN,60", "has 8 fields, expected 7"),
        ("room,0,0,0,sit", "has 5 fields, expected 7"),
        ("room,0,0,0,sit,,60,", "has 8 fields, expected 7"),
        (" ", "has 1 fields, expected 7"),
    ],
)
def test_a_row_has_as_many_fields_as_the_header(table, row, found):
    with pytest.raises(DataError) as error:
        table("room,0,0,0,lie,,60", row, "room,0,0,0,walk,,60")
    assert f"anno.csv: row 1 (line 3) {found} as in the header" in str(error.value)


@pytest.mark.parametrize(
    "rows",
    [
        ['room,0,0,0,"sit,,60', "room,0,0,0,lie,,60"],
        ['room,0,0,0,"sit,,60', 'room,0,0,0,"lie",,60'],
        ['room,0,0,0,"sit,,60', 'room,0,0,0,lie",,60'],
        ['room,0,0,0,"sit,,60', "room,0,0,0,walk,,60", 'room,0,0,0,lie",,60'],
        ['room,0,0,0,"sit" down,,60'],
    ],
)
def test_an_unclosed_quote_swallows_no_rows(table, rows):
    with pytest.raises(DataError, match=r"anno.csv: row 1.*line 3.*quote"):
        table("room,0,0,0,first,,60", *rows)


def test_quoted_captions_may_hold_commas_quotes_and_line_ends(table):
    texts = ['sit, then "stand"', "two\nlines, of words", "", "$$"]
    quoted = [text.replace('"', '""') for text in texts]
    rows = table(*(f'room,0,0,0,"{text}",,60' for text in quoted), "", "room,1,2,3,last,,60")
    assert [row.utterance for row in rows] == [*texts, "last"]
    assert rows[-1].scene_trans == (1, 2, 3)


def test_a_caption_is_one_line_whatever_separators_it_holds(table):
    text = "a\u2028b\u2029c\x85d\x0ce\x0bf\x1cg"
    (row, last) = table(f"room,0,0,0,{text},,60", "room,0,0,0,last,,60")
    assert (row.utterance, last.utterance) == (text, "last")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_byte_order_marks_and_line_ends_make_no_difference(table, encoding, newline):
    rows = table("room,1,2,3,sitzt über,,60", encoding=encoding, newline=newline)
    assert rows == [("room", (1, 2, 3), "sitzt über")]


@pytest.mark.parametrize("number", ["nan", "inf", "1_0", "٣", "", "1e300", "2e7", "0x1", "1,0"])
def test_an_offset_is_a_plain_number_of_metres(table, number):
    with pytest.raises(DataError, match=r"row 0 \(line 2\) is .*finite numbers of metres"):
        table(f'room,0,"{number}",0,sit,,60')


def test_offsets_may_be_written_in_any_usual_way(table):
    (row,) = table("room,-1.5, 2e-3,+.5,sit,,60")
    assert row.scene_trans == (-1.5, 0.002, 0.5)


@pytest.mark.parametrize("scene", ["/etc/x", "../room", "a/../b", "..", ".", "a/b", "a\x07b"])
def test_a_scene_is_the_name_of_one_file(table, scene):
    with pytest.raises(DataError, match=r"row 0 \(line 2\): scene_id: found the name"):
        table(f"{scene},0,0,0,sit,,60")


def test_a_column_that_comes_twice_is_refused(table):
    with pytest.raises(DataError, match=r"column utterance comes twice"):
        table(
            "a,0,0,0,b,c",
            header="scene_id,scene_trans_x,scene_trans_y,scene_trans_z,utterance,utterance\n",
        )


@pytest.mark.parametrize(
    "line", ["1_0", "٣", "-1", "+1", "1.0", "0x1", "1,2", "9" * 30, "1\x0c2", "1\u20282", "abc"]
)
def test_a_split_lists_plain_row_numbers(tmp_path, line):
    (tmp_path / "train.txt").write_text(f"000001\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"train.txt: line 2 is .*expected a row number"):
        read_row_numbers(tmp_path, "train.txt")


def test_a_split_may_have_spaces_and_empty_lines(tmp_path):
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbf000001 \r\n\r\n\t12\r\n 3 4\n")
    assert read_row_numbers(tmp_path, "train.txt") == {1, 12, 3, 4}


def test_an_index_file_is_a_plain_text_file(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "latin").write_bytes(b"\xe4")
    (tmp_path / "utf16").write_bytes("1\n2\n".encode("utf-16"))
    for name in ("fifo", "folder", "latin", "utf16"):
        with pytest.raises(DataError, match=f"{name}: cannot be read"):
            read_index(tmp_path, name)
    with pytest.raises(DataError, match=r"expected the name of one file"):
        read_index(tmp_path, "../latin")


def test_advice_to_skip_is_not_given_for_files_of_all_items(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=r"not a file.; restore it") as error:
        read_index(tmp_path, "folder")
    assert "on_bad_item" not in str(error.value)


def test_a_missing_file_is_told_with_what_the_nearest_folder_holds(data_dir):
    inside = data_dir / "PROX"
    with pytest.raises(DataError, match=rf"no such file; {inside} holds all.txt, contact_motion"):
        make(inside).samples()
    with pytest.raises(DataError, match=r"train.txt: is a file .looked for PROX/contact_motion"):
        make(inside / "train.txt").samples()


def numbered(*numbers, name=""):
    """A table as pandas writes it with the numbers of its rows."""
    rows = (f"{number},room,0,0,0,sit {row},,60" for row, number in enumerate(numbers))
    return {"header": f"{name},{HEADER}", "rows": rows}


@pytest.mark.parametrize("name", ["", "Unnamed: 0"])
@pytest.mark.parametrize("numbers, row, found", [((0, 2, 1), 1, 2), ((3, 4), 0, 3), ((0, 0), 1, 0)])
def test_rows_that_were_moved_after_they_were_numbered_are_refused(
    table, name, numbers, row, found
):
    made = numbered(*numbers, name=name)
    with pytest.raises(DataError, match=rf"row {row} .*has the number {found} .*expected {row}\."):
        table(*made["rows"], header=made["header"])


@pytest.mark.parametrize("name", ["Unnamed: 0", "Unnamed: 0.1"])
def test_moved_rows_are_refused_though_pandas_numbered_them_once_more(table, name):
    """After a sort, a table was read and written again: the new numbers count from 0."""
    rows = [f"{row},{number},room,0,0,0,sit,,60" for row, number in enumerate((1, 0))]
    with pytest.raises(DataError, match=rf"row 0 .*number 1 in the column '{name}'"):
        table(*rows, header=f",{name},{HEADER}")


@pytest.mark.parametrize("name", ["index", "level_0"])
def test_rows_that_reset_index_numbered_are_refused_once_they_were_moved(table, name):
    made = numbered(2, 0, 1, name=name)
    with pytest.raises(DataError, match=rf"row 0 .*number 2 in the column '{name}'"):
        table(*made["rows"], header=made["header"])


@pytest.mark.parametrize("numbers", [(0, 1, 2), (7, 3, 5), (1, 1, 0), ("a", "b", "c")])
def test_a_column_named_index_may_hold_anything_else(table, numbers):
    made = numbered(*numbers, name="index")
    rows = table(*made["rows"], header=made["header"])
    assert [row.utterance for row in rows] == [f"sit {row}" for row in range(3)]


def test_a_byte_order_mark_between_joined_files_is_no_part_of_a_line(tmp_path):
    (tmp_path / "train.txt").write_bytes("\ufeffa\r\n\ufeffb\nc\ufeffd".encode())
    assert read_lines(tmp_path, "train.txt") == ["a", "b", "c\ufeffd"]


@pytest.mark.parametrize("numbers", [(0, 1, 2), ("a", "b"), ("", "")])
def test_a_column_without_a_name_may_hold_the_numbers_or_anything_else(table, numbers):
    made = numbered(*numbers)
    rows = table(*made["rows"], header=made["header"])
    assert [row.utterance for row in rows] == [f"sit {row}" for row in range(len(numbers))]


@pytest.mark.parametrize("text", ["nan", "NaN", "None", "N/A", "null", ""])
def test_a_caption_that_pandas_takes_for_missing_is_none(table, text):
    """pandas may have written it so: `to_csv(na_rep="nan")`. afford-motion sees no caption."""
    rows = table(f"room,0,0,0,{text},,60", "room,0,0,0,nan$$sit,,60", "room,0,0,0,none,,60")
    assert (rows[0].utterance, rows[0].captions(), rows[0].parts()) == ("", [], [])
    assert rows[1].captions() == [(0, "nan"), (1, "sit")]
    assert rows[2].captions() == [(0, "none")]


@pytest.mark.parametrize("captions", ["first", "random", "all", "reference"])
@pytest.mark.parametrize("name", ["ContactMapDataset", "ContactMapCustomDataset"])
def test_an_item_whose_caption_is_missing_has_the_empty_text(data_dir, name, captions):
    for path in (data_dir / "PROX/contact_motion/anno.csv", data_dir / "custom/anno.csv"):
        path.write_text(path.read_text().replace("sit on the sofa", "nan").replace("walk", "nan"))
    samples = make(data_dir, name=name, captions=captions, phase="all").samples()
    assert "" in [sample.text for sample in samples]
    assert "nan" not in [sample.text for sample in samples]
