"""How many numbers the nets of a method have."""

import jax

from fi_jax import features
from fi_jax.state import example_batch


def count(method, res):
    """Trained numbers by net, from shapes alone."""
    inputs = jax.eval_shape(lambda: method.inputs(features.prepare(example_batch(res))))
    shapes = {
        name: jax.eval_shape(net.init, jax.random.key(0), *inputs[name])['params']
        for name, net in method.nets.items()
    }
    return {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in shapes.items()}
