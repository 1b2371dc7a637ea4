"""The paper's notebook, rebuilt here in Keras, against our network, our chain and our update: the same numbers to 1e-4.

Needs TensorFlow: pip install ".[parity]".

Signs. The notebook's network outputs a score, high for real pictures; ours outputs the energy E = -score, low for real
ones. The two networks are the same function of their weights, so a score network with our weights and its last layer
negated (kernel and bias) gives -E. The notebook climbs the score where we descend the energy, and its loss takes
`fake_score - real_score` where ours takes `E(real) - E(fake)`: the same number.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_ebm import bridges, contrastive, energy, langevin
from bridge_ebm.optimizer import keras_adam
from bridge_ebm.settings import TrainSettings
from bridge_ebm.state import init_state

with warnings.catch_warnings():
    # TensorFlow's own imports use NumPy and Python interfaces that are on their way out.
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", FutureWarning)
    tf = pytest.importorskip(
        "tensorflow", reason='parity with Keras was NOT checked: TensorFlow is not installed (pip install ".[parity]")'
    )
    keras = tf.keras

HEIGHT, WIDTH = 48, 192
TOLERANCE = 1e-4

# Table 1: module of ours, layer of Keras, output shape, parameters.
TABLE = (
    ("Conv_0", "Conv2D", (24, 96, 32), 832),
    ("BatchNorm_0", "BatchNormalization", (24, 96, 32), 128),
    ("Conv_1", "Conv2D", (12, 48, 64), 18_496),
    ("BatchNorm_1", "BatchNormalization", (12, 48, 64), 256),
    ("Conv_2", "Conv2D", (6, 24, 128), 73_856),
    ("BatchNorm_2", "BatchNormalization", (6, 24, 128), 512),
    ("Conv_3", "Conv2D", (3, 12, 128), 147_584),
    ("BatchNorm_3", "BatchNormalization", (3, 12, 128), 512),
    ("Dense_0", "Dense", (128,), 589_952),
    ("Dense_1", "Dense", (1,), 129),
)

SETTINGS = TrainSettings(batch_size=8, buffer_size=16, langevin_steps=5)


def keras_network():
    """Table 1 in Keras, layer by layer as in the notebook."""
    layers = [keras.layers.Input((HEIGHT, WIDTH, 1))]
    for filters, size in ((32, 5), (64, 3), (128, 3), (128, 3)):
        layers += [
            keras.layers.Conv2D(filters, kernel_size=size, strides=2, padding="same"),
            keras.layers.BatchNormalization(),
            keras.layers.Activation("swish"),
        ]
    layers += [keras.layers.Flatten(), keras.layers.Dense(128, activation="swish"), keras.layers.Dense(1)]
    return keras.Sequential(layers)


def our_variables(seed, vary=False):
    """Fresh variables of Table 1; `vary` also draws the biases, and the scales of the batch norms, at random."""
    variables = energy.init_variables(energy.PaperEnergy(), jax.random.key(seed), HEIGHT, WIDTH)
    random = np.random.default_rng(seed)

    def redraw(path, value):
        name = path[-1].key
        if name == "scale":
            return jnp.asarray(random.uniform(0.5, 1.5, value.shape), jnp.float32)
        return jnp.asarray(random.normal(0.0, 0.2, value.shape), jnp.float32) if name == "bias" else value

    return {**variables, "params": jax.tree_util.tree_map_with_path(redraw, variables["params"])} if vary else variables


def weight_lists(variables, last_sign):
    """The weights in Keras's order, as {module: arrays}, those of the last layer times `last_sign`."""
    params, stats = variables["params"], variables["batch_stats"]
    lists = {}
    for name, *_ in TABLE:
        if name in stats:
            lists[name] = [params[name]["scale"], params[name]["bias"], stats[name]["mean"], stats[name]["var"]]
        else:
            sign = last_sign if name == "Dense_1" else 1.0
            lists[name] = [sign * params[name]["kernel"], sign * params[name]["bias"]]
    return {name: [np.asarray(value) for value in values] for name, values in lists.items()}


def rows_of(model):
    """The Keras layers that stand in the table, in its order."""
    return [layer for layer in model.layers if type(layer).__name__ in {"Conv2D", "BatchNormalization", "Dense"}]


