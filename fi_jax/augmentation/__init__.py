"""Augmentation of training faces on the devices: flip, place, expression, tone, holes, maps.

The host reads and decodes; all that is arithmetic happens here, in one compiled function of the
uint8 image, its 68 points and one key an example. What an example becomes depends on (seed, epoch,
index) alone. Holes of an evaluation are drawn by `input_pipeline.holes` instead, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from fi_jax import rng, sharding
from fi_jax.augmentation import holes, looks, places
from fi_jax.augmentation.draws import Draws
from fi_jax.batch import READ, check, label_names, shapes
from fi_jax.features import Batch, draw_hull, draw_landmarks
from fi_jax.input_pipeline.reading import LABELS, margin_of


def make_augment(config: Any, mesh: Mesh) -> Callable[[Batch], dict[str, jax.Array]]:
    """augment(batch of `loader.train_iterator`, on the mesh) -> a batch of the vocabulary.

    Nothing passes between devices. Raises ValueError on bad weights of holes.
    """
    data, example = config.data, make_example(config)
    kinds = [kind for w in (data.holes, data.warped_holes) for kind, share in w.items() if share]
    bank = jax.device_put(holes.bank(kinds, config.res, config.seed), sharding.replicated(mesh))

    def batched(bank: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        # One after the other, a CPU draws only the kinds that come; an accelerator draws them all,
        # for all at once.
        if mesh.devices.flat[0].platform == 'cpu':
            return jax.lax.map(lambda x: example(bank, x), dict(batch))
        return jax.vmap(example, (None, 0))(bank, dict(batch))

    rows = PartitionSpec(sharding.BATCH_AXES)
    apart = jax.shard_map(
        batched, mesh=mesh, in_specs=(PartitionSpec(), rows), out_specs=rows, check_vma=False
    )
    there = sharding.by_example(mesh)
    side, labels = config.res + 2 * margin_of(config), label_names(config)
    sizes = {'B': config.batch_size, 'S': side, 'K': len(labels)}
    like = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=there)
        for name, (shape, dtype) in shapes(READ, **sizes).items()
    }
    # Compiled beside all else that a start has to do.
    pool = ThreadPoolExecutor(1, 'compile augmentation')
    compiled = pool.submit(lambda: jax.jit(apart).lower(bank, like).compile())
    pool.shutdown(wait=False)

    def augment(batch: Batch) -> dict[str, jax.Array]:
        check(batch, READ, **sizes)
        return compiled.result()(bank, dict(batch))

    return augment


def make_example(config: Any) -> Callable[[jax.Array, Batch], dict[str, jax.Array]]:
    """example(`holes.bank`, one row of a batch that was read) -> one row of the vocabulary.

    Amounts are those of config.data.augment, all 0: none. rotate (degrees), scale (share, both
    ways) and shift (share of the frame) are the largest moves, unmoved the share of faces that none
    of them moves: where no more than the frame is known of a face, they alone tell where faces of
    this set lie in it; expression_warp the share of faces that are warped to another expression,
    where their landmarks are known; colour the largest share by which tone changes; blur the
    largest sigma in pixels, noise the largest deviation in grey levels; occlusion the share of
    faces with a patch in front. Kinds of holes follow config.data.holes, over warped faces
    config.data.warped_holes.
    """
    data, res, seed = config.data, config.res, config.seed
    amounts = data.augment
    draw_hole = holes.make_draw(data.holes.to_dict(), data.warped_holes.to_dict(), res)

    def example(bank: jax.Array, x: Batch) -> dict[str, jax.Array]:
        key = jax.random.fold_in(rng.key(seed, 'augment', x['epoch']), x['index'])
        draws, known = Draws.of(key), x['has_landmarks'] > 0
        image, points, warped = places.placed(
            x['image'], x['landmarks'], known, data.flip, amounts, res, draws
        )
        hole, kind = draw_hole(points, known, warped, bank, draws)
        landmark_map = draw_landmarks(points[None], (res, res))[0]
        face_mask = draw_hull(points, (res, res), extended=data.hull == 'extended')[..., None]
        return {
            'image': looks.recoloured(image, amounts, draws, key),
            'hole': hole.astype(jnp.uint8)[..., None],
            'hole_kind': kind,
            'landmarks': jnp.where(known, points, 0.0),
            'has_landmarks': x['has_landmarks'],
            'landmark_map': (known * landmark_map).astype(jnp.uint8),
            'face_mask': (known * face_mask).astype(jnp.uint8),
            'index': x['index'],
            'weight': jnp.ones(()),
            **{name: x[name] for name in LABELS if name in x},
        }

    return example
