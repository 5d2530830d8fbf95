"""What `cdm` without a command, --version and the shells get."""

import subprocess

import pytest

from cdm import __version__
from cdm.__main__ import COMMANDS, main
from cdm.commands.options import build_parser


def test_cdm_alone_shows_its_commands(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(f"    {name} " in shown for name in COMMANDS)


def test_every_command_is_carried_out_by_a_function():
    [commands] = [found.choices for found in build_parser()._actions if found.choices]
    assert set(commands) == set(COMMANDS)


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"cdm {__version__}\n"


def completion(shell, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", shell])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_bash_completes_commands_and_options(capsys, tmp_path):
    script = completion("bash", capsys)
    words = [("cdm sta", "status"), ("cdm verify --re", "--resample")]
    for line, expected in words:
        typed = line.split()
        asked = (
            f"COMP_WORDS=({line}); COMP_CWORD={len(typed) - 1}; COMP_LINE='{line}'; "
            "_shtab_cdm; echo ${COMPREPLY[@]}"
        )
        done = subprocess.run(
            ["bash", "-c", f"{script}\n{asked}"], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.stdout.split() == [expected], (line, done)


def test_an_unknown_shell_is_told(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", "dos"])
    assert ended.value.code == 2 and "bash, zsh, tcsh" in capsys.readouterr().err
