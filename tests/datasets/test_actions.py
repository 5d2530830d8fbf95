"""Which action a caption asks for."""

import pytest

from cdm.datasets.actions import ACTIONS, action_of


@pytest.mark.parametrize(
    "text, action",
    [
        ("sit on the chair", "sit"),
        ("have a Seat", "sit"),
        ("somebody is lying on the bed", "lie"),
        ("stand up from the red chair", "stand up"),
        ("get  up", "stand up"),
        ("rise from the sofa", "stand up"),
        ("walk to the table and sit down", "walk"),  # the first word counts
        ("goes to the shelf", "walk"),
        ("stand next to the table", ""),
        ("position", ""),
        ("sit down on the chair that is beside the desk", "sit"),
        ("lie down on the bed", "lie"),
        ("Stand up from the toilet near the sink", "stand up"),
        ("walk to the standing lamp", "walk"),
        ("a person walks forward, then sits down", "walk"),
        ("stand up from the sofa; target object label: sofa (6)", "stand up"),
        ("a man waves", ""),
        ("", ""),
    ],
)
def test_the_first_word_of_an_action_counts(text, action):
    assert action_of(text) == action


def test_a_stated_action_wins_over_the_words():
    assert action_of("action=stand up;target=chair, to sit on") == "stand up"
    assert {action_of(f"action={action};") for action in ACTIONS} == set(ACTIONS)
