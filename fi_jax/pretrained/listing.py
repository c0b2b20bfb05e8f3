"""`fi-jax weights`: the weights that come with the package, and the networks of metrics."""

from __future__ import annotations

import sys

from fi_jax.metrics import weights
from fi_jax.pretrained import shipped


def show() -> None:
    """A line for each file that comes with the package: name, size, hash, terms."""
    print(f'weights that come with fi_jax, in {shipped.FOLDER}; use: --checkpoint=NAME')
    for name, entry in shipped.SHIPPED.items():
        path = shipped.FOLDER / entry.file
        size = f'{path.stat().st_size / 1e6:.1f} MB' if path.exists() else 'ABSENT'
        print(f'{name:20s} {size:>8s} sha256 {entry.sha256[:12]}  {entry.about}')
        print(f'{"":29s} terms: {entry.terms}')
    if not shipped.SHIPPED:
        print('none')
    print('\nnetworks of metrics')


def main(arguments: list[str] | None = None) -> int:
    """The command line -> exit code: 0 done, 1 refused."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments in ([], ['list']):
        show()
    return weights.main(arguments)
