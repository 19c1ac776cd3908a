"""The `vitral` command: a table of verbs, each in a file of its own that is imported when it is called.

`vitral --help` reads the table alone, so it needs neither torch nor a verb's imports. Whatever goes wrong for a reason
a person can mend leaves here as one line on stderr, `error: cause. remedy`, and a non-zero exit code:
2 for whatever `error:` reports, 130 for Ctrl-C, 141 when whoever read our output has left.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, NoReturn

import typer
from typer.core import TyperGroup

from vitral import __version__
from vitral.errors import VitralError, did_you_mean


class Verb(NamedTuple):
    """One row of the table: where the verb lives and the line `vitral --help` prints for it."""

    module: str
    help: str


VERBS = {
    "serve": Verb("serve", "Serve a model: an OpenAI-compatible API and a chat page."),
    "chat": Verb("chat", "Talk with a model in the terminal (also: run)."),
    "generate": Verb("generate", "Answer one prompt, from the command line or stdin."),
    "inspect": Verb("inspect", "Look inside one forward pass: attention, residuals, candidates."),
    "pull": Verb("pull", "Fetch a model of the catalogue or the hub; resumes, verifies."),
    "list": Verb("listing", "List the models here and in the catalogue (also: ls)."),
    "show": Verb("show", "Draw a model's block; count its parameters and its memory."),
    "rm": Verb("remove", "Remove a pulled model from this machine."),
    "export": Verb("export", "Write a model as a Hugging Face folder or a GGUF file."),
    "families": Verb("families", "List the architectures vitral builds and their published presets."),
    "certify": Verb("certify", "Compare families with their references; write a certificate each."),
    "tokenizer": Verb("tokenizer", "Show how text becomes ids, or train a tokenizer."),
    "doctor": Verb("doctor", "Say what this machine offers: versions, cores, threads, caches."),
}
ALIASES = {"run": "chat", "ls": "list"}
EXAMPLES = (
    "vitral chat",
    "vitral generate smollm2-135m-instruct 'What is the capital of France?'",
    "vitral show llama3/3.2-1b",
)


class LazyGroup(TyperGroup):
    """The group of all verbs. A verb's module is imported by `get_command`, that is, when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        name = ALIASES.get(cmd_name, cmd_name)
        return build(name) if name in VERBS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in VERBS and args[0] not in ALIASES:
            raise VitralError(f"there is no verb {args[0]!r}", did_you_mean(args[0], [*VERBS, *ALIASES]))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, verb.help) for name, verb in VERBS.items()])


def build(name: str) -> Any:
    """Import the module of the verb `name` and make its command: `verb` is a function, or a Typer of sub-verbs."""
    module = importlib.import_module(f"vitral.cli.{VERBS[name].module}")
    examples = epilog(module.EXAMPLES)
    settings = {"help_option_names": ["-h", "--help"]}
    if isinstance(module.verb, typer.Typer):
        for sub in module.verb.registered_commands:
            own = [example for example in module.EXAMPLES if f"vitral {name} {sub.name} " in example]
            sub.epilog, sub.context_settings = epilog(own), settings
        module.verb.info.help, module.verb.info.epilog = VERBS[name].help, examples
        module.verb.info.context_settings = settings
        return typer.main.get_command(module.verb)
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name, epilog=examples, context_settings=settings)(module.verb)
    return typer.main.get_command(app)


def epilog(examples: Sequence[str]) -> str:
    """The examples that close a help text; \\b keeps their lines as they are."""
    return "\b\nExamples:\n  " + "\n  ".join(examples)


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    rich_markup_mode=None,
    epilog=epilog(EXAMPLES),
    context_settings={"help_option_names": ["-h", "--help"]},
)


def print_version(wanted: bool) -> None:
    if wanted:
        print(f"vitral {__version__}")
        raise typer.Exit


@app.callback()
def vitral(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """vitral: a large language model you can see through."""


def run(args: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; every error people can cause becomes one line on stderr."""
    open_streams()
    try:
        code = invoke(list(sys.argv[1:] if args is None else args) or ["--help"])
        sys.stdout.flush()
    except VitralError as error:
        return complain(error, str(error))
    except typer.TyperException as error:
        return complain(error, usage(error))
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        # Whoever read our output has left. Point stdout at nothing, or Python complains again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return complain(error, f"{error.filename or 'the system'}: {error.strerror or error}")
    return code


def open_streams() -> None:
    """Python has None for a stream that is closed from the start (`>&-`); make it one that nothing comes through."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  open for as long as we run


def invoke(args: list[str]) -> int:
    """Find the verb and call it; its errors come through. `main` of a command would end on a broken pipe by itself."""
    command = typer.main.get_command(app)
    try:
        with command.make_context("vitral", args) as context:
            command.invoke(context)
    except typer.Exit as leave:
        return leave.exit_code
    return 0


def usage(error: typer.TyperException) -> str:
    """A wrong option or argument, in one line, with the nearest right one."""
    near = getattr(error, "possibilities", None)
    message = error.format_message().split(" (Possible options", 1)[0].replace("\n", " ").rstrip(".")
    remedy = "Did you mean " + " or ".join(repr(option) for option in sorted(near)) + "?" if near else ""
    if not remedy and "Did you mean" not in message:
        context = getattr(error, "ctx", None)
        remedy = f"Try: {context.command_path if context else 'vitral'} --help"
    return f"{message[:1].lower()}{message[1:]}. {remedy}" if remedy else message


def complain(error: BaseException, line: str) -> int:
    """Print the one line; with VITRAL_DEBUG=1 the traceback goes before it."""
    if os.environ.get("VITRAL_DEBUG"):
        import traceback

        traceback.print_exception(error)
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    print("\033[1;31merror:\033[0m" if colour else "error:", line, file=sys.stderr)
    return 2


def main() -> NoReturn:
    """The entry point of the `vitral` command."""
    sys.exit(run())