def keras_with(variables, last_sign=1.0):
    """A Keras network with our weights, those of the last layer times `last_sign`."""
    model = keras_network()
    for layer, values in zip(rows_of(model), weight_lists(variables, last_sign).values(), strict=True):
        layer.set_weights(values)
    return model


def relative(ours, theirs):
    """The largest difference, relative to the largest value."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.max(np.abs(ours - theirs)) / max(np.max(np.abs(theirs)), np.finfo(np.float64).tiny))


def pictures(count):
    """`count` rendered bridges, uint8 [count, H, W]."""
    names = bridges.SUBTYPES
    return np.stack([bridges.render(names[i % 8], i // 8, HEIGHT, WIDTH) for i in range(count)])


def noise_and_bridges(count):
    """Float images [2 count, H, W, 1]: uniform noise, and bridges."""
    noise = np.random.default_rng(0).uniform(-1, 1, (count, HEIGHT, WIDTH, 1))
    return np.concatenate([noise, pictures(count)[..., None] / 127.5 - 1]).astype(np.float32)


def test_table_1_row_by_row():
    variables = our_variables(0)
    _, captured = energy.PaperEnergy().apply(
        variables, jnp.zeros((1, HEIGHT, WIDTH, 1)), capture_intermediates=True, mutable=["intermediates"]
    )
    model = keras_network()
    for (name, kind, shape, count), layer in zip(TABLE, rows_of(model), strict=True):
        arrays = jax.tree.leaves([variables[part].get(name, {}) for part in ("params", "batch_stats")])
        assert captured["intermediates"][name]["__call__"][0].shape[1:] == shape, name
        assert sum(array.size for array in arrays) == count, name
        assert (type(layer).__name__, layer.output.shape[1:], layer.count_params()) == (kind, shape, count), name
    assert sum(row[3] for row in TABLE) == model.count_params() == 832_257
    trainable, fixed = (sum(x.size for x in jax.tree.leaves(variables[part])) for part in ("params", "batch_stats"))
    assert (trainable, fixed) == (831_553, 704)
    assert sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) == trainable


@pytest.mark.parametrize("vary", [False, True], ids=["initial weights", "random scales, shifts and biases"])
def test_same_weights_same_energies_and_input_gradients(vary):
    variables = our_variables(1, vary)
    images = noise_and_bridges(8)
    model = keras_with(variables)
    with tf.GradientTape() as tape:
        inputs = tf.constant(images)
        tape.watch(inputs)
        outputs = model(inputs)
    their_gradient = tape.gradient(outputs, inputs).numpy()
    energies, gradient = langevin.energy_and_gradient(lambda x: energy.PaperEnergy().apply(variables, x), images)
    differences = {
        "energies": relative(energies, outputs.numpy()[:, 0]),
        "energies beside their spread": relative(
            energies - energies.mean(), outputs.numpy()[:, 0] - outputs.numpy().mean()
        ),
        "input gradients": relative(gradient, their_gradient),
    }
    print(differences)
    assert max(differences.values()) < TOLERANCE


def notebook_chain(model, images, noises, settings):
    """The notebook's `generate_samples`, with the noise handed in: it climbs the score."""
    images = tf.constant(images)
    for noise in noises:
        images = tf.clip_by_value(images + noise, -1.0, 1.0)
        with tf.GradientTape() as tape:
            tape.watch(images)
            score = model(images)
        gradient = tf.clip_by_value(tape.gradient(score, images), -settings.gradient_clip, settings.gradient_clip)
        images = tf.clip_by_value(images + settings.step_size * gradient, -1.0, 1.0)
    return images


def notebook_update(model, optimizer, real, real_noise, fake, alpha):
    """The notebook's `train_step` once the buffer has been drawn from; returns its five numbers and the gradients."""
    real = tf.clip_by_value(tf.constant(real) + real_noise, -1.0, 1.0)
    with tf.GradientTape() as tape:
        real_score, fake_score = tf.split(model(tf.concat([real, fake], axis=0)), 2, axis=0)
        cdiv = tf.reduce_mean(fake_score, axis=0) - tf.reduce_mean(real_score, axis=0)
        reg = alpha * tf.reduce_mean(real_score**2 + fake_score**2, axis=0)
        loss = cdiv + reg
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    terms = {
        "loss": loss.numpy()[0],
        "reg": reg.numpy()[0],
        "cdiv": cdiv.numpy()[0],
        "real": -np.mean(real_score),
        "fake": -np.mean(fake_score),
    }
    return terms, [gradient.numpy() for gradient in gradients]


