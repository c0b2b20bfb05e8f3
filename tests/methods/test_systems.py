"""What holds for each system of the source's table: its authors' size, a training, samples."""

import jax
import numpy as np
import pytest

from benchmarks.systems import config_of, parameters, shapes_of
from fi_jax import steps
from fi_jax.methods import make_method
from fi_jax.optim import make_optimizers
from fi_jax.state import example_batch, init_state

# Of PICNet, StarGAN and PD-GAN counted by PyTorch in the authors' code, of what a forward pass
# reads: the attention of PICNet's critics carries a block that it never calls, partial convolutions
# a kernel of ones. Of the others from the authors' lists of layers.
AUTHORS = {
    'picnet:size=paper,res=256': {
        'encoder': 3_604_224,
        'generator': 2_374_016,
        'critic': 1_099_554,
        'critic_rec': 1_099_554,
    },
    'piigan:size=paper,res=128': {
        'inpainter': 3_603_942,
        'extractor': 36_200_000,
        'critic_local': 4_300_000,
        'critic_global': 2_700_000,
    },
    'degan:size=paper,res=256': {
        'encoder_face': 19_570_000,
        'encoder_landmarks': 19_570_000,
        'decoder_landmark': 175_000,
        'decoder_mask': 177_000,
        'decoder_part': 177_000,
        'unet': 7_850_000,
        'critic_patch': 690_000,
        'critic_global': 2_800_000,
        'critic_face': 49_537,
        'critic_landmarks': 49_537,
        'critic_both': 82_305,
    },
    'bicyclegan:size=paper,res=256': {
        'unet': 54_800_000,
        'encoder': 2_600_000,
        'critic_vae': 3_460_000,
        'critic_lr': 3_460_000,
    },
    'stargan:size=paper,res=256': {'generator': 8_430_528, 'critic': 44_884_928, 'labels': 0},
    'pdgan:size=paper,res=256': {
        'prior': 48_119_875,
        'generator': 186_007_177,
        'critic': 5_533_826,
    },
}
TINY = ('picnet:tiny', 'stargan:tiny', 'pdgan:tiny', 'piigan:tiny', 'degan:tiny')


@pytest.mark.parametrize('name', AUTHORS)
def test_at_the_authors_size_each_network_has_their_parameters(name):
    counts = parameters(shapes_of(config_of(name))[1])
    assert counts.keys() == AUTHORS[name].keys()
    for net, theirs in AUTHORS[name].items():
        assert counts[net] == pytest.approx(theirs, rel=0.01), net


def batch_of(config, rows=4):
    rng = np.random.default_rng(0)
    batch = example_batch(config.res, rows)
    batch['image'] = rng.integers(256, size=batch['image'].shape, dtype=np.uint8)
    batch['hole'][:, 8:24, 8:24] = 1
    if labels := config.data.labels.split(',') if config.data.labels else []:
        batch['attributes'] = rng.integers(2, size=(rows, len(labels))).astype(np.float32)
        batch['has_attributes'] = np.ones((rows, len(labels)), np.float32)
    return batch


@pytest.mark.slow
@pytest.mark.parametrize('name', TINY)
def test_two_steps_of_each_stage_move_all_nets_and_samples_differ(name):
    config = config_of(name)
    method = make_method(config)
    optimizers = make_optimizers(config, method.nets)
    state = before = jax.jit(lambda: init_state(method, optimizers, config.res, 0))()
    batch = batch_of(config)
    for stage in method.stages:
        step = jax.jit(steps.make_train_step(method, stage, optimizers, config))
        first = state.step
        for _ in range(2):
            state, metrics = step(state, batch, first=first)
            skipped = [float(v) for k, v in metrics.items() if k.startswith('skipped/')]
            assert skipped and not any(skipped)
    for net, now in state.nets.items():
        old = before.nets[net]
        moved = jax.tree.map(
            lambda a, b: np.any(a != b), (now.params, now.stats), (old.params, old.stats)
        )
        assert any(jax.tree.leaves(moved)), net
    drawn = steps.Sampler(method, 0, 4)(state.nets, batch)
    assert drawn['finite'].all()
    assert np.ptp(np.asarray(drawn['composite'], int), axis=1).max() > 0
