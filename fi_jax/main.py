"""The command line: python -m fi_jax.main --config=configs/stage1.py --workdir=runs/s1

Modes: train (the default), eval (score the run's newest checkpoint), sample (write completions),
predict (write the landmarks of faces with holes: a run of configs/landmarks.py), compile (what a
step would need on --topology=v5e:4x4, with no such chip here).
The same evaluation scores folders of images, and puts runs side by side: see fi_jax/evaluate.py.
Any field of a config can be set: --config.batch_size=32 --config.data.path=FACES.zip. Arguments go
after a colon: --config=configs/stage2.py:res=128,ablate=chain. The same --workdir resumes.
eval, sample and predict open a run, or a file of fi-jax export, by its own config; --config may be
left out there, and flags change data and samples, not what was trained (docs/weights.md).
Exit codes: 0 done, 1 bad input, 2 partly done, 3 diverged, 69 a host was lost, 75 preempted and
saved. On 69 and 75, give the same command again (docs/operations.md).
"""

from __future__ import annotations

import logging as std_logging
import runpy
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

FLAGS = flags.FLAGS
MODES = ('train', 'eval', 'sample', 'predict', 'compile')
OPENING = ('eval', 'sample', 'predict')  # modes that open a run by its own config
OWN_CONFIG = Path(__file__).parent / 'run' / 'own_config.py'
CONFIG = config_flags.DEFINE_config_file(
    'config',
    None,
    'A name or file of configs/, with its arguments after a colon.',
    lock_config=True,
)
WORKDIR = flags.DEFINE_string('workdir', None, 'The run folder: made, or resumed.')
MODE = flags.DEFINE_enum('mode', 'train', MODES, 'What to do with the run.')
CHECKPOINT = flags.DEFINE_string(
    'checkpoint',
    None,
    'eval, sample, predict: a run folder, a file of fi-jax export, or a name that fi-jax weights '
    'lists; results go to --workdir.',
)
SAMPLES_DIR = flags.DEFINE_string('samples_dir', None, 'eval: score these images, of any program.')
TRUTH_DIR = flags.DEFINE_string('truth_dir', '', 'Their originals; default: --samples_dir.')
HOLES_DIR = flags.DEFINE_string('holes_dir', '', 'Their holes, white = missing; the same default.')
COMPARE = flags.DEFINE_multi_string(
    'compare', [], 'eval: run folders, or eval/*.npz files, to put side by side.'
)
TOPOLOGY = flags.DEFINE_string('topology', 'v5e:4x4', 'compile: the chips, or cpu:8.')
PROFILE_STEPS = flags.DEFINE_string(
    'profile_steps', '', 'train: trace the steps first:last into WORKDIR/profile.'
)
MULTIHOST = flags.DEFINE_bool(
    'multihost', False, 'Join the other hosts of a TPU slice or SLURM job (jax.distributed).'
)
COORDINATOR = flags.DEFINE_string(
    'coordinator', None, 'host:port of process 0, where no scheduler tells it; implies --multihost.'
)
NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'With --coordinator: how many.')
PROCESS_ID = flags.DEFINE_integer('process_id', None, 'With --coordinator: which of them, from 0.')
DEBUG = flags.DEFINE_bool('debug', False, 'On an error, show where in the code it arose.')


