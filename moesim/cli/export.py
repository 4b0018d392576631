"""moesim export: a plan as the files its launcher reads, the flags that must agree, and checks of what was written."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesim.cli.output import Json, print_json, print_page, say

if TYPE_CHECKING:
    from rich.text import Text

    from moesim.exporters import Check


def export(
    plan: Annotated[Path, typer.Argument(help="Plan file (JSON), as `moesim plan` writes it.")],
    to: Annotated[str, typer.Option("--to", help="Exporter: sglang, vllm, megatron, slurm, chakra, ...")],
    out: Annotated[
        Path,
        typer.Option("--out", help="File to write (with --checkpoint, the new checkpoint); further ones beside it."),
    ],
    scenario: Annotated[
        Path | None, typer.Option(help="Scenario (YAML); default: the one the plan was made for.")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint (safetensors) to permute the experts of.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="KEY=VALUE of the exporter, such as hosts=n[01-04]; repeatable."),
    ] = None,
    make_fit: Annotated[
        bool, typer.Option("--make-fit", help="Plan again under the target's rules where it cannot take the plan.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write PLAN for one launcher: all files or none."""
    import moesim

    made = moesim.export(
        plan,
        to,
        out,
        scenario=scenario,
        make_fit=make_fit,
        checkpoint=checkpoint,
        options=_options(option or []),
    )
    for note in made.notes:
        say(note)
    answer = made.answer()
    if as_json:
        print_json(answer)
        return
    shown = [*answer["files"][:20], *([f"... {len(answer['files'])} files"] if len(answer["files"]) > 20 else [])]
    print_page(_page({"written": shown, "launch with": answer["launch_flags"], "checked": _verdicts(made.checks)}))


def _page(parts: "dict[str, list[str]]") -> "Text":
    """Headings and their lines, as they are: flags are copied from here."""
    from rich.text import Text

    from moesim.report.words import printable

    lines = [line for heading, lines in parts.items() for line in (f"{heading}:", *(f"  {text}" for text in lines))]
    return Text("\n".join(printable(line) for line in lines), no_wrap=True, overflow="ignore")


def _verdicts(checks: "tuple[Check, ...]") -> list[str]:
    return [f"{'ok' if check.ok else 'NO'}  {check.name}" for check in checks]


def _options(texts: list[str]) -> dict[str, str]:
    """KEY=VALUE texts as a mapping; raises InputError for another text or a key given twice."""
    from moesim.errors import InputError

    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise InputError(f"--option {text[:60]!r} is not KEY=VALUE")
        if key in found:
            raise InputError(f"--option {key[:60]!r} is given twice")
        found[key] = value
    return found
