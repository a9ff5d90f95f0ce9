"""ReDo for a small convolutional network, in one file that needs only JAX and Optax. Copy it and change it.

python examples/redo_in_one_file.py
"""

import jax
import jax.numpy as jnp
import optax

TAU, PERIOD, CHANNELS, WIDTH = 0.1, 100, 8, 64
tx = optax.adam(3e-3)


def init(key):
    """Fresh parameters: a 3 x 3 convolution, a dense layer and a head."""
    draw, (conv, dense, head) = jax.nn.initializers.he_normal(), jax.random.split(key, 3)
    return {
        "conv": {"kernel": draw(conv, (3, 3, 1, CHANNELS)), "bias": jnp.zeros(CHANNELS)},
        "dense": {"kernel": draw(dense, (6 * 6 * CHANNELS, WIDTH)), "bias": jnp.zeros(WIDTH)},
        "head": {"kernel": draw(head, (WIDTH, 10)), "bias": jnp.zeros(10)},
    }


def forward(params, images):
    """The outputs for images [batch, 8, 8, 1], and the activations of both hidden layers."""
    x = jax.lax.conv_general_dilated(
        images, params["conv"]["kernel"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    conv = jax.nn.relu(x + params["conv"]["bias"][None, None, None])
    dense = jax.nn.relu(conv.reshape(len(conv), -1) @ params["dense"]["kernel"] + params["dense"]["bias"][None])
    return dense @ params["head"]["kernel"] + params["head"]["bias"][None], {"conv": conv, "dense": dense}


def dormant_masks(params, images):
    """Masks of the dormant neurons: their mean |activation| is at most TAU times the mean of their layer."""
    masks = {}
    for name, activations in forward(params, images)[1].items():
        magnitude = jnp.abs(activations).mean(axis=range(activations.ndim - 1))
        masks[name] = magnitude <= TAU * magnitude.mean()
    return masks


def weight_masks(masks):
    """Two trees of masks over the parameters: the incoming and the outgoing weights of dormant neurons."""
    conv, dense = masks["conv"], masks["dense"]
    off = jnp.zeros((), bool)
    # The flatten keeps channels last, so row r of the dense kernel reads channel r % CHANNELS.
    feeds = {
        "conv": {"kernel": conv[None, None, None], "bias": conv},
        "dense": {"kernel": dense[None], "bias": dense},
        "head": {"kernel": off, "bias": off},
    }
    reads = {
        "conv": {"kernel": off, "bias": off},
        "dense": {"kernel": jnp.tile(conv, 6 * 6)[:, None], "bias": off},
        "head": {"kernel": dense[:, None], "bias": off},
    }
    return feeds, reads


@jax.jit
def redo(key, params, opt_state, images):
    """Recycles dormant neurons: fresh incoming weights, zero outgoing weights, and zero Adam moments for both."""
    feeds, reads = weight_masks(dormant_masks(params, images))

    def reset(weight, feed, read, fresh):
        return jnp.where(read, 0.0, jnp.where(feed, fresh, weight))

    def forget(moment):
        return jax.tree.map(lambda m, feed, read: jnp.where(feed | read, 0.0, m), moment, feeds, reads)

    params = jax.tree.map(reset, params, feeds, reads, init(key))
    adam = opt_state[0]._replace(mu=forget(opt_state[0].mu), nu=forget(opt_state[0].nu))
    return params, (adam, *opt_state[1:])


def loss(params, images, labels):
    return optax.softmax_cross_entropy_with_integer_labels(forward(params, images)[0], labels).mean()


@jax.jit
def gradient_step(params, opt_state, images, labels):
    gradient = jax.grad(loss)(params, images, labels)
    change, opt_state = tx.update(gradient, opt_state, params)
    return optax.apply_updates(params, change), opt_state


def main():
    """Fits labels that change every PERIOD steps. Neurons become dormant, and ReDo recycles them."""
    key = jax.random.key(0)
    images = jax.random.normal(jax.random.key(1), (256, 8, 8, 1))
    params = init(key)
    opt_state = tx.init(params)
    for step in range(1, 6 * PERIOD + 1):
        labels = jax.random.randint(jax.random.key((step - 1) // PERIOD), (256,), 0, 10)
        params, opt_state = gradient_step(params, opt_state, images, labels)
        if step % PERIOD == 0:
            before = jnp.concatenate([*dormant_masks(params, images).values()]).mean()
            params, opt_state = redo(jax.random.fold_in(key, step), params, opt_state, images)
            after = jnp.concatenate([*dormant_masks(params, images).values()]).mean()
            print(f"gradient step {step}: {before:.1%} of the neurons dormant, {after:.1%} after recycling")


if __name__ == "__main__":
    main()
