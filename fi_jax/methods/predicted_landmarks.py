"""A method of faces whose landmarks come from another method, which predicts them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fi_jax import features
from fi_jax.features import Batch
from fi_jax.methods import Method, Nets
from fi_jax.rng import Keys

PREDICTED = ('predictor', 'predictor_sample')  # of the values of config.landmark_source
HEAD = 'predictor/'  # before the names of the predictor's nets


def with_predicted_landmarks(method: Method, predictor: Method, source: str) -> Method:
    """The method with its landmarks replaced by predicted ones before each sample.

    source 'predictor' takes the most likely points, 'predictor_sample' a whole shape drawn anew
    for each sample. The predictor's nets are among the method's, under names of `with_nets`.
    ValueError where the predictor predicts no points, or for another source.
    """
    if source not in PREDICTED:
        raise ValueError(f'config.landmark_source={source!r}: choose one of {list(PREDICTED)}')
    if predictor.predictor is None or method.sample is None:
        raise ValueError('config.predictor: not a run of configs/landmarks.py; name one')
    predict = predictor.predictor.predict

    def condition(nets: Nets, batch: Batch, keys: Keys) -> Batch:
        own = {name.removeprefix(HEAD): net for name, net in nets.items() if name.startswith(HEAD)}
        predicted = predict(own, batch, jax.tree.map(lambda x: x[:, None], keys))
        points = predicted['points'] if source == 'predictor' else predicted['samples'][:, 0]
        return {
            **batch,
            'landmarks': points,
            'landmark_map': features.draw_landmarks(points, batch['image'].shape[1:3]),
            'has_landmarks': jnp.ones(len(points)),
        }

    return dataclasses.replace(
        method,
        nets=with_nets(method.nets, predictor.nets),
        condition=condition,
        draws_structure=source == 'predictor_sample',
    )


def check_size(field: str, predictor: Any, res: int) -> None:
    """ValueError where a predictor's config sees no whole fraction of images of res pixels."""
    if res % predictor.res:
        raise ValueError(
            f'{field} sees {predictor.res} px, which is no whole fraction of {res}; name a '
            'predictor of the same size, or half of it'
        )


def with_nets(own: Mapping[str, Any], of_predictor: Mapping[str, Any]) -> dict[str, Any]:
    """A method's nets, or their states, and beside them those of its predictor."""
    return {**own, **{HEAD + name: net for name, net in of_predictor.items()}}