def our_chain(variables, starts):
    """Our chain from `starts`, step by step, and the noise that each of its steps added."""
    images, noises = jnp.asarray(starts), []
    settings = contrastive.chain_settings(SETTINGS)
    for step in range(SETTINGS.langevin_steps):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(5), step), len(starts))
        # Where the energy is flat, a step from 0 is its noise and nothing else.
        noises.append(np.asarray(langevin.langevin_step(keys, 0 * images, lambda x: 0 * x.sum((1, 2, 3)), settings)[0]))
        images, _ = langevin.langevin_step(keys, images, lambda x: energy.PaperEnergy().apply(variables, x), settings)
    return images, noises


def our_real_batch():
    """The real images of an update before and after their noise, and that noise."""
    key, step = jax.random.key(6), jnp.asarray(3)
    quiet = TrainSettings(**{**vars(SETTINGS), "noise": 0.0})
    grey = np.full((16, HEIGHT, WIDTH), 128, np.uint8)
    noise = contrastive.real_batch(key, grey, step, SETTINGS) - contrastive.real_batch(key, grey, step, quiet)
    images = jnp.asarray(pictures(16))
    return contrastive.real_batch(key, images, step, quiet), contrastive.real_batch(key, images, step, SETTINGS), noise


def in_keras_order(params, stats):
    """Our weights under the names 'module/index', in Keras's order and signs."""
    lists = weight_lists({"params": params, "batch_stats": stats}, last_sign=-1.0)
    return {f"{name}/{index}": value for name, values in lists.items() for index, value in enumerate(values)}


def test_one_contrastive_divergence_update():
    variables = our_variables(2)
    starts = np.random.default_rng(3).uniform(-1, 1, (SETTINGS.batch_size, HEIGHT, WIDTH, 1)).astype(np.float32)
    clean, real, real_noise = our_real_batch()
    fake, noises = our_chain(variables, starts)
    state = init_state(SETTINGS)._replace(params=variables["params"], batch_stats=variables["batch_stats"])
    params, opt_state, metrics = contrastive.contrastive_update(state, real, fake, energy.PaperEnergy(), SETTINGS)

    model = keras_with(variables, last_sign=-1.0)
    their_fake = notebook_chain(model, starts, noises, SETTINGS)
    optimizer = keras.optimizers.Adam(learning_rate=SETTINGS.learning_rate)
    their_terms, their_gradients = notebook_update(
        model, optimizer, np.asarray(clean), np.asarray(real_noise), their_fake, SETTINGS.alpha
    )

    terms = {name: relative(getattr(metrics, name), value) for name, value in their_terms.items()}
    terms["chain"] = relative(fake - starts, their_fake.numpy() - starts)
    old, new = (in_keras_order(part, state.batch_stats) for part in (state.params, params))
    weights = {name: relative(new[name], theirs) for name, theirs in zip(new, model.get_weights(), strict=True)}
    trained = [name for name in new if not (name.startswith("BatchNorm") and name.endswith(("2", "3")))]
    # After one update Adam's first moment is a tenth of the gradient.
    moments = in_keras_order(opt_state.mu, state.batch_stats)
    gradients = {name: relative(10 * moments[name], g) for name, g in zip(trained, their_gradients, strict=True)}
    adam = keras_adam(SETTINGS.learning_rate)
    updates, _ = adam.update(their_gradients, adam.init(their_gradients))
    theirs_after = [weight.numpy() for weight in model.trainable_weights]
    by_our_adam = {
        name: relative(old[name] + update, theirs)
        for name, update, theirs in zip(trained, updates, theirs_after, strict=True)
    }
    print(terms, gradients, by_our_adam, weights, sep="\n")

    assert max(terms.values()) < TOLERANCE
    assert max(gradients.values()) < TOLERANCE
    assert max(by_our_adam.values()) < TOLERANCE  # every weight, from equal gradients
    # Adam's first change of a weight is lr g / (|g| + 3e-6). A bias that starts at zero has nothing else, and where its
    # gradient nearly cancels, the last bit of that shows: Keras on another machine differs from itself as much.
    biases = [name for name in trained if not old[name].any()]
    assert max(weights[name] for name in weights if name not in biases) < TOLERANCE
    assert max(weights[name] for name in biases) < 1e-2
    assert len(biases) == 10
