"""The command line: python -m fi_jax.main --config=configs/stage1.py --workdir=runs/s1

Modes: train (the default), eval (score the run's newest checkpoint), sample (write completions).
Any field of a config can be set: --config.batch_size=32 --config.data.path=FACES.zip. Arguments go
after a colon: --config=configs/stage2.py:res=128,ablate=chain. The same --workdir resumes.
"""

from __future__ import annotations

import logging as std_logging
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

FLAGS = flags.FLAGS
MODES = ('train', 'eval', 'sample')
CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'A file in configs/, with its arguments after a colon.', lock_config=True
)
WORKDIR = flags.DEFINE_string('workdir', None, 'The run folder: made, or resumed.')
MODE = flags.DEFINE_enum('mode', 'train', MODES, 'What to do with the run.')
MULTIHOST = flags.DEFINE_bool(
    'multihost', False, 'Join the other hosts of a TPU slice or SLURM job (jax.distributed).'
)
DEBUG = flags.DEFINE_bool('debug', False, 'On an error, show where in the code it arose.')


def main(argv: list[str]) -> None:
    """Run one mode; ends with 1 and one line on bad input, with 3 where training diverged."""
    if len(argv) > 1:
        raise app.UsageError(f'what is {argv[1]!r}? all arguments are flags: see --helpshort')
    # Imported here, so that --help and a wrong flag answer at once.
    import jax

    from fi_jax import sharding
    from fi_jax.evaluate import evaluate_run
    from fi_jax.sample import sample_run
    from fi_jax.train import NonFinite, train_and_evaluate

    config, workdir = CONFIG.value, Path(WORKDIR.value or '.')
    run = {'train': train_and_evaluate, 'eval': evaluate_run, 'sample': sample_run}[MODE.value]
    try:
        sharding.configure_backend(config)
        if MULTIHOST.value:
            jax.distributed.initialize()
        if MODE.value == 'train' and jax.process_index() == 0:
            workdir.mkdir(parents=True, exist_ok=True)
            log_to(workdir / 'log.txt')
        run(config, workdir)
    except (ValueError, OSError, NonFinite) as error:
        if DEBUG.value:
            raise
        hint = '(--debug shows where)'
        print(f'error: {" ".join(str(error).split())} {hint}', file=sys.stderr)
        sys.exit(3 if isinstance(error, NonFinite) else 1)


class OwnWords(std_logging.Filter):
    """Lets through what this package says, and the warnings of the libraries."""

    def filter(self, record: std_logging.LogRecord) -> bool:
        return record.levelno >= std_logging.WARNING or 'fi_jax' in record.pathname


def log_to(path: Path) -> None:
    """Copy the log of this program to a file, beside the terminal."""
    handler = std_logging.FileHandler(path)
    handler.setFormatter(std_logging.Formatter('%(asctime)s %(levelname)s %(message)s'))
    handler.addFilter(OwnWords())
    logging.get_absl_logger().addHandler(handler)


def parse_flags(argv: list[str]) -> list[str]:
    """Flags as absl reads them; ends with 1 and one line, not a traceback, on a wrong one."""
    for arg in argv:
        path = arg.removeprefix('--config=').partition(':')[0]
        if arg.startswith('--config=') and not Path(path).is_file():
            print(f'error: --config={path}: no such file; see configs/', file=sys.stderr)
            sys.exit(1)
    try:
        return FLAGS(argv)
    except (flags.Error, AttributeError, LookupError, TypeError, ValueError) as error:
        # A config file's own error comes wrapped in its traceback, the message last.
        text = str(error.args[0] if isinstance(error, KeyError) else error)
        last = text.strip().splitlines()[-1].removeprefix('ValueError: ')
        print(f'error: {last} (--helpshort lists the flags)', file=sys.stderr)
        sys.exit(1)


def console() -> None:
    """Entry point."""
    flags.mark_flags_as_required(['config', 'workdir'])
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(OwnWords())
    logging.get_absl_handler().setFormatter(std_logging.Formatter('%(asctime)s %(message)s', '%T'))
    app.run(main, flags_parser=parse_flags)


if __name__ == '__main__':
    console()
