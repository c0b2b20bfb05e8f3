"""The settings of a run: read again, completed by today's defaults; which of them may differ.

A run, or a file of weights, is opened by its own config. A command line can change what is done
with it (which faces, how many samples, which landmarks), never what was trained.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Mapping
from typing import Any

from ml_collections import ConfigDict

from fi_jax import config
from fi_jax.config import flat

# Of this call and this machine, not of the run: the seed chooses holes and draws, so that runs can
# be compared.
OF_CALL = ('seed', 'mesh', 'compile_cache', 'profile_steps')
# What may differ from the config of the run: other data and other samples of the same networks.
MAY_DIFFER = (
    'data', 'eval', 'sample', 'predict', 'validate', 'guidance', 'landmark_source', 'predictor',
    'num_pictures', 'num_picture_samples', 'picture_holes', 'dtype', *OF_CALL,
)  # fmt: skip
# Of config.data: how a run sees photos. All else goes with a set of photos, and changes with it:
# the landmarks of one set are not those of another.
SEEN = (
    'val_share', 'test_share', 'flip', 'hull', 'labels', 'max_bad_share', 'num_threads',
    'num_workers', 'augment', 'holes', 'warped_holes',
)  # fmt: skip
NAMES = ('source', 'path', 'name', 'data_dir', 'sets')  # of config.data: which set it is


def settings_of(config: Any) -> dict[str, Any]:
    """A config as plain JSON values."""
    return json.loads(config.to_json_best_effort())


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """'name: before -> now' of each entry that differs."""
    names = sorted({*before, *now})
    return [
        f'{name}: {before.get(name)} -> {now.get(name)}'
        for name in names
        if before.get(name) != now.get(name)
    ]


def completed(own: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A run's settings over today's: fields that came later have their default.

    Sections that are the same kind of thing are merged; a section whose names are free (holes by
    kind, rates by net) stays the run's own.
    """
    out = dict(defaults)
    for name, value in own.items():
        inner = defaults.get(name)
        merge = isinstance(value, Mapping) and isinstance(inner, Mapping)
        if merge and name not in ('holes', 'warped_holes', 'lr_scale'):
            out[name] = completed(value, dict(defaults[name]))
        else:
            out[name] = value
    return out


def opened(
    own: Mapping[str, Any], asked: Any = None, given: Collection[str] | None = None
) -> ConfigDict:
    """The config under which a run is opened: its own, but for what this call may set.

    own: the settings of the run. asked: the config of this call; of its sections `MAY_DIFFER`,
    those fields that `given` names by dotted path take the place of the run's, or all where given
    is None; those of `OF_CALL` always do. A data set is one choice: where `given` names one
    (data.source, data.path, ...), all of data but `SEEN` is as given.
    """
    now = settings_of(asked) if asked is not None else {}
    own = config.renamed(own)
    out = completed(own, defaults(own) or now)
    fields = flat(now)
    if given is None:
        paths = {path for path in fields if may_differ(path)}
    else:
        paths = {path for path in given if may_differ(path)}
        paths |= {path for path in fields if path.partition('.')[0] in OF_CALL}
        of_set = {p for p in fields if p.startswith('data.') and p.split('.')[1] not in SEEN}
        if paths & {f'data.{name}' for name in NAMES}:
            paths |= of_set
    for path in paths & fields.keys():
        *heads, last = path.split('.')
        node = out
        for head in heads:
            node[head] = dict(node.get(head, {}))
            node = node[head]
        node[last] = fields[path]
    return ConfigDict(copy.deepcopy(out))


def may_differ(path: str) -> bool:
    """Whether a dotted path may differ from the run's own."""
    return path.partition('.')[0] in MAY_DIFFER


def refuse(own: Mapping[str, Any], given: Mapping[str, Any], place: Any) -> None:
    """ValueError where a command line gives what opening a run cannot change.

    given: dotted path -> value. A path that the run does not know cannot have been changed.
    """
    fields = flat(config.renamed(own))
    plain = json.loads(json.dumps(dict(given), default=list))
    wrong = [
        f'config.{path}={value!r} (there: {fields[path]!r})'
        for path, value in plain.items()
        if not may_differ(path) and path in fields and fields[path] != value
    ]
    if wrong:
        more = f' and {len(wrong) - 6} more' if len(wrong) > 6 else ''
        raise ValueError(
            f'{place} was trained with other settings: {"; ".join(wrong[:6])}{more}; a run is '
            'opened by its own config: leave them out, or name another run'
        )


def defaults(own: Mapping[str, Any]) -> dict[str, Any]:
    """Today's settings for the method and size of a run; {} where it names neither."""
    if not {'method', 'res'} <= own.keys():
        return {}
    return settings_of(config.base(own['method'], own['res']))
