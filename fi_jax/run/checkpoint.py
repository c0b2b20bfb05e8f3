"""Checkpoints: state, data position and meta, on orbax; verified, strict, with warm starts, best-k.

Orbax writes a step atomically, but does not notice a flipped bit, nor look past a damaged newest
step. So each step carries `manifest.json`, the SHA-256 of its files; a restore checks it first.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from fi_jax.state import NetState, TrainState

SCHEMA = 1
MANIFEST = 'manifest.json'
# Beside it, what orbax writes after its last call to us: times, and that it is done.
UNSIGNED = (MANIFEST, '_CHECKPOINT_METADATA', 'commit_success.txt')
PyTree = Any


class Checkpointer:
    """The checkpoints of one run folder: the newest `keep`, and the best `keep_best` by a metric.

    A step is written in the background and becomes visible at once, complete; a killed run leaves
    nothing half-written. Without options the folder is only read. With them, damaged steps and
    other files that are named like steps are moved to <workdir>/damaged. Use as a context, or
    close.
    """

    def __init__(self, workdir: str | Path, options: Any = None):
        self._workdir = Path(workdir).resolve()
        self._folder = self._workdir / 'checkpoints'
        self._writes = options is not None
        self._saving = -1
        if not self._writes:
            return
        metric = options.best
        best = policies.BestN(
            get_metric_fn=lambda metrics: metrics[metric],
            n=options.keep_best,
            keep_checkpoints_without_metrics=False,
        )
        if jax.process_index() == 0:
            for other in self._other_files():
                self._put_aside(other, 'it holds no state')
        _sync('other files')
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(
                [policies.LatestN(n=options.keep), best]
            ),
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._sign),
        )
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self._folder,
            item_handlers={
                'state': ocp.PyTreeCheckpointHandler(),
                'data': ocp.JsonCheckpointHandler(),
                'meta': ocp.JsonCheckpointHandler(),
            },
            options=self._options,
        )

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what is being written, and let go of the folder."""
        if self._writes:
            with self._disk_errors():
                self._manager.close()

    def wait(self) -> None:
        """Return when what was saved is on disk; raises OSError where it could not be written."""
        with self._disk_errors():
            self._manager.wait_until_finished()

    def steps(self) -> list[int]:
        """The steps that hold a state, oldest first; whether they are damaged is not known yet."""
        return sorted(int(p.name) for p in _numbered(self._folder) if (p / 'state').is_dir())

    def latest(self) -> int | None:
        """The newest step, or None."""
        return max(self.steps(), default=None)

    def save(
        self,
        step: int,
        state: TrainState,
        data: Mapping[str, Any],
        meta: Mapping[str, Any],
        metrics: Mapping[str, float],
    ) -> None:
        """Write a step in the background; metrics are what best-k compares.

        Raises OSError where this step or the one before it could not be written; those on disk
        stay as they are.
        """
        if step in self._manager.all_steps():
            return
        with self._disk_errors():
            self._manager.wait_until_finished()
            self._saving = step
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(state),
                    data=ocp.args.JsonSave(dict(data)),
                    meta=ocp.args.JsonSave({'schema': SCHEMA, **meta}),
                ),
                metrics=dict(metrics) or None,
            )

    def restore(
        self, like: TrainState, step: int | None = None
    ) -> tuple[TrainState, dict[str, Any], dict[str, Any]]:
        """(state, data, meta) of a step, default the newest undamaged one, placed as `like` is.

        like: a state or its shapes with shardings. Raises FileNotFoundError where there is no
        checkpoint, ValueError where all are damaged or the given one is, where the schema is
        another, and where leaves are missing, unknown or of another shape, naming each.
        """
        step = self._undamaged(step)
        self._refuse(step, mismatches(_shapes(like), self._saved_shapes(step)))
        args = ocp.args.Composite(
            state=_restore_args(like), data=ocp.args.JsonRestore(), meta=ocp.args.JsonRestore()
        )
        out = self._read(step, args)
        if out.meta.get('schema') != SCHEMA:
            raise ValueError(
                f'{self._folder}/{step}: schema {out.meta.get("schema")} is not {SCHEMA}; '
                'it was written by another version of fi_jax'
            )
        return out.state, out.data, out.meta

    def restore_nets(
        self, like: Mapping[str, NetState]
    ) -> tuple[dict[str, NetState], int, dict[str, Any]]:
        """(nets, step, meta) of the newest undamaged checkpoint: those of `like`, as evaluated.

        like: shapes, of params and stats alone. What comes back has neither optimizer nor average:
        its params are the averages where the run kept them. Other nets are not read. Errors as in
        `restore`.
        """
        step = self._undamaged(None)
        saved = self._saved_shapes(step)
        wanted: dict[str, Any] = {}
        for name, net in like.items():
            kept = any(path.startswith(f'nets/{name}/ema/') for path in saved)
            wanted[name] = {'ema' if kept else 'params': net.params, 'stats': net.stats}
        heads = tuple(f'nets/{n}/{part}/' for n, parts in wanted.items() for part in parts)
        there = {k: v for k, v in saved.items() if k.startswith(heads)}
        self._refuse(step, mismatches(_shapes({'nets': wanted}), there))
        args = ocp.args.Composite(
            state=_restore_args({'nets': wanted}, partial=True), meta=ocp.args.JsonRestore()
        )
        out = self._read(step, args)
        nets = {
            name: NetState(got.get('ema') or got['params'], got.get('stats', {}), {}, {})
            for name, got in out.state['nets'].items()
        }
        return nets, step, out.meta

    def restore_weights(self, like: TrainState) -> TrainState:
        """`like` with the weights, statistics and averages of the newest undamaged checkpoint.

        Step and optimizers stay those of `like`; where no average was kept there, the weights
        begin one. Raises as `restore` does, of weights and statistics only.
        """
        step = self._undamaged(None)
        saved = self._saved_shapes(step)
        wanted = {'nets': {n: {'params': s.params, 'stats': s.stats} for n, s in like.nets.items()}}
        there = {k: v for k, v in saved.items() if k.split('/')[2:3] in (['params'], ['stats'])}
        self._refuse(step, mismatches(_shapes(wanted), there))
        for name, net in like.nets.items():
            if any(path.startswith(f'nets/{name}/ema/') for path in saved):
                wanted['nets'][name]['ema'] = net.params
        args = ocp.args.Composite(state=_restore_args(wanted, partial=True))
        out = self._read(step, args).state['nets']

        def merge(net: NetState, got: dict[str, PyTree]) -> NetState:
            # A copy, for a buffer that stands twice in a donated state is destroyed.
            ema = got.get('ema') or jax.tree.map(jnp.copy, got['params'])
            stats = got.get('stats', {})
            return net.replace(params=got['params'], stats=stats, ema=ema if net.ema else {})

        return like.replace(nets={name: merge(net, out[name]) for name, net in like.nets.items()})

    # ---------------------------------------------------------------------- manifests

    def _sign(self) -> None:
        """Write the manifest of the step being saved; called just before its last rename."""
        final = self._folder / str(self._saving)
        folder = next(self._folder.glob(f'{final.name}.orbax-checkpoint-tmp*'), final)
        text = json.dumps({'sha256': dict(_hashes(folder))}, indent=1)
        (folder / MANIFEST).write_text(text + '\n')

    def _undamaged(self, step: int | None) -> int:
        """The newest step that its manifest confirms, or the given one if it does."""
        steps = self.steps()
        if not steps or step not in (None, *steps):
            raise FileNotFoundError(
                f'{self._folder}: no checkpoint{"" if step is None else f" of step {step}"}; '
                'train this run first, or give another folder'
            )
        found, problems = -1, []
        if jax.process_index() == 0:
            for candidate in [step] if step is not None else reversed(steps):
                problem = damage(self._folder / str(candidate))
                if problem is None:
                    found = candidate
                    break
                problems.append(problem)
                logging.error('%s: damaged, and not used', problem)
                if self._writes:
                    self._put_aside(self._folder / str(candidate), problem)
        found = int(_from_first(found))
        if found < 0:
            raise ValueError(
                f'{self._folder}: all checkpoints are damaged ({"; ".join(problems)}); restore the '
                'folder from a copy, or train in a new one'
            )
        if problems:
            logging.warning('fell back from step %d to step %d', max(steps), found)
        if self._writes:
            self._manager.reload()
        return found

    def _put_aside(self, folder: Path, why: str) -> None:
        # Out of the way of a new step of that number, and kept for whoever asks what happened.
        aside = self._workdir / 'damaged' / folder.name
        aside.parent.mkdir(exist_ok=True)
        if aside.exists():
            shutil.rmtree(aside)
        folder.rename(aside)
        logging.warning('moved %s to %s: %s', folder, aside, why)

    def _other_files(self) -> list[Path]:
        return [p for p in _numbered(self._folder) if not (p / 'state').is_dir()]

    def _read(self, step: int, args: ocp.args.Composite) -> Any:
        handlers = {
            'state': ocp.PyTreeCheckpointHandler(),
            'data': ocp.JsonCheckpointHandler(),
            'meta': ocp.JsonCheckpointHandler(),
        }
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers)) as reader:
            return reader.restore(self._folder / str(step), args=args)

    def _disk_errors(self) -> DiskErrors:
        return DiskErrors(self._folder)

    def _saved_shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        metadata = ocp.PyTreeCheckpointHandler().metadata(self._folder / str(step) / 'state')
        return _shapes(metadata.tree if hasattr(metadata, 'tree') else metadata)

    def _refuse(self, step: int, problems: list[str]) -> None:
        if problems:
            raise ValueError(
                f'{self._folder}/{step} does not fit this config: {"; ".join(problems)}; give the '
                'config it was trained with, or train it again if an earlier version wrote it'
            )


