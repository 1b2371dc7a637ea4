"""What every command shares: one line for bad input, a non-zero exit, no traceback."""

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import app, flags, logging

# Before JAX starts: XLA reports a harmless difference of tuning features as an error at every load from the
# compilation cache.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax

from bridge_ebm import processes
from bridge_ebm.errors import InputError
from bridge_ebm.models import Model, list_models
from bridge_ebm.settings import TrainSettings

MOST_SEED = 2**31 - 1  # as of a training
INTERRUPTED = 130  # the exit status that shells give for Ctrl-C


def run(main: Callable[[], None]) -> None:
    """Parse the flags and run `main()`; an `InputError`, and what the file system refuses, becomes one line on stderr
    and exit status 1. So does the end of another process that runs the same, and Ctrl-C, whose status is 130.
    """

    def guarded(argv: list[str]) -> None:
        try:
            if len(argv) > 1:
                raise InputError(f"unexpected argument {argv[1]!r}: every setting is a flag, --name=value (see --help)")
            # Orbax would tell of every file it touches, and in many lines of a full disk that we report in one.
            logging.set_verbosity(logging.FATAL)
            enable_compilation_cache()
            main()
        except InputError as error:
            stop(f"{Path(argv[0]).name}: error: {error}")
        except KeyboardInterrupt as interrupt:
            stop(f"{Path(argv[0]).name}: stopped {interrupt}".rstrip(), INTERRUPTED)
        except Exception as error:
            line = processes.lost(error) or homeless(error)
            if line is None and isinstance(error, OSError):
                place = f"{error.filename}: " if error.filename is not None else ""
                line = f"{place}{error.strerror or error}; check the name, rights and space"
            if line is None:
                raise
            stop(f"{Path(argv[0]).name}: error: {line}")

    app.run(guarded, flags_parser=parsed)


def homeless(error: Exception) -> str | None:
    """What is wrong with a flag whose path begins with the home of nobody, None for another error."""
    if not (isinstance(error, RuntimeError) and "home directory" in str(error)):
        return None
    named = next((argument for argument in sys.argv if "~" in argument), "~")
    return f"{named}: there is no such home directory; write the path out"


def parsed(argv: list[str]) -> list[str]:
    """The arguments that are no flags; what cannot be parsed, and a flag file that is none, become one line and
    exit status 1.
    """
    name = Path(argv[0]).name
    try:
        for path in _flag_files(argv):
            if not Path(path).expanduser().is_file():
                sys.exit(f"{name}: error: --flagfile={path}: no such file; name a flag file")
        return flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(f"{name}: error: {' '.join(str(error).split())} (--help tells the flags)")
    except (UnicodeDecodeError, RuntimeError, OSError) as error:
        sys.exit(f"{name}: error: --flagfile: cannot be read ({error}); it must be a text file of lines --name=value")


def _flag_files(argv: list[str]) -> list[str]:
    """The flag files that the arguments name."""
    files = [argument.split("=", 1)[1] for argument in argv if argument.lstrip("-").startswith("flagfile=")]
    return files + [path for flag, path in zip(argv, argv[1:], strict=False) if flag in ("-flagfile", "--flagfile")]


def stop(line: str, status: int = 1) -> None:
    """End with one line on stderr and this exit status; at once where others run too, which must not wait for this."""
    print(line, file=sys.stderr, flush=True)
    if not processes.joined():
        sys.exit(status)
    sys.stdout.flush()
    os._exit(status)


def define_process_flags() -> None:
    """Define the flags of a command that several processes run together."""
    text = "HOST:PORT of process 0, where several processes run this together (Slurm, TPU pods: by itself)."
    flags.DEFINE_string("coordinator", None, text, module_name=sys.argv[0])
    text = "How many processes run this together."
    flags.DEFINE_integer("num_processes", None, text, lower_bound=1, module_name=sys.argv[0])
    text = "Which of them this is, from 0."
    flags.DEFINE_integer("process_id", None, text, lower_bound=0, module_name=sys.argv[0])


def join_processes() -> None:
    """Join the other processes that run this command; the first of them writes the files and says what it does."""
    values = flags.FLAGS
    processes.join(values.coordinator, values.num_processes, values.process_id)


def say(*lines: object) -> None:
    """Print lines, once however many processes run."""
    if processes.is_first():
        print(*lines, sep="\n", flush=True)


def output_folder(path: str, flag: str = "--out") -> Path:
    """Create the folder that a command writes to, or raise an `InputError` that names the flag."""
    try:
        folder = Path(path).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write_test_{os.getpid()}"
        probe.touch()
        probe.unlink(missing_ok=True)
    except (OSError, ValueError, RuntimeError) as error:  # the last two: a zero byte, a home that is not
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{flag}={path}: cannot write there ({reason}); name a folder you can write to") from None
    return folder


def enable_compilation_cache() -> None:
    """Keep compiled programs in the user's cache folder, unless JAX_COMPILATION_CACHE_DIR says where."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bridge_ebm"
        jax.config.update("jax_compilation_cache_dir", str(cache))


def define_train_settings() -> None:
    """Define one flag for each field of `TrainSettings`, with the field's default and help."""
    for field in dataclasses.fields(TrainSettings):
        name, default, help_text = field.name, field.default, field.metadata["help"]
        # `module_name`: they are flags of the script that asks for them, so its --help shows them.
        if field.metadata["choices"]:
            flags.DEFINE_enum(name, str(default), field.metadata["choices"], help_text, module_name=sys.argv[0])
        elif isinstance(default, bool):
            flags.DEFINE_boolean(name, default, help_text, module_name=sys.argv[0])
        elif isinstance(default, int):
            flags.DEFINE_integer(name, default, help_text, module_name=sys.argv[0])
        elif isinstance(default, float):
            flags.DEFINE_float(name, default, help_text, module_name=sys.argv[0])
        else:
            flags.DEFINE_string(name, str(default), help_text, module_name=sys.argv[0])


def read_train_settings() -> TrainSettings:
    """The settings that the parsed flags give; an `InputError` names a flag that is out of range."""
    values: dict[str, Any] = {field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(TrainSettings)}
    return TrainSettings(**values)


def model_or_default(asked: str | None) -> str:
    """The model a --model flag names, or the first shipped one."""
    if asked is not None:
        return asked
    if not list_models():
        raise InputError(
            "--model: no model is shipped yet; train one (python experiments/train.py "
            "--flagfile=experiments/flags/quickstart.cfg --workdir=runs/quickstart) and add --model=runs/quickstart"
        )
    return list_models()[0]


def asked_subtypes(model: Model, subtype: str | None, count: int) -> list[str | None]:
    """The sub-type that each picture is to be drawn as (None: no class)."""
    known = model.settings.subtypes
    if subtype is None:
        return [known[i % len(known)] if known else None for i in range(count)]
    if subtype == "none":
        return [None] * count
    if subtype not in known:
        raise InputError(
            f"--subtype={subtype}: this model knows {', '.join(known) or 'no sub-types'}; name one of them, or none"
        )
    return [subtype] * count
