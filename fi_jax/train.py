"""train_and_evaluate(config, workdir): the whole of a training run, readable in one sitting."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import platform
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from clu import parameter_overview
from jax.sharding import Mesh

from fi_jax import pictures, sharding, steps
from fi_jax.checkpoint import Checkpointer, warm_start
from fi_jax.evaluate import as_text, evaluate, evaluate_split
from fi_jax.input_pipeline.loader import EvalExamples, Tolerant, eval_batches, train_iterator
from fi_jax.input_pipeline.sources import Source, make_source
from fi_jax.methods import Method, make_method
from fi_jax.optim import make_optimizers
from fi_jax.state import TrainState, init_state
from fi_jax.writers import Writer, save_json


class NonFinite(RuntimeError):
    """Too many steps in a row whose loss or gradient was not finite."""


def train_and_evaluate(config: Any, workdir: str | Path) -> TrainState:
    """Train the stages of a config in a run folder, evaluate at the end, return the last state.

    Begins from, in this order: the newest checkpoint of the run folder itself, the run that
    config.warm_start names, fresh weights. Raises ValueError or FileNotFoundError on bad input,
    NonFinite when training diverged.
    """
    workdir = Path(workdir)
    mesh = sharding.make_mesh()
    method = make_method(config)
    optimizers = make_optimizers(config, method.nets)
    plan = stage_plan(method, config)
    last_step = plan[-1][2]

    source = Tolerant(make_source(config.data, 'train'), config.data.max_bad_share)
    held_back = make_source(config.data, 'val')
    batches = train_iterator(source, config, jax.process_index(), jax.process_count())
    describe_run(config, workdir, mesh, len(source), len(held_back))

    replicated = sharding.replicated(mesh)
    init = jax.jit(
        lambda: init_state(method, optimizers, config.res, config.seed), out_shardings=replicated
    )
    state = init()
    log_parameters(state)

    with Checkpointer(workdir, config.checkpoint) as checkpointer, Writer(workdir) as writer:
        if checkpointer.latest() is not None:
            state, position, _ = checkpointer.restore(state)
            batches.set_state(position)
            logging.info('resumed %s at step %d', workdir, int(state.step))
        elif config.warm_start:
            state = warm_start(state, config.warm_start)
        elif method.stages and plan[0][0] != next(iter(method.stages)):
            logging.warning(
                'config.warm_start is empty: %s begins from fresh weights, without the stage '
                'before it', plan[0][0],
            )  # fmt: skip

        look = Look(method, held_back, config, mesh, writer)
        validation = EvalExamples(
            held_back, config, 'mixture', config.validate.limit, config.eval.batch_size
        )

        def boundary(step: int, state: TrainState) -> None:
            """What happens between two steps: look, validate, save."""
            if step % config.pictures_every == 0 or step == last_step:
                look(step, state)
            if step and (step % config.checkpoint.every == 0 or step == last_step):
                scores = evaluate(
                    method, state.nets, validation, config, mesh,
                    config.validate.num_samples, config.eval.batch_size,
                )['all']  # fmt: skip
                means = {name: cell['mean'] for name, cell in scores.items()}
                writer.scalars(step, {f'val/{name}': mean for name, mean in means.items()})
                checkpointer.save(step, state, batches.get_state(), {}, means)

        for stage, first, last in plan:
            train_step = jax.jit(
                steps.make_train_step(method, stage, optimizers, config, first),
                donate_argnums=0,
                out_shardings=replicated,
            )
            meter = Meter(stage, config, last, writer)
            for step in range(max(int(state.step), first), last):
                with meter.paused():
                    # Before the next batch is taken: the saved data position is the step's own.
                    boundary(step, state)
                with meter.waiting():
                    batch = next(batches)
                state, metrics = train_step(state, sharding.shard_batch(batch, mesh))
                if meter.add(step + 1, metrics):
                    stop_if_diverged(state, config.max_skips)
        boundary(last_step, state)
        batches.close()

        if source.bad:
            logging.warning('%d bad images were replaced by their neighbours', len(source.bad))
        if config.eval.at_end:
            rows = evaluate_split(method, state.nets, config, workdir, mesh)
            logging.info('evaluation of %s\n%s', workdir, as_text(rows))
    logging.info('done: look at %s', workdir / 'samples')
    return state


def stop_if_diverged(state: TrainState, max_skips: int) -> None:
    """Raise NonFinite where too many steps in a row moved nothing."""
    if int(state.skips) >= max_skips:
        raise NonFinite(
            f'step {int(state.step)}: {int(state.skips)} steps in a row were not finite '
            f'(config.max_skips={max_skips}); lower config.optim.lr, or look for the first null in '
            'metrics.jsonl. The last checkpoint is whole.'
        )


def stage_plan(method: Method, config: Any) -> list[tuple[str, int, int]]:
    """(stage, first step, last step) of each stage that has steps, in the method's order.

    Raises ValueError where config.steps names no stage of the method or all are 0.
    """
    if unknown := set(config.steps) - set(method.stages):
        raise ValueError(
            f'config.steps: {sorted(unknown)} are no stages of {config.method}; '
            f'it has {list(method.stages)}'
        )
    plan, first = [], 0
    for stage in method.stages:
        count = config.steps.get(stage, 0)
        if count > 0:
            plan.append((stage, first, first + count))
            first += count
    if not plan:
        raise ValueError(f'config.steps: all stages have 0 steps; set one of {list(method.stages)}')
    return plan


def mean_metrics(rows: list[Mapping[str, np.ndarray]]) -> dict[str, float]:
    """Means over steps; a lazy phase counts only where it played (NaN elsewhere)."""
    means = {}
    for name in rows[-1]:
        values = np.array([row[name] for row in rows], np.float64)
        played = values[~np.isnan(values)]
        means[name] = float(played.mean()) if played.size else math.nan
    return means


class Meter:
    """The numbers of a stage: means of the metrics, rate, ETA, share of time waiting for data.

    Pictures, validation and saves are not training time, nor is what comes before the first line:
    compilation.
    """

    def __init__(self, stage: str, config: Any, last: int, writer: Writer):
        self._stage, self._last, self._writer = stage, last, writer
        self._batch_size, self._every = config.batch_size, config.log_every
        self._pending: list[dict[str, jax.Array]] = []
        self._start: tuple[float, int] | None = None
        self._spent = {'paused': 0.0, 'waiting': 0.0}

    @contextlib.contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self._spent[what] += time.perf_counter() - begin

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """Time inside is not training time."""
        return self._timed('paused')

    def waiting(self) -> contextlib.AbstractContextManager[None]:
        """Time inside is waiting for data."""
        return self._timed('waiting')

    def add(self, step: int, metrics: dict[str, jax.Array]) -> bool:
        """Take a finished step's metrics; true where a line was due, and written."""
        self._pending.append(metrics)
        if len(self._pending) > 2:
            # The host runs two steps ahead at most, else waiting for data could not be told.
            jax.block_until_ready(self._pending[-3])
        if step % self._every and step != self._last:
            return False
        means = mean_metrics(jax.device_get(self._pending))
        self._pending = []
        rates = self._rates(step)
        self._writer.scalars(step, means | {f'time/{name}': x for name, x in rates.items()})
        losses = '  '.join(f'{k} {v:.4g}' for k, v in means.items() if k.startswith('loss/'))
        head = f'{self._stage} step {step}/{self._last}'
        logging.info('%s  %s%s', head, self._speed(step, rates), losses)
        if self._start is None:
            self._start = time.perf_counter(), step
            self._spent = dict.fromkeys(self._spent, 0.0)
        return True

    def _rates(self, step: int) -> dict[str, float]:
        if self._start is None:
            return {}
        begin, first = self._start
        seconds = time.perf_counter() - begin - self._spent['paused']
        return {
            'steps_per_s': (step - first) / seconds,
            'images_per_s': (step - first) * self._batch_size / seconds,
            'data_wait_share': self._spent['waiting'] / seconds,
        }

    def _speed(self, step: int, rates: Mapping[str, float]) -> str:
        if not rates:
            return '(compiled)  '
        minutes, seconds = divmod(round((self._last - step) / rates['steps_per_s']), 60)
        return (
            f'{rates["steps_per_s"]:.2f} step/s  {rates["images_per_s"]:.0f} image/s  '
            f'ETA {minutes}m{seconds:02d}s  data wait {rates["data_wait_share"]:.1%}  '
        )


