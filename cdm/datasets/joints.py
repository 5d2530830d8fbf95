"""What the columns of a map are called."""

JOINT_NAMES = (  # of SMPL, in its order; a `dist` table has a column for each
    *("pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2"),
    *("left_ankle", "right_ankle", "spine3", "left_foot", "right_foot", "neck", "left_collar"),
    *("right_collar", "head", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow"),
    *("left_wrist", "right_wrist"),
)


def joint_names(data_repr: str, joints: tuple[int, ...], num_columns: int) -> list[str]:
    """The name of each column of a map, as SMPL calls the joint.

    Args:
        data_repr, joints: of the dataset's configuration.
        num_columns: that the maps have. Columns that are not those of the configuration have no
            names that are known: they are called "joint 0", "joint 1", ...
    """
    columns = {
        "contact_cont_joints": tuple(joints),
        "contact_all_joints": tuple(range(len(JOINT_NAMES))),
        "contact_pelvis": (0,),
    }
    if data_repr in columns:
        names = [JOINT_NAMES[joint] for joint in columns[data_repr] if joint < len(JOINT_NAMES)]
    else:
        names = ["farthest"]  # contact_one_joints: the joint that is farthest from the point
    if len(names) != num_columns or len(set(names)) != num_columns:
        return [f"joint {column}" for column in range(num_columns)]
    return names
