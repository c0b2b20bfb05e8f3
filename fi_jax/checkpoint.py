"""Checkpoints: state, data position and meta, on orbax; strict restores, warm starts, best-k."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers as policies

from fi_jax.state import NetState, TrainState

SCHEMA = 1
PyTree = Any


class Checkpointer:
    """The checkpoints of one run folder: the newest `keep`, and the best `keep_best` by a metric.

    A step is written in the background and becomes visible at once, whole; a killed run leaves
    nothing half-written. Use as a context, or call close.
    """

    def __init__(self, workdir: str | Path, options: Any = None):
        self._folder = Path(workdir).resolve() / 'checkpoints'
        policy: Any = policies.LatestN()
        if options is not None:
            metric = options.best
            best = policies.BestN(
                get_metric_fn=lambda metrics: metrics[metric],
                n=options.keep_best,
                keep_checkpoints_without_metrics=False,
            )
            policy = policies.AnyPreservationPolicy([policies.LatestN(n=options.keep), best])
        self._manager = ocp.CheckpointManager(
            self._folder,
            item_handlers={
                'state': ocp.PyTreeCheckpointHandler(),
                'data': ocp.JsonCheckpointHandler(),
                'meta': ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                create=options is not None,
                cleanup_tmp_directories=options is not None,
            ),
        )

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what is being written, and let go of the folder."""
        self._manager.close()

    def latest(self) -> int | None:
        """The newest step, or None."""
        return self._manager.latest_step()

    def save(
        self,
        step: int,
        state: TrainState,
        data: Mapping[str, Any],
        meta: Mapping[str, Any],
        metrics: Mapping[str, float],
    ) -> None:
        """Write a step in the background; metrics are what best-k compares."""
        if step in self._manager.all_steps():
            return
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
        """(state, data, meta) of a step, default the newest, placed as `like` is.

        like: a state or its shapes with shardings. Raises FileNotFoundError where there is no
        checkpoint, ValueError naming each leaf that is missing, unknown or of another shape.
        """
        step = self._existing(step)
        self._refuse(step, mismatches(_shapes(like), self._saved_shapes(step)))
        args = ocp.args.Composite(
            state=_restore_args(like),
            data=ocp.args.JsonRestore(),
            meta=ocp.args.JsonRestore(),
        )
        out = self._manager.restore(step, args=args)
        if out.meta.get('schema') != SCHEMA:
            raise ValueError(
                f'{self._folder}/{step}: schema {out.meta.get("schema")} is not {SCHEMA}; '
                'it was written by another version of fi_jax'
            )
        return out.state, out.data, out.meta

    def restore_weights(self, like: TrainState) -> TrainState:
        """`like` with the weights, statistics and averages of the newest checkpoint.

        Step and optimizers stay those of `like`; where no average was kept there, the weights
        begin one. Raises as `restore` does, of weights and statistics only.
        """
        step = self._existing(None)
        saved = self._saved_shapes(step)
        wanted = {'nets': {n: {'params': s.params, 'stats': s.stats} for n, s in like.nets.items()}}
        there = {k: v for k, v in saved.items() if k.split('/')[2:3] in (['params'], ['stats'])}
        self._refuse(step, mismatches(_shapes(wanted), there))
        for name, net in like.nets.items():
            if any(path.startswith(f'nets/{name}/ema/') for path in saved):
                wanted['nets'][name]['ema'] = net.params
        args = ocp.args.Composite(state=_restore_args(wanted, partial=True))
        out = self._manager.restore(step, args=args).state['nets']

        def merge(net: NetState, got: dict[str, PyTree]) -> NetState:
            # A copy, for a buffer that stands twice in a donated state is destroyed.
            ema = got.get('ema') or jax.tree.map(jnp.copy, got['params'])
            stats = got.get('stats', {})
            return net.replace(params=got['params'], stats=stats, ema=ema if net.ema else {})

        return like.replace(nets={name: merge(net, out[name]) for name, net in like.nets.items()})

    def _existing(self, step: int | None) -> int:
        step = self._manager.latest_step() if step is None else step
        if step is None or step not in self._manager.all_steps():
            raise FileNotFoundError(
                f'{self._folder}: no checkpoint{"" if step is None else f" of step {step}"}; '
                'train this run first, or give another folder'
            )
        return step

    def _saved_shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        metadata = self._manager.item_metadata(step)['state']
        return _shapes(metadata.tree if hasattr(metadata, 'tree') else metadata)

    def _refuse(self, step: int, problems: list[str]) -> None:
        if problems:
            raise ValueError(
                f'{self._folder}/{step} does not fit this config: ' + '; '.join(problems)
            )


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