class DiskErrors:
    """Context in which a failed write becomes one OSError that names the folder and its space."""

    def __init__(self, folder: Path):
        self._folder = folder

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, *_: object) -> None:
        if not isinstance(error, Exception):
            return
        try:
            free = f'{shutil.disk_usage(self._folder).free / 1e6:.0f} MB free'
        except OSError as lost:
            free = str(lost)
        first = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        raise OSError(
            f'{self._folder}: a checkpoint could not be written ({free}): {first[:300]}; the '
            'steps written before it are undamaged; make room and start again'
        ) from error


def damage(folder: Path) -> str | None:
    """What is wrong with a step's folder by its manifest, naming the file; None where nothing is.

    A step without one, from before there were manifests, is taken as it is, with a warning.
    """
    manifest = folder / MANIFEST
    if not manifest.exists():
        logging.warning('%s: no %s, not verified', folder, MANIFEST)
        return None
    try:
        expected: dict[str, str] = json.loads(manifest.read_text())['sha256']
        found = dict(_hashes(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f'{manifest}: cannot be read ({error!r})'
    for name, digest in expected.items():
        if name not in found:
            return f'{folder / name}: missing'
        if found[name] != digest:
            return f'{folder / name}: its SHA-256 is not that of the manifest'
    return None


def _hashes(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob('*')):
        if path.is_file() and path.relative_to(folder).as_posix() not in UNSIGNED:
            with path.open('rb') as file:
                digest = hashlib.file_digest(file, 'sha256').hexdigest()
            yield path.relative_to(folder).as_posix(), digest


def _numbered(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [p for p in folder.iterdir() if p.name.isdigit() and p.is_dir()]


def _from_first(value: int) -> int:
    """The value of process 0, on each."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def _sync(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f'checkpoint/{name}')


def warm_start(state: TrainState, run: str | Path) -> TrainState:
    """A fresh state with another run's weights; errors as in `Checkpointer.restore_weights`."""
    if not (Path(run) / 'checkpoints').is_dir():
        raise FileNotFoundError(f'config.warm_start={run}: no run with checkpoints there')
    with Checkpointer(run) as source:
        logging.info('warm start from %s, step %d', run, source.latest())
        return source.restore_weights(state)


def abstract(tree: PyTree) -> PyTree:
    """Shapes, types and shardings of a state, in place of its arrays."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, 'sharding', None)),
        tree,
    )


def _restore_args(like: PyTree, partial: bool = False) -> ocp.args.PyTreeRestore:
    targets = abstract(like)
    restore_args = ocp.checkpoint_utils.construct_restore_args(targets)
    return ocp.args.PyTreeRestore(targets, restore_args=restore_args, partial_restore=partial)


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)

    def name(path: tuple[Any, ...]) -> str:
        # An attribute here is a key there: orbax gives plain dicts back.
        keys = (getattr(p, 'name', getattr(p, 'key', getattr(p, 'idx', p))) for p in path)
        return '/'.join(map(str, keys))

    return {name(path): tuple(leaf.shape) for path, leaf in leaves if hasattr(leaf, 'shape')}


def mismatches(
    wanted: Mapping[str, tuple[int, ...]], saved: Mapping[str, tuple[int, ...]], limit: int = 6
) -> list[str]:
    """What differs between two tables of shapes, a sentence a leaf, at most `limit`."""
    problems = [
        f'{name} is {saved[name]} there and {wanted[name]} here'
        for name in wanted
        if name in saved and saved[name] != wanted[name]
    ]
    problems += [f'{name} is missing there' for name in wanted if name not in saved]
    problems += [f'{name} is unknown here' for name in saved if name not in wanted]
    more = len(problems) - limit
    return problems[:limit] + ([f'and {more} more'] if more > 0 else [])
