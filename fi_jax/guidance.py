"""Who leads a completion: a method of faces, led by the points that another method predicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from fi_jax import features
from fi_jax.features import Batch
from fi_jax.methods import Method, Nets
from fi_jax.state import NetState, bind_ema

PREDICTED = ('predictor', 'predictor_sample')  # of the values of config.landmark_source


def led(
    method: Method, predictor: Method, predictor_nets: Mapping[str, NetState], source: str
) -> Method:
    """The method with its landmarks replaced by predicted ones before each sample.

    source 'predictor' takes the most likely points, 'predictor_sample' a whole shape drawn anew
    for each sample. The tail of the noise is the predictor's: with it fixed, samples differ in
    appearance alone; with the rest fixed, in structure alone. ValueError where the predictor
    predicts no points, or for another source.
    """
    if source not in PREDICTED:
        raise ValueError(f'config.landmark_source={source!r}: choose one of {list(PREDICTED)}')
    if predictor.predictor is None or method.sample is None:
        raise ValueError('config.predictor: not a run of configs/landmarks.py; name one')
    predict, sample = predictor.predictor.predict, method.sample

    def led_sample(nets: Nets, batch: Batch, noise: jax.Array) -> dict[str, jax.Array]:
        own, tail = jnp.split(noise, [method.noise_dim], axis=-1)
        predicted = predict(bind_ema(predictor, predictor_nets), batch, tail[:, None])
        points = predicted['points'] if source == 'predictor' else predicted['samples'][:, 0]
        told = {
            **batch,
            'landmarks': points,
            'landmark_map': features.draw_landmarks(points, batch['image'].shape[1:3]),
            'has_landmarks': jnp.ones(len(points)),
        }
        return sample(nets, told, own)

    noise_dim = method.noise_dim + predictor.noise_dim
    drawn = predictor.noise_dim if source == 'predictor_sample' else 0
    return dataclasses.replace(method, sample=led_sample, noise_dim=noise_dim, structure_dim=drawn)