class Look:
    """The pictures and monitors of a run: the same faces, holes and draws each time."""

    def __init__(self, method: Method, source: Source, config: Any, mesh: Mesh, writer: Writer):
        replicated = sharding.replicated(mesh)
        rows = -(-config.num_pictures // mesh.size) * mesh.size
        examples = EvalExamples(source, config, config.picture_holes, rows, rows)
        batch = next(
            iter(eval_batches(examples, config, rows, jax.process_index(), jax.process_count()))
        )
        self._batch = sharding.shard_batch(batch, mesh)
        draw = steps.make_sample_step(method, config.seed, config.num_picture_samples)
        self._draw = jax.jit(draw, out_shardings=replicated)
        self._watch = jax.jit(steps.make_watch_step(method, config.seed), out_shardings=replicated)
        self._writer = writer

    def __call__(self, step: int, state: TrainState) -> None:
        drawn = jax.device_get(self._draw(state.nets, self._batch))
        watched = jax.device_get(self._watch(state.nets, self._batch))
        self._writer.picture(step, 'faces', pictures.sheet(drawn, drawn))
        scalars = {f'watch/{k}': float(v) for k, v in watched.items() if v.ndim == 0}
        self._writer.scalars(step, scalars)
        for name, values in watched.items():
            if values.ndim == 1:
                self._writer.vector(step, f'watch/{name}', values)


def describe_run(config: Any, workdir: Path, mesh: Mesh, num_train: int, num_val: int) -> None:
    """Write config.json and versions.json and say what runs where."""
    settings = json.loads(config.to_json_best_effort())
    logging.info(
        '%s, preset %s, %d px, batch %d on %d %s devices of %d hosts; %d training faces, %d '
        'held back; run folder %s',
        config.method, config.get('preset', '-'), config.res, config.batch_size, mesh.size,
        jax.devices()[0].platform, jax.process_count(), num_train, num_val, workdir,
    )  # fmt: skip
    if jax.process_index():
        return
    before = workdir / 'config.json'
    if before.exists() and json.loads(before.read_text()) != settings:
        logging.warning('%s differs from the config this run began with', before)
    save_json(before, settings)
    packages = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')
    versions = {name: importlib.metadata.version(name) for name in packages}
    save_json(workdir / 'versions.json', {'python': platform.python_version(), **versions})


def log_parameters(state: TrainState) -> None:
    """The parameter table of each network."""
    for name, net in state.nets.items():
        table = parameter_overview.get_parameter_overview(net.params, include_stats=False)
        logging.info('parameters of %s\n%s', name, table)
