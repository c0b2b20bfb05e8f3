"""A run folder -> one file of weights, and the card that says what they are.

    fi-jax export --workdir=RUN --out=FILE.safetensors

The averaged networks that sampling needs, their config, and on request a landmark predictor, in
the safetensors format. FILE.md beside it is the model card: what it is, data and terms, figures
read from RUN/eval/*.json, limits. Every mode takes the file in place of the run folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
import ml_dtypes
import numpy as np

import fi_jax
from fi_jax.methods import predicted_landmarks
from fi_jax.pretrained import Weights, files, open_weights, own_about, shipped, tensors_of
from fi_jax.run.files import atomic_write
from fi_jax.run.folder import data_name, data_of, load_predictor

DTYPES = {
    'float32': None, 'bfloat16': ml_dtypes.bfloat16, 'float16': np.float16, 'int8': np.int8,
}  # fmt: skip
# Fields that name places of the machine where a run was trained.
PLACES = (
    'data.path', 'data.data_dir', 'data.sets', 'data.landmarks', 'data.identities',
    'data.attributes', 'data.partition', 'eval.landmark_detector', 'sample.out', 'predict.out',
    'warm_start', 'predictor', 'tracker', 'compile_cache', 'profile_steps',
)  # fmt: skip
UNKNOWN_TERMS = (
    'not stated by who exported the file; the terms of the training data hold for what is made of '
    'them'
)
FIGURES = (
    'psnr_hole/mean', 'psnr_hole/best', 'ssim_hole/mean', 'lpips/mean', 'stlpips/mean',
    'pair_stlpips', 'pair_distance_hole', 'nme', 'nme_hidden', 'nme_visible',
)  # fmt: skip


def export_run(
    run: str | Path,
    out: str | Path,
    dtype: str = 'float32',
    max_bytes: int = 0,
    predictor: str = '',
    terms: str = '',
) -> str:
    """Write a run's averaged networks to out, and its card beside it -> the file's SHA-256.

    dtype: of kernels and matrices; vectors stay float32. max_bytes: 0 for no limit. predictor: a
    run or file of configs/landmarks.py to put inside; where the run uses one, that one. A file
    in the folder of this module is shipped with the package: terms, then, must be said. Raises
    ValueError where the file would be larger, or is named otherwise than *.safetensors; then
    nothing is written.
    """
    out = Path(out)
    ships = out.parent.resolve() == shipped.FOLDER.resolve()
    if ships and not terms:
        raise ValueError(f'--out={out} is shipped to everyone: say under which --terms')
    if out.suffix != files.SUFFIX:
        raise ValueError(f'--out={out}: end its name with {files.SUFFIX}')
    if dtype not in DTYPES:
        raise ValueError(f'--dtype={dtype}: choose one of {list(DTYPES)}')
    weights, own = open_weights(run, field='--workdir'), own_about(run)
    config = weights.config
    if config.get('landmark_source') in predicted_landmarks.PREDICTED:
        predictor = predictor or config.predictor
    tensors = tensors_of(weights.nets, DTYPES[dtype])
    about = describe(weights, own, run, dtype, terms)
    inside = load_predictor(predictor, '--predictor') if predictor else weights.predictor
    if inside is not None:
        predicted_landmarks.check_size(f'--predictor={predictor}', inside.config, config.res)
        more = tensors_of(inside.nets, DTYPES[dtype])
        tensors |= {f'predictor/{name}': x for name, x in more.items()}
        known = own_about(predictor) if predictor else own
        known = known.get('predictor', known)  # it may be inside of that file too
        about['predictor'] = describe(inside, known, predictor or run, dtype, terms)
    data = files.encode(tensors, about)
    if max_bytes and len(data) > max_bytes:
        smaller = {'float32': 'bfloat16', 'bfloat16': 'int8', 'float16': 'int8'}.get(dtype)
        hint = f' --dtype={smaller} halves it' if smaller else ''
        raise ValueError(f'--max_bytes={max_bytes:,}: the file would have {len(data):,};{hint}')
    sha256 = hashlib.sha256(data).hexdigest()
    if jax.process_index() == 0:
        with atomic_write(out) as part:
            part.write_bytes(data)
        with atomic_write(out.with_suffix('.md')) as part:
            part.write_text(card(out.name, about, len(data), sha256))
        if ships:
            what = f'{config.method}, {config.res} px, trained on {about["data_name"]}'
            shipped.add(out.stem, shipped.Shipped(out.name, sha256, terms, what))
    return sha256


def describe(
    weights: Weights, own: Mapping[str, Any], place: str | Path, dtype: str, terms: str
) -> dict[str, Any]:
    """What a file says of networks beside their arrays; plain JSON, and no place of a machine.

    own: what their place says of them (`fi_jax.pretrained.own_about`).
    """
    if weights.about['kind'] == 'file':  # exported again: what it said, in another type
        about = {**weights.about, 'config': own['config'], 'dtype': dtype}
        about |= {'terms': terms} if terms else {}
        return {k: x for k, x in about.items() if k not in ('name', 'kind', 'sha256', 'predictor')}
    settings, found = own['config'], weights.about['data']
    leaves = tensors_of(weights.nets).values()
    return {
        'config': without_places(settings),
        'method': settings['method'],
        'step': weights.about['step'],
        'images': weights.about['step'] * settings['batch_size'],
        'parameters': sum(x.size for x in leaves),
        'nets': sorted(weights.nets),
        'dtype': dtype,
        'data': data_of(settings['data'], found) if found else {},
        'data_name': data_name(weights.config.data),
        'terms': terms or terms_of(settings['data']),
        'figures': figures(Path(place)),
        'fi_jax': fi_jax.__version__,
    }


def terms_of(data: Mapping[str, Any]) -> str:
    """The terms of weights by their training data, where they are known."""
    drawn = data['source'] == 'procedural'
    return 'Apache-2.0 (trained on drawn faces alone)' if drawn else UNKNOWN_TERMS


def without_places(settings: Mapping[str, Any], head: str = '') -> dict[str, Any]:
    """Settings with '' for each path of the machine where they were used."""
    out: dict[str, Any] = {}
    for name, value in settings.items():
        path = head + name
        if isinstance(value, Mapping):
            out[name] = without_places(value, f'{path}.')
        else:
            out[name] = '' if path in PLACES else value
    return out


def figures(run: Path) -> list[dict[str, Any]]:
    """Of each RUN/eval/*.json: its name, the protocol in short, and the headline scores.

    score: mean, low, high (95 %), over all images of the run's own row.
    """
    found = []
    for path in sorted(run.glob('eval/*.json')):
        saved = json.loads(path.read_text())
        protocol, rows = saved['protocol'], saved.get('rows', {'samples': saved.get('scores', {})})
        scores = rows.get('samples', {}).get('all', {})
        short = {name: protocol.get(name) for name in ('data', 'split', 'holes', 'num_samples')}
        cells = {
            name: {k: float(f'{scores[name][k]:.4g}') for k in ('mean', 'low', 'high')}
            for name in FIGURES
            if name in scores
        }
        count = max((int(cell['count']) for cell in scores.values()), default=0)
        found.append({'name': path.stem, **short, 'images': count, 'scores': cells})
    return found


def card(name: str, about: Mapping[str, Any], size: int, sha256: str) -> str:
    """The model card, Markdown."""
    config, inside = about['config'], about.get('predictor')
    predicts = about['method'] == 'landmarks'
    what = (
        'Finds 68 landmarks of a face that may have holes, with how sure it is of each.'
        if predicts
        else 'Draws several plausible completions of a face photo with a hole.'
    )
    lines = [
        f'# {name}',
        '',
        f'{what} Method `{about["method"]}` of fi_jax {about["fi_jax"]}, {config["res"]} px, '
        f'{about["parameters"]:,} parameters in {about["dtype"]}, trained for {about["step"]:,} '
        f'steps = {about["images"]:,} images; the weights are averages over the last of them.',
    ]
    if inside:
        lines += ['', f'Inside is a landmark predictor of {inside["parameters"]:,} parameters.']
    lines += [
        '',
        f'- {size:,} bytes, SHA-256 `{sha256}`',
        f'- networks: {", ".join(about["nets"])}',
        '',
        '## Use',
        '',
        '```',
        f'python -m fi_jax.main --mode={"predict" if predicts else "sample"} --checkpoint={name} '
        '--config.data.source=folder --config.data.path=PHOTOS --workdir=OUT',
        '```',
        '',
        '## Data and terms',
        '',
        *_data_lines(about),
    ]
    if inside:
        lines += ['', 'The predictor inside:', '', *_data_lines(inside)]
    lines += ['', '## Figures', '']
    if not about['figures']:
        lines += ['The run was not evaluated before the export.']
    for one in about['figures']:
        lines += [
            f'`{one["name"]}`: {one["images"]} images of {one["data"]}, split {one["split"]}, '
            f'holes {one["holes"]}, {one["num_samples"]} samples each; 95 % intervals over images.',
            '',
            '| score | mean | from | to |',
            '|---|---|---|---|',
            *(
                f'| {score} | {x["mean"]:.4g} | {x["low"]:.4g} | {x["high"]:.4g} |'
                for score, x in one['scores'].items()
            ),
            '',
        ]
    answer = 'points it finds are guesses' if predicts else 'a completion is one of many plausible'
    lines += [
        '',
        '## Limits',
        '',
        f'- What is hidden is not known: {answer}, not the truth. Identify nobody by it.',
        '- Faces unlike those of the training data (age, skin, pose, framing) come out worse; the '
        'figures above are means.',
        f'- It works on faces framed as in training, at {config["res"]} px.',
        '',
    ]
    text = '\n'.join(lines)
    while '\n\n\n' in text:
        text = text.replace('\n\n\n', '\n\n')
    return text


def _data_lines(about: Mapping[str, Any]) -> list[str]:
    count = about['data'].get('images')
    many = f'{count:,} images of ' if count else ''
    return [f'- trained on {many}`{about["data_name"]}`', f'- terms: {about["terms"]}']


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f'error: {message} ({self.prog} --help lists all)', file=sys.stderr)
        sys.exit(1)


def main(arguments: list[str] | None = None) -> int:
    """The command line -> exit code: 0 done, 1 refused."""
    parser = _Parser(
        prog='fi-jax export',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--workdir', required=True, metavar='RUN', help='the run folder')
    parser.add_argument('--out', required=True, metavar='FILE', help='*.safetensors')
    parser.add_argument('--dtype', default='float32', choices=list(DTYPES),
                        help='of kernels; 16 bits halve, 8 quarter it (%(default)s)')  # fmt: skip
    parser.add_argument('--max_bytes', type=float, default=0, metavar='N',
                        help='refuse a larger file; 25e6 reads as well')  # fmt: skip
    parser.add_argument('--predictor', default='', metavar='RUN',
                        help='a run of configs/landmarks.py to put inside')  # fmt: skip
    parser.add_argument('--terms', default='', help='under which the file may be used')
    given = parser.parse_args(arguments)
    try:
        sha256 = export_run(
            given.workdir, given.out, given.dtype, int(given.max_bytes), given.predictor,
            given.terms,
        )  # fmt: skip
    except (OSError, ValueError, LookupError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    size = Path(given.out).stat().st_size
    print(f'{given.out}: {size:,} bytes, sha256 {sha256}; its card: {Path(given.out).stem}.md')
    return 0


if __name__ == '__main__':
    sys.exit(main())
