"""completion: what the shell needs to complete commands and options, printed as a script that asks nothing of this program."""

from __future__ import annotations

import argparse
import shlex

SCRIPT = """# drenet: completion for bash, and for zsh after `autoload -U bashcompinit && bashcompinit`
_drenet() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
    local command='' one
    for one in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case $one in -*) ;; *) command=$one; break ;; esac
    done
    COMPREPLY=()
    case "$command $before" in
{choices}
    esac
    local options
    case $command in
        '') options={commands} ;;
{options}
    esac
    if [ -z "$command" ] || [ "${{word:0:1}}" = - ]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
    fi
}}
complete -o default -F _drenet drenet
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Its argument."""
    completion = commands.add_parser("completion", help="print the script that completes drenet's words in bash and zsh")
    completion.set_defaults(command=lambda _: _print(commands.choices))


def _print(parsers: dict[str, argparse.ArgumentParser]) -> int:
    print(script(parsers), end="")
    return 0


def script(parsers: dict[str, argparse.ArgumentParser]) -> str:
    """The script for commands of these parsers."""
    choices = []
    options = []
    for name, parser in parsers.items():
        flags = [flag for action in parser._actions for flag in action.option_strings]
        options.append(f"        {name}) options={shlex.quote(' '.join(flags))} ;;")
        for action in parser._actions:
            if action.choices and action.option_strings:
                words = shlex.quote(" ".join(map(str, action.choices)))
                told = f'mapfile -t COMPREPLY < <(compgen -W {words} -- "$word"); return'
                choices.append(f"        '{name} {action.option_strings[-1]}') {told} ;;")
    words = shlex.quote(" ".join([*parsers, "--help", "--version"]))
    return SCRIPT.format(choices="\n".join(choices), commands=words, options="\n".join(options))
