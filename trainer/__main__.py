"""Everything around training: python -m trainer check | export | generate | trace | report | schema."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run one sub-command. Returns the exit code: 0 done, 2 a mistake to mend."""
    options = _parser().parse_args(arguments)
    try:
        options.run_command(options)
        sys.stdout.flush()
    except ValueError as error:
        print(f"moenda: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # what reads the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    check = commands.add_parser("check", help="decide a run without starting it: all errors, all numbers")
    check.add_argument("config", type=Path, help="run file")
    check.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    check.add_argument("--world-size", type=_count, default=1, help="number of devices (default 1)")
    check.set_defaults(run_command=_check)

    export = commands.add_parser("export", help="write a Hugging Face folder from a run's checkpoint")
    export.add_argument("run", type=Path, help="run folder")
    export.add_argument("--output", type=Path, help="folder to write (default RUN/export)")
    export.add_argument("--step", type=int, help="checkpoint to take (default: the newest)")
    export.add_argument("--precision", choices=("fp32", "bf16", "fp16"), help="of the weights (default: the run's)")
    export.set_defaults(run_command=_export)

    generate = commands.add_parser("generate", help="continue prompts with an exported model")
    generate.add_argument("model", type=Path, help="exported folder")
    generate.add_argument("--prompt", action="append", help="may be given several times (default: start of a document)")
    generate.add_argument("--max-new-tokens", type=int, default=100)
    generate.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest token")
    generate.add_argument("--top-k", type=int, default=50)
    generate.add_argument("--seed", type=int, default=0)
    generate.set_defaults(run_command=_generate)

    trace = commands.add_parser("trace", help="which documents a step consumed, or which steps consumed a document")
    trace.add_argument("run", type=Path, help="run folder")
    asked = trace.add_mutually_exclusive_group(required=True)
    asked.add_argument("--step", type=int, help="list the documents of this optimizer step, with source and licence")
    asked.add_argument("--document", metavar="ID", help="list the steps that saw this document")
    trace.add_argument("--json", action="store_true", help="one JSON object per line")
    trace.set_defaults(run_command=_trace)

    report = commands.add_parser("report", help="plot a run's curves")
    report.add_argument("run", type=Path, help="run folder")
    report.add_argument("--output", type=Path, help="PNG to write (default RUN/loss.png)")
    report.set_defaults(run_command=_report)

    schema = commands.add_parser("schema", help="write the JSON Schema and the key reference of run files")
    schema.add_argument("folder", type=Path, nargs="?", default=Path("ds_configs"))
    schema.set_defaults(run_command=_schema)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'"{text}" is no number of devices')
    return int(text)


def _check(options: argparse.Namespace) -> None:
    from trainer.preflight import prepare

    plan = prepare(options.config, options.set, options.world_size)
    print(plan.describe())
    if options.world_size > 1:
        print(plan.table())


def _export(options: argparse.Namespace) -> None:
    from trainer.export import export

    output = options.output or options.run / "export"
    for name, value in export(options.run, output, options.step, options.precision).items():
        print(f"{name.replace('_', ' '):<26}{value}")


def _generate(options: argparse.Namespace) -> None:
    from trainer.generate import generate

    prompts = options.prompt or [""]
    for text in generate(options.model, prompts, options.max_new_tokens, options.temperature, options.top_k, options.seed):
        print(text, end="\n\n")


def _trace(options: argparse.Namespace) -> None:
    import json

    from trainer import tracing

    run = tracing.Run.open(options.run)
    rows = tracing.of_step(run, options.step) if options.step is not None else tracing.of_document(run, options.document)
    if options.json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
    elif options.step is not None:
        print(tracing.describe_step(run, options.step, rows))
    else:
        print(tracing.describe_document(run, options.document, rows))


def _report(options: argparse.Namespace) -> None:
    from trainer.report import plot

    output = options.output or options.run / "loss.png"
    print(f"{output}: {plot(options.run, output)}")


def _schema(options: argparse.Namespace) -> None:
    from trainer.config_reference import write

    for path in write(options.folder):
        print(path)


if __name__ == "__main__":
    sys.exit(main())
