"""All systems on the same faces, holes and seeds, side by side: `make table`.

    python -m benchmarks.table --out=runs/table --images=300_000 --config.data.source=zip ...
    python -m benchmarks.table --out=runs/table_time --minutes=30 --config.data.source=zip ...
    python -m benchmarks.table --out=runs/tiny_table --tiny

One process after another trains each system of benchmarks/table.toml, for equal images or, with
--minutes, for equal time on this machine, then evaluates it; one with weights from elsewhere is
only evaluated. The same command again goes on where it ended: what is finished is left alone. A
system whose training fails is named in the table, and the others go on. Flags that begin with
--config. go to all trainings and evaluations; without any the faces are drawn ones. Written:
OUT/report/table.html, .md, .tex, .csv, and OUT/README.md with what each training was.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

from benchmarks.timing import hardware, table
from configs import flow
from fi_jax import pretrained
from fi_jax.evaluation import comparison, protocol, summaries, tables
from fi_jax.evaluation import results as res
from fi_jax.run.faults import Exit
from fi_jax.run.writers import save_json

LIST = Path(__file__).with_name('table.toml')
NAME = 'table'  # of each run's evaluation


@dataclasses.dataclass(frozen=True)
class System:
    """An entry of the list; see benchmarks/table.toml."""

    name: str
    config: str = ''
    flags: tuple[str, ...] = ()
    share: float = 1.0
    after: str = ''
    scored: bool = True
    weights: str = ''

    @property
    def folder(self) -> str:
        """Its name as a folder."""
        return re.sub(r'[^\w.-]+', '_', self.name)


def read_list(path: str | Path) -> list[System]:
    """The systems of a list; ValueError or FileNotFoundError where an entry is wrong."""
    entries = tomllib.loads(Path(path).read_text(encoding='utf-8')).get('system', [])
    known = {field.name for field in dataclasses.fields(System)}
    systems: list[System] = []
    for entry in entries:
        if unknown := set(entry) - known:
            raise ValueError(f'{path}: {entry.get("name")}: no fields {sorted(unknown)}')
        system = System(**entry | {'flags': tuple(entry.get('flags', ()))})
        if system.weights:
            if (file := Path(path).parent / system.weights).is_file():
                system = dataclasses.replace(system, weights=str(file))
            pretrained.find(system.weights, f'{path}: {system.name}: weights')
        if bool(system.config) == bool(system.weights):
            raise ValueError(f'{path}: {system.name}: give config, or weights')
        if system.weights and (system.flags or system.after):
            raise ValueError(f'{path}: {system.name}: flags and after are of a training')
        earlier = [s.name for s in systems]
        trained = [s.name for s in systems if s.config]
        if system.name in earlier or system.folder in {s.folder for s in systems}:
            raise ValueError(f'{path}: two systems are called {system.name!r}')
        if system.after and system.after not in trained:
            raise ValueError(
                f'{path}: {system.name}: after={system.after!r} is no training before it'
            )
        systems.append(system)
    if not any(system.scored for system in systems):
        raise ValueError(f'{path}: names no system; begin with [[system]]')
    return systems


def config_argument(system: System, res: int) -> str:
    """What stands after --config=; 32 pixels are the tiny size of tests."""
    name, _, arg = system.config.partition(':')
    size = 'tiny' if res == 32 else f'res={res}'
    return f'{name}:{",".join(filter(None, (arg, size)))}'


def training(system: System, options: argparse.Namespace, shared: Sequence[str]) -> list[str]:
    """The flags of its training."""
    argument = config_argument(system, options.res)
    name, _, arg = argument.partition(':')
    config = importlib.import_module(f'configs.{name}').get_config(arg)
    counts = {stage: count for stage, count in config.steps.items() if count}
    out = Path(options.out)
    flags = [f'--config={argument}', f'--workdir={out / system.folder}', *system.flags, *shared]
    if options.minutes:
        flags.append(f'--config.minutes={options.minutes * system.share}')
    else:
        batch = int(_value(flags, 'batch_size') or config.batch_size)
        steps = options.images * system.share / batch / sum(counts.values())
        flags += [
            f'--config.steps.{stage}={max(1, round(count * steps))}'
            for stage, count in counts.items()
        ]
    if system.after:
        before = re.sub(r'[^\w.-]+', '_', system.after)
        flags.append(f'--config.warm_start={out / before}')
    return [*flags, '--config.eval.at_end=False']


def evaluation(system: System, options: argparse.Namespace, shared: Sequence[str]) -> list[str]:
    """The flags of its evaluation: the same questions to all."""
    asked = {
        'name': NAME,
        'holes': options.holes,
        'num_samples': options.samples,
        'limit': options.faces,
        'baselines': system.name == next(s.name for s in options.systems if s.scored),
    }
    if system.weights:  # the split of those trained here, not of its own training
        asked['split'] = 'test'
        data = flow.get_config().data
        shares = [f'--config.data.{name}={data[name]}' for name in ('val_share', 'test_share')]
        shared = [*shares, *shared]
    return [
        '--mode=eval',
        f'--workdir={Path(options.out) / system.folder}',
        *([f'--checkpoint={system.weights}'] if system.weights else []),
        *(f'--config.eval.{name}={value}' for name, value in asked.items()),
        *shared,
    ]


def _value(flags: Sequence[str], name: str) -> str:
    head = f'--config.{name}='
    return next((flag.removeprefix(head) for flag in reversed(flags) if flag.startswith(head)), '')


def finished(run: Path, job: str, flags: Sequence[str]) -> bool:
    """Whether a job of a run is done; ValueError where it was done with other flags."""
    path = run / f'{NAME}_{job}.json'
    if not path.is_file():
        return False
    before = dict(flag.partition('=')[::2] for flag in json.loads(path.read_text())['flags'])
    now = dict(flag.partition('=')[::2] for flag in flags)  # of a flag given twice the last counts
    if other := sorted(before.items() ^ now.items()):
        raise ValueError(
            f'{run}: {job} was done with other flags ({" ".join(map("=".join, other))}); '
            'give another --out, or delete that folder'
        )
    return True


def run_job(run: Path, job: str, flags: Sequence[str]) -> int:
    """Run a job in a process of its own unless it is done; its exit code."""
    if finished(run, job, flags):
        print(f'{run.name}: {job} is done', flush=True)
        return 0
    print(f'{run.name}: {job}', flush=True)
    begin = time.time()
    command = [sys.executable, '-m', 'fi_jax.main', *flags]
    process = subprocess.Popen(command)
    # Asked to end, it passes that on to the training, which saves first, and waits for it.
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        code = process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
    if code in (Exit.DONE, Exit.PARTIAL):  # the latter leaves out images that cannot be read
        save_json(
            run / f'{NAME}_{job}.json', {'flags': list(flags), 'seconds': time.time() - begin}
        )
        return 0
    return code


def cost(system: System, run: Path) -> tuple[str, ...]:
    """Its row of costs: images seen, images a second (its stages together), batch, pixels."""
    if system.weights:
        about = pretrained.own_about(system.weights)
        size, seen = about['config']['batch_size'], about.get('step', 0)
        return system.name, f'{seen * size:,}', 'elsewhere', str(size), str(about['config']['res'])
    starts = [json.loads(x) for x in (run / 'starts.jsonl').read_text().splitlines()]
    config = json.loads((run / 'config.json').read_text())
    size = config['batch_size']
    steps = sum(x['last_step'] - x['first_step'] for x in starts)
    worked = sum(x['seconds'] * x['goodput'] for x in starts)
    seen = max(x['last_step'] for x in starts) * size
    speed = f'{steps * size / worked:.0f}'
    return system.name, f'{seen:,}', speed, str(size), str(config['res'])


def without_variants(results: res.Results) -> res.Results:
    """An evaluation without the rows of a method's middle, which its own report keeps."""
    variants = results.protocol.get('variants', ())
    kept = {row: cells for row, cells in results.scores.items() if row not in variants}
    return dataclasses.replace(results, scores=kept)


