"""train_and_evaluate(config, workdir): a training run from start to end."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from clu import parameter_overview
from jax.sharding import Mesh

from fi_jax import sharding, steps
from fi_jax.augmentation import make_augment
from fi_jax.evaluation.scoring import record_failure
from fi_jax.evaluation.tasks import task_of
from fi_jax.input_pipeline.loader import EvalExamples, SkipBadImages, eval_batches, train_iterator
from fi_jax.input_pipeline.records import Source
from fi_jax.input_pipeline.sources import NoSplit, make_source
from fi_jax.methods import Method, make_method
from fi_jax.optim import make_optimizers
from fi_jax.pretrained import warm_start
from fi_jax.pretrained.export import export_run
from fi_jax.run import budget
from fi_jax.run.ahead import Ahead, step_arguments
from fi_jax.run.checkpoint import Checkpointer
from fi_jax.run.faults import HostWatch, NonFinite, Preempted, Preemption
from fi_jax.run.folder import fingerprint
from fi_jax.run.meter import Clock, Meter, Profile
from fi_jax.run.resume import begun_stages, check_resume, fixed_settings, stage_plan
from fi_jax.run.settings import settings_of
from fi_jax.run.writers import Writer, save_json
from fi_jax.state import TrainState, init_state


def train_and_evaluate(config: Any, workdir: str | Path) -> TrainState:
    """Train the stages of a config in a run folder, evaluate at the end, return the last state.

    Begins from, in this order: the newest undamaged checkpoint of the run folder itself, what
    config.warm_start names, fresh weights. By config.minutes, stages last their shares of that
    time, and the weights are exported at the end. Raises ValueError, FileNotFoundError or OSError
    on bad input, NonFinite when training diverged, Preempted when SIGTERM asked it to save and end.
    """
    workdir, begin = Path(workdir), budget.now()
    with (
        HostWatch(workdir / 'hosts', config.mesh.timeout) as hosts,
        Preemption() as preemption,
        Clock(workdir) as clock,
    ):
        state = _train(config, workdir, hosts, preemption, clock, begin)
    if config.minutes:
        out = workdir / 'weights.safetensors'
        logging.info('%s: sha256 %s', out, export_run(workdir, out))
    return state


def _train(
    config: Any,
    workdir: Path,
    hosts: HostWatch,
    preemption: Preemption,
    clock: Clock,
    begin: float,
) -> TrainState:
    mesh = sharding.make_mesh(config.mesh.fsdp)
    method = make_method(config)
    optimizers = make_optimizers(config, method.nets)
    plan = stage_plan(method, config)
    begun: dict[str, int] = {}  # stage -> its first step
    seconds = 0.0
    profile = Profile(config.profile_steps, workdir)

    faces = make_source(config.data, 'train')
    source = SkipBadImages(faces, config.data.max_bad_share)
    try:
        held_back = make_source(config.data, 'val')
    except NoSplit as error:
        logging.warning('%s. Training faces are shown and validated on.', error)
        held_back = faces
    workers = sharding.data_workers(config.data.num_workers, mesh)
    batches = train_iterator(source, config, jax.process_index(), jax.process_count(), workers)
    augment = make_augment(config, mesh)
    describe_run(config, workdir, mesh, len(source), len(held_back))

    def init() -> TrainState:
        return init_state(method, optimizers, config.res, config.seed)

    fresh = jax.eval_shape(init)
    placement = sharding.place_state(fresh, mesh, config.mesh.fsdp_min_size)
    replicated = sharding.replicated(mesh)
    constants = jax.device_put(dict(method.constants()), replicated)
    programs = {
        stage: jax.jit(
            steps.make_train_step(method, stage, optimizers, config, mesh),
            donate_argnums=0,
            out_shardings=(placement, replicated),
            compiler_options=sharding.compiler_options(),
        )
        for stage, _, _ in plan
    }
    arguments = step_arguments(config, fresh, placement, constants)

    def compile_ahead(ahead: Ahead, stages: list[str]) -> None:
        # Beside steps on TPUs alone: on a CPU they would miss the cores, and on a GPU the compiler
        # tries kernels on the device.
        for stage in stages if jax.default_backend() == 'tpu' else stages[:1]:
            ahead.begin(programs[stage], *arguments)

    with (
        Checkpointer(workdir, config.checkpoint) as checkpointer,
        Writer(workdir, config.tracker, settings_of(config)) as writer,
        Ahead() as ahead,
    ):
        done = checkpointer.latest()
        # A checkpoint, or another run, may yet be refused, and tells what is still to be done.
        begins_anew = done is None and not config.warm_start
        if begins_anew:
            compile_ahead(ahead, [stage for stage, _, _ in plan])
        # It runs once: on a CPU, compiling it well takes many times longer than running it.
        options = {'xla_backend_optimization_level': 0} if jax.default_backend() == 'cpu' else None
        state = jax.jit(init, out_shardings=placement, compiler_options=options)()
        log_parameters(state)
        if mesh.size > 1:
            rows = sharding.table(fresh.nets, placement.nets)
            logging.info('where the state lies\n%s', sharding.as_text(rows, mesh))
        if done is not None:
            state, position, meta = checkpointer.restore(state)
            check_resume(config, plan, int(state.step), meta, fingerprint(faces), workdir)
            begun, seconds = begun_stages(meta, int(state.step)), meta.get('seconds', 0.0)
            batches.set_state(position)
            logging.info('resumed %s at step %d', workdir, int(state.step))
        elif config.warm_start:
            state = warm_start(state, config.warm_start, method)
        elif method.stages and plan[0][0] != next(iter(method.stages)):
            logging.warning(
                'config.warm_start is empty: %s begins from fresh weights, without the stage '
                'before it', plan[0][0],
            )  # fmt: skip
        record_run(config, workdir)
        clock.first = clock.last = int(state.step)
        # Also what a start left that was killed before its first checkpoint.
        writer.rewind(-1 if done is None else int(state.step))
        about = {'settings': fixed_settings(config), 'steps': config.steps.to_dict()}
        about['data'] = fingerprint(faces)
        counts = {stage: last - first for stage, first, last in plan}
        timer = budget.Budget(config.minutes, counts, seconds, begin)

        def is_over(place: int, step: int) -> bool:
            stage, first, _ = plan[place]
            first = begun.get(stage, step) if config.minutes else first
            ended = step > first and timer.moment(stage, first, step) >= counts[stage]
            return ended or any(later in begun for later, _, _ in plan[place + 1 :])

        if not begins_anew:
            coming = [plan[i][0] for i in range(len(plan)) if not is_over(i, int(state.step))]
            compile_ahead(ahead, coming)

        log_samples = SampleLogger(method, held_back, config, mesh, writer)
        validation = EvalExamples(
            held_back, config, 'mixture', config.validate.limit, config.eval.batch_size
        )
        task = task_of(method)
        validate = task.mean_scores(method, validation, config, mesh, config.validate.num_samples)
        trouble: dict[str, str] = {}  # metrics that failed: they never end a training

        def on_step_end(stage: str, step: int, state: TrainState, ended: bool = False) -> None:
            """What happens between two steps: look, validate, save, and end where one must."""
            preempted = preemption.reached(step)
            if step % config.pictures_every == 0 or (ended and stage == plan[-1][0]):
                with clock('look'):
                    log_samples(step, state)
            means: dict[str, float] = {}
            due = step % config.checkpoint.every == 0 or ended
            if step and due:
                with clock('eval'), record_failure(trouble, f'validation at step {step}'):
                    means = validate(state.nets)
                values = {f'val/{name}': mean for name, mean in means.items()}
                writer.scalars(step, values | {'val/failures': float(len(trouble))})
            if (step and due) or preempted:
                # A checkpoint without a finite score is kept as the newest, never as the best.
                scored = math.isfinite(means.get(config.checkpoint.best, math.nan))
                with clock('checkpoint'):
                    meta = {'stage': stage, 'begun': dict(begun), **about}
                    if config.minutes:
                        meta['seconds'] = timer.seconds()
                    scores = means if scored else {}
                    checkpointer.save(step, state, batches.get_state(), meta, scores)
                    if ended or preempted:
                        checkpointer.wait()
            if preempted:
                raise Preempted(f'step {step} is saved in {workdir}; the same command resumes')
            if ended:
                preemption.saved = True  # a long compilation or evaluation follows

        for place, (stage, first, last) in enumerate(plan):
            step = int(state.step)
            if is_over(place, step):
                continue
            over, first = False, begun.setdefault(stage, step if config.minutes else first)
            if step == 0:
                on_step_end(stage, step, state)
            train_step, start = programs.pop(stage), jax.device_put(np.int32(first), replicated)
            meter = Meter(stage, config, None if config.minutes else last, writer, clock)
            kind, moment = 'compile', None
            while not over:
                profile(step, state)
                with clock('data'):
                    batch = augment(sharding.shard_batch(next(batches), mesh))
                hosts.mark()
                # Nothing goes to a device or comes back by the way: it would wait for the step.
                guard = jax.transfer_guard('allow' if kind == 'compile' else 'disallow')
                with clock(kind):
                    ahead.wait(train_step)
                    if config.minutes:
                        passed = np.float32(timer.moment(stage, first, step))
                        moment = jax.device_put(passed, replicated)
                    with guard:
                        state, metrics = train_step(state, batch, constants, moment, start)
                    step, kind = step + 1, 'step'
                    over = timer.moment(stage, first, step) >= counts[stage]
                    due = meter.add(step, metrics, over, timer.left())
                preemption.saved = False
                clock.last = step
                hosts.mark()
                if due:
                    stop_if_diverged(state, config.max_skips, meter.trouble)
                # Before the next batch is taken: the saved data position is the step's own.
                on_step_end(stage, step, state, over)
        batches.close()

        if source.bad:
            logging.warning('%d bad images were replaced by their neighbours', len(source.bad))
        if config.eval.at_end:
            with clock('eval'), record_failure(trouble, 'the evaluation at the end'):
                found = task.evaluate_split(method, state.nets, config, workdir, mesh, clock.last)
                logging.info('evaluation of %s\n%s', workdir, task.as_text(found))
        if trouble:
            logging.warning('%d evaluations failed: %s', len(trouble), ', '.join(trouble))
    logging.info('done: look at %s', workdir / 'samples')
    return state


def stop_if_diverged(state: TrainState, max_skips: int, trouble: str) -> None:
    """Raise NonFinite where too many steps in a row moved nothing."""
    if int(state.skips) >= max_skips:
        raise NonFinite(
            f'{int(state.skips)} steps in a row were not finite (config.max_skips={max_skips}); '
            f'the last: {trouble}. Lower config.optim.lr, or look at the data. The last '
            'checkpoint is undamaged.'
        )


def picture_rows(wanted: int, devices: int, group: int) -> int:
    """At least so many faces that devices share alike, in whole groups."""
    size = math.lcm(devices, group)
    return -(-wanted // size) * size


class SampleLogger:
    """The pictures and monitors of a run: the same faces, holes and draws each time."""

    def __init__(self, method: Method, source: Source, config: Any, mesh: Mesh, writer: Writer):
        replicated = sharding.replicated(mesh)
        rows = picture_rows(config.num_pictures, mesh.size, method.group)
        examples = EvalExamples(source, config, config.picture_holes, rows, rows)
        batch = next(
            iter(eval_batches(examples, config, rows, jax.process_index(), jax.process_count()))
        )
        self._batch = sharding.shard_batch(batch, mesh)
        self._method, self._task = method, task_of(method)
        self._draw = self._task.drawer(method, config.seed, config.num_picture_samples, replicated)
        self._watch = jax.jit(steps.make_watch_step(method, config.seed), out_shardings=replicated)
        self._writer = writer

    def __call__(self, step: int, state: TrainState) -> None:
        drawn = jax.device_get(self._draw(state.nets, self._batch))
        watched = jax.device_get(self._watch(state.nets, self._batch))
        self._writer.picture(step, 'faces', self._task.sheet(self._method, drawn))
        scalars = {f'watch/{k}': float(v) for k, v in watched.items() if v.ndim == 0}
        self._writer.scalars(step, scalars)
        for name, values in watched.items():
            if values.ndim == 1:
                self._writer.vector(step, f'watch/{name}', values)


def describe_run(config: Any, workdir: Path, mesh: Mesh, num_train: int, num_val: int) -> None:
    """Say what runs where."""
    logging.info(
        '%s, preset %s, %d px, batch %d on %d %s devices of %d hosts; %d training faces, %d '
        'held back; run folder %s',
        config.method, config.get('preset', '-'), config.res, config.batch_size, mesh.size,
        jax.devices()[0].platform, jax.process_count(), num_train, num_val, workdir,
    )  # fmt: skip


def record_run(config: Any, workdir: Path) -> None:
    """Write config.json and versions.json."""
    if jax.process_index():
        return
    save_json(workdir / 'config.json', settings_of(config))
    packages = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')
    versions = {name: importlib.metadata.version(name) for name in packages}
    save_json(workdir / 'versions.json', {'python': platform.python_version(), **versions})


def log_parameters(state: TrainState) -> None:
    """The parameter table of each network."""
    for name, net in state.nets.items():
        table = parameter_overview.get_parameter_overview(net.params, include_stats=False)
        logging.info('parameters of %s\n%s', name, table)
