"""The command `fi-jax`: `fi-jax weights` gets the weights of metrics; the rest is by its module.

    fi-jax weights ...                                 the networks of metrics: what is there, fetch
    python -m fi_jax.main --config=... --workdir=...   train, eval, sample, predict, compile
    python -m fi_jax.evaluate ...                      score a run or folders of images, compare
    python -m fi_jax.input_pipeline.extract_landmarks  68 points of each face of a set of photos
    python -m fi_jax.input_pipeline.prepare            photos and their points as a data set

Each tells its flags with --help (fi_jax.main and fi_jax.evaluate: --helpshort).
"""

import sys


def main(arguments: list[str] | None = None) -> int:
    """The command line -> exit code: 0 done, 1 refused."""
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or ['--help']
    if command in ('-h', '--help'):
        print(__doc__.strip())
        return 0
    if command != 'weights':
        print(f'error: fi-jax {command}: unknown; see fi-jax --help', file=sys.stderr)
        return 1
    from fi_jax.metrics import weights  # here, so that --help answers at once

    return weights.main(rest)


if __name__ == '__main__':
    sys.exit(main())