def main(argv: list[str]) -> None:
    """Run one mode; on an error, end with its code (`fi_jax.run.faults.Exit`) and one line."""
    if len(argv) > 1 and not COMPARE.value:
        raise app.UsageError(f'what is {argv[1]!r}? all arguments are flags: see --helpshort')
    # Imported here, so that --help and a wrong flag answer at once.
    import jax

    from fi_jax import sharding
    from fi_jax.evaluation.protocol import compare_runs, evaluate_folders
    from fi_jax.evaluation.tasks import evaluate_run
    from fi_jax.predict import predict_run
    from fi_jax.run import aot, faults
    from fi_jax.sample import sample_run
    from fi_jax.train import train_and_evaluate

    config = CONFIG.value
    runs = [run for given in COMPARE.value for run in given.split(',')] + argv[1:]
    places = CHECKPOINT.value, WORKDIR.value, SAMPLES_DIR.value, *runs[:1]
    workdir = Path(next(filter(None, places)))
    modes: dict[str, Callable[..., object]] = {
        'train': train_and_evaluate, 'eval': evaluate_run, 'sample': sample_run,
        'predict': predict_run,
        'compile': partial(aot.compile_run, topology=TOPOLOGY.value),
    }  # fmt: skip
    run = modes[MODE.value]
    opens = MODE.value in OPENING and not (runs or SAMPLES_DIR.value)
    if opens and CHECKPOINT.value and WORKDIR.value:
        run = partial(run, out=WORKDIR.value)
    if runs:
        run = partial(compare_runs, runs)
    elif SAMPLES_DIR.value:
        folders = SAMPLES_DIR.value, TRUTH_DIR.value, HOLES_DIR.value
        run = partial(evaluate_folders, folders)
    codes = {
        faults.NonFinite: faults.Exit.NON_FINITE,
        faults.Preempted: faults.Exit.PREEMPTED,
        faults.HostLost: faults.Exit.HOST_LOST,
        faults.SomeFailed: faults.Exit.PARTIAL,
        aot.SomeTooLarge: faults.Exit.PARTIAL,
    }
    try:
        if opens:
            config = open_config(config, workdir)
        sharding.configure_backend(config)
        if MULTIHOST.value or COORDINATOR.value:
            addresses = COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value
            faults.join_hosts(*addresses, timeout=config.mesh.timeout)
        if PROFILE_STEPS.value:
            config.profile_steps = PROFILE_STEPS.value
        if MODE.value in ('train', 'compile') and jax.process_index() == 0:
            workdir.mkdir(parents=True, exist_ok=True)
            log_to(workdir / 'log.txt')
        with faults.contact():
            run(config, workdir)
    except (ValueError, OSError, aot.TooLarge, *codes) as error:
        if DEBUG.value:
            raise
        code = next((codes[kind] for kind in codes if isinstance(error, kind)), None)
        message = ' '.join(str(error).split())
        if code is None:
            code, message = faults.Exit.USER_ERROR, f'{message} (--debug shows where)'
        if faults.joined() and code == faults.Exit.PREEMPTED:
            jax.distributed.shutdown()  # after any other error the farewell would wait for the rest
        faults.leave(code, message)  # and for no compilation that is under way


def open_config(config: ConfigDict, place: Path) -> ConfigDict:
    """The config of a run or file, with what the command line asks; ValueError on all else."""
    from fi_jax.pretrained import own_settings
    from fi_jax.run import settings

    own = own_settings(place, '--checkpoint' if CHECKPOINT.value else '--workdir')
    given = config_flags.get_override_values(FLAGS['config'])
    settings.refuse(own, chosen_by_arguments(config, own) | given, place)
    return settings.opened(own, config, given)


def chosen_by_arguments(config: ConfigDict, own: Mapping[str, Any]) -> dict[str, Any]:
    """Method, and what the arguments after the colon of --config chose, by dotted path.

    An argument that bears a field's name (res, preset) chose that field; any other (ablate) what a
    config without it has otherwise, unless the run has half of it or more: flags of its training
    may have changed the rest since.
    """
    from fi_jax.config import find
    from fi_jax.run.settings import flat, may_differ, settings_of

    given = next((a for a in sys.argv if a.startswith('--config=')), '')
    path, _, text = given.removeprefix('--config=').partition(':')
    if not path or path == str(OWN_CONFIG):
        return {}
    get_config = runpy.run_path(str(find(path)))['get_config']
    words = [word for word in text.split(',') if word]
    chosen, there = {'method': config.method}, flat(own)
    for word in words:
        name = word.partition('=')[0]
        if name in config and name in own:
            chosen[name] = config[name]
            continue
        rest = ','.join(w for w in words if w != word)
        whole, without = (flat(settings_of(get_config(x))) for x in (text, rest))
        made = {k: v for k, v in whole.items() if without.get(k) != v and not may_differ(k)}
        agreed = sum(there.get(k, v) == v for k, v in made.items())
        chosen |= made if 2 * agreed < len(made) else {}
    return chosen


