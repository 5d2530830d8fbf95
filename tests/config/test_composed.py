"""afford-motion's composed configuration: found in a log, read with lines, interpolated."""

import pytest
import yaml
from training_logs import STAMP, block, composed

from cdm.config.composed import (
    MOST_BYTES,
    Block,
    Node,
    Unresolved,
    cut_out,
    find,
    find_blocks,
    leaves,
    read_block,
    resolved,
    whole_lines,
)
from cdm.errors import ConfigError


def read(text, line=0):
    return read_block(Block(text, line, True), "a.log")


def test_each_configuration_is_found_with_its_line():
    text = "an odd line\n" + block(composed(seed=1)) + "step 5\n" + block(composed(seed=2))
    first, last = find_blocks(text.encode())
    assert (first.line, first.whole, last.whole) == (2, True, True)
    assert [resolved(read_block(b, ""), "seed") for b in (first, last)] == ["1", "2"]
    node = find(read_block(last, ""), "task.dataset.sigma")
    assert text.splitlines()[node.line - 1].strip() == "sigma: 0.8"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.replace("2023", "\x1b[32m2023").replace("]\n", "]\x1b[0m\n"),
        lambda text: text.replace("[Configuration]", "[Configuration]  "),
        lambda text: text + "Traceback (most recent call last):\n  File x\n",
        lambda text: text.rpartition(STAMP[:4])[0] + "Traceback (most recent call last):\n  File\n",
        lambda text: text.rpartition(STAMP[:4])[0] + "  0%|      | 0/500 [00:00<?, ?it/s]\n",
    ],
)
def test_line_ends_colours_and_foreign_lines_are_no_obstacle(change):
    [found] = find_blocks(change(block(composed())).encode())
    tree = read_block(found, "")
    assert found.whole and resolved(tree, "task.dataset.data_repr_joints")[-1] == "21"
    assert list(tree.value)[-1] == "model"


def test_a_configuration_counts_as_whole_only_if_its_end_is_seen():
    whole = block(composed(), end=False)
    assert find_blocks(whole.encode())[0].whole
    assert find_blocks(whole.rstrip().encode() + b"\n")[0].whole
    cuts = ("sigma: 0.", "  arch: P", "\nmodel:\n", "  arch_perceiver:\n", "encoder_num_heads: 8\n")
    for end in (whole.index(cut) + len(cut) for cut in cuts):
        [found] = find_blocks(whole[:end].encode())
        assert not found.whole
        assert not whole_lines(found).text.endswith("sigma: 0.\n")


def test_a_log_without_a_configuration_has_none():
    for data in (b"", b"\0\xff\xfe" * 50, b"step 100\n", b"[Configuration] is printed below\n"):
        assert find_blocks(data) == []


@pytest.mark.parametrize("with_stamp", [True, False])
def test_a_file_may_hold_the_configuration_alone(with_stamp):
    text = yaml.safe_dump(composed()) + (STAMP + "begins\n") * with_stamp
    assert resolved(read_block(cut_out(text.encode()), ""), "seed") == "7"
    assert cut_out(block(composed()).encode()).line == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: !!python/object/apply:os.system [ls]\n", r"a.log line 11: the tag .*os\.system"),
        ("task:\n  a: !!python/name:os.system ''\n", "a.log line 12: the tag"),
        ("task:\n  x: &a {b: 1}\n  y: *a\n", "a.log line 12: an alias"),
        ("task:\n  a: 1\n  a: 2\n", "'a' comes twice, in lines 12 and 13"),
        ("task: {a: 1\n", "not YAML"),
        ("task:\n  ? [a]\n  : b\n", "a key that is no word"),
        ("learning_rate: 1\n", "found learning_rate, expected afford-motion's"),
        ("", "found nothing, expected afford-motion's"),
        ("- a\n", "found no keys, expected"),
        ("task: " + "[" * 100_000 + "\n", "a.log line"),
        ("task: {a: " + "x" * MOST_BYTES + "}\n", "characters, expected at most"),
    ],
)
def test_what_is_no_plain_configuration_is_told_and_never_executed(text, message):
    with pytest.raises(ConfigError, match=message):
        read(text, line=10)


TREE = read(
    """
seed: 5
task:
  a: ${seed}
  b: run-${task.a}-${.name}
  name: x
  list: [1, "${.0}", "${..name}"]
  up: ${..seed}
  which: name
  nested: ${task.${.which}}
  whole: ${task.list}
  now: ${now:%Y}
  env: ${oc.env:HOME}
  loop: ${.loop2}
  loop2: ${.loop}
  lost: ${task.nothing}
  open: ${seed
  above: ${.....seed}
  mixed: a${task.list}
  escaped: \\${seed}
  item: ${task.list[0]}
  nothing_there:
"""
)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("task.a", "5"),
        ("task.b", "run-5-x"),
        ("task.up", "5"),
        ("task.nested", "x"),
        ("task.escaped", "${seed}"),
        ("task.item", "1"),
        ("task.whole", ["1", "1", "x"]),
        ("task.nothing_there", None),
    ],
)
def test_interpolations_follow_omegaconf(key, value):
    assert resolved(TREE, key) == value


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("task.now", "not executed"),
        ("task.env", "not executed"),
        ("task.loop", "refers to itself"),
        ("task.lost", "names no key"),
        ("task.open", "no closing brace"),
        ("task.above", "leads out"),
        ("task.mixed", "list or section"),
    ],
)
def test_an_interpolation_without_a_value_says_why(key, why):
    with pytest.raises(Unresolved, match=why):
        resolved(TREE, key)


def test_a_key_that_is_not_there_is_a_key_error():
    with pytest.raises(KeyError):
        resolved(TREE, "task.dataset")
    assert find(TREE, "seed.x") is None
    assert find(TREE, "task.list.7") is None


def test_leaves_are_all_keys_that_hold_no_keys():
    tree = read("task:\n  a: {b: 1, c: {}}\nseed:\n")
    assert [key for key, _ in leaves(tree)] == ["task.a.b", "task.a.c", "seed"]
    assert isinstance(find(tree, "task.a"), Node)
