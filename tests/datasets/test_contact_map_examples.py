"""Lists of items with texts of their own."""

import numpy as np
import pytest
from example_datasets import make, make_examples, message, parity_cases, parity_dataset

from cdm.datasets import FileReader
from cdm.errors import DataError


def test_each_line_is_a_sample_in_the_order_of_the_list(data_dir):
    dataset = make_examples(
        data_dir, "jump#PROX#00004#60", "sit#HUMANISE#0", "", "", "go  #PROX#4#"
    )
    samples = dataset.samples()
    assert [(s.set, s.index, s.caption_idx, s.text) for s in samples] == [
        ("PROX", "4", 0, "jump"),
        ("HUMANISE", "0", 0, "sit"),
        ("PROX", "4", 1, "go  "),
    ]
    assert [s.scene_id for s in samples] == ["scene4", "scene0", "scene4"]
    assert samples[0].scene_trans == (0.5, 1.0, -0.25)
    for options in ({"captions": "reference"}, {"captions": "first"}, {"phase": "val"}):
        assert make_examples(data_dir, **options).samples() == samples
    assert make_examples(data_dir, max_items=2).samples() == samples[:2]


def test_items_are_those_of_the_sets_but_not_rotated(data_dir):
    example = make_examples(data_dir, "jump#PROX#0#", phase="train")
    of_set = make(data_dir, transforms=())
    reader = FileReader(data_dir)
    found = example.load(example.samples()[0], reader)
    expected = of_set.load(of_set.samples()[0], reader)
    assert np.array_equal(found.c_pc_xyz, expected.c_pc_xyz)
    assert np.array_equal(found.distance, expected.distance)
    assert np.array_equal(found.info_aug_trans, np.eye(4))


def test_target_masks_are_not_asked_for_in_phase_test(data_dir):
    dataset = make_examples(data_dir, "sit#HUMANISE#0", phase="test")
    assert dataset.files(dataset.samples()[0]) == ["HUMANISE/contact_motion/contacts/00000.npz"]


def test_statistics_are_those_of_the_split_that_was_trained_on(data_dir):
    dataset = make_examples(data_dir, "jump#PROX#5#", sets=("PROX",), phase="test")
    assert [s.index for s in dataset.statistics_samples()] == ["0", "1", "3"]
    assert dataset.statistics_origin() == "computed from train"


def test_another_list_is_read_where_examples_names_it(data_dir):
    (data_dir / "mine.txt").write_text("kneel#PROX#2\r\n")
    dataset = make_examples(data_dir, "jump#PROX#5#", examples=str(data_dir / "mine.txt"))
    assert [s.text for s in dataset.samples()] == ["kneel"]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("sit#PROX", "line 2 is 'sit#PROX', expected text#set#row number"),
        ("sit#PROX#2_0", "expected text#set#row number"),
        ("sit#PROX#-1", "expected text#set#row number"),
        ("sit#../PROX#2", "line 2: set"),
        ("sit#PROX#6", "line 2 asks for row 6, but PROX/contact_motion/anno.csv has 6 rows"),
        ("sit#Other#0", "Other/contact_motion/anno.csv"),
    ],
)
def test_a_line_that_is_no_example_is_named(data_dir, line, text):
    with pytest.raises(DataError) as error:
        make_examples(data_dir, "jump#PROX#5#", line).samples()
    assert text in message(error)


def test_an_empty_list_and_a_missing_one_are_errors(data_dir):
    with pytest.raises(DataError, match=r"contact_examples.txt: no line"):
        make_examples(data_dir, "").samples()
    for name in ("nowhere.txt", "no folder/list.txt"):
        with pytest.raises(
            DataError, match=rf"{name}: no such file.* set dataset.examples"
        ) as error:
            make_examples(data_dir, examples=str(data_dir / name)).samples()
        assert "dataset.sets" not in message(error)


def test_a_set_that_is_not_there_is_told_with_its_line(data_dir):
    with pytest.raises(DataError, match=r"line 2 names the set 'prox', but .*prox/contact_motion"):
        make_examples(data_dir, "jump#PROX#5#", "jump#prox#5#").samples()


def test_the_recorded_list_is_among_the_cases_that_are_compared(parity, parity_index):
    """`test_base.py` and `test_reference_draws.py` compare items and order with afford-motion's."""
    entry = parity_cases(parity_index)["expected/example_sample.npz"]
    samples = parity_dataset(entry, parity / "10_dataset/tree/data").samples()
    assert [(s.set, s.index) for s in samples] == [("HUMANISE", "1"), ("PROX", "2")]
