"""Names of joints: those of SMPL, for the columns that a configuration chooses."""

import pytest

from cdm.datasets.base import NUM_JOINTS
from cdm.datasets.joints import JOINT_NAMES, joint_names


def test_there_is_a_name_for_each_column_of_a_table():
    assert len(JOINT_NAMES) == len(set(JOINT_NAMES)) == NUM_JOINTS


@pytest.mark.parametrize(
    ("data_repr", "joints", "num_columns", "expected"),
    [
        ("contact_cont_joints", (0, 10, 21), 3, ["pelvis", "left_foot", "right_wrist"]),
        ("contact_all_joints", (0,), 22, list(JOINT_NAMES)),
        ("contact_pelvis", (4, 5), 1, ["pelvis"]),
        ("contact_one_joints", (0, 10), 1, ["farthest"]),
        ("contact_cont_joints", (0, 10), 3, ["joint 0", "joint 1", "joint 2"]),
        ("contact_cont_joints", (0, 0), 2, ["joint 0", "joint 1"]),
    ],
)
def test_columns_are_called_by_their_joints(data_repr, joints, num_columns, expected):
    assert joint_names(data_repr, joints, num_columns) == expected
