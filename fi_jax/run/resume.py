"""Whether a checkpoint and a config are of the same run, and which stages it has."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from fi_jax.config import renamed, renamed_path
from fi_jax.methods import Method
from fi_jax.methods import settings_of as method_settings
from fi_jax.run.settings import changes, flat, settings_of

# A run that changes one of these, or what its method says beside them, is another run; all else
# may change, and the change is logged.
FIXED = (
    'method', 'res', 'seed', 'batch_size', 'data.frame', 'data.flip', 'data.hull', 'data.holes',
    'data.warped_holes', 'data.augment',
)  # fmt: skip


def stage_plan(method: Method, config: Any) -> list[tuple[str, int, int]]:
    """(stage, first step, last step) of each stage that has steps, in the method's order.

    Raises ValueError where config.steps names no stage of the method or all are 0.
    """
    if unknown := set(config.steps) - set(method.stages):
        raise ValueError(
            f'config.steps: {sorted(unknown)} are no stages of {config.method}; '
            f'it has {list(method.stages)}'
        )
    plan = spans({stage: config.steps.get(stage, 0) for stage in method.stages})
    if not plan:
        raise ValueError(f'config.steps: all stages have 0 steps; set one of {list(method.stages)}')
    return plan


def spans(counts: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """(stage, first step, last step) of each stage that has steps."""
    plan, first = [], 0
    for stage, count in counts.items():
        if count > 0:
            plan.append((stage, first, first + count))
            first += count
    return plan


def fixed_settings(config: Any) -> dict[str, Any]:
    """The settings that a resume must find unchanged, by dotted path."""
    heads = tuple(f'{head}.' for head in (*FIXED, *method_settings(config.method).fixed))
    return {
        path: value
        for path, value in flat(settings_of(config)).items()
        if f'{path}.'.startswith(heads)
    }


def begun_stages(meta: Mapping[str, Any], step: int) -> dict[str, int]:
    """The first step of each stage that a checkpoint of this step has begun."""
    known = meta.get('begun') or {stage: first for stage, first, _ in spans(meta.get('steps', {}))}
    return {stage: first for stage, first in known.items() if first < step}


def check_resume(
    config: Any, plan: Sequence[tuple[str, int, int]], step: int, meta: Mapping[str, Any],
    data: Mapping[str, Any], workdir: Path,
) -> None:  # fmt: skip
    """Raise ValueError where a checkpoint is of another run; log the changes that are none."""
    if 'settings' not in meta:
        logging.warning('the checkpoint is of an earlier version: its config is not checked')
        return
    fixed = fixed_settings(config)
    # What one of two versions of the code does not know cannot have been changed.
    before = {renamed_path(path): value for path, value in meta['settings'].items()}
    both = before.keys() & fixed.keys()
    found = changes(*({path: x[path] for path in both} for x in (before, fixed)))
    if not config.minutes:
        found += changes(
            {f'first step of {name}': first for name, first in begun_stages(meta, step).items()},
            {f'first step of {name}': first for name, first, _ in plan if first < step},
        )
    found += changes(
        {f'data set, {name}': value for name, value in meta['data'].items()},
        {f'data set, {name}': value for name, value in data.items()},
    )
    if found:
        raise ValueError(
            f'--workdir={workdir} holds another run, at step {step} of {meta["stage"]}: '
            f'{"; ".join(found)}; undo the change, or give a new --workdir and begin it with '
            f'--config.warm_start={workdir}'
        )
    file = workdir / 'config.json'
    if file.exists():
        saved = flat(renamed(json.loads(file.read_text())))
        for change in changes(saved, flat(settings_of(config))):
            logging.warning('resumed with a changed config: %s', change)
