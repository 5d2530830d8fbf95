"""Names of joints and items."""

import pytest
from galleries import make_item

from cdm.gallery.items import JOINTS, joint_label


@pytest.mark.parametrize(
    ("column", "label"),
    [("0", "pelvis"), ("12", "neck"), ("21", "right wrist"), ("farthest", "farthest joint")],
)
def test_a_column_has_the_name_that_people_use(column, label):
    assert joint_label(column) == label


def test_all_22_joints_of_smpl_have_different_names():
    assert len(set(JOINTS)) == 22


def test_the_key_of_an_item_is_what_links_hold():
    assert make_item(7, set="PROX", caption_idx=2).key == "PROX/7/2"