class LogFilter(std_logging.Filter):
    """Lets through what this package says, and the warnings of others, without their tracebacks."""

    def filter(self, record: std_logging.LogRecord) -> bool:
        if record.pathname.startswith(str(Path(__file__).parent)):
            return True
        if not DEBUG.value:
            record.exc_info = None
        return record.levelno >= std_logging.WARNING


def log_to(path: Path) -> None:
    """Copy the log of this program to a file, beside the terminal."""
    std_logging.raiseExceptions = False  # on a full disk, the error that matters is another
    handler = std_logging.FileHandler(path)
    handler.setFormatter(std_logging.Formatter('%(asctime)s %(levelname)s %(message)s'))
    handler.addFilter(LogFilter())
    logging.get_absl_logger().addHandler(handler)


def parse_flags(argv: list[str]) -> list[str]:
    """Flags as absl reads them; ends with 1 and one line, not a traceback, on a wrong one."""
    from fi_jax.config import find, renamed_path

    for arg in argv:
        path = arg.removeprefix('--config.').partition('=')[0]
        if arg.startswith('--config.') and (now := renamed_path(path)) != path:
            print(f'error: --config.{path} is --config.{now} now', file=sys.stderr)
            sys.exit(1)
        if arg.startswith('--config='):
            name, colon, given = arg.removeprefix('--config=').partition(':')
            try:
                found = f'--config={find(name)}{colon}{given}'
            except FileNotFoundError as error:
                print(f'error: {error}', file=sys.stderr)
                sys.exit(1)
            argv = [found if a is arg else a for a in argv]
    elsewhere = any(arg.startswith(('--compare', '--samples_dir')) for arg in argv)
    if not any(arg.startswith('--config=') for arg in argv):
        own = [x for name in ('--checkpoint=', '--workdir=') for x in argv if x.startswith(name)]
        mode = next((x[7:] for x in argv if x.startswith('--mode=')), FLAGS['mode'].default)
        if elsewhere:
            # Nothing is trained: of a config, only its section eval is read.
            argv = [argv[0], f'--config={find("quickstart")}', *argv[1:]]
        elif own and mode in OPENING:
            argv = [argv[0], f'--config={OWN_CONFIG}:{own[0].partition("=")[2]}', *argv[1:]]
    try:
        rest = FLAGS(argv)
        if not (elsewhere or WORKDIR.value or CHECKPOINT.value):
            raise flags.IllegalFlagValueError('flag --workdir is missing: give a run folder')
        if CONFIG.value is None:
            raise flags.IllegalFlagValueError('flag --config is missing: give a file in configs/')
        return rest
    except (flags.Error, AttributeError, LookupError, TypeError, ValueError) as error:
        # A config file's own error comes wrapped in its traceback, the message last.
        text = str(error.args[0] if isinstance(error, KeyError) else error)
        last = text.strip().splitlines()[-1].removeprefix('ValueError: ')
        print(f'error: {last} (--helpshort lists the flags)', file=sys.stderr)
        sys.exit(1)


def console(mode: str = 'train', arguments: list[str] | None = None) -> None:
    """Entry point; mode is the default of --mode, arguments are those of the command line."""
    FLAGS.set_default('mode', mode)
    FLAGS.set_gnu_getopt(True)  # flags may follow the runs of --compare
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(LogFilter())
    logging.get_absl_handler().setFormatter(std_logging.Formatter('%(asctime)s %(message)s', '%T'))
    argv = sys.argv if arguments is None else [f'fi-jax {mode}', *arguments]
    app.run(main, argv=argv, flags_parser=parse_flags)


if __name__ == '__main__':
    console()