def write(options: argparse.Namespace, failed: dict[str, str]) -> Path:
    """Compare what was evaluated, and write the page and the README; returns the latter."""
    out = Path(options.out)
    found = {
        s.name: without_variants(res.load(comparison.find(out / s.folder, NAME)))
        for s in options.systems
        if s.scored and s.name not in failed
    }
    compared = comparison.compare(found)
    protocol.write(compared, out, NAME, keep_arrays=False)
    trained = [s for s in options.systems if s.name not in failed]
    for_each = f'{options.minutes:g} minutes' if options.minutes else f'{options.images:,} images'
    heads = ('system', 'images seen', 'images a second', 'batch', 'px')
    parts = [
        f'# {len(found)} systems; {for_each} in each training here',
        tables.markdown(compared, summaries.summarise(compared)),
        '## Training',
        f'```\n{table(heads, [cost(s, out / s.folder) for s in trained])}\n```',
        *(f'{name}: {why}' for name, why in failed.items()),
        'Quality against diversity, groups and faces: [the page](report/table.html).',
        hardware('jax', 'flax'),
    ]
    readme = out / 'README.md'
    readme.write_text('\n\n'.join(parts) + '\n', encoding='utf-8')
    return readme


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Options, and the flags that go to all."""
    head, _, rest = (__doc__ or '').partition('\n\n')
    parser = argparse.ArgumentParser(
        description=head, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--out', required=True, help='a folder for the runs and the table')
    add('--systems', default=LIST, help='another list; see benchmarks/table.toml')
    add('--only', default='', help='names of the list, with ; between')
    add('--images', type=int, default=0, help='that each system sees in training (300,000)')
    add('--minutes', type=float, default=0.0, help='in place of --images: of each training')
    add('--res', type=int, default=64, help='pixels: 64, 128 or 256')
    add('--tiny', action='store_true', help='32 pixels, a few steps: does it run?')
    add('--holes', default='mixture', help='of the evaluation: mixture, or one kind')
    add('--samples', type=int, default=0, help='of each face in the evaluation (6)')
    add('--faces', type=int, default=0, help='of the evaluation; 0: the whole split')
    options, shared = parser.parse_known_args(argv)
    if strange := [flag for flag in shared if not re.match(r'--config\.[\w.]+=', flag)]:
        parser.error(f'{strange[0]}: unknown; flags for all systems look like --config.NAME=VALUE')
    if options.images and options.minutes:
        parser.error('--images and --minutes: give one')
    options.res = 32 if options.tiny else options.res
    options.images = options.images or (0 if options.minutes else 16 if options.tiny else 300_000)
    options.samples = options.samples or (2 if options.tiny else 6)
    try:
        systems = read_list(options.systems)
        wanted = {name.strip() for name in options.only.split(';') if name.strip()}
        if unknown := wanted - {s.name for s in systems}:
            raise ValueError(f'--only: {sorted(unknown)} are not in {options.systems}')
    except (OSError, ValueError) as error:
        parser.error(str(error))
    before = {s.after for s in systems if s.name in wanted}
    options.systems = [s for s in systems if not wanted or s.name in wanted | before]
    for system in options.systems:
        if not system.weights:
            continue
        if not _value(shared, 'data.source'):
            parser.error(f'{system.name}: weights are scored on photos: add --config.data.source')
        if (side := pretrained.own_settings(system.weights)['res']) != options.res:
            parser.error(f'{system.name}: its weights draw {side} pixels; --res={options.res}')
    return options, shared


def main(argv: Sequence[str] | None = None) -> int:
    """Train, evaluate and compare; exit code 0, 1 on bad input, 2 where a system failed."""
    options, shared = parse(argv)
    out, failed = Path(options.out), {}
    # Evaluations take what they can ask; the rest are settings of a training.
    asked = [f for f in shared if re.match(r'--config\.(data|eval|seed)\b', f)]
    try:
        for system in options.systems:
            run = out / system.folder
            if system.after in failed:
                failed[system.name] = f'begins from {system.after}, which failed'
                continue
            jobs: dict[str, list[str]] = {}
            if not system.weights:
                jobs['training'] = training(system, options, shared)
            if system.scored:
                jobs['evaluation'] = evaluation(system, options, asked)
            for job, flags in jobs.items():
                code = run_job(run, job, flags)
                if code in (Exit.PREEMPTED, Exit.HOST_LOST) or code < 0:
                    print(f'{system.name}: {job} was interrupted; the same command goes on')
                    return code if code > 0 else 128 - code
                if code:
                    failed[system.name] = f'{job} ended with code {code}: {run}/log.txt'
                    break
        if any(s.scored and s.name not in failed for s in options.systems):
            print(write(options, failed).read_text())
    except KeyboardInterrupt:
        print('interrupted; the same command goes on')
        return 130
    except ValueError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 2 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
