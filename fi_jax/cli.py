"""The command `fi-jax COMMAND ...`; see `fi-jax --help`."""

from __future__ import annotations

import importlib
import sys

# command -> (module, what it does). A module's main(arguments) returns the exit code; the commands
# of fi_jax.main are its modes.
COMMANDS = {
    'inpaint': ('fi_jax.photo.command', 'complete the holes of photos: PHOTO... --hole HOLE'),
    'train': ('fi_jax.main', 'train a run, or go on with it: --config=NAME --workdir=RUN'),
    'eval': ('fi_jax.main', 'score a run or folders of images, compare runs'),
    'sample': ('fi_jax.main', "draw completions of a source's faces"),
    'predict': ('fi_jax.main', 'predict the landmarks of faces with holes'),
    'compile': ('fi_jax.main', 'what a step would need on other chips'),
    'landmarks': (
        'fi_jax.input_pipeline.offline.extract_landmarks',
        'find 68 points in each face of a set of photos',
    ),
    'prepare': ('fi_jax.input_pipeline.offline.prepare', 'pack photos and points as a data set'),
    'serve': ('fi_jax.serve.app', 'a page for your own photos, and its HTTP API'),
    'export': ('fi_jax.pretrained.export', 'one file of weights of a run, with its model card'),
    'weights': ('fi_jax.pretrained.listing', 'weights that are at hand; those of metrics: fetch'),
}


def main(arguments: list[str] | None = None) -> int:
    """The command line -> exit code: 0 done, 1 refused, others as the command says."""
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or ['--help']
    if command in ('-h', '--help'):
        print('fi-jax COMMAND ...\n')
        for name, (_, what) in COMMANDS.items():
            print(f'    {name:10s} {what}')
        print('\nfi-jax COMMAND --help lists its flags (of those of fi_jax.main: --helpshort).')
        return 0
    if command not in COMMANDS:
        print(f'error: fi-jax {command}: unknown; see fi-jax --help', file=sys.stderr)
        return 1
    try:  # here, so that --help answers at once
        module = importlib.import_module(COMMANDS[command][0])
    except ModuleNotFoundError as error:
        if (error.name or '').startswith('fi_jax'):
            raise
        mend = f"pip install 'fi_jax[{command}]'"
        print(f'error: fi-jax {command}: {error.name} is not installed; {mend}', file=sys.stderr)
        return 1
    if module.__name__ == 'fi_jax.main':
        return module.console(command, rest)
    return module.main(rest)


if __name__ == '__main__':
    sys.exit(main())
